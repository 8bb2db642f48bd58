//! Records on their way to the writer: a window of the log, its places reserved in order and filled in any.
//!
//! What the writer takes at once is the front that is filled without a gap. How much that is is known as places are filled, by those who fill
//! them, so that the writer holds the lock only to take it.

use std::collections::VecDeque;

use super::record::Record;
use super::{Durability, Lsn};

/// What one frame takes at most, in records and in bytes of memory; a single record may be larger.
pub(super) const RECORDS_MAX: usize = 8_192;
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;

/// A record with what can be said of it before it is written: on the thread that made it, which has it in its cache.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) record: Record,
    durability: Durability,
    /// An estimate of the memory that it takes, in bytes.
    weight: usize,
    /// The crc32c of its message.
    pub(super) sum: u32,
}

impl Slot {
    pub(super) fn new(record: Record, durability: Durability) -> Slot {
        let sum = match &record {
            Record::Published { message, .. } => crc32c::crc32c(message.as_bytes()),
            _ => 0,
        };
        let weight = weight(&record);
        Slot { record, durability, weight, sum }
    }
}

/// An estimate of the memory that a record takes.
pub(super) fn weight(record: &Record) -> usize {
    match record {
        Record::Published { message, queued, .. } => 96 + message.size() + 48 * queued.as_slice().len(),
        Record::Session(terms) => 160 + terms.will.as_ref().map_or(0, |will| will.payload.len()),
        Record::Sent { body: Some(body), .. } => 96 + body.message.size(),
        _ => 64,
    }
}

/// What the writer takes at once: the places from the first on, all of them filled.
pub(super) type Slots = VecDeque<Option<Slot>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    slots: Slots,
    /// The place of the first slot.
    first: Lsn,
    /// So many slots from the first on are filled.
    ready: usize,
    /// An estimate of the memory that these take, in bytes, and that all take.
    ready_bytes: usize,
    bytes: usize,
    /// The most that one of these asks for.
    ready_durability: Durability,
    /// Somebody waits to read what is up to here: it is written at once.
    pub(super) needed: Lsn,
    /// The writer sleeps: a wake-up costs a system call, so that nobody makes one for nothing.
    pub(super) sleeping: bool,
    /// The next table is to be frozen whatever its size.
    pub(super) freeze: bool,
    pub(super) closed: bool,
}

impl Inbox {
    /// An empty one, behind this record.
    pub(super) fn behind(last: Lsn) -> Inbox {
        Inbox {
            slots: Slots::new(),
            first: last + 1,
            ready: 0,
            ready_bytes: 0,
            bytes: 0,
            ready_durability: Durability::None,
            needed: 0,
            sleeping: false,
            freeze: false,
            closed: false,
        }
    }

    /// The place of the first record that was not taken yet.
    pub(super) fn first(&self) -> Lsn {
        self.first
    }

