//! Shared subscriptions (`4.8.2`): each message goes to one member of the group.
//!
//! Members take turns. One that is connected and has room goes before one that rests or is full; where all rest, the
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
use crate::outbox::{Delivery, Pushed, Readiness, SubscriptionIds};

/// The members of one share name and filter. Never changed: a change makes a new one, so that publishers need no lock.
#[derive(Debug)]
pub struct Group {
    /// Names the group for as long as it has members.
    pub id: NonZeroU32,
    members: Vec<Subscriber>,
    turn: Arc<AtomicUsize>,
}

impl Group {
    /// The members.
    pub(super) fn members(&self) -> &[Subscriber] {
        &self.members
    }

    /// The members, beginning with the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = &Subscriber> + Clone {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.members.len().max(1);
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
                member.outbox.offer(self.delivery(member, message), journal, ends)
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

    fn give(&self, member: &Subscriber, message: &Message, journal: &mut Journal<'_>, ends: &Ends) -> Pushed {
        member.outbox.push(self.delivery(member, message), journal, ends)
    }

    fn delivery(&self, member: &Subscriber, message: &Message) -> Delivery {
        let ids = member.id.map_or(SubscriptionIds::None, |id| SubscriptionIds::One(id.get()));
        member.delivery(message, ids, Some(self.id))
    }

    /// The member that would get a message of this size now; where none would, one that would be asked first.
    pub(super) fn next(&self, qos: QoS, size: usize) -> Option<&Subscriber> {
        let turn = self.turn.load(Ordering::Relaxed) % self.members.len().max(1);
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
        let (id, turn, mut members) = match node.share(name) {
            Some(group) => (group.id, group.turn.clone(), group.members.clone()),
            None => (known.unwrap_or_else(|| self.next_id()), Arc::default(), Vec::new()),
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
        self.set(node, name, Group { id, members, turn });
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
            self.set(node, name, Group { id: group.id, members, turn: group.turn.clone() });
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
    use super::super::{Retained, RouteCache, Router, Space, subscriber};
    use super::*;
    use crate::config::QueuePolicy;
    use crate::message::Content;
    use crate::outbox::{Bounds, Outbox};

    #[test]
    fn a_message_that_no_member_can_take_is_one_drop() {
        let bounds = Bounds {
            messages_max: 1,
            bytes_max: 1 << 20,
            policy: QueuePolicy::DropNewest,
            ..Bounds::default()
        };
        let members: Vec<_> = (1..=2).map(|session| Arc::new(Outbox::new(session, bounds))).collect();
        let ends: Arc<Ends> = Arc::default();
        let router = Router::new(Retained::new(Space::default()), ends.clone());
        for outbox in &members {
            outbox.connect(&Arc::default());
            router.subscribe("$share/g/t", subscriber(outbox, QoS::AtLeastOnce));
        }
        let message = Message::new(&Content {
            topic: "t",
            properties: &[],
            payload: b"x",
            qos: QoS::AtLeastOnce,
            retain: false,
            publisher: 9,
            published_at: 0,
            expires_at: None,
        });
        let (mut cache, mut wakers) = (RouteCache::default(), Vec::new());
        let routed: Vec<_> = (0..3)
            .map(|_| router.route(&message, &mut cache, &mut wakers, &mut Journal::off()))
            .map(|routed| (routed.queued, ends.drops.get(Reason::NoMember)))
            .collect();
        assert_eq!(routed, [(1, 0), (1, 0), (0, 1)]);
        assert_eq!(ends.drops.sum(), 1);
        assert!(members.iter().all(|outbox| outbox.drops().is_none()), "it was for none of them");
    }
}
