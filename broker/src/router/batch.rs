//! Messages of one publisher that go to the same targets, routed together.
//!
//! Only QoS 0 messages that are not retained are batched: the others need an individual result for
//! their acknowledgement. A batch waits until its publisher has handled the current read, as the
//! subscribers' wakers do. Each queue is locked once for the whole batch. That matters most where
//! another thread takes from the queue.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use super::{RouteCache, Routed, Router};
use crate::message::{Message, Millis};
use crate::outbox::Offered;
use crate::router::Target;
use crate::store::publish_record::PublishRecord;

/// Largest number of pushes of one batch: other tasks wait meanwhile.
const PUSHES_MAX: usize = 1_024;

thread_local! {
    static SPARE: Cell<Vec<Message>> = const { Cell::new(Vec::new()) };
}

/// Messages of one publisher with the same targets. An empty batch holds no memory: the list is
/// reused within the thread.
#[derive(Debug, Default)]
pub struct Batch {
    targets: Arc<[Target]>,
    messages: Vec<Message>,
}

/// Result of routing a batch.
#[derive(Debug, Default)]
pub struct BatchResult {
    /// Number of messages that were routed.
    pub messages: usize,
    /// Sums over all its messages.
    pub routed: Routed,
    /// Messages that a full outbox refused on its publisher's behalf, by their position.
    pub refused: BTreeMap<usize, Message>,
}

impl Batch {
    /// Returns `true` when the batch holds a message.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn is_full(&self) -> bool {
        self.messages.len() * self.targets.len().max(1) >= PUSHES_MAX
    }

    /// Adds a QoS 0 message that is not retained. `cache` is the publisher's.
    ///
    /// # Errors
    /// Returns the message when the batch has other targets or is full. The caller then
    /// [flushes](Router::flush) first.
    #[inline]
    pub fn push(&mut self, message: Message, router: &Router, cache: &mut RouteCache) -> Result<(), Message> {
        let targets = cache.targets(router, &message);
        if self.is_empty() {
            *self = Batch { targets: targets.clone(), messages: SPARE.take() };
        } else if self.is_full() || !Arc::ptr_eq(targets, &self.targets) {
            return Err(message);
        }
        self.messages.push(message);
        Ok(())
    }
}

/// State of a flush: the result so far, and what its pushes add to.
struct Flush<'f, 's> {
    result: BatchResult,
    wakers: &'f mut Vec<Waker>,
    record: &'f mut PublishRecord<'s>,
    /// When the messages were published.
    now: Millis,
}

impl Router {
    /// Routes the messages of a batch, as [`route`](Self::route) does one after the other.
    pub fn flush(
        &self,
        batch: &mut Batch,
        wakers: &mut Vec<Waker>,
        record: &mut PublishRecord<'_>,
    ) -> BatchResult {
        let Batch { targets, mut messages } = std::mem::take(batch);
        let result = BatchResult { messages: messages.len(), ..BatchResult::default() };
        let now = messages.first().map_or(0, Message::published_at);
        let mut flush = Flush { result, wakers, record, now };
        if let Some((last, others)) = targets.split_last() {
            for target in others {
                self.deliver_all(target, messages.iter().cloned(), &mut flush);
            }
            // The last target gets the publisher's own references: the sending thread is then the
            // only one that counts their owners.
            self.deliver_all(last, messages.drain(..), &mut flush);
        }
        messages.drain(..).for_each(Message::recycle);
        SPARE.set(messages);
        flush.result
    }

