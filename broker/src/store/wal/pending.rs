//! Pending log: a window of LSNs, reserved in order and filled in any order.
//!
//! The thread that completes the contiguous prefix serializes its records into frames. The writer
//! takes finished frames, and holds the lock only for that.

use std::collections::VecDeque;

use crate::message::Durability;
use crate::store::Lsn;
use crate::store::record::Entry;
use crate::store::wal::frame_builder::FrameBuilder;

/// Records that are not written yet.
#[derive(Debug)]
pub(in crate::store) struct PendingLog {
    /// Finished frames, none empty.
    packs: VecDeque<FrameBuilder>,
    /// LSNs behind those frames, from the first unfilled one to the last filled one.
    entries: VecDeque<Option<Entry>>,
    /// First unfilled LSN.
    next: Lsn,
    /// A builder that the writer returned, for reuse.
    spare: Option<FrameBuilder>,
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
            packs: VecDeque::new(),
            entries: VecDeque::new(),
            next: last + 1,
            spare: None,
            ready_bytes: 0,
            bytes: 0,
            needed: 0,
            sleeping: false,
            freeze: false,
        }
    }

    /// First LSN that was not taken.
    pub(in crate::store) fn first(&self) -> Lsn {
        self.packs.front().map_or(self.next, |pack| pack.first)
    }

    /// Estimated memory of all records, in bytes.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Size of the finished frames in bytes, and their strictest durability; `None` without any.
    pub(in crate::store) fn ready(&self) -> Option<(usize, Durability)> {
        let durability = self.packs.iter().map(|pack| pack.durability).max()?;
        Some((self.ready_bytes, durability))
    }

    /// Fills a reserved LSN; returns `true` when the writer must be woken.
    pub(in crate::store) fn fill(&mut self, entry: Entry) -> bool {
        let Some(at) = entry.lsn.checked_sub(self.next).and_then(|at| usize::try_from(at).ok()) else {
            return false;
        };
        let first = self.packs.is_empty() && at == 0;
        let wakes = self.sleeping && (first || entry.durability != Durability::None);
        self.sleeping &= !wakes;
        self.bytes += entry.estimated_bytes;
        if at > 0 {
            if self.entries.len() <= at {
                self.entries.resize_with(at + 1, || None);
            }
            if let Some(place) = self.entries.get_mut(at) {
                *place = Some(entry);
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
        if self.packs.back().is_none_or(|pack| pack.is_full(entry.estimated_bytes)) {
            let mut pack = self.spare.take().unwrap_or_default();
            pack.begin(self.next);
            self.packs.push_back(pack);
        }
        self.ready_bytes += entry.estimated_bytes;
        self.next += 1;
        if let Some(pack) = self.packs.back_mut() {
            pack.add(entry);
        }
    }

    /// Takes the next finished frame; `used` is kept for reuse.
    pub(in crate::store) fn take(&mut self, used: FrameBuilder) -> Option<FrameBuilder> {
        let pack = self.packs.pop_front()?;
        self.ready_bytes -= pack.bytes;
        self.bytes -= pack.bytes;
        self.spare = Some(used);
        Some(pack)
    }

    /// Drops all records up to this LSN: they will never be written.
    pub(in crate::store) fn abandon(&mut self, last: Lsn) {
        *self = PendingLog::behind(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::Record;
    use crate::store::wal::frame_builder::RECORDS_MAX;

    fn entry(lsn: Lsn, durability: Durability) -> Entry {
        Entry::new(lsn, Record::RetainedExpired { topic: "t".into() }, durability)
    }

    /// First LSN and number of the records that are taken.
    fn taken(inbox: &mut PendingLog) -> Option<(Lsn, usize)> {
        inbox.take(FrameBuilder::default()).map(|pack| (pack.first, pack.rows.len()))
    }

    fn durability(inbox: &PendingLog) -> Option<Durability> {
        inbox.ready().map(|ready| ready.1)
    }

    #[test]
    fn only_the_contiguous_prefix_is_taken_and_in_order() {
        let mut inbox = PendingLog::behind(9);
        inbox.fill(entry(12, Durability::Always));
        assert_eq!(durability(&inbox), None, "the first is missing");
        inbox.fill(entry(10, Durability::None));
        assert_eq!(durability(&inbox), Some(Durability::None));
        assert_eq!(taken(&mut inbox), Some((10, 1)));
        assert_eq!((inbox.first(), taken(&mut inbox)), (11, None));
        inbox.fill(entry(11, Durability::None));
        assert_eq!(durability(&inbox), Some(Durability::Always));
        assert_eq!(taken(&mut inbox), Some((11, 2)));
        assert_eq!(inbox.first(), 13);
        inbox.fill(entry(13, Durability::Interval));
        assert_eq!(taken(&mut inbox), Some((13, 1)));
        assert_eq!((inbox.ready(), inbox.bytes(), inbox.first()), (None, 0, 14));
    }

    #[test]
    fn more_records_than_a_frame_holds_are_taken_in_several_frames() {
        let mut inbox = PendingLog::behind(0);
        for lsn in 1..=RECORDS_MAX as Lsn + 5 {
            inbox.fill(entry(lsn, Durability::Always));
        }
        assert_eq!(taken(&mut inbox), Some((1, RECORDS_MAX)));
        assert_eq!(durability(&inbox), Some(Durability::Always));
        assert_eq!(taken(&mut inbox), Some((RECORDS_MAX as Lsn + 1, 5)));
        assert_eq!((inbox.ready(), inbox.bytes()), (None, 0));
    }

    #[test]
    fn records_filled_after_an_abandon_are_dropped() {
        let mut inbox = PendingLog::behind(0);
        inbox.fill(entry(2, Durability::Always));
        inbox.abandon(2);
        assert!(!inbox.fill(entry(1, Durability::Always)));
        assert_eq!((inbox.bytes(), inbox.first()), (0, 3));
    }

    #[test]
    fn the_writer_is_woken_only_for_what_it_waits_for() {
        let mut inbox = PendingLog::behind(0);
        let mut lsn = 0;
        let mut fill = |inbox: &mut PendingLog, durability| {
            lsn += 1;
            inbox.fill(entry(lsn, durability))
        };
        assert!(!fill(&mut inbox, Durability::Always), "it does not sleep");
        inbox.sleeping = true;
        assert!(!fill(&mut inbox, Durability::None), "it knows of others that may gather");
        assert!(fill(&mut inbox, Durability::Always));
        assert!(!fill(&mut inbox, Durability::Always), "it was woken");
        taken(&mut inbox);
        inbox.sleeping = true;
        assert!(fill(&mut inbox, Durability::None), "the first one begins to gather");
    }
}
