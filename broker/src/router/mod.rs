//! Routes messages to subscribers: subscribe, unsubscribe, route.
//!
//! Routing is a function call on the publisher's own task: collect the targets of the topic, push
//! to their outboxes. The publisher caches the targets of a topic until any subscription changes
//! ([`Router::generation`]). So a topic that repeats costs no lock and no walk, and no lock is held
//! while pushing.

mod audience;
mod batch;
mod browse;
mod cache;
mod compact;
mod group;
mod retained;
mod share;
mod subscriber;
mod table;
mod target;
mod trie;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Waker;

#[cfg(feature = "internals")]
pub use audience::Matches;
pub use audience::{Match, ShareMatch};
pub use batch::{Batch, BatchResult};
pub use browse::{ListedSubscription, SubscriptionKey};
use cache::CacheUsage;
pub use cache::RouteCache;
pub use group::Group;
use lapwing_protocol::{QoS, topic};
#[cfg(feature = "internals")]
pub use retained::browse::RetainedEntry;
pub use retained::{Fetched, Next, RetainResult, Retained, RetainedLimits};
pub use subscriber::Subscriber;
pub use target::Target;

use crate::message::{Delivery, Message, SessionNumber};
use crate::outbox::Pushed;
use crate::router::table::SubscriptionTable;
use crate::store::publish_record::PublishRecord;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::outcomes::Outcomes;

/// Result of routing a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Number of subscribers that matched.
    pub matched: usize,
    /// Number of outboxes that took it.
    pub queued: usize,
    /// Number of sessions that matched, but published it themselves with No Local.
    pub no_local: usize,
    /// Set when an outbox is full and its policy is to refuse the publisher's message.
    pub refused: bool,
    /// Set when the store cannot take the message now.
    pub unavailable: bool,
}

/// Subscriptions and retained messages of the broker.
#[derive(Debug)]
pub struct Router {
    subscriptions: RwLock<SubscriptionTable>,
    generation: AtomicU64,
    /// Set when full queues refuse messages.
    refuses: AtomicBool,
    outcomes: Arc<Outcomes>,
    cache_usage: CacheUsage,
    /// The retained messages.
    pub retained: Retained,
}

impl Router {
    /// Creates a router without subscriptions. `ends` hears of each message that is not delivered.
    pub fn new(retained: Retained, ends: Arc<Outcomes>) -> Router {
        Router {
            subscriptions: RwLock::default(),
            generation: AtomicU64::new(1),
            refuses: AtomicBool::new(false),
            outcomes: ends,
            cache_usage: CacheUsage::default(),
            retained,
        }
    }

    /// Adds or replaces the subscription of a session to a valid topic filter, shared or not.
    pub fn subscribe(&self, filter: &str, subscriber: Subscriber) {
        self.restore(filter, subscriber, None);
    }

