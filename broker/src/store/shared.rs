//! What the store's threads and the broker's tasks share.

use std::collections::{BTreeSet, VecDeque};
use std::iter;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::task::{Context, Poll, Waker};

use super::checkpoint::Checkpoint;
use super::record::Record;
use crate::clock::Clock;
use crate::message::Durability;
use crate::store::checkpoint::bodies::CheckpointResult;
use crate::store::checkpoint::meta::Meta;
use crate::store::counters::Counters;
use crate::store::memtable::MemTable;
use crate::store::options::Options;
use crate::store::read_request::ReadRequest;
use crate::store::record::Entry;
use crate::store::sync::lock;
use crate::store::wal::disk::Disk;
use crate::store::wal::pending::PendingLog;
use crate::store::wal::segments::Segment;
use crate::store::{Failed, Figures, Health, Lsn, Ticket, WakerSlot};

/// The newest state that can be read: two tables over the checkpoint.
#[derive(Debug)]
pub(super) struct ReadView {
    pub(super) active: MemTable,
    pub(super) frozen: Option<Arc<MemTable>>,
    pub(super) frozen_meta: Meta,
    pub(super) checkpoint: Checkpoint,
    /// The last record that is in the tables.
    pub(super) applied: Lsn,
}

/// Between the writer, which uses segments up, and the keeper, which makes new ones.
#[derive(Debug, Default)]
pub(super) struct SegmentPool {
    pub(super) ready: VecDeque<Segment>,
    /// Segments that are full, with their last record.
    pub(super) full: Vec<(u64, Lsn)>,
    /// Segments that the checkpoint has messages in.
    pub(super) needed: BTreeSet<u64>,
    /// Those that it has none in any more, since that checkpoint: somebody may still read an older
    /// one.
    pub(super) freed: Vec<(u64, u64)>,
    pub(super) next_id: u64,
    /// The last segment that was filled had few frames: no need to make every single sync cheap.
    pub(super) large_frames: bool,
    /// The log up to here is in the checkpoint with this number; behind the newest, older ones that
    /// somebody may still look at.
    pub(super) kept: VecDeque<(u64, Lsn)>,
    /// A checkpoint was asked for, and how many were made.
    pub(super) wanted: bool,
    pub(super) made: u64,
    /// The disk said that it is full.
    pub(super) no_space: bool,
    pub(super) closed: bool,
}

impl SegmentPool {
    /// The log up to here is in the newest checkpoint.
    pub(super) fn kept(&self) -> Lsn {
        self.kept.back().map_or(0, |(_, kept)| *kept)
    }

    /// A checkpoint with this number was made, of the log up to this record.
    pub(super) fn settle(&mut self, settled: CheckpointResult, made: u64, kept_to: Lsn) {
        self.kept.push_back((made, kept_to));
        let CheckpointResult { kept, freed, .. } = settled;
        self.freed.retain(|(_, segment)| !kept.contains(segment));
        self.needed.extend(kept);
        self.freed.extend(freed.into_iter().map(|segment| (made, segment)));
    }

    /// Takes a segment that nobody needs any more, if nobody looks at a checkpoint older than
    /// `oldest`.
    pub(super) fn reusable(&mut self, oldest: u64) -> Option<u64> {
        // Tables that were looked at together with an older checkpoint may say of messages behind
        // it that
        // they are in the log.
        while self.kept.get(1).is_some_and(|(made, _)| *made <= oldest) {
            self.kept.pop_front();
        }
        let kept = self.kept.front().map_or(0, |(_, kept)| *kept);
        let needed = &mut self.needed;
        self.freed.retain(|(made, segment)| {
            let free = *made <= oldest;
            if free {
                needed.remove(segment);
            }
            !free
        });
        let reusable = |(id, last): &(u64, Lsn)| *last <= kept && !self.needed.contains(id);
        let at = self.full.iter().position(reusable)?;
        Some(self.full.remove(at).0)
    }
}

#[derive(Debug)]
struct Waiters {
    wakers: Vec<Waker>,
    epoch: u64,
}

/// What the store stands on.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    /// The highest number that was given out.
    pub(super) number: u64,
    /// Of the frames of the log.
    pub(super) salt: u32,
}

