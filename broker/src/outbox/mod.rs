//! The session queue: messages that wait for one session. It is the only object that two tasks
//! touch.
//!
//! Publishers push from their own tasks and never wait; the subscriber's task takes everything at
//! once. The queue is bounded by count and by bytes. Messages that the session has taken and not
//! sent yet count too. The queue belongs to the session, not to the connection, so it fills while
//! the session is offline.
//!
//! The queue of a stored session has a second part behind the first: messages that are on disk
//! only. A message that does not fit into memory goes there, and every message while the session is
//! offline. Memory knows only where that part begins and how large it is. The connection reads it
//! page by page once the first part is empty.

mod disk;
mod limits;
mod policy;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

pub use disk::DiskPart;
use futures_util::task::AtomicWaker;
use lapwing_protocol::QoS;
pub use limits::{DiskTotal, QueueLimits};
pub use policy::Readiness;

use crate::message::{Delivery, Message, PendingQueue, Seq, SessionNumber};
use crate::store::publish_record::PublishRecord;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::outcomes::{Outcomes, Recipient};
use crate::workers;

/// Result of a push.
#[derive(Debug)]
pub enum Pushed {
    /// The message is queued. The pusher wakes the waker, if there is one, after its last push.
    Queued(Option<Waker>),
    /// There was no room: the caller drops the message.
    Dropped(Reason),
    /// There was no room, and the policy is to refuse the publisher's message (0x97).
    Refused,
    /// The session does not get the message: it has ended, or it is offline and keeps no QoS 0,
    /// which MQTT allows.
    NotKept(Reason),
    /// The message must be stored, and the store takes nothing now (0x97).
    Unavailable,
}

/// Result of an offer of several messages.
#[derive(Debug, Default)]
pub struct Offered {
    /// Number of messages that were queued.
    pub queued: usize,
    /// Waker for the pusher to wake after its last push.
    pub waker: Option<Waker>,
    /// First message that the session was not ready for. Those behind it were not offered.
    pub rest: Option<Message>,
}

impl Offered {
    /// Returns the result of an offer that took no message.
    pub fn none(rest: Option<Message>) -> Offered {
        Offered { rest, ..Offered::default() }
    }
}

/// Result of a take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Messages were taken.
    Some,
    /// The queue is empty.
    Nothing,
    /// Messages are on disk only, from the first slot up to the second, exclusive.
    Stored(Seq, Seq),
}

#[derive(Debug, Default)]
struct OutboxState {
    limits: QueueLimits,
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// Messages and bytes that the session has taken and still holds.
    held_messages: usize,
    held_bytes: usize,
    connected: bool,
    /// Wakes the connection, whatever it waits for.
    connection: Option<Arc<AtomicWaker>>,
    closed: bool,
    /// Set while a message is pushed that there was room for.
    is_taken: bool,
    waker: Option<Waker>,
    /// The slot that was given out last.
    last: Seq,
    disk: DiskPart,
}

/// The queue of one session.
#[derive(Debug)]
pub struct Outbox {
    session: SessionNumber,
    recipient: Recipient,
    /// Number of messages in flight, as its connection last said.
    in_flight: AtomicUsize,
    overran: AtomicBool,
    /// Thread of its connection, or of the last one; 0 before the first.
    thread: AtomicU64,
    /// Sum over all session queues; `None` when the session is not stored.
    disk_total: Option<Arc<DiskTotal>>,
    inner: Mutex<OutboxState>,
}

impl Outbox {
    /// Creates an empty queue in memory.
    pub fn new(session: SessionNumber, bounds: QueueLimits) -> Outbox {
        Outbox {
            session,
            recipient: Recipient::default(),
            in_flight: AtomicUsize::new(0),
            overran: AtomicBool::new(false),
            thread: AtomicU64::new(0),
            disk_total: None,
            inner: Mutex::new(OutboxState { limits: bounds, ..OutboxState::default() }),
        }
    }

