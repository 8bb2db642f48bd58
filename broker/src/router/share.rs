//! Shared subscriptions (`4.8.2`): each message goes to one member of the group.
//!
//! Members take turns. What a publisher sent at once is dealt out in equal parts, as message by message, but each part in one run; and a
//! member that has more waiting anyway may get as much again in a row. So what a publisher sends at once leaves in fewer pieces, and its
//! client's kernel has fewer to handle (docs/PERFORMANCE.md). Runs are bounded, and who got longer ones waits until the others had as much.
//!
//! One that is connected and has room goes before one that rests or is full; where all rest, the
//! message waits with one of them. What a member leaves unacknowledged goes to another ([`Group::hand_over`]).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use lapwing_protocol::QoS;

use super::trie::{Node, Subscriber};
use crate::drops::{Ends, Reason};
use crate::journal::Journal;
use crate::message::{Message, SessionNumber};
use crate::outbox::{Delivery, Offered, Pushed, Readiness, SubscriptionIds};

/// The most messages in a row that a member gets of one publisher.
const RUN_MAX: usize = 16;

/// The members of one share name and filter. Never changed: a change makes a new one, so that publishers need no lock.
#[derive(Debug)]
pub struct Group {
    /// Names the group for as long as it has members.
    pub id: NonZeroU32,
    members: Vec<Subscriber>,
    turns: Turns,
}

/// Whose turn it is.
#[derive(Debug)]
struct Turns {
    next: AtomicUsize,
    /// Messages that were dealt out in runs, to all members and to each; those of a member count as many times as there are members.
    dealt: AtomicUsize,
    given: Vec<AtomicUsize>,
}

impl Turns {
    fn new(members: usize, next: usize) -> Turns {
        let given = (0..members).map(|_| AtomicUsize::new(0)).collect();
        Turns { next: AtomicUsize::new(next), dealt: AtomicUsize::new(0), given }
    }

    fn next(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    /// For one message: strictly one after the other.
    fn for_one(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.given.len().max(1)
    }

    /// For a run: the next that has not had more than its part. There is one, but that others change this meanwhile.
    fn for_run(&self) -> usize {
        let (next, dealt) = (self.next(), self.dealt.load(Ordering::Relaxed));
        let members = self.given.len().max(1);
        let of = |passed_over: usize| next.wrapping_add(passed_over) % members;
        let had_its_part = |passed_over: &usize| {
            let given = self.given.get(of(*passed_over)).map_or(0, |given| given.load(Ordering::Relaxed));
            // Both go round.
            (dealt.wrapping_sub(given) as isize) < 0
        };
        let passed_over = (0..members).find(|n| !had_its_part(n)).unwrap_or(0);
        self.next.fetch_add(passed_over + 1, Ordering::Relaxed);
        of(passed_over)
    }

    /// This member got a run of so many.
    fn gave(&self, member: usize, run: usize) {
        self.dealt.fetch_add(run, Ordering::Relaxed);
        if let Some(given) = self.given.get(member) {
            given.fetch_add(run * self.given.len(), Ordering::Relaxed);
        }
    }
}

impl Group {
    /// The members.
    pub(super) fn members(&self) -> &[Subscriber] {
        &self.members
    }

    /// The members, beginning with the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = &Subscriber> + Clone {
        let turn = self.turns.for_one();
        let (before, after) = self.members.split_at_checked(turn).unwrap_or((&self.members, &[]));
        after.iter().chain(before)
    }

    /// Gives the message to the first member that takes it: one that is ready, else one that is connected, else any.
    /// `ends` hears of it when none does.
    pub(super) fn push(&self, message: &Message, journal: &mut Journal<'_>, ends: &Ends) -> Pushed {
        let (size, members) = (message.size(), self.in_turn());
        // Mostly it is the one whose turn it is.
        if let Some(member) = members.clone().next()
            && let Some(taken @ Pushed::Queued(_)) =
                member.outbox.offer(self.delivery(member, message.clone()), journal, ends)
        {
            return taken;
        }
        let (mut last, mut tried) = (Pushed::NotKept(Reason::SessionEnded), 0);
        let mut full = false;
        for wanted in [Readiness::Ready, Readiness::Full, Readiness::Away] {
            for member in members.clone().filter(|member| member.outbox.readiness(size) == wanted) {
                tried += 1;
                last = self.give(member, message, journal, ends);
                full |= matches!(last, Pushed::Dropped(_));
                if matches!(last, Pushed::Queued(_)) {
                    return last;
                }
            }
        }
        // One that was becoming ready meanwhile was in none of the three.
        for member in members.filter(|_| tried < self.members.len()) {
            last = self.give(member, message, journal, ends);
            full |= matches!(last, Pushed::Dropped(_));
            if matches!(last, Pushed::Queued(_)) {
                return last;
            }
        }
        match last {
            Pushed::Dropped(_) | Pushed::NotKept(_) if full => ends.ended_for_all(Reason::NoMember, message),
            Pushed::NotKept(reason) => ends.ended_for_all(reason, message),
            _ => {}
        }
        last
    }

