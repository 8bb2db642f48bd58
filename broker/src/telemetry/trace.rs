//! Live traces: an operator follows messages from the PUBLISH to the acknowledgement of each
//! subscriber, or to the drop reason.
//!
//! Without a trace, a message costs one relaxed load at each point that could report an event. With
//! one, each message that a trace could want gets a number. It travels with the message through
//! queues, disk and restarts, so that its events can be read together. Nothing waits for a reader:
//! events that a trace does not take in time are lost, and their number is reported. Payloads are
//! never shown.
//!
//! One more reader, a [`TraceExporter`], may export the messages that ask for it. Other messages
//! then cost a check of their flags.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use lapwing_protocol::{PacketId, PacketType, QoS, ReasonCode, topic};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::message::{Message, Millis, TraceId};
use crate::telemetry::drop_reason::{Reason, ReasonKind};

/// Maximum number of concurrent traces.
pub const TRACES_MAX: usize = 4;
/// Maximum number of events that wait for the reader of a trace.
pub const EVENTS_MAX: usize = 4_096;
/// Number of messages whose publishers are remembered.
const PUBLISHERS_MAX: usize = 4_096;
/// Longest topic name and longest text in an event, in bytes.
pub(super) const TEXT_MAX: usize = 512;

/// Filter of a trace; all set fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// Client that published the message, or that the event is about.
    pub client: Option<Box<str>>,
    /// A valid topic filter.
    pub topic: Option<Box<str>>,
}

impl TraceFilter {
    fn wants_topic(&self, name: &str) -> bool {
        match &self.topic {
            Some(filter) => topic::matches(filter, name),
            // As with `#`: the broker's own topics have to be requested.
            None => !name.starts_with('$'),
        }
    }

    fn wants_client(&self, from: Option<&str>, about: Option<&str>) -> bool {
        let Some(client) = self.client.as_deref() else { return true };
        from == Some(client) || about == Some(client)
    }
}

/// Message that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct TraceSubject<'a> {
    /// Number of the message, if a trace has wanted it since its PUBLISH.
    pub id: Option<TraceId>,
    /// Publisher, if the caller knows it.
    pub from: Option<&'a Arc<str>>,
    /// Topic name, as the broker knows it.
    pub topic: &'a str,
    /// QoS as published.
    pub qos: QoS,
    /// Size of the payload, in bytes.
    pub bytes: usize,
    /// Properties as received or as sent: user properties are the same in both.
    pub properties: &'a [u8],
    /// Time of publication.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code))]
    pub at: Millis,
}

impl TraceSubject<'_> {
    /// Subject for a message in transfer.
    pub fn of(message: &Message) -> TraceSubject<'_> {
        let (topic, qos, bytes) = (message.topic_str(), message.qos(), message.payload().len());
        let (properties, at) = (message.properties(), message.published_at());
        TraceSubject { id: message.trace(), from: None, topic, qos, bytes, properties, at }
    }
}

/// One step of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Accepted by this rule.
    Accepted(Box<str>),
    /// Refused for this reason, with details.
    Refused(Reason, Box<str>),
    /// Became the retained message of its topic, or removed that.
    Retained,
    /// Matched with subscriptions.
    Matched {
        /// Number of sessions.
        sessions: usize,
        /// Number of shared groups; each delivers it to one member.
        groups: usize,
    },
    /// Queued for a client.
    Queued {
        /// Set when the client is connected.
        connected: bool,
        /// Set for a member of a shared group.
        shared: bool,
    },
    /// Dropped or skipped.
    Dropped(Reason),
    /// Given to the network.
    Sent {
        /// QoS of the delivery.
        qos: QoS,
        /// For QoS 1 and 2.
        packet_id: Option<PacketId>,
        /// Set when it was sent over an earlier connection before.
        again: bool,
    },
    /// The client has answered: PUBACK or PUBREC.
    Acknowledged(PacketType, ReasonCode),
}

impl Step {
    /// Name in JSON and in output for people.
    pub const fn name(&self) -> &'static str {
        match self {
            Step::Accepted(_) => "accepted",
            Step::Refused(..) => "refused",
            Step::Retained => "retained",
            Step::Matched { .. } => "matched",
            Step::Queued { .. } => "queued",
            Step::Dropped(reason) => match reason.kind() {
                ReasonKind::Skipped => "skipped",
                ReasonKind::Refused | ReasonKind::Lost => "dropped",
            },
            Step::Sent { .. } => "sent",
            Step::Acknowledged(..) => "acknowledged",
        }
    }

    /// Drop reason, if it ends here.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Step::Refused(reason, _) | Step::Dropped(reason) => Some(*reason),
            _ => None,
        }
    }

    /// Details in words.
    pub fn detail(&self) -> String {
        let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        match self {
            Step::Accepted(text) | Step::Refused(_, text) => text.to_string(),
            Step::Retained => String::new(),
            Step::Matched { sessions, groups: 0 } => count(*sessions, "session"),
            Step::Matched { sessions, groups } => {
                format!("{}, {}", count(*sessions, "session"), count(*groups, "shared group"))
            }
            Step::Queued { connected, shared } => {
                let state = if *connected { "connected" } else { "offline" };
                format!("{state}{}", if *shared { ", as a member of a shared group" } else { "" })
            }
            Step::Dropped(reason) => reason.text().to_owned(),
            Step::Sent { qos, packet_id, again } => {
                let id = packet_id.map(|id| format!(", packet identifier {id}")).unwrap_or_default();
                format!("QoS {}{id}{}", *qos as u8, if *again { ", again" } else { "" })
            }
            Step::Acknowledged(packet, reason) => format!("{packet} {reason}"),
        }
    }
}

