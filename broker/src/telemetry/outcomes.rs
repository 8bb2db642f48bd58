//! Why a message did not arrive: every end that is not a delivery, under one of a closed list of
//! reasons, the same in figures, API and traces.
//!
//! A message ends where it is noticed that it goes no further: there [`Ends`] is told, once for
//! each that does not get it. What only waits (a client that is too fast, memory that is short) has
//! no end, and no reason here.

use std::sync::{Arc, OnceLock};

use lapwing_protocol::PacketId;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::message::{Delivery, Message};
use crate::telemetry::drop_reason::{Drops, Reason};
use crate::telemetry::trace::{Step, TraceFilter, TraceItem, TraceSubject, Traces};

/// A session as outcomes name it: its client identifier, and counts of the messages that went no
/// further.
#[derive(Debug, Default)]
pub struct Recipient {
    client_id: Arc<str>,
    /// Made with the first message that counts.
    drops: OnceLock<Box<Drops>>,
}

impl Recipient {
    /// A session of this client, with nothing counted.
    pub fn new(client_id: Arc<str>) -> Recipient {
        Recipient { client_id, drops: OnceLock::new() }
    }

    /// The client identifier.
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// Messages to or from the client that went no further, since its session began or the broker
    /// started.
    pub fn drops(&self) -> Option<&Drops> {
        self.drops.get().map(|drops| &**drops)
    }

    /// Number of them that count as dropped.
    pub fn dropped(&self) -> u64 {
        self.drops().map_or(0, Drops::sum)
    }

    fn count(&self, reason: Reason, n: u64) {
        self.drops.get_or_init(Box::default).add(reason, n);
    }
}

/// Who hears of the ends: the figures, and those who trace.
#[derive(Debug)]
pub struct Outcomes {
    /// The figures.
    pub drops: Drops,
    /// Who follows messages.
    pub traces: Traces,
}

impl Outcomes {
    /// Nothing has ended yet.
    pub fn new(clock: Clock) -> Outcomes {
        Outcomes { drops: Drops::default(), traces: Traces::new(clock) }
    }

    /// A message goes no further on its way to a session.
    #[cold]
    pub fn dropped(&self, reason: Reason, message: &Message, recipient: &Recipient) {
        self.drops.add(reason, 1);
        recipient.count(reason, 1);
        if self.traces.wants(message) {
            self.traces.record(
                &TraceSubject::of(message),
                Some(recipient.client_id()),
                Step::Dropped(reason),
            );
        }
    }

    /// As [`ended`](Self::ended), for messages that are on disk only.
    #[cold]
    pub fn dropped_on_disk(&self, reason: Reason, n: u64, recipient: &Recipient) {
        self.drops.add(reason, n);
        recipient.count(reason, n);
    }

    /// A message waits for a session; for traces.
    #[cold]
    pub(crate) fn queued(&self, delivery: &Delivery, recipient: &Recipient, connected: bool) {
        let step = Step::Queued { connected, shared: delivery.terms.share.is_some() };
        self.traces.record(&TraceSubject::of(&delivery.message), Some(recipient.client_id()), step);
    }

    /// It was given to the network; for traces.
    #[cold]
    pub(crate) fn sent(
        &self,
        delivery: &Delivery,
        recipient: &Recipient,
        packet_id: Option<PacketId>,
        again: bool,
    ) {
        let step = Step::Sent { qos: delivery.terms.qos, packet_id, again };
        self.traces.record(&TraceSubject::of(&delivery.message), Some(recipient.client_id()), step);
    }

    /// A session wants nothing of its own; counted by who publishes
    /// ([`LocalCounters`](crate::telemetry::metrics::LocalCounters)).
    #[inline]
    pub(crate) fn skipped_no_local(&self, message: &Message, recipient: &Recipient) {
        if self.traces.wants(message) {
            let step = Step::Dropped(Reason::NoLocal);
            self.traces.record(&TraceSubject::of(message), Some(recipient.client_id()), step);
        }
    }

    /// No session was to have it, or none of a group could.
    #[cold]
    pub fn dropped_for_all(&self, reason: Reason, message: &Message) {
        self.drops.add(reason, 1);
        if self.traces.wants(message) {
            self.traces.record(&TraceSubject::of(message), None, Step::Dropped(reason));
        }
    }

    /// A message was not taken from its publisher, whose outbox counts that.
    #[cold]
    pub fn refused(
        &self,
        reason: Reason,
        text: &str,
        subject: &TraceSubject<'_>,
        publisher: Option<&Recipient>,
    ) {
        self.drops.add(reason, 1);
        if let Some(publisher) = publisher {
            publisher.count(reason, 1);
        }
        if self.traces.is_on() {
            self.traces.record(subject, None, Step::Refused(reason, text.into()));
        }
    }
}

impl Outcomes {
    /// Begins a trace; `None`: there are as many as there may be.
    pub fn follow(self: &Arc<Self>, filter: TraceFilter) -> Option<TraceStream> {
        let (number, told) = self.traces.begin(filter)?;
        Some(TraceStream { outcomes: self.clone(), number, items: told })
    }
}

impl Default for Outcomes {
    fn default() -> Self {
        Outcomes::new(Clock::after(0))
    }
}

/// A trace that somebody reads; dropping it ends it.
#[derive(Debug)]
pub struct TraceStream {
    outcomes: Arc<Outcomes>,
    number: u64,
    items: mpsc::Receiver<TraceItem>,
}