    /// Creates the queue of a stored session: `last` is the last slot in use, `disk` the part on
    /// disk.
    pub fn stored(
        session: SessionNumber,
        bounds: QueueLimits,
        total: Arc<DiskTotal>,
        last: Seq,
        disk: DiskPart,
    ) -> Outbox {
        total.add(disk.bytes);
        let inner = OutboxState { limits: bounds, last, disk, ..OutboxState::default() };
        Outbox { disk_total: Some(total), inner: Mutex::new(inner), ..Outbox::new(session, bounds) }
    }

    /// Sets the client identifier.
    #[must_use]
    pub fn of(self, client_id: Arc<str>) -> Outbox {
        Outbox { recipient: Recipient::new(client_id), ..self }
    }

    /// Returns the client identifier of the session.
    pub fn client_id(&self) -> &Arc<str> {
        self.recipient.client_id()
    }

    /// Sets the limits. Messages that wait already stay.
    pub fn set_limits(&self, bounds: QueueLimits) {
        self.lock().limits = bounds;
    }

    /// Returns `true` when the store keeps the session.
    pub fn is_stored(&self) -> bool {
        self.disk_total.is_some()
    }

    /// Returns the session that the queue belongs to.
    pub fn session(&self) -> SessionNumber {
        self.session
    }

    /// Returns the session's name for outcomes.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    // A panic under the lock leaves a usable queue, so a poisoned lock is taken.
    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, and puts its slot into the publish record if it is stored. Never waits.
    /// `outcomes` counts older messages that are dropped for it.
    pub fn push(&self, delivery: Delivery, record: &mut PublishRecord<'_>, outcomes: &Outcomes) -> Pushed {
        self.push_into(&mut self.lock(), delivery, record, outcomes)
    }

    /// Like [`push`](Self::push), for a session that was found to have room a moment ago.
    /// Publishers on other threads may have used it up since; each puts the queue over its bound by
    /// one message at most.
    pub fn push_beyond(
        &self,
        delivery: Delivery,
        record: &mut PublishRecord<'_>,
        outcomes: &Outcomes,
    ) -> Pushed {
        let mut inner = self.lock();
        inner.is_taken = true;
        let pushed = self.push_into(&mut inner, delivery, record, outcomes);
        inner.is_taken = false;
        pushed
    }

    /// Like [`push`](Self::push), if the session is [ready](Readiness::Ready); else returns `None`.
    pub fn offer(
        &self,
        delivery: Delivery,
        record: &mut PublishRecord<'_>,
        outcomes: &Outcomes,
    ) -> Option<Pushed> {
        let mut inner = self.lock();
        let ready = inner.readiness(delivery.message.size()) == Readiness::Ready;
        ready.then(|| self.push_into(&mut inner, delivery, record, outcomes))
    }

    /// Adds QoS 0 messages, which are never stored, under one lock. Stops at the first that the
    /// session is not [ready](Readiness::Ready) for.
    pub fn offer_all(
        &self,
        messages: &mut impl Iterator<Item = Message>,
        deliver: impl Fn(Message) -> Delivery,
        outcomes: &Outcomes,
    ) -> Offered {
        let mut offered = Offered::default();
        let mut inner = self.lock();
        for message in messages {
            if inner.readiness(message.size()) != Readiness::Ready {
                offered.rest = Some(message);
                break;
            }
            self.add(&mut inner, deliver(message), outcomes);
            offered.queued += 1;
        }
        if offered.queued > 0 {
            offered.waker = inner.waker.take();
        }
        offered
    }

    /// Adds a message to the part in memory.
    #[inline]
    fn add(&self, inner: &mut OutboxState, delivery: Delivery, outcomes: &Outcomes) {
        // Traced before the subscriber can take it: the trace has the events in their order.
        if outcomes.traces.wants(&delivery.message) {
            outcomes.queued(&delivery, &self.recipient, inner.connected);
        }
        inner.bytes += delivery.message.size();
        inner.queue.push_back(delivery);
    }

