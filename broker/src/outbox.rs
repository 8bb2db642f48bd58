//! What waits for one session: the only object that two tasks touch.
//!
//! Publishers push from their own tasks and never wait; the subscriber's task takes everything at once. It is bounded by
//! count and by bytes, what the session has taken and not sent yet included. It belongs to the session, not to the
//! connection: it goes on filling while the session rests.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use lapwing_protocol::QoS;

use crate::config::QueuePolicy;
use crate::message::{Message, SessionNumber};

/// A message for one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The QoS to deliver with, at most.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
    /// The shared group it was given out by: another member can have it if this one leaves.
    pub share: Option<NonZeroU32>,
}

/// Subscription identifiers, mostly none or one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubscriptionIds {
    /// No subscription that matched had one.
    #[default]
    None,
    /// One.
    One(u32),
    /// Several overlapping subscriptions (`[MQTT-3.3.4-4]`).
    Many(Arc<[u32]>),
}

impl SubscriptionIds {
    /// As a list.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            SubscriptionIds::None => &[],
            SubscriptionIds::One(id) => std::slice::from_ref(id),
            SubscriptionIds::Many(ids) => ids,
        }
    }
}

impl FromIterator<u32> for SubscriptionIds {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let ids: Vec<u32> = ids.into_iter().collect();
        match ids.as_slice() {
            [] => SubscriptionIds::None,
            [id] => SubscriptionIds::One(*id),
            _ => SubscriptionIds::Many(ids.into()),
        }
    }
}

/// The bounds of an outbox.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of messages.
    pub bytes_max: usize,
    /// What happens to a message that does not fit.
    pub policy: QueuePolicy,
    /// Whether QoS 0 messages wait while the session rests.
    pub keeps_qos0: bool,
}

/// What became of a pushed message.
#[derive(Debug)]
pub enum Pushed {
    /// It waits. The waker, if there is one, is to be woken once the pusher has pushed all it has.
    Queued(Option<Waker>),
    /// It waits, and an older one was dropped in its place; the waker as above.
    Replaced(Option<Waker>),
    /// It was dropped.
    Dropped,
    /// The policy is to tell the publisher: 0x97.
    Refused,
    /// QoS 0 for a session that rests: not kept, which MQTT allows.
    NotKept,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// What the session took and still holds.
    held_messages: usize,
    held_bytes: usize,
    connected: bool,
    closed: bool,
    waker: Option<Waker>,
}

/// The queue of one session.
#[derive(Debug)]
pub struct Outbox {
    session: SessionNumber,
    bounds: Bounds,
    dropped: AtomicU64,
    inner: Mutex<Inner>,
}

impl Outbox {
    /// An empty one.
    pub fn new(session: SessionNumber, bounds: Bounds) -> Outbox {
        Outbox { session, bounds, dropped: AtomicU64::new(0), inner: Mutex::default() }
    }

    /// Whose it is.
    pub fn session(&self) -> SessionNumber {
        self.session
    }

    /// Messages that were dropped because the bounds were reached.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    // A panic while the lock is held leaves a queue that is still a queue.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. Never waits.
    pub fn push(&self, delivery: Delivery) -> Pushed {
        let mut inner = self.lock();
        if inner.closed || (!inner.connected && delivery.qos == QoS::AtMostOnce && !self.bounds.keeps_qos0) {
            return Pushed::NotKept;
        }
        let size = delivery.message.size();
        let mut dropped = false;
        while !inner.has_room(size, &self.bounds) {
            match self.bounds.policy {
                QueuePolicy::Refuse => return Pushed::Refused,
                QueuePolicy::DropNewest => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    return Pushed::Dropped;
                }
                QueuePolicy::DropOldest => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    dropped = true;
                    let Some(oldest) = inner.queue.pop_front() else { return Pushed::Dropped };
                    inner.bytes -= oldest.message.size();
                }
            }
        }
        inner.bytes += size;
        inner.queue.push_back(delivery);
        let waker = inner.waker.take();
        if dropped { Pushed::Replaced(waker) } else { Pushed::Queued(waker) }
    }

    /// Moves everything to the end of `into`, and says that the session now holds what is in `into`. Nothing there: `waker`
    /// is kept for the next push.
    pub fn take(&self, into: &mut VecDeque<Delivery>, held_bytes: &mut usize, waker: &Waker) -> bool {
        let mut inner = self.lock();
        let took = !inner.queue.is_empty();
        if took {
            if into.is_empty() {
                std::mem::swap(into, &mut inner.queue);
            } else {
                into.append(&mut inner.queue);
            }
            *held_bytes += std::mem::take(&mut inner.bytes);
        } else {
            inner.waker = Some(waker.clone());
            if inner.queue.capacity() > 64 {
                inner.queue = VecDeque::new();
            }
        }
        inner.held_messages = into.len();
        inner.held_bytes = *held_bytes;
        took
    }

    /// Says how much of what was taken the session still holds.
    pub fn holds(&self, messages: usize, bytes: usize) {
        let mut inner = self.lock();
        inner.held_messages = messages;
        inner.held_bytes = bytes;
    }

    /// A connection serves the session from now on.
    pub fn connect(&self) {
        self.lock().connected = true;
    }

    /// The session rests from now on: QoS 0 messages are not kept.
    pub fn disconnect(&self) {
        let mut inner = self.lock();
        inner.connected = false;
        inner.waker = None;
        if !self.bounds.keeps_qos0 {
            inner.queue.retain(|delivery| delivery.qos != QoS::AtMostOnce);
            inner.bytes = inner.queue.iter().map(|delivery| delivery.message.size()).sum();
        }
    }

    /// Whether a connection serves the session.
    pub fn is_connected(&self) -> bool {
        self.lock().connected
    }

    /// Whether a message of this size would be taken without a drop.
    pub fn has_room(&self, size: usize) -> bool {
        let inner = self.lock();
        !inner.closed && inner.has_room(size, &self.bounds)
    }

    /// The session has ended: nothing is taken any more.
    pub fn close(&self) {
        let mut inner = self.lock();
        *inner = Inner { closed: true, ..Inner::default() };
    }

    /// Messages that wait here or were taken and not sent: count and bytes.
    pub fn waiting(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.queue.len() + inner.held_messages, inner.bytes + inner.held_bytes)
    }
}