    /// Gives the next of some messages of one publisher, which came together, to the member whose turn it is: its equal part, or as many as
    /// wait for it already, as long as it is ready for them. There are so many of them in all.
    pub(super) fn offer_run(
        &self,
        messages: &mut impl Iterator<Item = Message>,
        of: usize,
        ends: &Ends,
    ) -> Offered {
        let turn = self.turns.for_run();
        let Some(member) = self.members.get(turn) else { return Offered::none(messages.next()) };
        let part = of.div_ceil(self.members.len());
        let run = part.max(member.outbox.news()).min(RUN_MAX);
        let deliver = |message| self.delivery(member, message);
        let offered = member.outbox.offer_all(&mut messages.take(run), deliver, ends);
        self.turns.gave(turn, offered.queued);
        offered
    }

    fn give(&self, member: &Subscriber, message: &Message, journal: &mut Journal<'_>, ends: &Ends) -> Pushed {
        member.outbox.push(self.delivery(member, message.clone()), journal, ends)
    }

    fn delivery(&self, member: &Subscriber, message: Message) -> Delivery {
        let ids = member.id.map_or(SubscriptionIds::None, |id| SubscriptionIds::One(id.get()));
        member.delivery(message, ids, Some(self.id))
    }

    /// The member that would get a message of this size now; where none would, one that would be asked first.
    pub(super) fn next(&self, qos: QoS, size: usize) -> Option<&Subscriber> {
        let turn = self.turns.next() % self.members.len().max(1);
        let in_turn = || self.members.iter().cycle().skip(turn).take(self.members.len());
        let ready = [Readiness::Ready, Readiness::Full, Readiness::Away].into_iter();
        let mut asked =
            ready.flat_map(|wanted| in_turn().filter(move |m| m.outbox.readiness(size) == wanted));
        let first = asked.next()?;
        let takes = |member: &&Subscriber| member.outbox.outlook(qos.min(member.qos), size).is_ok();
        std::iter::once(first).chain(asked).find(takes).or(Some(first))
    }

    /// Gives what `leaving` did not get through to a member that is ready; `false` when none of them can take it.
    pub(super) fn hand_over(
        &self,
        delivery: &Delivery,
        leaving: SessionNumber,
        wakers: &mut Vec<Waker>,
        journal: &mut Journal<'_>,
        ends: &Ends,
    ) -> bool {
        let message = &delivery.message;
        let others = self.in_turn().filter(|member| member.outbox.session() != leaving);
        for member in others.filter(|member| member.outbox.readiness(message.size()) == Readiness::Ready) {
            if let Pushed::Queued(waker) = self.give(member, message, journal, ends) {
                wakers.extend(waker);
                return true;
            }
        }
        false
    }
}