    /// Restores a subscription, with the number that its shared group had in an earlier run.
    pub fn restore(&self, filter: &str, subscriber: Subscriber, group: Option<NonZeroU32>) {
        let mut table = self.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
        let SubscriptionTable { trie, shares, count, shared_count } = &mut *table;
        match topic::shared(filter) {
            None => *count += usize::from(trie.node_mut(filter).subscribe(subscriber)),
            Some((name, inner)) => {
                *shared_count += usize::from(shares.join(trie.node_mut(inner), name, subscriber, group));
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes a subscription; returns `false` when there was none.
    pub fn unsubscribe(&self, filter: &str, session: SessionNumber) -> bool {
        let mut table = self.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
        let SubscriptionTable { trie, shares, count, shared_count } = &mut *table;
        let removed = match topic::shared(filter) {
            None => {
                let removed = trie.edit(filter, |node| node.unsubscribe(session));
                *count -= usize::from(removed);
                removed
            }
            Some((name, inner)) => {
                let removed = trie.edit(inner, |node| shares.leave(node, name, session));
                *shared_count -= usize::from(removed);
                removed
            }
        };
        self.generation.fetch_add(1, Ordering::Release);
        removed
    }

    /// Reserves the group numbers up to this one: earlier runs have used them.
    pub fn restore_last_group(&self, last: u32) {
        self.subscriptions.write().unwrap_or_else(PoisonError::into_inner).shares.restore_last(last);
    }

    /// Returns a counter that changes with every subscription.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the number of subscriptions, and of shared ones.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        (table.count, table.shared_count)
    }

    /// Returns the targets of a topic for a publisher without a No Local subscription.
    fn targets(&self, topic: &str) -> Vec<Target> {
        let table = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        table.trie.targets(topic)
    }

    /// Returns the number of sessions and of shared groups that match a topic.
    pub fn count(&self, topic: &str) -> (usize, usize) {
        let targets = self.targets(topic);
        let sessions = targets.iter().filter(|target| matches!(target, Target::Session(..))).count();
        (sessions, targets.len() - sessions)
    }

    /// Routes a message to its targets. `cache` is the publisher's. Wakers of subscribers are added
    /// to `wakers`, which the publisher wakes once it has routed everything.
    pub fn route(
        &self,
        message: &Message,
        cache: &mut RouteCache,
        wakers: &mut Vec<Waker>,
        record: &mut PublishRecord<'_>,
    ) -> Routed {
        if self.refuses.load(Ordering::Relaxed) && message.qos() != QoS::AtMostOnce {
            return self.route_to_all_or_none(message, cache, wakers, record);
        }
        let mut routed = Routed::default();
        for target in &**cache.targets(self, message) {
            routed.add(self.deliver::<false>(target, message, wakers, record));
            // Stored targets come first: nobody has the message yet.
            if routed.unavailable {
                break;
            }
        }
        routed
    }

    /// Like [`route`](Self::route), where a full queue refuses the message: then no target gets it.
    #[cold]
    fn route_to_all_or_none(
        &self,
        message: &Message,
        cache: &mut RouteCache,
        wakers: &mut Vec<Waker>,
        record: &mut PublishRecord<'_>,
    ) -> Routed {
        let mut routed = Routed::default();
        if self.would_refuse(message, cache) {
            return Routed { refused: true, matched: 1, ..routed };
        }
        for target in &**cache.targets(self, message) {
            routed.add(self.deliver::<true>(target, message, wakers, record));
            if routed.unavailable {
                break;
            }
        }
        routed
    }

    /// Returns `true` when the queue of a target is full and refuses the message.
    pub fn would_refuse(&self, message: &Message, cache: &mut RouteCache) -> bool {
        if !self.refuses.load(Ordering::Relaxed) || message.qos() == QoS::AtMostOnce {
            return false;
        }
        let refused = |subscriber: &Subscriber| {
            let accepted = subscriber.outbox.would_accept(message.qos().min(subscriber.qos), message.size());
            accepted == Err(Reason::SessionQueueRefused)
        };
        cache.targets(self, message).iter().any(|target| match target {
            Target::Session(subscriber, _) => {
                let is_own = subscriber.no_local && subscriber.outbox.session() == message.publisher();
                !is_own && refused(subscriber)
            }
            Target::Share(group) => group.next(message.qos(), message.size()).is_some_and(refused),
        })
    }

    /// Sets whether full queues refuse messages (`limits.queue_policy`).
    pub fn set_refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Gives a message to one target. `IS_TAKEN`: it was found to have room, so it takes the
    /// message though another publisher has filled the queue since.
    fn deliver<const IS_TAKEN: bool>(
        &self,
        target: &Target,
        message: &Message,
        wakers: &mut Vec<Waker>,
        record: &mut PublishRecord<'_>,
    ) -> Routed {
        let pushed = match target {
            Target::Session(subscriber, ids) => {
                if subscriber.no_local && subscriber.outbox.session() == message.publisher() {
                    self.outcomes.skipped_no_local(message, subscriber.outbox.recipient());
                    return Routed { no_local: 1, ..Routed::default() };
                }
                let delivery = subscriber.delivery(message.clone(), ids.clone(), None);
                let pushed = if IS_TAKEN {
                    subscriber.outbox.push_beyond(delivery, record, &self.outcomes)
                } else {
                    subscriber.outbox.push(delivery, record, &self.outcomes)
                };
                if let Pushed::Dropped(reason) | Pushed::NotKept(reason) = pushed {
                    self.outcomes.dropped(reason, message, subscriber.outbox.recipient());
                }
                pushed
            }
            Target::Share(group) => group.push(message, record, &self.outcomes),
        };
        let routed = Routed { matched: 1, ..Routed::default() };
        match pushed {
            Pushed::Queued(waker) => {
                wakers.extend(waker);
                Routed { queued: 1, ..routed }
            }
            Pushed::Refused => Routed { refused: true, ..routed },
            Pushed::Unavailable => Routed { unavailable: true, ..routed },
            Pushed::Dropped(_) | Pushed::NotKept(_) => routed,
        }
    }

    /// Gives a message of a shared group that `leaving` did not get through to another member
    /// (`[MQTT-4.8.2-5]`). Returns `false` when no other member can take it.
    pub fn reassign(
        &self,
        delivery: &Delivery,
        leaving: SessionNumber,
        wakers: &mut Vec<Waker>,
        record: &mut PublishRecord<'_>,
    ) -> bool {
        let group = delivery
            .terms
            .share
            .and_then(|id| self.subscriptions.read().unwrap_or_else(PoisonError::into_inner).shares.get(id));
        group.is_some_and(|group| group.hand_over(delivery, leaving, wakers, record, &self.outcomes))
    }

    /// Returns the group of a shared subscription.
    pub fn group(&self, filter: &str) -> Option<NonZeroU32> {
        let (name, inner) = topic::shared(filter)?;
        let table = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        table.trie.node(inner)?.share(name).map(|group| group.id)
    }
}

impl Routed {
    #[inline]
    fn add(&mut self, other: Routed) {
        self.matched += other.matched;
        self.queued += other.queued;
        self.no_local += other.no_local;
        self.refused |= other.refused;
        self.unavailable |= other.unavailable;
    }
}

/// Makes a subscriber of a session's outbox, for tests of this room.
#[cfg(test)]
pub(crate) fn subscriber(outbox: &Arc<crate::outbox::Outbox>, qos: lapwing_protocol::QoS) -> Subscriber {
    Subscriber { outbox: outbox.clone(), qos, no_local: false, retain_as_published: false, id: None }
}