    /// Pushes the messages to one target: under one lock while it is ready, else one by one.
    fn deliver_all(
        &self,
        target: &Target,
        mut messages: impl ExactSizeIterator<Item = Message>,
        flush: &mut Flush<'_, '_>,
    ) {
        let Flush { result, wakers, record, now } = flush;
        let batch_messages = result.messages;
        let mut position = 0;
        while messages.len() > 0 {
            let offered = match target {
                // A run gains nothing here, or the subscriber may be the publisher.
                _ if batch_messages == 1 => Offered::none(messages.next()),
                Target::Session(subscriber, _) if subscriber.no_local => Offered::none(messages.next()),
                Target::Session(subscriber, ids) => {
                    let deliver = |message| subscriber.delivery(message, ids.clone(), None);
                    subscriber.outbox.offer_all(&mut messages, deliver, &self.outcomes)
                }
                Target::Share(group) => group.offer_run(&mut messages, batch_messages, *now, &self.outcomes),
            };
            result.routed.matched += offered.queued;
            result.routed.queued += offered.queued;
            position += offered.queued;
            wakers.extend(offered.waker);
            if let Some(message) = offered.rest {
                let one = self.deliver::<false>(target, &message, wakers, record);
                result.routed.add(one);
                if one.refused {
                    result.refused.insert(position, message);
                } else {
                    message.recycle();
                }
                position += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::QoS;

    use super::super::{Retained, RetainedLimits, Subscriber, subscriber};
    use super::*;
    use crate::config::QueuePolicy;
    use crate::message::{MessageParts, PendingQueue};
    use crate::outbox::{Outbox, QueueLimits};
    use crate::telemetry::drop_reason::Reason;

    const PUBLISHER: u64 = 9;

    fn message(topic: &str, payload: &str) -> Message {
        Message::new(&MessageParts { publisher: PUBLISHER, ..MessageParts::new(topic, payload.as_bytes()) })
    }

    /// The outbox of a connected client.
    fn outbox(session: u64, messages_max: usize, policy: QueuePolicy) -> Arc<Outbox> {
        let bounds = QueueLimits { messages_max, bytes_max: 1 << 20, policy, ..QueueLimits::default() };
        let outbox = Arc::new(Outbox::new(session, bounds));
        outbox.connect(&Arc::default());
        outbox
    }

    fn router() -> Router {
        Router::new(Retained::new(RetainedLimits::default()), Arc::default())
    }

    /// Publishes as a connection does: flushes the batch when it has to.
    fn publish(router: &Router, messages: &[(&str, &str)]) -> Vec<BatchResult> {
        let (mut cache, mut batch, mut wakers) = (RouteCache::default(), Batch::default(), Vec::new());
        let mut all = Vec::new();
        for (topic, payload) in messages {
            if let Err(message) = batch.push(message(topic, payload), router, &mut cache) {
                all.push(router.flush(&mut batch, &mut wakers, &mut PublishRecord::disabled()));
                batch.push(message, router, &mut cache).unwrap();
            }
        }
        all.push(router.flush(&mut batch, &mut wakers, &mut PublishRecord::disabled()));
        all
    }

    fn taken(outbox: &Outbox) -> String {
        let mut taken = PendingQueue::default();
        outbox.take(&mut taken, Waker::noop());
        taken
            .iter()
            .map(|delivery| String::from_utf8_lossy(delivery.message.payload()).into_owned())
            .collect()
    }

    #[test]
    fn each_subscriber_gets_its_messages_in_order() {
        let router = router();
        let (both, one) = (outbox(1, 99, QueuePolicy::Refuse), outbox(2, 99, QueuePolicy::Refuse));
        router.subscribe("#", subscriber(&both, QoS::AtMostOnce));
        router.subscribe("b", subscriber(&one, QoS::AtMostOnce));
        let passed =
            publish(&router, &[("a", "1"), ("a", "2"), ("b", "3"), ("b", "4"), ("a", "5"), ("b", "6")]);
        assert_eq!((taken(&both), taken(&one)), ("123456".to_owned(), "346".to_owned()));
        assert_eq!(passed.iter().map(|passed| passed.messages).collect::<Vec<_>>(), [2, 2, 1, 1]);
        assert_eq!(passed.iter().map(|passed| passed.routed.matched).sum::<usize>(), 9);
    }

    #[test]
    fn no_local_subscribers_do_not_get_their_own_messages() {
        let router = router();
        let (own, other) = (outbox(PUBLISHER, 99, QueuePolicy::Refuse), outbox(2, 99, QueuePolicy::Refuse));
        router.subscribe("t", Subscriber { no_local: true, ..subscriber(&own, QoS::AtMostOnce) });
        router.subscribe("t", Subscriber { no_local: true, ..subscriber(&other, QoS::AtMostOnce) });
        let [passed] = &publish(&router, &[("t", "1"), ("t", "2")])[..] else { panic!("they go together") };
        assert_eq!((taken(&own), taken(&other)), (String::new(), "12".to_owned()));
        assert_eq!((passed.routed.matched, passed.routed.no_local), (2, 2));
    }

    #[test]
    fn a_message_that_does_not_fit_ends_as_without_a_batch() {
        let ended = |policy, expected: &str, reason| {
            let router = router();
            let (full, other) = (outbox(1, 2, policy), outbox(2, 99, policy));
            router.subscribe("t", subscriber(&full, QoS::AtMostOnce));
            router.subscribe("t", subscriber(&other, QoS::AtMostOnce));
            let passed = publish(&router, &[("t", "1"), ("t", "2"), ("t", "3")]);
            assert_eq!((taken(&full), taken(&other)), (expected.to_owned(), "123".to_owned()));
            assert_eq!(router.outcomes.drops.get(reason), u64::from(policy != QueuePolicy::Refuse));
            passed.iter().map(|passed| passed.refused.len()).sum::<usize>()
        };
        assert_eq!(ended(QueuePolicy::DropNewest, "12", Reason::SessionQueueFull), 0);
        assert_eq!(ended(QueuePolicy::DropOldest, "23", Reason::SessionQueueOldest), 0);
        assert_eq!(
            ended(QueuePolicy::Refuse, "12", Reason::SessionQueueRefused),
            1,
            "its publisher is to hear of it"
        );
    }

    #[test]
    fn a_message_that_two_queues_refuse_is_refused_once() {
        let router = router();
        let outboxes = [1, 2].map(|session| outbox(session, 1, QueuePolicy::Refuse));
        outboxes.iter().for_each(|outbox| router.subscribe("t", subscriber(outbox, QoS::AtMostOnce)));
        let [passed] = &publish(&router, &[("t", "1"), ("t", "2"), ("t", "3")])[..] else {
            panic!("together")
        };
        let refused: Vec<_> = passed.refused.values().map(Message::payload).collect();
        assert_eq!(refused, [b"2", b"3"]);
        assert!(outboxes.iter().all(|outbox| taken(outbox) == "1"));
    }

    #[test]
    fn a_message_with_many_targets_is_not_batched() {
        let router = router();
        for session in 1..=600 {
            router.subscribe("t", subscriber(&outbox(session, 99, QueuePolicy::Refuse), QoS::AtMostOnce));
        }
        let passed = publish(&router, &[("t", "x"); 5]);
        assert!(passed.iter().all(|passed| passed.messages <= 2), "others would wait for all of them");
    }
}
