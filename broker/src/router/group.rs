//! A shared group: its members and the choice among them.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use lapwing_protocol::QoS;

use crate::message::{Delivery, Message, Millis, SessionNumber, SubscriptionIds};
use crate::outbox::{Offered, Pushed, Readiness};
use crate::router::Subscriber;
use crate::router::share::{AHEAD_MAX, LOOK_MAX, RUN_MAX, SERVED_MS};
use crate::store::publish_record::PublishRecord;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::outcomes::Outcomes;
use crate::workers;

/// The members of one share name and filter. A group is immutable: a change makes a new one, so
/// that publishers need no lock.
#[derive(Debug)]
pub struct Group {
    /// Number of the group for as long as it has members.
    pub id: NonZeroU32,
    pub(super) members: Vec<Subscriber>,
    pub(super) balancer: Balancer,
}

/// Chooses the next member.
#[derive(Debug)]
pub(crate) struct Balancer {
    next: AtomicUsize,
    /// Messages that all members got in runs.
    dealt: AtomicUsize,
    shares: Vec<MemberShare>,
}

/// Share of one member in the runs.
#[derive(Debug, Default)]
struct MemberShare {
    /// Messages it got, each multiplied by the number of members.
    given: AtomicUsize,
    /// Time until which it may be skipped.
    served_until: AtomicU64,
}

impl Balancer {
    pub(super) fn new(members: usize, next: usize) -> Balancer {
        let shares = (0..members).map(|_| MemberShare::default()).collect();
        Balancer { next: AtomicUsize::new(next), dealt: AtomicUsize::new(0), shares }
    }

    pub(super) fn next(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    /// Chooses the member for one message: strictly round robin.
    fn pick_for_one(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.shares.len().max(1)
    }

    /// Chooses the member for a run: the next that is not ahead of its share.
    ///
    /// A member of another thread is skipped while it was served just now and is not far behind, if
    /// a member of this thread is not far ahead.
    fn pick_for_run(&self, now: Millis, is_near: impl Fn(usize) -> bool) -> usize {
        let (next, dealt) = (self.next(), self.dealt.load(Ordering::Relaxed));
        let members = self.shares.len().max(1);
        let slack = (AHEAD_MAX * members).cast_signed();
        let of = |skipped: usize| next.wrapping_add(skipped) % members;
        // Both counters wrap around.
        let ahead =
            |share: &MemberShare| share.given.load(Ordering::Relaxed).wrapping_sub(dealt).cast_signed();
        let find = |most: usize, fits: &dyn Fn(usize, &MemberShare) -> bool| {
            (0..most).find(|n| self.shares.get(of(*n)).is_some_and(|share| fits(of(*n), share)))
        };
        let is_next = |at: usize, share: &MemberShare| {
            let ahead = ahead(share);
            let must = ahead < -slack || share.served_until.load(Ordering::Relaxed) <= now;
            ahead <= 0 && (must || is_near(at))
        };
        let skipped = find(members.min(LOOK_MAX), &is_next)
            .or_else(|| find(members.min(LOOK_MAX), &|at, share| is_near(at) && ahead(share) <= slack))
            // At least one member is not ahead, unless another thread updated the counters
            // concurrently.
            .or_else(|| find(members, &|_, share| ahead(share) <= 0))
            .unwrap_or(0);
        self.next.fetch_add(skipped + 1, Ordering::Relaxed);
        of(skipped)
    }

    /// Records that this member got a run of this length.
    fn record(&self, member: usize, run: usize, now: Millis) {
        self.dealt.fetch_add(run, Ordering::Relaxed);
        if let Some(share) = self.shares.get(member) {
            share.given.fetch_add(run * self.shares.len(), Ordering::Relaxed);
            share.served_until.store(now + SERVED_MS, Ordering::Relaxed);
        }
    }
}

impl Group {
    /// Returns the members.
    pub(super) fn members(&self) -> &[Subscriber] {
        &self.members
    }

    /// Returns the members, beginning with the next in turn.
    fn in_turn(&self) -> impl Iterator<Item = &Subscriber> + Clone {
        let turn = self.balancer.pick_for_one();
        let (before, after) = self.members.split_at_checked(turn).unwrap_or((&self.members, &[]));
        after.iter().chain(before)
    }