/// An event of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time of the event.
    pub at: Millis,
    /// Number of the message; `None` if its PUBLISH came before the trace.
    pub message: Option<TraceId>,
    /// Publisher, if it is still known.
    pub from: Option<Arc<str>>,
    /// Subscriber that it is about, if any.
    pub client: Option<Arc<str>>,
    /// Topic name.
    pub topic: Box<str>,
    /// QoS as published.
    pub qos: QoS,
    /// Size of the payload, in bytes.
    pub bytes: usize,
    /// The step.
    pub step: Step,
}

/// Item of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceItem {
    /// An event.
    Event(Event),
    /// Number of events lost at this point: they came faster than they were read.
    Lost(u64),
}

/// Exporter of message traces; the broker reports only messages that it wants.
pub(crate) trait TraceExporter: std::fmt::Debug + Send + Sync {
    /// Returns true when it may want a message with these properties.
    fn may_want(&self, properties: &[u8]) -> bool;
    /// Returns true when it wants the message of this number.
    fn wants(&self, id: TraceId, properties: &[u8]) -> bool;
    /// Reports that the message was accepted or refused.
    fn routed(&self, subject: &TraceSubject<'_>, since: SystemTime, refused: Option<Reason>);
    /// Reports a step of the message, perhaps towards a client.
    fn record(&self, subject: &TraceSubject<'_>, client: Option<&Arc<str>>, step: &Step);
    /// Number of spans sent, and of spans lost because there were too many.
    fn spans(&self) -> (u64, u64);
}

/// Set while traces run.
const FOLLOWED: u8 = 1;
/// Set when there is a [`TraceExporter`].
const EXPORTED: u8 = 2;

/// All traces.
#[derive(Debug)]
pub struct Traces {
    on: AtomicU8,
    clock: Clock,
    inner: Mutex<TracesState>,
    export: OnceLock<Arc<dyn TraceExporter>>,
}

#[derive(Debug, Default)]
struct TracesState {
    traces: Vec<Trace>,
    last: u64,
    /// Publishers of the messages that were numbered last, in the order of their numbers.
    pub(super) publishers: VecDeque<(TraceId, Arc<str>)>,
}

#[derive(Debug)]
struct Trace {
    number: u64,
    filter: TraceFilter,
    events: mpsc::Sender<TraceItem>,
    lost: u64,
}

impl Traces {
    /// Starts without traces.
    pub(crate) fn new(clock: Clock) -> Traces {
        Traces { on: AtomicU8::new(0), clock, inner: Mutex::default(), export: OnceLock::new() }
    }

    /// True when any trace or exporter may want something.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed) != 0
    }

    /// True when any trace or exporter may want a message.
    #[inline]
    pub fn wants(&self, message: &Message) -> bool {
        match self.on.load(Ordering::Relaxed) {
            0 => false,
            on => on & FOLLOWED != 0 || message.trace().is_some(),
        }
    }

    /// True when a live trace runs.
    pub(crate) fn is_followed(&self) -> bool {
        self.on.load(Ordering::Relaxed) & FOLLOWED != 0
    }

    /// Sets the exporter, once.
    #[cfg(feature = "otlp")]
    pub(crate) fn set_export(&self, export: Arc<dyn TraceExporter>) {
        if self.export.set(export).is_ok() {
            self.on.fetch_or(EXPORTED, Ordering::Relaxed);
        }
    }

    /// The exporter, if it is set.
    pub(crate) fn export(&self) -> Option<&dyn TraceExporter> {
        self.export.get().map(|export| &**export)
    }

    /// The exporter, if it wants this message.
    fn export_of(&self, subject: &TraceSubject<'_>) -> Option<&dyn TraceExporter> {
        if self.on.load(Ordering::Relaxed) & EXPORTED == 0 {
            return None;
        }
        let (export, id) = (self.export()?, subject.id?);
        export.wants(id, subject.properties).then_some(export)
    }

    fn lock(&self) -> MutexGuard<'_, TracesState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a trace: returns its number and the receiver of its items. `None` when the maximum
    /// number of traces runs.
    pub(super) fn begin(&self, filter: TraceFilter) -> Option<(u64, mpsc::Receiver<TraceItem>)> {
        let mut inner = self.lock();
        if inner.traces.len() >= TRACES_MAX {
            return None;
        }
        let (events, items) = mpsc::channel(EVENTS_MAX);
        inner.last += 1;
        let number = inner.last;
        inner.traces.push(Trace { number, filter, events, lost: 0 });
        self.on.fetch_or(FOLLOWED, Ordering::Relaxed);
        Some((number, items))
    }

    /// Number of lost events of a trace that were not reported yet; they count as reported now.
    pub(super) fn take_lost(&self, number: u64) -> u64 {
        let mut inner = self.lock();
        let own = inner.traces.iter_mut().find(|trace| trace.number == number);
        own.map_or(0, |trace| std::mem::take(&mut trace.lost))
    }

    /// Number of a new message, if a trace may want it; `next` creates one.
    #[cold]
    pub(crate) fn number(
        &self,
        from: &Arc<str>,
        topic: &str,
        properties: &[u8],
        next: impl FnOnce() -> u64,
    ) -> Option<TraceId> {
        let export = self.export().filter(|export| export.may_want(properties));
        // The recipients are not known yet.
        let follows = |inner: &TracesState| inner.traces.iter().any(|trace| trace.filter.wants_topic(topic));
        let inner = if self.is_followed() { Some(self.lock()).filter(|inner| follows(inner)) } else { None };
        let Some(mut inner) = inner else {
            let export = export?;
            return Some(next()).filter(|id| export.wants(*id, properties));
        };
        let id = next();
        if inner.publishers.len() >= PUBLISHERS_MAX {
            inner.publishers.pop_front();
        }
        inner.publishers.push_back((id, from.clone()));
        Some(id)
    }

    /// Reports a step of a message, perhaps towards a client.
    #[cold]
    pub(crate) fn record(&self, subject: &TraceSubject<'_>, client: Option<&Arc<str>>, step: Step) {
        if let Some(export) = self.export_of(subject) {
            export.record(subject, client, &step);
        }
        if !self.is_followed() {
            return;
        }
        let mut inner = self.lock();
        let TracesState { traces, publishers, .. } = &mut *inner;
        if !traces.iter().any(|trace| trace.filter.wants_topic(subject.topic)) {
            return;
        }
        let known = subject.id.and_then(|id| publishers.binary_search_by_key(&id, |(id, _)| *id).ok());
        let known = known.and_then(|at| publishers.get(at)).map(|(_, from)| from.clone());
        let from = known.or_else(|| subject.from.cloned());
        let at = self.clock.now();
        for trace in traces {
            let (filter, about) = (&trace.filter, client.map(|client| &**client));
            if !filter.wants_topic(subject.topic) || !filter.wants_client(from.as_deref(), about) {
                continue;
            }
            trace.record(Event {
                at,
                message: subject.id,
                from: from.clone(),
                client: client.cloned(),
                topic: cut(subject.topic),
                qos: subject.qos,
                bytes: subject.bytes,
                step: step.clone().cut(),
            });
        }
    }

    /// Reports that a message was accepted or refused.
    #[cold]
    pub(crate) fn routed(&self, subject: &TraceSubject<'_>, since: SystemTime, refused: Option<Reason>) {
        if let Some(export) = self.export_of(subject) {
            export.routed(subject, since, refused);
        }
    }

    /// Number of publishers that are remembered for the running traces.
    #[cfg(test)]
    pub(super) fn publishers(&self) -> usize {
        self.lock().publishers.len()
    }

    pub(super) fn end(&self, number: u64) {
        let mut inner = self.lock();
        inner.traces.retain(|trace| trace.number != number);
        if inner.traces.is_empty() {
            inner.publishers = VecDeque::new();
            self.on.fetch_and(!FOLLOWED, Ordering::Relaxed);
        }
    }
}

impl Trace {
    fn record(&mut self, event: Event) {
        if self.lost > 0 && self.events.try_send(TraceItem::Lost(self.lost)).is_ok() {
            self.lost = 0;
        }
        if self.lost > 0 || self.events.try_send(TraceItem::Event(event)).is_err() {
            self.lost += 1;
        }
    }
}

impl Step {
    fn cut(self) -> Step {
        match self {
            Step::Accepted(text) => Step::Accepted(cut(&text)),
            Step::Refused(reason, text) => Step::Refused(reason, cut(&text)),
            other => other,
        }
    }
}

pub(crate) fn cut(text: &str) -> Box<str> {
    if text.len() <= TEXT_MAX {
        return text.into();
    }
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= TEXT_MAX).last().unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default()).into()
}