impl TraceStream {
    /// What comes next. May be dropped at any time.
    pub async fn next(&mut self) -> TraceItem {
        match self.items.recv().await {
            Some(told) => told,
            // It is told until it is dropped.
            None => std::future::pending().await,
        }
    }

    /// What has come, if anything has; behind it, how much was lost that was not told yet.
    pub fn rest(&mut self) -> impl Iterator<Item = TraceItem> + '_ {
        let lost = self.outcomes.traces.take_lost(self.number);
        let told = &mut self.items;
        std::iter::from_fn(move || told.try_recv().ok()).chain((lost > 0).then_some(TraceItem::Lost(lost)))
    }
}

impl Drop for TraceStream {
    fn drop(&mut self) {
        self.outcomes.traces.end(self.number);
    }
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::QoS;

    use super::*;
    use crate::message::TraceId;
    use crate::telemetry::trace::{EVENTS_MAX, TEXT_MAX, TRACES_MAX};

    fn follow(outcomes: &Arc<Outcomes>, filter: TraceFilter) -> TraceStream {
        outcomes.follow(filter).unwrap()
    }

    fn filter(client: &str, topic: &str) -> TraceFilter {
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        TraceFilter { client: some(client), topic: some(topic) }
    }

    fn subject(id: Option<TraceId>, topic: &str) -> TraceSubject<'_> {
        TraceSubject { id, from: None, topic, qos: QoS::AtLeastOnce, bytes: 3, properties: &[], at: 0 }
    }

    fn steps(following: &mut TraceStream) -> Vec<String> {
        let word = |told: TraceItem| match told {
            TraceItem::Event(event) => {
                format!("{}:{}", event.client.as_deref().unwrap_or("-"), event.step.name())
            }
            TraceItem::Lost(n) => format!("lost {n}"),
        };
        following.rest().map(word).collect()
    }

    #[test]
    fn a_trace_hears_of_the_messages_of_its_topic_that_come_from_or_go_to_its_client() {
        let outcomes: Arc<Outcomes> = Arc::default();
        let traces = &outcomes.traces;
        let mut of_topic = follow(&outcomes, filter("", "home/+"));
        let mut of_phone = follow(&outcomes, filter("phone", ""));
        let mut of_kitchen = follow(&outcomes, filter("kitchen", "home/#"));
        let (kitchen, phone, tv): (Arc<str>, Arc<str>, Arc<str>) =
            ("kitchen".into(), "phone".into(), "tv".into());
        let id = traces.number((&kitchen, "home/temp"), &[], || 7);
        assert_eq!(id, Some(7));
        traces.record(&subject(id, "home/temp"), None, Step::Retained);
        traces.record(&subject(id, "home/temp"), Some(&phone), Step::Dropped(Reason::Offline));
        traces.record(&subject(id, "home/temp"), Some(&tv), Step::Dropped(Reason::SessionQueueFull));
        traces.record(&subject(None, "other"), Some(&phone), Step::Dropped(Reason::Expired));
        assert_eq!(steps(&mut of_topic), ["-:retained", "phone:skipped", "tv:dropped"]);
        assert_eq!(steps(&mut of_phone), ["phone:skipped", "phone:dropped"]);
        assert_eq!(steps(&mut of_kitchen), ["-:retained", "phone:skipped", "tv:dropped"]);
    }

    #[test]
    fn what_is_not_read_in_time_is_lost_and_counted_where_it_was() {
        let outcomes: Arc<Outcomes> = Arc::default();
        let traces = &outcomes.traces;
        let mut following = follow(&outcomes, TraceFilter::default());
        for _ in 0..EVENTS_MAX + 5 {
            traces.record(&subject(None, "t"), None, Step::Retained);
        }
        let told = steps(&mut following);
        assert_eq!((told.len(), told.last().unwrap().as_str()), (EVENTS_MAX + 1, "lost 5"));
        for _ in 0..EVENTS_MAX + 1 {
            traces.record(&subject(None, "t"), None, Step::Retained);
        }
        assert!(matches!(following.items.try_recv(), Ok(TraceItem::Event(_))));
        assert!(matches!(following.items.try_recv(), Ok(TraceItem::Event(_))));
        traces.record(&subject(None, "t"), None, Step::Retained);
        let told = steps(&mut following);
        assert_eq!(told[told.len() - 2..], ["lost 1", "-:retained"]);
    }

    #[test]
    fn there_are_a_few_traces_at_most_and_none_costs_anything_once_it_is_over() {
        let outcomes: Arc<Outcomes> = Arc::default();
        let traces = &outcomes.traces;
        let mut all: Vec<TraceStream> =
            (0..TRACES_MAX).map(|_| follow(&outcomes, TraceFilter::default())).collect();
        assert!(outcomes.follow(TraceFilter::default()).is_none());
        all.pop();
        assert!(traces.is_on() && outcomes.follow(TraceFilter::default()).is_some());
        all.clear();
        assert!(!traces.is_on());
        assert_eq!(traces.publishers(), 0);
    }

    #[test]
    fn nothing_in_an_event_is_long() {
        let outcomes: Arc<Outcomes> = Arc::default();
        let traces = &outcomes.traces;
        let mut following = follow(&outcomes, TraceFilter::default());
        let topic = "ä".repeat(30_000);
        traces.record(&subject(None, &topic), None, Step::Accepted(topic.as_str().into()));
        let Some(TraceItem::Event(event)) = following.rest().next() else { panic!("nothing was told") };
        assert!(event.topic.len() <= TEXT_MAX + 3 && event.step.detail().len() <= TEXT_MAX + 3);
    }
}