impl Inner {
    /// One message always fits into an empty outbox, however large it is: the bound of a single message is the packet size.
    fn has_room(&self, size: usize, bounds: &Bounds) -> bool {
        let messages = self.queue.len() + self.held_messages;
        let bytes = self.bytes + self.held_bytes;
        messages == 0 || (messages < bounds.messages_max && bytes + size <= bounds.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Content;

    fn outbox(messages_max: usize, policy: QueuePolicy) -> Outbox {
        let outbox = Outbox::new(1, Bounds { messages_max, bytes_max: 1 << 20, policy, keeps_qos0: false });
        outbox.connect();
        outbox
    }

    fn delivery(payload: &str, qos: QoS) -> Delivery {
        let content = Content {
            topic: "t",
            properties: &[],
            payload: payload.as_bytes(),
            qos,
            retain: false,
            publisher: 0,
            published_at: 0,
            expires_at: None,
        };
        let message = Message::new(&content);
        Delivery { message, qos, retain: false, subscription_ids: SubscriptionIds::None, share: None }
    }

    fn taken(outbox: &Outbox) -> Vec<String> {
        let mut into = VecDeque::new();
        outbox.take(&mut into, &mut 0, Waker::noop());
        into.iter().map(|d| String::from_utf8_lossy(d.message.payload()).into_owned()).collect()
    }

    #[test]
    fn a_full_outbox_drops_by_its_policy() {
        let push = |outbox: &Outbox| ["a", "b", "c"].map(|p| outbox.push(delivery(p, QoS::AtLeastOnce)));
        let newest = outbox(2, QueuePolicy::DropNewest);
        assert!(matches!(push(&newest)[2], Pushed::Dropped));
        assert_eq!((taken(&newest), newest.dropped()), (vec!["a".into(), "b".into()], 1));
        let oldest = outbox(2, QueuePolicy::DropOldest);
        push(&oldest);
        assert_eq!(taken(&oldest), ["b", "c"]);
        let refuse = outbox(2, QueuePolicy::Refuse);
        assert!(matches!(push(&refuse)[2], Pushed::Refused));
    }

    #[test]
    fn what_the_session_holds_counts_until_it_says_otherwise() {
        let outbox = outbox(2, QueuePolicy::DropNewest);
        outbox.push(delivery("a", QoS::AtLeastOnce));
        outbox.push(delivery("b", QoS::AtLeastOnce));
        assert_eq!(taken(&outbox).len(), 2);
        assert!(matches!(outbox.push(delivery("c", QoS::AtLeastOnce)), Pushed::Dropped));
        outbox.holds(1, 1);
        assert!(matches!(outbox.push(delivery("d", QoS::AtLeastOnce)), Pushed::Queued(_)));
    }

    #[test]
    fn a_resting_session_keeps_no_qos_0() {
        let outbox = outbox(9, QueuePolicy::DropNewest);
        outbox.push(delivery("a", QoS::AtMostOnce));
        outbox.push(delivery("b", QoS::AtLeastOnce));
        outbox.disconnect();
        assert!(matches!(outbox.push(delivery("c", QoS::AtMostOnce)), Pushed::NotKept));
        assert_eq!(taken(&outbox), ["b"]);
    }
}