    /// Gives the message to the first member that takes it: one that is ready, else one that is
    /// connected, else any. `outcomes` hears of it when none does.
    pub(super) fn push(
        &self,
        message: &Message,
        record: &mut PublishRecord<'_>,
        outcomes: &Outcomes,
    ) -> Pushed {
        let (size, members) = (message.size(), self.in_turn());
        // Mostly the next in turn takes it.
        if let Some(member) = members.clone().next()
            && let Some(taken @ Pushed::Queued(_)) =
                member.outbox.offer(self.delivery(member, message.clone()), record, outcomes)
        {
            return taken;
        }
        let (mut last, mut tried) = (Pushed::NotKept(Reason::SessionEnded), 0);
        let mut full = false;
        for wanted in [Readiness::Ready, Readiness::Full, Readiness::Away] {
            for member in members.clone().filter(|member| member.outbox.readiness(size) == wanted) {
                tried += 1;
                last = self.give(member, message, record, outcomes);
                full |= matches!(last, Pushed::Dropped(_));
                if matches!(last, Pushed::Queued(_)) {
                    return last;
                }
            }
        }
        // A member that became ready meanwhile was in none of the three passes.
        for member in members.filter(|_| tried < self.members.len()) {
            last = self.give(member, message, record, outcomes);
            full |= matches!(last, Pushed::Dropped(_));
            if matches!(last, Pushed::Queued(_)) {
                return last;
            }
        }
        match last {
            Pushed::Dropped(_) | Pushed::NotKept(_) if full => {
                outcomes.dropped_for_all(Reason::NoMember, message)
            }
            Pushed::NotKept(reason) => outcomes.dropped_for_all(reason, message),
            _ => {}
        }
        last
    }

    /// Gives a run of one publisher's batch to the next ready member.
    ///
    /// The run is the member's equal share, or as many as it has waiting already. `batch_messages`
    /// is the number of messages in the batch.
    pub(super) fn offer_run(
        &self,
        messages: &mut impl Iterator<Item = Message>,
        batch_messages: usize,
        now: Millis,
        outcomes: &Outcomes,
    ) -> Offered {
        let here = workers::this_thread();
        let is_near = |at: usize| self.members.get(at).is_some_and(|member| member.outbox.thread() == here);
        let share = batch_messages.div_ceil(self.members.len().max(1));
        let mut rest = None;
        for _ in 0..self.members.len().min(LOOK_MAX) {
            let turn = self.balancer.pick_for_run(now, is_near);
            let Some(member) = self.members.get(turn) else { break };
            let run = share.max(member.outbox.len()).min(RUN_MAX);
            let mut run_of = rest.take().into_iter().chain(&mut *messages).take(run);
            let deliver = |message| self.delivery(member, message);
            let offered = member.outbox.offer_all(&mut run_of, deliver, outcomes);
            // A member that is offline or full used its turn, too. Otherwise it would be asked each
            // time, and the one behind it would get everything.
            self.balancer.record(turn, if offered.queued == 0 { run } else { offered.queued }, now);
            if offered.queued > 0 {
                return offered;
            }
            rest = offered.rest;
        }
        Offered::none(rest.or_else(|| messages.next()))
    }

    fn give(
        &self,
        member: &Subscriber,
        message: &Message,
        record: &mut PublishRecord<'_>,
        outcomes: &Outcomes,
    ) -> Pushed {
        member.outbox.push(self.delivery(member, message.clone()), record, outcomes)
    }

    fn delivery(&self, member: &Subscriber, message: Message) -> Delivery {
        let ids = member.id.map_or(SubscriptionIds::None, |id| SubscriptionIds::One(id.get()));
        member.delivery(message, ids, Some(self.id))
    }

    /// Returns the member that would get a message of this size now; where none would, one that
    /// would be asked first.
    pub(super) fn next(&self, qos: QoS, size: usize) -> Option<&Subscriber> {
        let turn = self.balancer.next() % self.members.len().max(1);
        let in_turn = || self.members.iter().cycle().skip(turn).take(self.members.len());
        let ready = [Readiness::Ready, Readiness::Full, Readiness::Away].into_iter();
        let mut asked =
            ready.flat_map(|wanted| in_turn().filter(move |m| m.outbox.readiness(size) == wanted));
        let first = asked.next()?;
        let takes = |member: &&Subscriber| member.outbox.would_accept(qos.min(member.qos), size).is_ok();
        std::iter::once(first).chain(asked).find(takes).or(Some(first))
    }

    /// Gives a message that `leaving` did not get through to a ready member; returns `false` when
    /// none of them can take it.
    pub(super) fn hand_over(
        &self,
        delivery: &Delivery,
        leaving: SessionNumber,
        wakers: &mut Vec<Waker>,
        record: &mut PublishRecord<'_>,
        outcomes: &Outcomes,
    ) -> bool {
        let message = &delivery.message;
        let others = self.in_turn().filter(|member| member.outbox.session() != leaving);
        for member in others.filter(|member| member.outbox.readiness(message.size()) == Readiness::Ready) {
            if let Pushed::Queued(waker) = self.give(member, message, record, outcomes) {
                wakers.extend(waker);
                return true;
            }
        }
        false
    }
}