/// All groups.
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

    /// Adds or replaces a member; `true` when it is new.
    pub(super) fn join(
        &mut self,
        node: &mut Node,
        name: &str,
        subscriber: Subscriber,
        known: Option<NonZeroU32>,
    ) -> bool {
        let (id, next, mut members) = match node.share(name) {
            Some(group) => (group.id, group.turns.next(), group.members.clone()),
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
        let turns = Turns::new(members.len(), next);
        self.set(node, name, Group { id, members, turns });
        new
    }

    /// Removes a member; `false` when it was none.
    pub(super) fn leave(&mut self, node: &mut Node, name: &str, session: SessionNumber) -> bool {
        let Some(group) = node.share(name).cloned() else { return false };
        let members: Vec<Subscriber> =
            group.members.iter().filter(|member| member.outbox.session() != session).cloned().collect();
        let left = members.len() != group.members.len();
        if members.is_empty() {
            self.groups.remove(&group.id);
            node.set_share(name, None);
        } else {
            let turns = Turns::new(members.len(), group.turns.next());
            self.set(node, name, Group { id: group.id, members, turns });
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
    use std::collections::VecDeque;

    use super::super::{Batch, Retained, RouteCache, Router, Space, subscriber};
    use super::*;
    use crate::config::QueuePolicy;
    use crate::message::Content;
    use crate::outbox::{Bounds, Outbox};

    /// A group whose clients are there, and what a publisher has.
    struct Workers {
        router: Router,
        outboxes: Vec<Arc<Outbox>>,
        cache: RouteCache,
    }

    impl Workers {
        fn new(members: u64, bounds: Bounds) -> Workers {
            let router = Router::new(Retained::new(Space::default()), Arc::default());
            let outboxes: Vec<_> = (1..=members).map(|n| Arc::new(Outbox::new(n, bounds))).collect();
            for outbox in &outboxes {
                outbox.connect(&Arc::default());
                router.subscribe("$share/g/t", subscriber(outbox, QoS::AtLeastOnce));
            }
            Workers { router, outboxes, cache: RouteCache::default() }
        }

        /// So many jobs that one publisher sent at once.
        fn burst(&mut self, jobs: usize) {
            let (mut batch, mut wakers) = (Batch::default(), Vec::new());
            for _ in 0..jobs {
                self.router.gather(job(QoS::AtMostOnce), &mut self.cache, &mut batch).unwrap();
            }
            self.router.pass_on(&mut batch, &mut wakers, &mut Journal::off());
        }

        /// How many wait for each.
        fn wait(&self) -> Vec<usize> {
            self.outboxes.iter().map(|outbox| outbox.news()).collect()
        }

        /// How many wait for each, who takes them now.
        fn take(&self) -> Vec<usize> {
            let take = |outbox: &Arc<Outbox>| {
                let mut taken = VecDeque::new();
                outbox.take(&mut taken, &mut 0, Waker::noop());
                outbox.holds(0, 0);
                taken.len()
            };
            self.outboxes.iter().map(take).collect()
        }
    }

    fn job(qos: QoS) -> Message {
        Message::new(&Content {
            topic: "t",
            properties: &[],
            payload: b"x",
            qos,
            retain: false,
            publisher: 9,
            published_at: 0,
            expires_at: None,
        })
    }

    fn unbounded() -> Bounds {
        Bounds { messages_max: usize::MAX, bytes_max: usize::MAX, ..Bounds::default() }
    }

    #[test]
    fn jobs_that_come_one_at_a_time_go_to_one_member_after_the_other() {
        let mut workers = Workers::new(3, unbounded());
        for done in 1..=4 {
            for n in 0..3 {
                workers.burst(1);
                let expected: Vec<usize> = (0..3).map(|worker| done - usize::from(worker > n)).collect();
                assert_eq!(workers.wait(), expected);
            }
        }
    }

    #[test]
    fn jobs_that_come_at_once_are_dealt_out_in_equal_parts() {
        let mut workers = Workers::new(4, unbounded());
        for (jobs, most) in [(2, 1), (4, 1), (10, 3), (3, 1), (16, 4), (64, 16), (100, 32)] {
            workers.burst(jobs);
            let got = workers.take();
            assert_eq!(got.iter().sum::<usize>(), jobs);
            assert!(got.iter().all(|n| *n <= most), "{jobs} jobs: {got:?}");
        }
    }

    #[test]
    fn members_that_are_behind_get_runs_and_nobody_more_than_the_others_in_the_long_run() {
        // As 50 publishers send where nobody is idle; of two of them one may always have many and the other one.
        for (bursts, members) in [(&[9][..], 4), (&[16, 1], 2), (&[17], 2), (&[3, 100, 5], 3), (&[1, 2], 5)] {
            let mut workers = Workers::new(members, unbounded());
            for burst in bursts.iter().cycle().take(300) {
                workers.burst(*burst);
                let wait = workers.wait();
                let (least, most) = (wait.iter().min().unwrap(), wait.iter().max().unwrap());
                assert!(most - least <= 2 * RUN_MAX, "bursts of {bursts:?}: {wait:?}");
            }
        }
        let mut workers = Workers::new(4, unbounded());
        workers.burst(100);
        let before = workers.wait();
        workers.burst(9);
        let grown = workers.wait().iter().zip(before).filter(|(now, before)| **now > *before).count();
        assert_eq!(grown, 1, "all of them go to one: everybody has something to do");
    }

    #[test]
    fn what_a_full_or_resting_member_cannot_take_of_a_burst_the_others_get() {
        let mut workers = Workers::new(3, Bounds { messages_max: 5, ..unbounded() });
        workers.outboxes[1].disconnect(&Ends::default());
        // Of the second burst, there is no room for two.
        for (jobs, taken) in [(9, 9), (12, 10)] {
            workers.burst(jobs);
            let got = workers.take();
            assert_eq!((got.iter().sum::<usize>(), got[1]), (taken, 0), "{got:?}");
        }
    }

    #[test]
    fn a_message_that_no_member_can_take_is_one_drop() {
        let bounds = Bounds {
            messages_max: 1,
            bytes_max: 1 << 20,
            policy: QueuePolicy::DropNewest,
            ..Bounds::default()
        };
        let Workers { router, outboxes: members, mut cache } = Workers::new(2, bounds);
        let (message, ends, mut wakers) = (job(QoS::AtLeastOnce), router.ends.clone(), Vec::new());
        let routed: Vec<_> = (0..3)
            .map(|_| router.route(&message, &mut cache, &mut wakers, &mut Journal::off()))
            .map(|routed| (routed.queued, ends.drops.get(Reason::NoMember)))
            .collect();
        assert_eq!(routed, [(1, 0), (1, 0), (0, 1)]);
        assert_eq!(ends.drops.sum(), 1);
        assert!(members.iter().all(|outbox| outbox.drops().is_none()), "it was for none of them");
    }
}