    #[inline]
    fn push_into(
        &self,
        inner: &mut OutboxState,
        mut delivery: Delivery,
        record: &mut PublishRecord<'_>,
        outcomes: &Outcomes,
    ) -> Pushed {
        if let Some(reason) = inner.absence(delivery.terms.qos) {
            return Pushed::NotKept(reason);
        }
        let stored = delivery.terms.qos != QoS::AtMostOnce && self.is_stored();
        if stored && record.is_off() && !inner.connected {
            return Pushed::NotKept(Reason::Offline);
        }
        let stored = stored && !record.is_off();
        if stored && record.reserve().is_err() {
            return Pushed::Unavailable;
        }
        let size = delivery.message.size();
        let on_disk = stored && inner.is_for_the_disk(size);
        if (on_disk || !inner.has_room(size))
            && let Some(refused) = self.make_room(inner, size, on_disk, record, outcomes)
        {
            return refused;
        }
        if stored {
            inner.last += 1;
            delivery.seq = inner.last;
            record.queued(self.session, &delivery);
        }
        if on_disk {
            if outcomes.traces.wants(&delivery.message) {
                outcomes.queued(&delivery, &self.recipient, inner.connected);
            }
            self.add_stored(inner, delivery.seq, 1, size as u64);
        } else {
            self.add(inner, delivery, outcomes);
        }
        Pushed::Queued(inner.waker.take())
    }

    /// Moves all messages in memory to the end of `into`, which counts as held by the session. With
    /// none in memory, `waker` is kept for the next push.
    pub fn take(&self, into: &mut PendingQueue, waker: &Waker) -> Take {
        let mut inner = self.lock();
        let took = if !inner.queue.is_empty() {
            let bytes = std::mem::take(&mut inner.bytes);
            into.append(&mut inner.queue, bytes);
            Take::Some
        } else {
            inner.waker = Some(waker.clone());
            if inner.queue.capacity() > 64 {
                inner.queue = VecDeque::new();
            }
            match inner.disk {
                DiskPart { count: 0, .. } => Take::Nothing,
                DiskPart { from, .. } => Take::Stored(from, inner.last + 1),
            }
        };
        inner.held_messages = into.len();
        inner.held_bytes = into.bytes();
        took
    }

    /// Returns `true` when there is nothing in memory to take.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of messages in memory.
    pub fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// Sets the messages that the session has taken and still holds.
    pub fn set_held(&self, pending: &PendingQueue) {
        let mut inner = self.lock();
        inner.held_messages = pending.len();
        inner.held_bytes = pending.bytes();
    }

    /// Sets the number of messages in flight.
    pub fn set_in_flight(&self, messages: usize) {
        self.in_flight.store(messages, Ordering::Relaxed);
    }

    /// Returns the number of messages in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the thread that serves its connection, or served the last one.
    #[inline]
    pub fn thread(&self) -> u64 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Connects the session: a connection of this thread serves it from now on.
    pub fn connect(&self, connection: &Arc<AtomicWaker>) {
        let mut inner = self.lock();
        inner.connected = true;
        inner.connection = Some(connection.clone());
        self.overran.store(false, Ordering::Relaxed);
        self.thread.store(workers::this_thread(), Ordering::Relaxed);
    }

    /// Returns `true` when the queue was full and the policy is to disconnect the client.
    #[inline]
    pub fn has_overrun(&self) -> bool {
        self.overran.load(Ordering::Relaxed)
    }

    /// Disconnects the session. QoS 0 messages are dropped unless the limits keep them.
    pub fn disconnect(&self, outcomes: &Outcomes) {
        let mut inner = self.lock();
        inner.connected = false;
        inner.connection = None;
        inner.waker = None;
        if !inner.limits.keeps_qos0 {
            inner.queue.retain(|delivery| {
                let kept = delivery.terms.qos != QoS::AtMostOnce;
                if !kept {
                    outcomes.dropped(Reason::Offline, &delivery.message, &self.recipient);
                }
                kept
            });
            inner.bytes = inner.queue.iter().map(|delivery| delivery.message.size()).sum();
        }
    }

