//! Intake of the log: threads reserve LSNs and fill them, and the writer takes the records.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::append::pending::PendingLog;
use crate::store::sync::lock;
use crate::store::{Entry, Lsn};

/// LSN that no log reaches: none is reserved from here on.
const SEALED: Lsn = 1 << 62;

/// Records between the broker's threads, which make them, and the writer.
#[derive(Debug)]
pub(in crate::store) struct Intake {
    /// Last reserved LSN.
    reserved: AtomicU64,
    /// Highest number that was assigned to a session or a connection.
    pub(in crate::store) number: AtomicU64,
    closed: AtomicBool,
    pending: Mutex<PendingLog>,
    /// Memory that the pending log may use before no more messages are read, in bytes.
    bytes_max: usize,
    /// Set when the pending log has no room. Every connection checks it each time it wakes, so it
    /// is outside the lock.
    full: AtomicBool,
    filled: Condvar,
}

impl Intake {
    /// Intake behind this record; `number` is the highest that was assigned.
    pub(in crate::store) fn behind(last: Lsn, number: u64, bytes_max: usize) -> Intake {
        Intake {
            reserved: AtomicU64::new(last),
            number: AtomicU64::new(number),
            closed: AtomicBool::new(false),
            pending: Mutex::new(PendingLog::behind(last)),
            bytes_max,
            full: AtomicBool::new(false),
            filled: Condvar::new(),
        }
    }

    /// Locks the pending log.
    pub(in crate::store) fn lock(&self) -> MutexGuard<'_, PendingLog> {
        lock(&self.pending)
    }

    /// Waits for records, for this long at most.
    pub(in crate::store) fn wait<'p>(
        &self,
        pending: MutexGuard<'p, PendingLog>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'p, PendingLog> {
        match at_most {
            Some(time) => self.filled.wait_timeout(pending, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.filled.wait(pending).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Wakes the writer.
    pub(in crate::store) fn notify(&self) {
        self.filled.notify_all();
    }

    /// Reserves the next LSN, to be filled soon; `None` once the store closes.
    pub(in crate::store) fn reserve(&self) -> Option<Lsn> {
        if self.is_closed() {
            return None;
        }
        // A thread that knows of a record reserves a later LSN: one atomic counter has one order
        // for all threads.
        Some(self.reserved.fetch_add(1, Ordering::Relaxed) + 1).filter(|lsn| *lsn < SEALED)
    }

    /// Ends the log behind this LSN; `false` if later ones were reserved.
    pub(in crate::store) fn seal(&self, last: Lsn) -> bool {
        self.reserved.compare_exchange(last, SEALED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Last reserved LSN.
    fn reserved(&self) -> Lsn {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Fills reserved LSNs.
    pub(in crate::store) fn fill(&self, entries: &mut dyn Iterator<Item = Entry>) {
        let mut pending = lock(&self.pending);
        let mut wakes = false;
        for entry in entries {
            wakes |= entry.lsn != Lsn::MAX && pending.fill(entry);
        }
        if pending.bytes() >= self.bytes_max {
            self.full.store(true, Ordering::Release);
        }
        drop(pending);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Returns true while the pending log has no room.
    pub(in crate::store) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Registers that records were taken out of the locked pending log, which had `before` bytes.
    /// Returns true if it has room again.
    pub(in crate::store) fn has_room_again(&self, before: usize, pending: &PendingLog) -> bool {
        let again = before >= self.bytes_max && pending.bytes() < self.bytes_max;
        if again {
            self.full.store(false, Ordering::Release);
        }
        again
    }

    /// Drops all records that are not written: the writer has stopped.
    pub(in crate::store) fn abandon(&self) {
        lock(&self.pending).abandon(self.reserved());
        self.full.store(false, Ordering::Release);
    }

    /// Accepts no more; the writer ends once all records are written.
    pub(in crate::store) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Under its lock, so that the writer does not miss this between its check and its wait.
        drop(lock(&self.pending));
        self.filled.notify_all();
    }

    pub(in crate::store) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Last reserved LSN; records up to it are written without delay.
    pub(in crate::store) fn flush_soon(&self) -> Lsn {
        let mut pending = lock(&self.pending);
        pending.needed = self.reserved();
        let (tail, sleeping) = (pending.needed, std::mem::take(&mut pending.sleeping));
        drop(pending);
        if sleeping {
            self.filled.notify_one();
        }
        tail
    }

    /// Freezes the next table, whatever its size.
    pub(in crate::store) fn freeze_soon(&self) {
        lock(&self.pending).freeze = true;
    }
}
