//! State that the store's threads and the broker's tasks share.

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

/// Latest readable state: two tables over the checkpoint.
#[derive(Debug)]
pub(super) struct ReadView {
    pub(super) active: MemTable,
    pub(super) frozen: Option<Arc<MemTable>>,
    pub(super) frozen_meta: Meta,
    pub(super) checkpoint: Checkpoint,
    /// Last record in the tables.
    pub(super) applied: Lsn,
}

/// Segments between the writer, which fills them, and the checkpointer, which prepares new ones.
#[derive(Debug, Default)]
pub(super) struct SegmentPool {
    pub(super) ready: VecDeque<Segment>,
    /// Full segments, with their last record.
    pub(super) full: Vec<(u64, Lsn)>,
    /// Segments that hold messages of the checkpoint.
    pub(super) needed: BTreeSet<u64>,
    /// Segments that hold none any more, with the number of that checkpoint: a reader may still
    /// need an older one.
    pub(super) freed: Vec<(u64, u64)>,
    pub(super) next_id: u64,
    /// Set when the last full segment had few frames, so that cheap syncs matter less.
    pub(super) large_frames: bool,
    /// Number of each checkpoint, and its last record. Behind the newest are older ones that may be
    /// pinned.
    pub(super) kept: VecDeque<(u64, Lsn)>,
    /// Set when a checkpoint was requested. Then the number of checkpoints made.
    pub(super) wanted: bool,
    pub(super) made: u64,
    /// Set when the disk reported that it is full.
    pub(super) no_space: bool,
    pub(super) closed: bool,
}

impl SegmentPool {
    /// Last record of the newest checkpoint.
    pub(super) fn kept(&self) -> Lsn {
        self.kept.back().map_or(0, |(_, kept)| *kept)
    }

    /// Registers a checkpoint with this number, of the log up to this record.
    pub(super) fn settle(&mut self, settled: CheckpointResult, made: u64, kept_to: Lsn) {
        self.kept.push_back((made, kept_to));
        let CheckpointResult { kept, freed, .. } = settled;
        self.freed.retain(|(_, segment)| !kept.contains(segment));
        self.needed.extend(kept);
        self.freed.extend(freed.into_iter().map(|segment| (made, segment)));
    }

    /// Takes a segment that is no longer needed, unless a reader pins a checkpoint older than
    /// `oldest`.
    pub(super) fn reusable(&mut self, oldest: u64) -> Option<u64> {
        // Tables that were read together with an older checkpoint may refer to messages behind it
        // in the log.
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

/// Parts that [`Shared::new`] is built from.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    /// Highest number that was assigned.
    pub(super) number: u64,
    /// Salt of the log's frames.
    pub(super) salt: u32,
}

/// LSN that no log reaches: none is reserved from here on.
const SEALED: Lsn = 1 << 62;

/// State that the store's threads and the broker's tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    pub(super) number: AtomicU64,
    pub(super) salt: u32,
    /// Last reserved LSN.
    reserved: AtomicU64,
    closed: AtomicBool,
    pub(super) pending: Mutex<PendingLog>,
    /// Set when the pending log has no room. Every connection checks it each time it wakes, so it
    /// is outside the lock.
    pub(super) pending_full: AtomicBool,
    pub(super) pending_filled: Condvar,
    pub(super) view: Mutex<ReadView>,
    pub(super) segments: Mutex<SegmentPool>,
    pub(super) supply_changed: Condvar,
    pub(super) requests: Mutex<Vec<ReadRequest>>,
    pub(super) requests_changed: Condvar,
    /// Held for reading while a thread reads the checkpoint.
    pub(super) reading: RwLock<()>,
    pub(super) written: AtomicU64,
    pub(super) durable: AtomicU64,
    health: AtomicU8,
    waiters: Mutex<Waiters>,
}