    /// The last place that was given out.
    pub(super) fn last(&self) -> Lsn {
        self.first + self.slots.len() as u64 - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// An estimate of the memory that all records take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What can be taken: how many records, how many bytes, and what they ask for.
    pub(super) fn ready(&self) -> (usize, usize, Durability) {
        (self.ready, self.ready_bytes, self.ready_durability)
    }

    /// Gives out the next place, to be filled.
    pub(super) fn reserve(&mut self) -> Lsn {
        self.slots.push_back(None);
        self.last()
    }

    /// Fills a place; `true`: the writer is to be woken.
    pub(super) fn fill(&mut self, lsn: Lsn, slot: Slot) -> bool {
        let at = lsn.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(place) = at.and_then(|at| self.slots.get_mut(at)) else { return false };
        let wakes = self.sleeping && (at == Some(0) || slot.durability != Durability::None);
        self.bytes += slot.weight;
        *place = Some(slot);
        while let Some(Some(slot)) = self.slots.get(self.ready) {
            self.ready += 1;
            self.ready_bytes += slot.weight;
            self.ready_durability = self.ready_durability.max(slot.durability);
        }
        wakes
    }

    /// Takes what is ready, up to what one frame may have, into `taken`, which must be empty; the place of its first record.
    pub(super) fn take(&mut self, taken: &mut Slots) -> Lsn {
        let first = self.first;
        if self.ready <= RECORDS_MAX && self.ready_bytes <= BATCH_BYTES_MAX {
            // What is behind it is little, and goes over into the other one.
            taken.extend(self.slots.drain(self.ready..));
            std::mem::swap(&mut self.slots, taken);
            self.bytes -= std::mem::take(&mut self.ready_bytes);
            self.ready = 0;
        } else {
            let (mut count, mut bytes) = (0, 0);
            for slot in self.slots.iter().map_while(Option::as_ref) {
                if count > 0 && (count >= RECORDS_MAX || bytes + slot.weight > BATCH_BYTES_MAX) {
                    break;
                }
                count += 1;
                bytes += slot.weight;
            }
            taken.extend(self.slots.drain(..count));
            self.ready -= count;
            self.ready_bytes -= bytes;
            self.bytes -= bytes;
        }
        self.first += taken.len() as u64;
        if self.ready == 0 {
            self.ready_durability = Durability::None;
        }
        first
    }

    /// Forgets all records: nobody will write them.
    pub(super) fn abandon(&mut self) {
        *self = Inbox { closed: self.closed, ..Inbox::behind(self.last()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(durability: Durability) -> Slot {
        Slot::new(Record::Forgotten { topic: "t".into() }, durability)
    }

    #[test]
    fn only_the_front_that_is_filled_is_taken_and_in_order() {
        let mut inbox = Inbox::behind(9);
        let places: Vec<Lsn> = (0..4).map(|_| inbox.reserve()).collect();
        assert_eq!(places, [10, 11, 12, 13]);
        inbox.fill(12, slot(Durability::Always));
        assert_eq!(inbox.ready().0, 0, "the first is missing");
        inbox.fill(10, slot(Durability::None));
        assert_eq!((inbox.ready().0, inbox.ready().2), (1, Durability::None));
        let mut taken = Slots::new();
        assert_eq!(inbox.take(&mut taken), 10);
        assert_eq!((taken.len(), inbox.first(), inbox.last()), (1, 11, 13));
        taken.clear();
        inbox.fill(11, slot(Durability::None));
        assert_eq!((inbox.ready().0, inbox.ready().2), (2, Durability::Always));
        assert_eq!(inbox.take(&mut taken), 11);
        assert_eq!((taken.len(), inbox.first()), (2, 13));
        taken.clear();
        inbox.fill(13, slot(Durability::Interval));
        inbox.take(&mut taken);
        assert_eq!((taken.len(), inbox.is_empty(), inbox.bytes(), inbox.first()), (1, true, 0, 14));
    }

    #[test]
    fn more_than_a_frame_may_have_is_taken_in_pieces() {
        let mut inbox = Inbox::behind(0);
        for _ in 0..RECORDS_MAX + 5 {
            let lsn = inbox.reserve();
            inbox.fill(lsn, slot(Durability::Always));
        }
        let mut taken = Slots::new();
        assert_eq!(inbox.take(&mut taken), 1);
        assert_eq!(taken.len(), RECORDS_MAX);
        taken.clear();
        assert_eq!(inbox.ready().2, Durability::Always);
        assert_eq!(inbox.take(&mut taken), RECORDS_MAX as Lsn + 1);
        assert_eq!((taken.len(), inbox.bytes(), inbox.is_empty()), (5, 0, true));
    }

    #[test]
    fn what_is_filled_after_all_was_abandoned_counts_for_nothing() {
        let mut inbox = Inbox::behind(0);
        let lsn = inbox.reserve();
        inbox.abandon();
        assert!(!inbox.fill(lsn, slot(Durability::Always)));
        assert_eq!((inbox.bytes(), inbox.first()), (0, 2));
    }
}
