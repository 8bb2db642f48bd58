//! Live traces: somebody follows messages on their way, from the PUBLISH that brought them to the
//! acknowledgement of each subscriber, or to the reason why there is none.
//!
//! While nobody does, a message costs one relaxed load where it could be told. While somebody does,
//! each message that a trace could want gets a number, which travels with it, over queues, the disk
//! and a restart, so that its story can be read together. Nothing waits for a reader: what a trace
//! does not take in time is lost, and it is told how much. Payloads are never shown.
//!
//! One more reader may [`Export`] the ways of those messages that ask for it: others cost a look at
//! their own flags then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use lapwing_protocol::{PacketId, PacketType, QoS, ReasonCode, topic};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::message::{Message, Millis, TraceId};
use crate::telemetry::drop_reason::{Reason, ReasonKind};

/// How many traces there are at once.
pub const TRACES_MAX: usize = 4;
/// How many events wait for the reader of a trace.
pub const EVENTS_MAX: usize = 4_096;
/// How many messages are remembered by who published them.
const PUBLISHERS_MAX: usize = 4_096;
/// The longest topic name and the longest words in an event, in bytes.
pub(super) const TEXT_MAX: usize = 512;

/// What a trace wants; all of it has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// The client that published the message, or that the event is about.
    pub client: Option<Box<str>>,
    /// A valid topic filter.
    pub topic: Option<Box<str>>,
}

impl TraceFilter {
    fn wants_topic(&self, name: &str) -> bool {
        match &self.topic {
            Some(filter) => topic::matches(filter, name),
            // As with `#`: what the broker says of itself has to be asked for.
            None => !name.starts_with('$'),
        }
    }

    fn wants_client(&self, from: Option<&str>, about: Option<&str>) -> bool {
        let Some(client) = self.client.as_deref() else { return true };
        from == Some(client) || about == Some(client)
    }
}

/// The message that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct TraceSubject<'a> {
    /// Its number, if it is followed since it came.
    pub id: Option<TraceId>,
    /// Who published it, if the caller knows.
    pub from: Option<&'a Arc<str>>,
    /// The topic name, as the broker knows it.
    pub topic: &'a str,
    /// As published.
    pub qos: QoS,
    /// The size of its payload.
    pub bytes: usize,
    /// The properties that it came with, or those that go with it: user properties are the same in
    /// both.
    pub properties: &'a [u8],
    /// When it was published.
    // Only the exporter of traces reads it.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code))]
    pub at: Millis,
}

impl TraceSubject<'_> {
    /// A message on its way.
    pub fn of(message: &Message) -> TraceSubject<'_> {
        let (topic, qos, bytes) = (message.topic_str(), message.qos(), message.payload().len());
        let (properties, at) = (message.properties(), message.published_at());
        TraceSubject { id: message.trace(), from: None, topic, qos, bytes, properties, at }
    }
}

/// One step of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was taken; the rule that allows it.
    Accepted(Box<str>),
    /// It was not taken, and in words why.
    Refused(Reason, Box<str>),
    /// It is the retained message of its topic now, or removed that.
    Retained,
    /// So many sessions and shared groups have a subscription that matches.
    Matched {
        /// Sessions.
        sessions: usize,
        /// Groups, each of which gives it to one member.
        groups: usize,
    },
    /// It waits for a client.
    Queued {
        /// The client is connected.
        connected: bool,
        /// As a member of a shared group.
        shared: bool,
    },
    /// It goes no further.
    Dropped(Reason),
    /// It was given to the network.
    Sent {
        /// How it was sent.
        qos: QoS,
        /// For QoS 1 and 2.
        packet_id: Option<PacketId>,
        /// It was sent over an earlier connection before.
        again: bool,
    },
    /// The client has answered: PUBACK or PUBREC.
    Acknowledged(PacketType, ReasonCode),
}

impl Step {
    /// As JSON and people read it.
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

    /// Why it ends here.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Step::Refused(reason, _) | Step::Dropped(reason) => Some(*reason),
            _ => None,
        }
    }

    /// More about it, in words.
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

/// What a trace is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Millis,
    /// The number of the message; `None`: it came before the trace.
    pub message: Option<TraceId>,
    /// Who published it, where that is known still.
    pub from: Option<Arc<str>>,
    /// The subscriber that it is about, if it is about one.
    pub client: Option<Arc<str>>,
    /// The topic name.
    pub topic: Box<str>,
    /// As published.
    pub qos: QoS,
    /// The size of the payload.
    pub bytes: usize,
    /// What happened.
    pub step: Step,
}

