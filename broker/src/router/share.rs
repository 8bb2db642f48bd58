//! Shared subscriptions (`4.8.2`): each message goes to one member of the group.
//!
//! A batch is split evenly between the members, each share as one contiguous run. A member with a
//! backlog may get a run of up to twice its share, at most [`RUN_MAX`]. So a batch leaves in fewer
//! pieces, and the client's kernel has fewer to handle (docs/PERFORMANCE.md). A member that got a
//! longer run waits until the others had as much.
//!
//! Waking a member of another thread costs more than everything else. While messages flow, members
//! of the publisher's own thread go first. The others get as much in the long run: they are at most
//! a few dozen messages behind, and wait a few milliseconds.
//!
//! A member that is connected and has room goes before one that is offline or full. Where all
//! members are offline, the message waits with one of them. Messages that a member leaves
//! unacknowledged go to another ([`Group::hand_over`]).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::trie::Node;
use crate::message::{Millis, SessionNumber};
use crate::router::group::Balancer;
use crate::router::{Group, Subscriber};

/// Longest run that a member gets of one publisher.
pub(crate) const RUN_MAX: usize = 16;
/// Messages that a member of the publisher's own thread may have had beyond its share.
pub(crate) const AHEAD_MAX: usize = 64;
/// Longest time in milliseconds that a member of another thread waits for a publisher that has
/// messages.
pub(crate) const SERVED_MS: Millis = 5;
/// Members that are searched for one of the publisher's own thread.
pub(crate) const LOOK_MAX: usize = 16;

/// The shared groups of the broker.
#[derive(Debug, Default)]
pub(super) struct Shares {
    groups: HashMap<NonZeroU32, Arc<Group>>,
    last_id: u32,
}

impl Shares {
    pub(super) fn get(&self, id: NonZeroU32) -> Option<Arc<Group>> {
        self.groups.get(&id).cloned()
    }

