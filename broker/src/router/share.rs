//! Shared subscriptions (`4.8.2`): each message goes to one member of the group.
//!
//! Members take turns. One that is connected and has room goes before one that rests or is full; where all rest, the
//! message waits with one of them. What a member leaves unacknowledged goes to another ([`Group::hand_over`]).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use super::trie::{Node, Subscriber};
use crate::journal::Journal;
use crate::message::{Message, SessionNumber};
use crate::outbox::{Delivery, Pushed, SubscriptionIds};

/// The members of one share name and filter. Never changed: a change makes a new one, so that publishers need no lock.
#[derive(Debug)]
pub struct Group {
    /// Names the group for as long as it has members.
    pub id: NonZeroU32,
    members: Vec<Subscriber>,
    turn: Arc<AtomicUsize>,
}

impl Group {
    /// The members in the order of this turn: those that can take a message of this size at once come first.
    fn in_turn(&self, size: usize) -> impl Iterator<Item = &Subscriber> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.members.len().max(1);
        let (after, before) = self.members.split_at_checked(turn).unwrap_or((&[], &self.members));
        let members: Vec<&Subscriber> = before.iter().chain(after).collect();
        let ready = |m: &&Subscriber| m.outbox.is_connected() && m.outbox.has_room(size);
        let (ready, rest): (Vec<_>, Vec<_>) = members.into_iter().partition(ready);
        let (connected, resting): (Vec<_>, Vec<_>) = rest.into_iter().partition(|m| m.outbox.is_connected());
        ready.into_iter().chain(connected).chain(resting)
    }

    /// Gives the message to the first member that takes it.
    pub(super) fn push(&self, message: &Message, journal: &mut Journal<'_>) -> Pushed {
        let mut last = Pushed::NotKept;
        for member in self.in_turn(message.size()) {
            let ids = member.id.map_or(SubscriptionIds::None, |id| SubscriptionIds::One(id.get()));
            last = member.outbox.push(member.delivery(message, ids, Some(self.id)), journal);
            if matches!(last, Pushed::Queued(_) | Pushed::Replaced(_)) {
                break;
            }
        }
        last
    }

    /// Gives what `leaving` did not get through to a member that is connected; `false` when none of them can take it.
    pub(super) fn hand_over(
        &self,
        delivery: &Delivery,
        leaving: SessionNumber,
        wakers: &mut Vec<Waker>,
        journal: &mut Journal<'_>,
    ) -> bool {
        let size = delivery.message.size();
        for member in self.in_turn(size) {
            let outbox = &member.outbox;
            if outbox.session() == leaving || !outbox.is_connected() || !outbox.has_room(size) {
                continue;
            }
            let ids = member.id.map_or(SubscriptionIds::None, |id| SubscriptionIds::One(id.get()));
            let given = member.delivery(&delivery.message, ids, Some(self.id));
            if let Pushed::Queued(waker) = outbox.push(given, journal) {
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
