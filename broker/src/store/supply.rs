//! Segments on their way between the writer, which fills them, and the checkpointer, which prepares
//! new ones and recycles old ones.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::Lsn;
use crate::store::checkpoint::bodies::CheckpointResult;
use crate::store::sync::lock;
use crate::store::wal::segments::Segment;

/// The segment pool, and the signal that it has changed.
#[derive(Debug)]
pub(super) struct Supply {
    pool: Mutex<SegmentPool>,
    changed: Condvar,
}

impl Supply {
    pub(super) fn new(pool: SegmentPool) -> Supply {
        Supply { pool: Mutex::new(pool), changed: Condvar::new() }
    }

    /// Locks the pool.
    pub(super) fn lock(&self) -> MutexGuard<'_, SegmentPool> {
        lock(&self.pool)
    }

    /// Wakes the writer and the checkpointer.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until the pool has changed, for this long at most.
    pub(super) fn wait<'p>(
        &self,
        pool: MutexGuard<'p, SegmentPool>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'p, SegmentPool> {
        match at_most {
            Some(time) => self.changed.wait_timeout(pool, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(pool).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Asks for a checkpoint of the frozen table.
    pub(super) fn want_checkpoint(&self) {
        self.lock().wanted = true;
        self.notify();
    }

    /// Ends the threads that wait for segments.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.notify();
    }

    /// Returns true once the store closes.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// The pool: segments by what they are for.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
