//! The part of a session queue that is on disk only: where it begins and how large it is.

use super::{Outbox, OutboxState};
use crate::message::{Delivery, PendingQueue, Seq};

/// Messages that are on disk only.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskPart {
    /// Slot of the first message.
    pub from: Seq,
    /// Number of messages.
    pub count: u64,
    /// Sum of their sizes, in bytes.
    pub bytes: u64,
}

impl Outbox {
    /// Counts a page of messages out of the part on disk; the next page begins at `next`. Messages
    /// that were dropped meanwhile are removed from the page.
    pub fn on_page(&self, deliveries: &mut Vec<Delivery>, next: Seq) {
        let mut inner = self.lock();
        let from = inner.disk.from;
        deliveries.retain(|delivery| delivery.seq >= from);
        let bytes: usize = deliveries.iter().map(|delivery| delivery.message.size()).sum();
        let next = next.max(from);
        self.take_stored(&mut inner, next, deliveries.len() as u64, bytes as u64);
    }

    /// Moves stored messages to the part on disk: those in memory here, and those in `pending`,
    /// which the session took and has not sent.
    pub fn spill(&self, pending: &mut PendingQueue) {
        let mut inner = self.lock();
        let all = pending.iter().chain(&inner.queue).filter(|delivery| delivery.seq != 0);
        let (from, count, bytes) = all.fold((Seq::MAX, 0, 0), |(from, count, bytes), delivery| {
            (from.min(delivery.seq), count + 1, bytes + delivery.message.size() as u64)
        });
        if count == 0 {
            return;
        }
        self.add_stored(&mut inner, from, count, bytes);
        pending.retain(|delivery| delivery.seq == 0);
        inner.queue.retain(|delivery| delivery.seq == 0);
        inner.bytes = inner.queue.iter().map(|delivery| delivery.message.size()).sum();
    }

    /// First slot of the disk part, and the slot behind its last; `None` when it is empty.
    pub fn on_disk(&self) -> Option<(Seq, Seq)> {
        let inner = self.lock();
        (inner.disk.count > 0).then_some((inner.disk.from, inner.last + 1))
    }

    pub(super) fn add_stored(&self, inner: &mut OutboxState, from: Seq, count: u64, bytes: u64) {
        let stored = &mut inner.disk;
        stored.from = if stored.count == 0 { from } else { stored.from.min(from) };
        stored.count += count;
        stored.bytes += bytes;
        if let Some(total) = &self.disk_total {
            total.add(bytes);
        }
    }

    /// Moves the beginning of the disk part to `from`, and subtracts what lay before it.
    pub(super) fn take_stored(&self, inner: &mut OutboxState, from: Seq, count: u64, bytes: u64) {
        let stored = &mut inner.disk;
        let before = stored.bytes;
        stored.from = from;
        if from > inner.last {
            (stored.count, stored.bytes) = (0, 0);
        } else {
            stored.count = stored.count.saturating_sub(count).max(1);
            stored.bytes = stored.bytes.saturating_sub(bytes);
        }
        if let Some(total) = &self.disk_total {
            total.take(before - stored.bytes);
        }
    }
}