/// No place comes behind this one: no log gets there.
const SEALED: Lsn = 1 << 62;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    pub(super) number: AtomicU64,
    pub(super) salt: u32,
    /// The last place in the log that was given out.
    reserved: AtomicU64,
    closed: AtomicBool,
    pub(super) pending: Mutex<PendingLog>,
    /// The inbox has no room: asked by every connection each time that it is woken, so without its
    /// lock.
    pub(super) pending_full: AtomicBool,
    pub(super) pending_filled: Condvar,
    pub(super) view: Mutex<ReadView>,
    pub(super) segments: Mutex<SegmentPool>,
    pub(super) supply_changed: Condvar,
    pub(super) requests: Mutex<Vec<ReadRequest>>,
    pub(super) requests_changed: Condvar,
    /// Read while somebody reads the checkpoint.
    pub(super) reading: RwLock<()>,
    pub(super) written: AtomicU64,
    pub(super) durable: AtomicU64,
    health: AtomicU8,
    waiters: Mutex<Waiters>,
}

impl Shared {
    pub(super) fn new(ground: Parts, view: ReadView, supply: SegmentPool) -> Shared {
        let Parts { disk, options, counters, clock, number, salt } = ground;
        let last = view.applied;
        Shared {
            disk,
            options,
            counters,
            clock,
            number: AtomicU64::new(number),
            salt,
            reserved: AtomicU64::new(last),
            closed: AtomicBool::new(false),
            pending: Mutex::new(PendingLog::behind(last)),
            pending_full: AtomicBool::new(false),
            pending_filled: Condvar::new(),
            view: Mutex::new(view),
            segments: Mutex::new(supply),
            supply_changed: Condvar::new(),
            requests: Mutex::default(),
            requests_changed: Condvar::new(),
            reading: RwLock::new(()),
            written: AtomicU64::new(last),
            durable: AtomicU64::new(last),
            health: AtomicU8::new(Health::Good as u8),
            waiters: Mutex::new(Waiters { wakers: Vec::new(), epoch: 1 }),
        }
    }

