//! The policy of a full queue: what is taken in, and what is lost for it.

use std::sync::atomic::Ordering;

use lapwing_protocol::QoS;

use super::{DiskPart, Outbox, OutboxState, Pushed};
use crate::config::QueuePolicy;
use crate::store::PreviousSlot;
use crate::store::publish_record::PublishRecord;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::outcomes::Outcomes;

/// Readiness of a session for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The client is connected, and there is room.
    Ready,
    /// The client is connected, and there is no room.
    Full,
    /// The client is offline.
    Away,
}

impl Outbox {
    /// Makes room for a message of this size, in memory or on disk, as the policy says. Returns the
    /// result of the push when there is none.
    #[cold]
    pub(super) fn make_room(
        &self,
        inner: &mut OutboxState,
        size: usize,
        on_disk: bool,
        record: &PublishRecord<'_>,
        outcomes: &Outcomes,
    ) -> Option<Pushed> {
        if inner.is_taken {
            return None;
        }
        while let Some(full) = self.shortage(inner, size, on_disk) {
            match inner.limits.policy {
                QueuePolicy::Refuse => return Some(Pushed::Refused),
                QueuePolicy::DropNewest => return Some(Pushed::Dropped(full)),
                QueuePolicy::Disconnect => {
                    // An offline session has no connection to close: it loses the message.
                    if let Some(connection) = inner.connection.take() {
                        self.overran.store(true, Ordering::Relaxed);
                        connection.wake();
                    }
                    return Some(Pushed::Dropped(full));
                }
                QueuePolicy::DropOldest if on_disk => {
                    record.acknowledged(self.drop_oldest_on_disk(inner));
                    outcomes.dropped_on_disk(full, 1, &self.recipient);
                }
                QueuePolicy::DropOldest => {
                    let Some(oldest) = inner.queue.pop_front() else { return Some(Pushed::Dropped(full)) };
                    inner.bytes -= oldest.message.size();
                    if oldest.seq != 0 {
                        let size = u32::try_from(oldest.message.size()).unwrap_or(u32::MAX);
                        record.acknowledged(PreviousSlot::new(self.session, oldest.seq, size, None));
                    }
                    outcomes.dropped(Reason::SessionQueueOldest, &oldest.message, &self.recipient);
                }
            }
        }
        None
    }

    fn drop_oldest_on_disk(&self, inner: &mut OutboxState) -> PreviousSlot {
        let DiskPart { from, count, bytes } = inner.disk;
        // Only the disk knows the exact size: the mean stands in.
        let size = u32::try_from(bytes / count.max(1)).unwrap_or(u32::MAX);
        self.take_stored(inner, from + 1, 1, u64::from(size));
        PreviousSlot::new(self.session, from, size, None)
    }

    /// Returns the reason why a message of this size has no room, in memory or on disk.
    #[inline]
    fn shortage(&self, inner: &OutboxState, size: usize, on_disk: bool) -> Option<Reason> {
        if !on_disk {
            return (!inner.has_room(size)).then_some(Reason::SessionQueueFull);
        }
        let (stored, bounds, size) = (&inner.disk, &inner.limits, size as u64);
        if stored.count == 0 {
            return None;
        }
        if stored.count >= bounds.stored_messages_max || stored.bytes + size > bounds.stored_bytes_max {
            return Some(Reason::SessionQueueDiskFull);
        }
        let total = self.disk_total.as_ref()?;
        let full = !total.has_room(size);
        full.then_some(Reason::DiskQueuesFull)
    }

    /// Predicts the push of a message of this size: `true` when a client is there for it, or the
    /// reason why the session would not get it. Another message may have to make room for it.
    pub fn would_accept(&self, qos: QoS, size: usize) -> Result<bool, Reason> {
        let inner = self.lock();
        if let Some(reason) = inner.absence(qos) {
            return Err(reason);
        }
        let stored = qos != QoS::AtMostOnce && self.is_stored();
        let full = self.shortage(&inner, size, stored && inner.is_for_the_disk(size));
        match (full, inner.limits.policy) {
            (None, _) | (Some(_), QueuePolicy::DropOldest) => Ok(inner.connected),
            (Some(_), QueuePolicy::Refuse) => Err(Reason::SessionQueueRefused),
            (Some(full), QueuePolicy::DropNewest | QueuePolicy::Disconnect) => Err(full),
        }
    }

    /// Returns whether a message of this size would be taken without a drop, and sent on.
    pub fn readiness(&self, size: usize) -> Readiness {
        self.lock().readiness(size)
    }
}

impl OutboxState {
    /// Returns the reason why the session gets no message of this QoS, if there is one.
    #[inline]
    pub(super) fn absence(&self, qos: QoS) -> Option<Reason> {
        if self.closed {
            return Some(Reason::SessionEnded);
        }
        let offline = !self.connected && qos == QoS::AtMostOnce && !self.limits.keeps_qos0;
        offline.then_some(Reason::Offline)
    }

    pub(super) fn readiness(&self, size: usize) -> Readiness {
        match (self.connected, !self.closed && self.has_room(size)) {
            (false, _) => Readiness::Away,
            (true, true) => Readiness::Ready,
            (true, false) => Readiness::Full,
        }
    }

    /// Returns `true` when a message goes to the part on disk. Once a part of the queue is there,
    /// new messages go behind it.
    #[inline]
    pub(super) fn is_for_the_disk(&self, size: usize) -> bool {
        !self.connected || self.disk.count > 0 || !self.has_room(size)
    }

    /// Returns `true` when a message of this size fits into memory. One always fits into an empty
    /// queue: the packet size limits a single message.
    #[inline]
    pub(super) fn has_room(&self, size: usize) -> bool {
        let bounds = &self.limits;
        let messages = self.queue.len() + self.held_messages;
        let bytes = self.bytes + self.held_bytes;
        messages == 0 || (messages < bounds.messages_max && bytes + size <= bounds.bytes_max)
    }
}