impl Shared {
    pub(super) fn new(ground: Parts, view: ReadView, pool: SegmentPool) -> Shared {
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
            segments: Mutex::new(pool),
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

    /// Sets the health; a failure is final.
    pub(super) fn set_health(&self, health: Health) {
        let before = self.health.fetch_max(health as u8, Ordering::AcqRel);
        if health == Health::Good && before == Health::Full as u8 {
            let _ = self.health.compare_exchange(before, 0, Ordering::AcqRel, Ordering::Acquire);
        }
        if before != health as u8 {
            self.wake();
            self.pending_filled.notify_all();
            self.supply_changed.notify_all();
            self.wake_reader();
        }
    }

    /// Wakes the reader.
    pub(super) fn wake_reader(&self) {
        // Under its lock, so that the reader does not miss this between its check and its wait.
        drop(lock(&self.requests));
        self.requests_changed.notify_all();
    }

    /// Wakes all tasks that wait for a ticket or for room.
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

    /// Polls `attempt` until it returns a value; registers the task before the last attempt.
    fn wait<T>(&self, slot: &mut WakerSlot, cx: &Context<'_>, attempt: impl Fn() -> Option<T>) -> Poll<T> {
        if let Some(found) = attempt() {
            return Poll::Ready(found);
        }
        let mut waiters = lock(&self.waiters);
        if let Some(found) = attempt() {
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

    /// Reserves the next LSN, to be filled soon; `None` once the store closes.
    pub(super) fn reserve(&self) -> Option<Lsn> {
        if self.is_closed() {
            return None;
        }
        // A thread that knows of a record reserves a later LSN: one atomic counter has one order
        // for all threads.
        Some(self.reserved.fetch_add(1, Ordering::Relaxed) + 1).filter(|lsn| *lsn < SEALED)
    }

    /// Reserves an LSN for a record that cannot be refused. After the store has closed it is one
    /// that is never reached.
    pub(super) fn reserve_always(&self) -> Lsn {
        match self.health() {
            Health::Failed => Lsn::MAX,
            Health::Good | Health::Full => self.reserve().unwrap_or(Lsn::MAX),
        }
    }

    /// Ends the log behind this LSN; `false` if later ones were reserved.
    pub(super) fn seal(&self, last: Lsn) -> bool {
        self.reserved.compare_exchange(last, SEALED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Last reserved LSN.
    fn reserved(&self) -> Lsn {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Fills reserved LSNs.
    pub(super) fn fill(&self, entries: &mut dyn Iterator<Item = Entry>) {
        let mut pending = lock(&self.pending);
        let mut wakes = false;
        for entry in entries {
            wakes |= entry.lsn != Lsn::MAX && pending.fill(entry);
        }
        if pending.bytes() >= self.options.pending_bytes_max {
            self.pending_full.store(true, Ordering::Release);
        }
        drop(pending);
        if wakes {
            self.pending_filled.notify_one();
        }
    }

    /// Appends a record to the log.
    pub(super) fn append(&self, record: Record, durability: Durability) -> Ticket {
        let lsn = self.reserve_always();
        self.fill(&mut iter::once(Entry::new(lsn, record, durability)));
        Ticket { lsn, durability }
    }

    /// Drops all records that are not written: the writer has stopped.
    pub(super) fn abandon(&self) {
        lock(&self.pending).abandon(self.reserved());
    }

    /// Accepts no more; the writer ends once all records are written.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Under its lock, so that the writer does not miss this between its check and its wait.
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

    /// Last reserved LSN; records up to it are written without delay.
    pub(super) fn flush_soon(&self) -> Lsn {
        let mut pending = lock(&self.pending);
        pending.needed = self.reserved();
        let (tail, sleeping) = (pending.needed, std::mem::take(&mut pending.sleeping));
        drop(pending);
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
    fn a_segment_is_not_reused_while_an_older_checkpoint_is_pinned() {
        let pins = Arc::new(ReaderPins::default());
        let mut pool = SegmentPool {
            full: vec![(1, 10), (2, 20)],
            kept: VecDeque::from([(0, 0)]),
            ..SegmentPool::default()
        };
        // Tables refer to messages in both segments.
        let early = pins.begin();
        pool.settle(CheckpointResult::default(), pins.made(), 10);
        let later = pins.begin();
        pool.settle(CheckpointResult::default(), pins.made(), 20);
        assert_eq!((pool.kept(), pool.reusable(pins.oldest())), (20, None));
        drop(early);
        assert_eq!(pool.reusable(pins.oldest()), Some(1));
        assert_eq!(pool.reusable(pins.oldest()), None);
        drop(later);
        assert_eq!(pool.reusable(pins.oldest()), Some(2));
    }

    #[test]
    fn a_segment_is_reused_once_a_later_checkpoint_has_no_messages_in_it() {
        let mut pool =
            SegmentPool { full: vec![(1, 10)], kept: VecDeque::from([(0, 0)]), ..SegmentPool::default() };
        pool.settle(CheckpointResult { kept: vec![1], ..CheckpointResult::default() }, 1, 10);
        assert_eq!(pool.reusable(1), None);
        pool.settle(CheckpointResult { freed: vec![1], ..CheckpointResult::default() }, 2, 10);
        assert_eq!(pool.reusable(1), None, "the checkpoint before it is pinned");
        assert_eq!(pool.reusable(2), Some(1));
    }
}
