//! Records on their way to the writer: a window of the log, its places given out in order and
//! filled in any.
//!
//! Who fills a place packs its record for a frame, if all places before it are filled; else who
//! fills the last of those does. The writer takes what is packed, and holds the lock only for that.

use std::collections::VecDeque;

use crate::message::Durability;
use crate::store::Lsn;
use crate::store::record::Entry;
use crate::store::wal::frame_builder::FrameBuilder;

/// See the module.
#[derive(Debug)]
pub(in crate::store) struct PendingLog {
    /// For a frame each; none is empty.
    packs: VecDeque<FrameBuilder>,
    /// The places behind those, from the first that is not filled to the last that is.
    entries: VecDeque<Option<Entry>>,
    /// The first place that is not filled.
    next: Lsn,
    /// One that the writer is done with.
    spare: Option<FrameBuilder>,
    /// An estimate of the memory that is packed, in bytes, and that all records take.
    ready_bytes: usize,
    bytes: usize,
    /// Somebody waits to read what is up to here: it is written at once.
    pub(in crate::store) needed: Lsn,
    /// The writer sleeps, and nobody has woken it: that costs a system call, so that nobody does it
    /// for nothing.
    pub(in crate::store) sleeping: bool,
    /// The next table is to be frozen whatever its size.
    pub(in crate::store) freeze: bool,
}

impl PendingLog {
    /// An empty one, behind this record.
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

    /// The place of the first record that was not taken yet.
    pub(in crate::store) fn first(&self) -> Lsn {
        self.packs.front().map_or(self.next, |pack| pack.first)
    }

    /// An estimate of the memory that all records take, in bytes.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What can be taken, if there is something: how many bytes, and the most that one of the
    /// records asks for.
    pub(in crate::store) fn ready(&self) -> Option<(usize, Durability)> {
        let durability = self.packs.iter().map(|pack| pack.durability).max()?;
        Some((self.ready_bytes, durability))
    }

    /// Fills a place that was given out; `true`: the writer is to be woken.
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

    /// Takes what is ready, up to what one frame may have; `used` is taken back for what comes.
    pub(in crate::store) fn take(&mut self, used: FrameBuilder) -> Option<FrameBuilder> {
        let pack = self.packs.pop_front()?;
        self.ready_bytes -= pack.bytes;
        self.bytes -= pack.bytes;
        self.spare = Some(used);
        Some(pack)
    }

    /// Forgets all records up to this place: nobody will write them.
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

    /// The first place and the number of records that are taken.
    fn taken(inbox: &mut PendingLog) -> Option<(Lsn, usize)> {
        inbox.take(FrameBuilder::default()).map(|pack| (pack.first, pack.rows.len()))
    }

    fn durability(inbox: &PendingLog) -> Option<Durability> {
        inbox.ready().map(|ready| ready.1)
    }

    #[test]
    fn only_the_front_that_is_filled_is_taken_and_in_order() {
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
    fn more_than_a_frame_may_have_is_taken_in_pieces() {
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
    fn what_is_filled_after_all_was_abandoned_counts_for_nothing() {
        let mut inbox = PendingLog::behind(0);
        inbox.fill(entry(2, Durability::Always));
        inbox.abandon(2);
        assert!(!inbox.fill(entry(1, Durability::Always)));
        assert_eq!((inbox.bytes(), inbox.first()), (0, 3));
    }

    #[test]
    fn the_writer_is_woken_for_what_it_waits_for_only() {
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