/// What comes out of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceItem {
    /// An event.
    Event(Event),
    /// So many events would have stood here: they came faster than they were read.
    Lost(u64),
}

/// Who takes the ways of single messages out of the broker: all that it is told is of a message
/// that it wants.
pub(crate) trait TraceExporter: std::fmt::Debug + Send + Sync {
    /// Whether it may want a message that comes with these properties.
    fn may_want(&self, properties: &[u8]) -> bool;
    /// Whether it wants the message of this number.
    fn wants(&self, id: TraceId, properties: &[u8]) -> bool;
    /// It came, and was taken or refused.
    fn routed(&self, subject: &TraceSubject<'_>, since: SystemTime, refused: Option<Reason>);
    /// Something happened to it, perhaps on its way to a client.
    fn record(&self, subject: &TraceSubject<'_>, client: Option<&Arc<str>>, step: &Step);
    /// How many spans were sent, and how many were not, since there were too many.
    fn spans(&self) -> (u64, u64);
}

/// Somebody follows messages.
const FOLLOWED: u8 = 1;
/// There is an [`Export`].
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
    /// Who published the messages that were numbered last, in the order of their numbers.
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
    /// None.
    pub(crate) fn new(clock: Clock) -> Traces {
        Traces { on: AtomicU8::new(0), clock, inner: Mutex::default(), export: OnceLock::new() }
    }

    /// Whether anybody may want to know anything.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed) != 0
    }

    /// Whether anybody may want to know what becomes of a message.
    #[inline]
    pub fn wants(&self, message: &Message) -> bool {
        match self.on.load(Ordering::Relaxed) {
            0 => false,
            on => on & FOLLOWED != 0 || message.trace().is_some(),
        }
    }

    /// Whether anybody follows anything, live.
    pub(crate) fn is_followed(&self) -> bool {
        self.on.load(Ordering::Relaxed) & FOLLOWED != 0
    }

    /// Exports from here on. Once.
    #[cfg(feature = "otlp")]
    pub(crate) fn set_export(&self, export: Arc<dyn TraceExporter>) {
        if self.export.set(export).is_ok() {
            self.on.fetch_or(EXPORTED, Ordering::Relaxed);
        }
    }

    /// Where the ways of messages are exported to.
    pub(crate) fn export(&self) -> Option<&dyn TraceExporter> {
        self.export.get().map(|export| &**export)
    }

    /// Where those of a message are, if they are.
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

    /// Begins a trace: its number, and what is told of it. `None`: there are as many as there may
    /// be.
    pub(super) fn begin(&self, filter: TraceFilter) -> Option<(u64, mpsc::Receiver<TraceItem>)> {
        let mut inner = self.lock();
        if inner.traces.len() >= TRACES_MAX {
            return None;
        }
        let (events, told) = mpsc::channel(EVENTS_MAX);
        inner.last += 1;
        let number = inner.last;
        inner.traces.push(Trace { number, filter, events, lost: 0 });
        self.on.fetch_or(FOLLOWED, Ordering::Relaxed);
        Some((number, told))
    }

    /// Number of events of a trace that were lost and not told yet; they count as told now.
    pub(super) fn take_lost(&self, number: u64) -> u64 {
        let mut inner = self.lock();
        let own = inner.traces.iter_mut().find(|trace| trace.number == number);
        own.map_or(0, |trace| std::mem::take(&mut trace.lost))
    }

    /// A PUBLISH came: the number of the message, if a trace may want it. `next` makes one.
    #[cold]
    pub(crate) fn number(
        &self,
        (from, topic): (&Arc<str>, &str),
        properties: &[u8],
        next: impl FnOnce() -> u64,
    ) -> Option<TraceId> {
        let export = self.export().filter(|export| export.may_want(properties));
        // Whom it will go to is not known yet.
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

    /// Something happened to a message, perhaps on its way to a client.
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

    /// A message that came was taken or refused.
    #[cold]
    pub(crate) fn routed(&self, subject: &TraceSubject<'_>, since: SystemTime, refused: Option<Reason>) {
        if let Some(export) = self.export_of(subject) {
            export.routed(subject, since, refused);
        }
    }

    /// Number of publishers that are remembered for the traces that run.
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
