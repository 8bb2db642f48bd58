//! Pending log: a window of LSNs, reserved in order and filled in any order.
//!
//! The thread that completes the contiguous prefix serializes its records into frames. The writer
//! takes finished frames, and holds the lock only for that.

use std::collections::VecDeque;

use crate::message::Durability;
use crate::store::Lsn;
use crate::store::append::frame_builder::FrameBuilder;
use crate::store::record::Entry;

/// Records that are not written yet.
#[derive(Debug)]
pub(in crate::store) struct PendingLog {
    /// Finished frames, none empty.
    builders: VecDeque<FrameBuilder>,
    /// LSNs behind those frames, from the first unfilled one to the last filled one.
    entries: VecDeque<Option<Entry>>,
    /// First unfilled LSN.
    next: Lsn,
    /// A builder that the writer returned, for reuse.
    free: Option<FrameBuilder>,
    /// Estimated memory of the finished frames, and of all records, in bytes.
    ready_bytes: usize,
    bytes: usize,
    /// LSN that a reader waits for: records up to it are written at once.
    pub(in crate::store) needed: Lsn,
    /// True while the writer is parked and not yet notified; avoids a redundant futex call.
    pub(in crate::store) sleeping: bool,
    /// Set to freeze the next table whatever its size.
    pub(in crate::store) freeze: bool,
}

impl PendingLog {
    /// Creates an empty pending log behind this LSN.
    pub(in crate::store) fn behind(last: Lsn) -> PendingLog {
        PendingLog {
            builders: VecDeque::new(),
            entries: VecDeque::new(),
            next: last + 1,
            free: None,
            ready_bytes: 0,
            bytes: 0,
            needed: 0,
            sleeping: false,
            freeze: false,
        }
    }

    /// First LSN that was not taken.
    pub(in crate::store) fn first(&self) -> Lsn {
        self.builders.front().map_or(self.next, |builder| builder.first)
    }

    /// Estimated memory of all records, in bytes.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Size of the finished frames in bytes, and their strictest durability; `None` without any.
    pub(in crate::store) fn ready(&self) -> Option<(usize, Durability)> {
        let durability = self.builders.iter().map(|builder| builder.durability).max()?;
        Some((self.ready_bytes, durability))
    }

    /// Fills a reserved LSN; returns `true` when the writer must be woken.
    pub(in crate::store) fn fill(&mut self, entry: Entry) -> bool {
        let Some(at) = entry.lsn.checked_sub(self.next).and_then(|at| usize::try_from(at).ok()) else {
            return false;
        };
        let first = self.builders.is_empty() && at == 0;
        let wakes = self.sleeping && (first || entry.durability != Durability::None);
        self.sleeping &= !wakes;
        self.bytes += entry.estimated_bytes;
        if at > 0 {
            if self.entries.len() <= at {
                self.entries.resize_with(at + 1, || None);
            }
            if let Some(unfilled) = self.entries.get_mut(at) {
                *unfilled = Some(entry);
            }
            return wakes;
        }
        self.entries.pop_front();
        self.pack(entry);
        while let Some(Some(_)) = self.entries.front() {
            if let Some(entry) = self.entries.pop_front().flatten() {
                self.pack(entry);
            }
        }
        wakes
    }

    fn pack(&mut self, entry: Entry) {
        if self.builders.back().is_none_or(|builder| builder.is_full(entry.estimated_bytes)) {
            let mut builder = self.free.take().unwrap_or_default();
            builder.begin(self.next);
            self.builders.push_back(builder);
        }
        self.ready_bytes += entry.estimated_bytes;
        self.next += 1;
        if let Some(builder) = self.builders.back_mut() {
            builder.add(entry);
        }
    }

    /// Takes the next finished frame; `used` is kept for reuse.
    pub(in crate::store) fn take(&mut self, used: FrameBuilder) -> Option<FrameBuilder> {
        let builder = self.builders.pop_front()?;
        self.ready_bytes -= builder.bytes;
        self.bytes -= builder.bytes;
        self.free = Some(used);
        Some(builder)
    }

    /// Drops all records up to this LSN: they will never be written.
    pub(in crate::store) fn abandon(&mut self, last: Lsn) {
        *self = PendingLog::behind(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::append::frame_builder::RECORDS_MAX;
    use crate::store::record::Record;

    fn entry(lsn: Lsn, durability: Durability) -> Entry {
        Entry::new(lsn, Record::RetainedExpired { topic: "t".into() }, durability)
    }

    /// First LSN and number of the records that are taken.
    fn taken(pending: &mut PendingLog) -> Option<(Lsn, usize)> {
        pending.take(FrameBuilder::default()).map(|builder| (builder.first, builder.rows.len()))
    }

    fn durability(pending: &PendingLog) -> Option<Durability> {
        pending.ready().map(|ready| ready.1)
    }

    #[test]
    fn only_the_contiguous_prefix_is_taken_and_in_order() {
        let mut pending = PendingLog::behind(9);
        pending.fill(entry(12, Durability::Always));
        assert_eq!(durability(&pending), None, "the first is missing");
        pending.fill(entry(10, Durability::None));
        assert_eq!(durability(&pending), Some(Durability::None));
        assert_eq!(taken(&mut pending), Some((10, 1)));
        assert_eq!((pending.first(), taken(&mut pending)), (11, None));
        pending.fill(entry(11, Durability::None));
        assert_eq!(durability(&pending), Some(Durability::Always));
        assert_eq!(taken(&mut pending), Some((11, 2)));
        assert_eq!(pending.first(), 13);
        pending.fill(entry(13, Durability::Interval));
        assert_eq!(taken(&mut pending), Some((13, 1)));
        assert_eq!((pending.ready(), pending.bytes(), pending.first()), (None, 0, 14));
    }

    #[test]
    fn more_records_than_a_frame_holds_are_taken_in_several_frames() {
        let mut pending = PendingLog::behind(0);
        for lsn in 1..=RECORDS_MAX as Lsn + 5 {
            pending.fill(entry(lsn, Durability::Always));
        }
        assert_eq!(taken(&mut pending), Some((1, RECORDS_MAX)));
        assert_eq!(durability(&pending), Some(Durability::Always));
        assert_eq!(taken(&mut pending), Some((RECORDS_MAX as Lsn + 1, 5)));
        assert_eq!((pending.ready(), pending.bytes()), (None, 0));
    }

    #[test]
    fn records_filled_after_an_abandon_are_dropped() {
        let mut pending = PendingLog::behind(0);
        pending.fill(entry(2, Durability::Always));
        pending.abandon(2);
        assert!(!pending.fill(entry(1, Durability::Always)));
        assert_eq!((pending.bytes(), pending.first()), (0, 3));
    }

    #[test]
    fn the_writer_is_woken_only_for_what_it_waits_for() {
        let mut pending = PendingLog::behind(0);
        let mut lsn = 0;
        let mut fill = |pending: &mut PendingLog, durability| {
            lsn += 1;
            pending.fill(entry(lsn, durability))
        };
        assert!(!fill(&mut pending, Durability::Always), "it does not sleep");
        pending.sleeping = true;
        assert!(!fill(&mut pending, Durability::None), "it knows of others that may gather");
        assert!(fill(&mut pending, Durability::Always));
        assert!(!fill(&mut pending, Durability::Always), "it was woken");
        taken(&mut pending);
        pending.sleeping = true;
        assert!(fill(&mut pending, Durability::None), "the first one begins to gather");
    }
}
