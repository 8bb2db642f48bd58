//! Makes spans of the events of messages; they wait here to be sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapwing_protocol::{PacketType, QoS};

use super::context::{Own, Parent, chosen};
use crate::config;
use crate::message::TraceId;
use crate::telemetry::drop_reason::{Reason, ReasonKind};
use crate::telemetry::metrics::Counter;
use crate::telemetry::trace::{Step, TraceExporter, TraceSubject, cut};

/// Number of spans in one batch.
const BATCH: usize = 512;

/// OpenTelemetry time, in nanoseconds since the Unix epoch.
type Nanos = u64;

fn nanos(at: SystemTime) -> Nanos {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Subject of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpanKind {
    /// The broker receives a message and finds its targets.
    Route,
    /// Delivery to one subscriber.
    Deliver,
}

/// End of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Well,
    /// Skipped by MQTT's own rules; no error.
    Skipped(Reason),
    /// The message was dropped here.
    Dropped(Reason),
    /// The client answered with this reason code.
    Declined(u8),
}

/// A span.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub what: SpanKind,
    pub trace: [u8; 16],
    pub id: [u8; 8],
    pub parent: Option<[u8; 8]>,
    pub flags: u8,
    pub since: Nanos,
    pub until: Nanos,
    pub client: Option<Arc<str>>,
    pub topic: Box<str>,
    pub qos: QoS,
    pub bytes: usize,
    pub end: End,
}

/// Recorder of message events; holds the spans that wait to be sent.
#[derive(Debug)]
pub(super) struct Recorder {
    sampled_only: bool,
    untraced_per_million: u32,
    spans_max: usize,
    state: Mutex<RecorderState>,
    changed: Condvar,
    /// Spans that a collector accepted.
    pub sent: Counter,
    /// Spans that did not fit, or that no collector accepted.
    pub dropped: Counter,
}

#[derive(Debug, Default)]
struct RecorderState {
    /// Start times of unfinished deliveries, those of the oldest messages first.
    under_way: BTreeMap<(TraceId, Arc<str>), Nanos>,
    ended: VecDeque<Span>,
    stopping: bool,
}