    /// Closes the queue of a session that ended: it takes no more messages.
    pub fn close(&self) {
        let mut inner = self.lock();
        let last = inner.last;
        self.take_stored(&mut inner, last + 1, 0, 0);
        *inner = OutboxState { closed: true, ..OutboxState::default() };
    }

    /// Returns count and bytes of the messages that wait: in memory, on disk, and held by the
    /// session.
    pub fn waiting(&self) -> (u64, u64) {
        let inner = self.lock();
        (
            (inner.queue.len() + inner.held_messages) as u64 + inner.disk.count,
            (inner.bytes + inner.held_bytes) as u64 + inner.disk.bytes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QueuePolicy;
    use crate::message::{DeliveryTerms, MessageParts};

    fn outbox(messages_max: usize, policy: QueuePolicy) -> Outbox {
        let outbox = Outbox::new(
            1,
            QueueLimits {
                messages_max,
                bytes_max: 1 << 20,
                policy,
                keeps_qos0: false,
                stored_bytes_max: 0,
                ..QueueLimits::default()
            },
        );
        outbox.connect(&Arc::default());
        outbox
    }

    fn delivery(payload: &str, qos: QoS) -> Delivery {
        let content = MessageParts { qos, ..MessageParts::new("t", payload.as_bytes()) };
        let message = Message::new(&content);
        Delivery { message, terms: DeliveryTerms::plain(qos), seq: 0 }
    }

    fn push(outbox: &Outbox, payload: &str) -> Pushed {
        outbox.push(delivery(payload, QoS::AtLeastOnce), &mut PublishRecord::disabled(), &Outcomes::default())
    }

    fn taken(outbox: &Outbox) -> Vec<String> {
        let mut into = PendingQueue::default();
        outbox.take(&mut into, Waker::noop());
        into.iter().map(|d| String::from_utf8_lossy(d.message.payload()).into_owned()).collect()
    }

    #[test]
    fn a_full_outbox_drops_by_its_policy() {
        let all = |outbox: &Outbox| ["a", "b", "c"].map(|payload| push(outbox, payload));
        let newest = outbox(2, QueuePolicy::DropNewest);
        assert!(matches!(all(&newest)[2], Pushed::Dropped(Reason::SessionQueueFull)));
        assert_eq!(taken(&newest), ["a", "b"]);
        let oldest = outbox(2, QueuePolicy::DropOldest);
        all(&oldest);
        assert_eq!(taken(&oldest), ["b", "c"]);
        assert_eq!(oldest.recipient().drops().map(|drops| drops.get(Reason::SessionQueueOldest)), Some(1));
        let refuse = outbox(2, QueuePolicy::Refuse);
        assert!(matches!(all(&refuse)[2], Pushed::Refused));
        assert!(refuse.recipient().drops().is_none());
    }

    #[test]
    fn what_the_session_holds_counts_until_it_says_otherwise() {
        let outbox = outbox(2, QueuePolicy::DropNewest);
        push(&outbox, "a");
        push(&outbox, "b");
        assert_eq!(taken(&outbox).len(), 2);
        assert!(matches!(push(&outbox, "c"), Pushed::Dropped(Reason::SessionQueueFull)));
        let mut held = PendingQueue::default();
        held.push_back(delivery("b", QoS::AtLeastOnce));
        outbox.set_held(&held);
        assert!(matches!(push(&outbox, "d"), Pushed::Queued(_)));
    }

    #[test]
    fn an_offline_session_keeps_no_qos_0() {
        let outbox = outbox(9, QueuePolicy::DropNewest);
        let outcomes = Outcomes::default();
        let push_qos0 = |payload| {
            outbox.push(delivery(payload, QoS::AtMostOnce), &mut PublishRecord::disabled(), &outcomes)
        };
        push_qos0("a");
        push(&outbox, "b");
        outbox.disconnect(&outcomes);
        assert!(matches!(push_qos0("c"), Pushed::NotKept(Reason::Offline)));
        assert_eq!(taken(&outbox), ["b"]);
        assert_eq!(outcomes.drops.get(Reason::Offline), 1, "the caller counts what it was told of");
    }
}
