//! Outcomes of messages that were not delivered: each has a reason of a closed list, the same in
//! metrics, API and traces.
//!
//! The component that stops a message reports it to [`Outcomes`], once for each client that does
//! not receive it. A message that only waits (for a rate limit or memory) has no outcome, and no
//! reason here.

use std::sync::{Arc, OnceLock};

use lapwing_protocol::PacketId;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::message::{Delivery, Message};
use crate::telemetry::drop_reason::{Drops, Reason};
use crate::telemetry::trace::{Step, TraceFilter, TraceItem, TraceSubject, Traces};

/// A session as outcomes name it: its client identifier, and its drop counters.
#[derive(Debug, Default)]
pub struct Recipient {
    client_id: Arc<str>,
    /// Allocated with the first message that counts.
    drops: OnceLock<Box<Drops>>,
}

impl Recipient {
    /// Creates a recipient with this client identifier and empty counters.
    pub fn new(client_id: Arc<str>) -> Recipient {
        Recipient { client_id, drops: OnceLock::new() }
    }

    /// Client identifier.
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// Drops and skips of messages to or from the client, since its session began or the broker
    /// started.
    pub fn drops(&self) -> Option<&Drops> {
        self.drops.get().map(|drops| &**drops)
    }

    /// Number of those that count as dropped.
    pub fn dropped(&self) -> u64 {
        self.drops().map_or(0, Drops::sum)
    }

    fn count(&self, reason: Reason, n: u64) {
        self.drops.get_or_init(Box::default).add(reason, n);
    }
}

/// Receiver of all outcomes: counters and traces.
#[derive(Debug)]
pub struct Outcomes {
    /// Counters of all reasons.
    pub drops: Drops,
    /// Traces that follow messages.
    pub traces: Traces,
}

impl Outcomes {
    /// Starts with empty counters.
    pub fn new(clock: Clock) -> Outcomes {
        Outcomes { drops: Drops::default(), traces: Traces::new(clock) }
    }

    /// Reports that a message for a session was dropped.
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

    /// As [`dropped`](Self::dropped), for messages that are on disk only.
    #[cold]
    pub fn dropped_on_disk(&self, reason: Reason, n: u64, recipient: &Recipient) {
        self.drops.add(reason, n);
        recipient.count(reason, n);
    }

    /// Reports to traces that a message was queued for a session.
    #[cold]
    pub(crate) fn queued(&self, delivery: &Delivery, recipient: &Recipient, connected: bool) {
        let step = Step::Queued { connected, shared: delivery.terms.share.is_some() };
        self.traces.record(&TraceSubject::of(&delivery.message), Some(recipient.client_id()), step);
    }

    /// Reports to traces that a message was given to the network.
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

    /// Reports a message that its own subscriber published. The publisher counts it
    /// ([`LocalCounters`](crate::telemetry::metrics::LocalCounters)).
    #[inline]
    pub(crate) fn skipped_no_local(&self, message: &Message, recipient: &Recipient) {
        if self.traces.wants(message) {
            let step = Step::Dropped(Reason::NoLocal);
            self.traces.record(&TraceSubject::of(message), Some(recipient.client_id()), step);
        }
    }

    /// Reports a message that no session was to receive, or no member of a group could take.
    #[cold]
    pub fn dropped_for_all(&self, reason: Reason, message: &Message) {
        self.drops.add(reason, 1);
        if self.traces.wants(message) {
            self.traces.record(&TraceSubject::of(message), None, Step::Dropped(reason));
        }
    }

    /// Reports a message that was refused; the publisher's counters include it.
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
    /// Begins a trace; `None` when the maximum number of traces runs.
    pub fn follow(self: &Arc<Self>, filter: TraceFilter) -> Option<TraceStream> {
        let (number, items) = self.traces.begin(filter)?;
        Some(TraceStream { outcomes: self.clone(), number, items })
    }
}

impl Default for Outcomes {
    fn default() -> Self {
        Outcomes::new(Clock::after(0))
    }
}

/// A live trace; dropping it ends the trace.
#[derive(Debug)]
pub struct TraceStream {
    outcomes: Arc<Outcomes>,
    number: u64,
    items: mpsc::Receiver<TraceItem>,
}

impl TraceStream {
    /// Next item. The future may be dropped at any time.
    pub async fn next(&mut self) -> TraceItem {
        match self.items.recv().await {
            Some(told) => told,
            // The sender lives until the trace is dropped.
            None => std::future::pending().await,
        }
    }

    /// Items that have arrived, then the number of lost events that was not reported yet.
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
    fn a_trace_gets_messages_of_its_topic_from_or_to_its_client() {
        let outcomes: Arc<Outcomes> = Arc::default();
        let traces = &outcomes.traces;
        let mut of_topic = follow(&outcomes, filter("", "home/+"));
        let mut of_phone = follow(&outcomes, filter("phone", ""));
        let mut of_kitchen = follow(&outcomes, filter("kitchen", "home/#"));
        let (kitchen, phone, tv): (Arc<str>, Arc<str>, Arc<str>) =
            ("kitchen".into(), "phone".into(), "tv".into());
        let id = traces.number(&kitchen, "home/temp", &[], || 7);
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
    fn events_not_read_in_time_are_lost_and_counted_in_order() {
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
    fn traces_are_limited_and_cost_nothing_once_they_are_over() {
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
    fn texts_in_an_event_are_short() {
        let outcomes: Arc<Outcomes> = Arc::default();
        let traces = &outcomes.traces;
        let mut following = follow(&outcomes, TraceFilter::default());
        let topic = "ä".repeat(30_000);
        traces.record(&subject(None, &topic), None, Step::Accepted(topic.as_str().into()));
        let Some(TraceItem::Event(event)) = following.rest().next() else { panic!("nothing was told") };
        assert!(event.topic.len() <= TEXT_MAX + 3 && event.step.detail().len() <= TEXT_MAX + 3);
    }
}