impl Recorder {
    pub fn new(config: &config::Telemetry) -> Recorder {
        Recorder {
            sampled_only: config.sampled_only,
            untraced_per_million: config.untraced_per_million,
            spans_max: config.spans_max as usize,
            state: Mutex::default(),
            changed: Condvar::new(),
            sent: Counter::default(),
            dropped: Counter::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RecorderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Next batch: waits for a span, and then for more for `interval`. Empty after the last one.
    pub fn next_batch(&self, interval: Duration) -> Vec<Span> {
        let idle = |state: &mut RecorderState| state.ended.is_empty() && !state.stopping;
        let state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let few = |state: &mut RecorderState| state.ended.len() < BATCH && !state.stopping;
        let waited = self.changed.wait_timeout_while(state, interval, few);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let count = state.ended.len().min(BATCH);
        state.ended.drain(..count).collect()
    }

    /// Waits; returns true at once when the broker stops.
    pub fn pause(&self, time: Duration) -> bool {
        let goes_on = |state: &mut RecorderState| !state.stopping;
        let waited = self.changed.wait_timeout_while(self.lock(), time, goes_on);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// Marks that no more spans will come.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    fn begin(&self, delivery: (TraceId, Arc<str>)) {
        let mut state = self.lock();
        if state.under_way.contains_key(&delivery) {
            return;
        }
        // A delivery that never ends must not keep its slot forever.
        if state.under_way.len() >= self.spans_max && state.under_way.pop_first().is_some() {
            self.dropped.add(1);
        }
        state.under_way.insert(delivery, nanos(SystemTime::now()));
    }

    /// Start time of a delivery that ends now.
    fn began(&self, delivery: (TraceId, &Arc<str>)) -> Option<Nanos> {
        self.lock().under_way.remove(&(delivery.0, delivery.1.clone()))
    }

    fn push(&self, span: Span) {
        let mut state = self.lock();
        if state.stopping || state.ended.len() >= self.spans_max {
            drop(state);
            return self.dropped.add(1);
        }
        state.ended.push_back(span);
        let count = state.ended.len();
        drop(state);
        // The sender waits for the first span, and then for a whole batch.
        if count == 1 || count == BATCH {
            self.changed.notify_all();
        }
    }

    fn deliver(&self, subject: &TraceSubject<'_>, client: Option<&Arc<str>>, since: Option<Nanos>, end: End) {
        let Some(id) = subject.id else { return };
        let until = nanos(SystemTime::now());
        let (own, since) = (Own::of(id, subject), since.unwrap_or(until));
        self.push(Span {
            what: SpanKind::Deliver,
            trace: own.trace,
            id: own.below(client.map_or("", |client| client), since),
            parent: Some(own.span),
            flags: own.flags,
            since,
            until: until.max(since),
            client: client.cloned(),
            topic: cut(subject.topic),
            qos: subject.qos,
            bytes: subject.bytes,
            end,
        });
    }
}

fn end_of(reason: Reason) -> End {
    match reason.kind() {
        ReasonKind::Skipped => End::Skipped(reason),
        ReasonKind::Refused | ReasonKind::Lost => End::Dropped(reason),
    }
}

impl TraceExporter for Recorder {
    fn may_want(&self, properties: &[u8]) -> bool {
        match Parent::of(properties) {
            Some(parent) => parent.is_sampled() || !self.sampled_only,
            None => self.untraced_per_million > 0,
        }
    }

    fn wants(&self, id: TraceId, properties: &[u8]) -> bool {
        match Parent::of(properties) {
            Some(parent) => parent.is_sampled() || !self.sampled_only,
            None => chosen(id, self.untraced_per_million),
        }
    }

    fn routed(&self, subject: &TraceSubject<'_>, since: SystemTime, refused: Option<Reason>) {
        let Some(id) = subject.id else { return };
        let (own, since) = (Own::of(id, subject), nanos(since));
        self.push(Span {
            what: SpanKind::Route,
            trace: own.trace,
            id: own.span,
            parent: own.parent,
            flags: own.flags,
            since,
            until: nanos(SystemTime::now()).max(since),
            client: subject.from.cloned(),
            topic: cut(subject.topic),
            qos: subject.qos,
            bytes: subject.bytes,
            end: refused.map_or(End::Well, end_of),
        });
    }

    fn record(&self, subject: &TraceSubject<'_>, client: Option<&Arc<str>>, step: &Step) {
        let Some(id) = subject.id else { return };
        match (step, client) {
            // The broker's span says that there was no target: it has no child.
            (Step::Dropped(Reason::NoSubscriber), None) => {}
            (Step::Dropped(reason), _) => {
                let since = client.and_then(|client| self.began((id, client)));
                self.deliver(subject, client, since, end_of(*reason));
            }
            (Step::Sent { qos: QoS::AtMostOnce, .. }, Some(client)) => {
                let since = self.began((id, client));
                let subject = TraceSubject { qos: QoS::AtMostOnce, ..*subject };
                self.deliver(&subject, Some(client), since, End::Well);
            }
            (Step::Queued { .. } | Step::Sent { .. }, Some(client)) => self.begin((id, client.clone())),
            (Step::Acknowledged(packet, reason), Some(client)) => {
                let Some(since) = self.began((id, client)) else { return };
                let qos = if *packet == PacketType::PubAck { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                let end = if (*reason as u8) >= 0x80 { End::Declined(*reason as u8) } else { End::Well };
                self.deliver(&TraceSubject { qos, ..*subject }, Some(client), Some(since), end);
            }
            _ => {}
        }
    }

    fn spans(&self) -> (u64, u64) {
        (self.sent.get(), self.dropped.get())
    }
}