    fn next_id(&mut self) -> NonZeroU32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            match NonZeroU32::new(self.last_id) {
                Some(id) if !self.groups.contains_key(&id) => return id,
                _ => {}
            }
        }
    }

    pub(super) fn restore_last(&mut self, last: u32) {
        self.last_id = self.last_id.max(last);
    }

    /// Adds or replaces a member; returns `true` when it is new.
    pub(super) fn join(
        &mut self,
        node: &mut Node,
        name: &str,
        subscriber: Subscriber,
        known: Option<NonZeroU32>,
    ) -> bool {
        let (id, next, mut members) = match node.share(name) {
            Some(group) => (group.id, group.balancer.next(), group.members.clone()),
            None => (known.unwrap_or_else(|| self.next_id()), 0, Vec::new()),
        };
        let session = subscriber.outbox.session();
        let new = match members.iter_mut().find(|member| member.outbox.session() == session) {
            Some(member) => {
                *member = subscriber;
                false
            }
            None => {
                members.push(subscriber);
                true
            }
        };
        let balancer = Balancer::new(members.len(), next);
        self.set(node, name, Group { id, members, balancer });
        new
    }

    /// Removes a member; returns `false` when it was none.
    pub(super) fn leave(&mut self, node: &mut Node, name: &str, session: SessionNumber) -> bool {
        let Some(group) = node.share(name).cloned() else { return false };
        let members: Vec<Subscriber> =
            group.members.iter().filter(|member| member.outbox.session() != session).cloned().collect();
        let left = members.len() != group.members.len();
        if members.is_empty() {
            self.groups.remove(&group.id);
            node.set_share(name, None);
        } else {
            let balancer = Balancer::new(members.len(), group.balancer.next());
            self.set(node, name, Group { id: group.id, members, balancer });
        }
        left
    }

    fn set(&mut self, node: &mut Node, name: &str, group: Group) {
        let group = Arc::new(group);
        self.groups.insert(group.id, group.clone());
        node.set_share(name, Some(group));
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::thread;

    use lapwing_protocol::QoS;

    use super::super::{Batch, Retained, RetainedLimits, RouteCache, Router, subscriber};
    use super::*;
    use crate::config::QueuePolicy;
    use crate::message::{Message, MessageParts, PendingQueue};
    use crate::outbox::{Outbox, QueueLimits};
    use crate::store::publish_record::PublishRecord;
    use crate::telemetry::drop_reason::Reason;
    use crate::telemetry::outcomes::Outcomes;

    /// A group whose clients are connected, and its publisher.
    struct Workers {
        router: Router,
        outboxes: Vec<Arc<Outbox>>,
    }

    impl Workers {
        fn new(members: u64, bounds: QueueLimits) -> Workers {
            let router = Router::new(Retained::new(RetainedLimits::default()), Arc::default());
            let outboxes: Vec<_> = (1..=members).map(|n| Arc::new(Outbox::new(n, bounds))).collect();
            for outbox in &outboxes {
                outbox.connect(&Arc::default());
                router.subscribe("$share/g/t", subscriber(outbox, QoS::AtLeastOnce));
            }
            Workers { router, outboxes }
        }

        /// Publishes this many jobs in one batch.
        fn burst(&self, jobs: usize) {
            self.burst_at(0, jobs);
        }

        fn burst_at(&self, now: Millis, jobs: usize) {
            let (mut cache, mut batch, mut wakers) = (RouteCache::default(), Batch::default(), Vec::new());
            for _ in 0..jobs {
                batch.push(job(QoS::AtMostOnce, now), &self.router, &mut cache).unwrap();
            }
            self.router.flush(&mut batch, &mut wakers, &mut PublishRecord::disabled());
        }

        /// Serves the later half of the members by another thread.
        fn spread(&self) {
            let far = self.outboxes.iter().skip(self.outboxes.len() / 2);
            thread::scope(|scope| {
                scope.spawn(|| far.for_each(|outbox| outbox.connect(&Arc::default())));
            });
        }

        /// Returns the number of jobs that wait for each member.
        fn wait(&self) -> Vec<usize> {
            self.outboxes.iter().map(|outbox| outbox.len()).collect()
        }

        /// Takes the waiting jobs of each member, and returns their numbers.
        fn take(&self) -> Vec<usize> {
            let take = |outbox: &Arc<Outbox>| {
                let mut taken = PendingQueue::default();
                outbox.take(&mut taken, Waker::noop());
                outbox.set_held(&PendingQueue::default());
                taken.len()
            };
            self.outboxes.iter().map(take).collect()
        }
    }

    fn job(qos: QoS, now: Millis) -> Message {
        Message::new(&MessageParts { qos, publisher: 9, published_at: now, ..MessageParts::new("t", b"x") })
    }

    fn unbounded() -> QueueLimits {
        QueueLimits { messages_max: usize::MAX, bytes_max: usize::MAX, ..QueueLimits::default() }
    }

    #[test]
    fn single_jobs_go_round_robin() {
        let workers = Workers::new(3, unbounded());
        for done in 1..=4 {
            for n in 0..3 {
                workers.burst(1);
                let expected: Vec<usize> = (0..3).map(|worker| done - usize::from(worker > n)).collect();
                assert_eq!(workers.wait(), expected);
            }
        }
    }

    #[test]
    fn a_batch_is_split_evenly() {
        let workers = Workers::new(4, unbounded());
        for (jobs, most) in [(2, 1), (4, 1), (10, 3), (3, 1), (16, 4), (64, 16), (100, 32)] {
            workers.burst(jobs);
            let got = workers.take();
            assert_eq!(got.iter().sum::<usize>(), jobs);
            assert!(got.iter().all(|n| *n <= most), "{jobs} jobs: {got:?}");
        }
    }

    #[test]
    fn members_with_a_backlog_get_runs_and_equal_shares_in_the_long_run() {
        // As 50 publishers send where no member is idle; in two of the cases one member may always
        // have many and the other one.
        for (bursts, members) in [(&[9][..], 4), (&[16, 1], 2), (&[17], 2), (&[3, 100, 5], 3), (&[1, 2], 5)] {
            let workers = Workers::new(members, unbounded());
            for burst in bursts.iter().cycle().take(300) {
                workers.burst(*burst);
                let wait = workers.wait();
                let (least, most) = (wait.iter().min().unwrap(), wait.iter().max().unwrap());
                assert!(most - least <= 2 * RUN_MAX, "bursts of {bursts:?}: {wait:?}");
            }
        }
        let workers = Workers::new(4, unbounded());
        workers.burst(100);
        let before = workers.wait();
        workers.burst(9);
        let grown = workers.wait().iter().zip(before).filter(|(now, before)| **now > *before).count();
        assert_eq!(grown, 1, "all of them go to one: everybody has something to do");
    }

    #[test]
    fn members_of_all_threads_get_equal_shares_in_the_long_run() {
        for (bursts, members) in [(&[10][..], 4), (&[16, 1], 2), (&[3, 100, 5], 3), (&[2], 40)] {
            let workers = Workers::new(members, unbounded());
            workers.spread();
            for (n, burst) in bursts.iter().cycle().take(3_000).enumerate() {
                // Far more than may wait comes within a few milliseconds, all of it by one thread.
                workers.burst_at(n as Millis / 100, *burst);
                let wait = workers.wait();
                let (least, most) = (wait.iter().min().unwrap(), wait.iter().max().unwrap());
                assert!(most - least <= 2 * (AHEAD_MAX + RUN_MAX), "bursts of {bursts:?}: {wait:?}");
            }
        }
    }

    #[test]
    fn occasional_batches_go_to_members_of_all_threads() {
        let workers = Workers::new(4, unbounded());
        workers.spread();
        for n in 1..100 {
            workers.burst_at(n * SERVED_MS, 10);
            let got = workers.take();
            assert!(got.iter().all(|n| (1..=3).contains(n)), "{got:?}");
        }
    }

    #[test]
    fn a_steady_flow_prefers_members_of_the_publishers_thread() {
        let workers = Workers::new(4, unbounded());
        workers.spread();
        workers.burst(4);
        workers.take();
        for _ in 0..5 {
            workers.burst(10);
        }
        let got = workers.take();
        assert_eq!((got[0] + got[1], got[2], got[3]), (50, 0, 0), "{got:?}");
        assert!(got[0].abs_diff(got[1]) <= 5, "{got:?}");
    }

    #[test]
    fn an_offline_member_is_owed_nothing_when_it_returns() {
        let workers = Workers::new(3, unbounded());
        workers.outboxes[1].disconnect(&Outcomes::default());
        for _ in 0..100 {
            workers.burst(9);
            let wait = workers.wait();
            assert!(wait[0].abs_diff(wait[2]) <= 2 * RUN_MAX && wait[1] == 0, "{wait:?}");
        }
        workers.take();
        workers.outboxes[1].connect(&Arc::default());
        workers.burst(90);
        let got = workers.take();
        assert!(got.iter().all(|n| *n >= RUN_MAX), "{got:?}");
    }

    #[test]
    fn others_get_the_jobs_of_a_full_or_offline_member() {
        let workers = Workers::new(3, QueueLimits { messages_max: 5, ..unbounded() });
        workers.outboxes[1].disconnect(&Outcomes::default());
        // The queue has no room for two jobs of the second burst.
        for (jobs, taken) in [(9, 9), (12, 10)] {
            workers.burst(jobs);
            let got = workers.take();
            assert_eq!((got.iter().sum::<usize>(), got[1]), (taken, 0), "{got:?}");
        }
    }

    #[test]
    fn a_message_that_no_member_can_take_is_one_drop() {
        let bounds = QueueLimits {
            messages_max: 1,
            bytes_max: 1 << 20,
            policy: QueuePolicy::DropNewest,
            ..QueueLimits::default()
        };
        let Workers { router, outboxes: members } = Workers::new(2, bounds);
        let (mut cache, mut wakers) = (RouteCache::default(), Vec::new());
        let (message, outcomes) = (job(QoS::AtLeastOnce, 0), router.outcomes.clone());
        let routed: Vec<_> = (0..3)
            .map(|_| router.route(&message, &mut cache, &mut wakers, &mut PublishRecord::disabled()))
            .map(|routed| (routed.queued, outcomes.drops.get(Reason::NoMember)))
            .collect();
        assert_eq!(routed, [(1, 0), (1, 0), (0, 1)]);
        assert_eq!(outcomes.drops.sum(), 1);
        assert!(members.iter().all(|outbox| outbox.recipient().drops().is_none()), "it was for none of them");
    }
}
