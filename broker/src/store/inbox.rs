//! Records on their way to the writer: a window of the log, its places reserved in order and filled in any.
//!
//! Who fills a place packs its record for a frame, if all places before it are filled; else who fills the last of those does. The writer takes
//! what is packed, and holds the lock only for that.

use std::collections::VecDeque;

use super::pack::{Pack, Slot};
use super::{Durability, Lsn};

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    /// For a frame each; none is empty.
    packs: VecDeque<Pack>,
    /// The places behind those, from the first that is not filled on.
    slots: VecDeque<Option<Slot>>,
    /// The place of the first slot.
    next: Lsn,
    /// One that the writer is done with.
    spare: Option<Pack>,
    /// An estimate of the memory that is packed, in bytes, and that all records take.
    ready_bytes: usize,
    bytes: usize,
    /// Somebody waits to read what is up to here: it is written at once.
    pub(super) needed: Lsn,
    /// The writer sleeps, and nobody has woken it: that costs a system call, so that nobody does it for nothing.
    pub(super) sleeping: bool,
    /// The next table is to be frozen whatever its size.
    pub(super) freeze: bool,
    pub(super) closed: bool,
}

impl Inbox {
    /// An empty one, behind this record.
    pub(super) fn behind(last: Lsn) -> Inbox {
        Inbox {
            packs: VecDeque::new(),
            slots: VecDeque::new(),
            next: last + 1,
            spare: None,
            ready_bytes: 0,
            bytes: 0,
            needed: 0,
            sleeping: false,
            freeze: false,
            closed: false,
        }
    }

    /// The place of the first record that was not taken yet.
    pub(super) fn first(&self) -> Lsn {
        self.packs.front().map_or(self.next, |pack| pack.first)
    }

    /// The last place that was given out.
    pub(super) fn last(&self) -> Lsn {
        self.next + self.slots.len() as u64 - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.slots.is_empty()
    }

    /// An estimate of the memory that all records take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What can be taken, if there is something: how many bytes, and the most that one of the records asks for.
    pub(super) fn ready(&self) -> Option<(usize, Durability)> {
        let durability = self.packs.iter().map(|pack| pack.durability).max()?;
        Some((self.ready_bytes, durability))
    }

    /// Gives out the next place, to be filled.
    pub(super) fn reserve(&mut self) -> Lsn {
        self.slots.push_back(None);
        self.last()
    }

    /// Fills a place; `true`: the writer is to be woken.
    pub(super) fn fill(&mut self, lsn: Lsn, slot: Slot) -> bool {
        let at = lsn.checked_sub(self.next).and_then(|at| usize::try_from(at).ok());
        let Some(place) = at.and_then(|at| self.slots.get_mut(at)) else { return false };
        let next = at == Some(0);
        let first = self.packs.is_empty() && next;
        let wakes = self.sleeping && (first || slot.durability != Durability::None);
        self.sleeping &= !wakes;
        self.bytes += slot.weight;
        if !next {
            *place = Some(slot);
            return wakes;
        }
        self.slots.pop_front();
        self.pack(slot);
        while let Some(Some(_)) = self.slots.front() {
            if let Some(slot) = self.slots.pop_front().flatten() {
                self.pack(slot);
            }
        }
        wakes
    }

    fn pack(&mut self, slot: Slot) {
        if self.packs.back().is_none_or(|pack| pack.is_full(slot.weight)) {
            let mut pack = self.spare.take().unwrap_or_default();
            pack.begin(self.next);
            self.packs.push_back(pack);
        }
        self.ready_bytes += slot.weight;
        self.next += 1;
        if let Some(pack) = self.packs.back_mut() {
            pack.add(slot);
        }
    }

    /// Takes what is ready, up to what one frame may have; `used` is taken back for what comes.
    pub(super) fn take(&mut self, used: Pack) -> Option<Pack> {
        let pack = self.packs.pop_front()?;
        self.ready_bytes -= pack.bytes;
        self.bytes -= pack.bytes;
        self.spare = Some(used);
        Some(pack)
    }

    /// Forgets all records: nobody will write them.
    pub(super) fn abandon(&mut self) {
        *self = Inbox { closed: self.closed, ..Inbox::behind(self.last()) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::RECORDS_MAX;
    use super::super::record::Record;
    use super::*;

    fn slot(durability: Durability) -> Slot {
        Slot::new(Record::Forgotten { topic: "t".into() }, durability)
    }

    /// The first place and the number of records that are taken.
    fn taken(inbox: &mut Inbox) -> Option<(Lsn, usize)> {
        inbox.take(Pack::default()).map(|pack| (pack.first, pack.rows.len()))
    }

    fn durability(inbox: &Inbox) -> Option<Durability> {
        inbox.ready().map(|ready| ready.1)
    }

    #[test]
    fn only_the_front_that_is_filled_is_taken_and_in_order() {
        let mut inbox = Inbox::behind(9);
        let places: Vec<Lsn> = (0..4).map(|_| inbox.reserve()).collect();
        assert_eq!(places, [10, 11, 12, 13]);
        inbox.fill(12, slot(Durability::Always));
        assert_eq!(durability(&inbox), None, "the first is missing");
        inbox.fill(10, slot(Durability::None));
        assert_eq!(durability(&inbox), Some(Durability::None));
        assert_eq!(taken(&mut inbox), Some((10, 1)));
        assert_eq!((inbox.first(), inbox.last(), taken(&mut inbox)), (11, 13, None));
        inbox.fill(11, slot(Durability::None));
        assert_eq!(durability(&inbox), Some(Durability::Always));
        assert_eq!(taken(&mut inbox), Some((11, 2)));
        assert_eq!(inbox.first(), 13);
        inbox.fill(13, slot(Durability::Interval));
        assert_eq!(taken(&mut inbox), Some((13, 1)));
        assert_eq!((inbox.is_empty(), inbox.bytes(), inbox.first()), (true, 0, 14));
    }

    #[test]
    fn more_than_a_frame_may_have_is_taken_in_pieces() {
        let mut inbox = Inbox::behind(0);
        for _ in 0..RECORDS_MAX + 5 {
            let lsn = inbox.reserve();
            inbox.fill(lsn, slot(Durability::Always));
        }
        assert_eq!(taken(&mut inbox), Some((1, RECORDS_MAX)));
        assert_eq!(durability(&inbox), Some(Durability::Always));
        assert_eq!(taken(&mut inbox), Some((RECORDS_MAX as Lsn + 1, 5)));
        assert_eq!((inbox.ready(), inbox.bytes(), inbox.is_empty()), (None, 0, true));
    }

    #[test]
    fn what_is_filled_after_all_was_abandoned_counts_for_nothing() {
        let mut inbox = Inbox::behind(0);
        let lsn = inbox.reserve();
        inbox.abandon();
        assert!(!inbox.fill(lsn, slot(Durability::Always)));
        assert_eq!((inbox.bytes(), inbox.first()), (0, 2));
    }

    #[test]
    fn the_writer_is_woken_for_what_it_waits_for_only() {
        let mut inbox = Inbox::behind(0);
        let fill = |inbox: &mut Inbox, durability| {
            let lsn = inbox.reserve();
            inbox.fill(lsn, slot(durability))
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