    pub(super) fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Good,
            1 => Health::Full,
            _ => Health::Failed,
        }
    }

    /// Sets it; a failure stays.
    pub(super) fn set_health(&self, health: Health) {
        let before = self.health.fetch_max(health as u8, Ordering::AcqRel);
        if health == Health::Good && before == Health::Full as u8 {
            let _ = self.health.compare_exchange(before, 0, Ordering::AcqRel, Ordering::Acquire);
        }
        if before != health as u8 {
            self.wake();
            self.pending_filled.notify_all();
            self.supply_changed.notify_all();
            self.nudge_reader();
        }
    }

    /// The reader is to look around.
    pub(super) fn nudge_reader(&self) {
        // With its lock, so that it does not begin to wait between its look and this.
        drop(lock(&self.requests));
        self.requests_changed.notify_all();
    }

    /// Wakes everybody who waits for a ticket or for room.
    pub(super) fn wake(&self) {
        let mut waiters = lock(&self.waiters);
        if waiters.wakers.is_empty() {
            return;
        }
        waiters.epoch += 1;
        let wakers = std::mem::take(&mut waiters.wakers);
        drop(waiters);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// `look` until it finds something; registers the task before it looks for the last time.
    fn wait<T>(&self, slot: &mut WakerSlot, cx: &Context<'_>, look: impl Fn() -> Option<T>) -> Poll<T> {
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        let mut waiters = lock(&self.waiters);
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        if slot.epoch != waiters.epoch {
            slot.epoch = waiters.epoch;
            waiters.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn poll(
        &self,
        ticket: Ticket,
        slot: &mut WakerSlot,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let mark = match ticket.durability {
            Durability::None => return Poll::Ready(Ok(())),
            Durability::Interval => &self.written,
            Durability::Always => &self.durable,
        };
        self.wait(slot, cx, || {
            if ticket.lsn <= mark.load(Ordering::Acquire) {
                Some(Ok(()))
            } else {
                (self.health() == Health::Failed).then_some(Err(Failed))
            }
        })
    }

    /// Gives out the next place in the log, to be filled soon; none is left for what is new once
    /// the store closes.
    pub(super) fn reserve(&self) -> Option<Lsn> {
        if self.is_closed() {
            return None;
        }
        // Who knows of a record takes its own place behind it: a counter has one order for all.
        Some(self.reserved.fetch_add(1, Ordering::Relaxed) + 1).filter(|lsn| *lsn < SEALED)
    }

    /// The same for what must not be refused. Where nothing is taken any more it is a place that is
    /// never reached.
    pub(super) fn reserve_always(&self) -> Lsn {
        match self.health() {
            Health::Failed => Lsn::MAX,
            Health::Good | Health::Full => self.reserve().unwrap_or(Lsn::MAX),
        }
    }

    /// Ends the log behind this place; `false`: others were given out.
    pub(super) fn seal(&self, last: Lsn) -> bool {
        self.reserved.compare_exchange(last, SEALED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The last place that was given out.
    fn reserved(&self) -> Lsn {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Fills reserved places.
    pub(super) fn fill(&self, entries: &mut dyn Iterator<Item = Entry>) {
        let mut inbox = lock(&self.pending);
        let mut wakes = false;
        for entry in entries {
            wakes |= entry.lsn != Lsn::MAX && inbox.fill(entry);
        }
        if inbox.bytes() >= self.options.pending_bytes_max {
            self.pending_full.store(true, Ordering::Release);
        }
        drop(inbox);
        if wakes {
            self.pending_filled.notify_one();
        }
    }

    /// Puts a record at the end of the log.
    pub(super) fn append(&self, record: Record, durability: Durability) -> Ticket {
        let lsn = self.reserve_always();
        self.fill(&mut iter::once(Entry::new(lsn, record, durability)));
        Ticket { lsn, durability }
    }

    /// Nobody will write what is in the log's inbox, or comes there.
    pub(super) fn abandon(&self) {
        lock(&self.pending).abandon(self.reserved());
    }

    /// Nothing new is taken; the writer ends once all is written.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // With its lock, so that it does not begin to wait between its look and this.
        drop(lock(&self.pending));
        self.pending_filled.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn poll_room(&self, slot: &mut WakerSlot, cx: &Context<'_>) -> Poll<()> {
        self.wait(slot, cx, || self.has_room().then_some(()))
    }

    fn has_room(&self) -> bool {
        !self.pending_full.load(Ordering::Acquire) || self.health() == Health::Failed
    }

    /// The last place in the log that was reserved; what is there will be written without delay.
    pub(super) fn flush_soon(&self) -> Lsn {
        let mut inbox = lock(&self.pending);
        inbox.needed = self.reserved();
        let (tail, sleeping) = (inbox.needed, std::mem::take(&mut inbox.sleeping));
        drop(inbox);
        if sleeping {
            self.pending_filled.notify_one();
        }
        tail
    }

    pub(super) fn figures(&self) -> Figures {
        let counters = &self.counters;
        Figures {
            health: self.health(),
            record_bytes: counters.record_bytes.get(),
            log_bytes: counters.log_bytes.get(),
            checkpoint_bytes: counters.checkpoint_bytes.get(),
            syncs: counters.syncs.get(),
            sync_time: counters.sync_time.get(),
            checkpoints: counters.checkpoints.get(),
            segments_kept: lock(&self.segments).needed.len() as u64,
            moved: counters.moved.get(),
            corrupt: counters.corrupt.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pins::ReaderPins;

    #[test]
    fn a_segment_is_not_used_again_while_somebody_looks_at_a_checkpoint_that_does_not_have_it_yet() {
        let looks = Arc::new(ReaderPins::default());
        let mut supply = SegmentPool {
            full: vec![(1, 10), (2, 20)],
            kept: VecDeque::from([(0, 0)]),
            ..SegmentPool::default()
        };
        // Tables say that messages are in both.
        let early = looks.begin();
        supply.settle(CheckpointResult::default(), looks.made(), 10);
        let later = looks.begin();
        supply.settle(CheckpointResult::default(), looks.made(), 20);
        assert_eq!((supply.kept(), supply.reusable(looks.oldest())), (20, None));
        drop(early);
        assert_eq!(supply.reusable(looks.oldest()), Some(1));
        assert_eq!(supply.reusable(looks.oldest()), None);
        drop(later);
        assert_eq!(supply.reusable(looks.oldest()), Some(2));
    }

    #[test]
    fn a_segment_that_a_checkpoint_has_messages_in_is_used_again_once_a_later_one_has_none() {
        let mut supply =
            SegmentPool { full: vec![(1, 10)], kept: VecDeque::from([(0, 0)]), ..SegmentPool::default() };
        supply.settle(CheckpointResult { kept: vec![1], ..CheckpointResult::default() }, 1, 10);
        assert_eq!(supply.reusable(1), None);
        supply.settle(CheckpointResult { freed: vec![1], ..CheckpointResult::default() }, 2, 10);
        assert_eq!(supply.reusable(1), None, "somebody looks at the one before");
        assert_eq!(supply.reusable(2), Some(1));
    }
}
