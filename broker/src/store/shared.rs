//! State that the store's threads and the broker's tasks share: one part for each conversation
//! between them.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::record::Record;
use crate::clock::Clock;
use crate::message::Durability;
use crate::store::append::intake::Intake;
use crate::store::counters::Counters;
use crate::store::options::Options;
use crate::store::progress::Progress;
use crate::store::read_request::{ReadView, Reads};
use crate::store::record::Entry;
use crate::store::supply::{SegmentPool, Supply};
use crate::store::wal::disk::Disk;
use crate::store::{Figures, Health, Lsn, Ticket, WakerSlot};

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

/// State that the store's threads and the broker's tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    pub(super) salt: u32,
    /// Between the broker's threads and the writer.
    pub(super) intake: Intake,
    /// Between the writer and the checkpointer.
    pub(super) supply: Supply,
    /// Between the broker's threads and the reader.
    pub(super) reads: Reads,
    /// Between the writer and the tasks that wait for it.
    pub(super) progress: Progress,
}

impl Shared {
    pub(super) fn new(parts: Parts, view: ReadView, pool: SegmentPool) -> Shared {
        let Parts { disk, options, counters, clock, number, salt } = parts;
        let last = view.applied;
        Shared {
            disk,
            intake: Intake::behind(last, number, options.pending_bytes_max),
            options,
            counters,
            clock,
            salt,
            supply: Supply::new(pool),
            reads: Reads::of(view),
            progress: Progress::from(last),
        }
    }

    pub(super) fn health(&self) -> Health {
        self.progress.health()
    }

    /// Sets the health; a failure is final.
    pub(super) fn set_health(&self, health: Health) {
        if self.progress.set_health(health) {
            self.progress.wake();
            self.intake.notify();
            self.supply.notify();
            self.reads.notify();
        }
    }

    /// Reserves an LSN for a record that cannot be refused. After the store has closed it is one
    /// that is never reached.
    pub(super) fn reserve_always(&self) -> Lsn {
        match self.health() {
            Health::Failed => Lsn::MAX,
            Health::Good | Health::Full => self.intake.reserve().unwrap_or(Lsn::MAX),
        }
    }

    /// Appends a record to the log.
    pub(super) fn append(&self, record: Record, durability: Durability) -> Ticket {
        let lsn = self.reserve_always();
        self.intake.fill(&mut iter::once(Entry::new(lsn, record, durability)));
        Ticket { lsn, durability }
    }

    pub(super) fn poll_room(&self, slot: &mut WakerSlot, cx: &Context<'_>) -> Poll<()> {
        let has_room = || !self.intake.is_full() || self.health() == Health::Failed;
        self.progress.wait(slot, cx, || has_room().then_some(()))
    }

    pub(super) fn next_number(&self) -> u64 {
        self.intake.number.fetch_add(1, Ordering::Relaxed) + 1
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
            segments_kept: self.supply.lock().needed.len() as u64,
            moved: counters.moved.get(),
            corrupt: counters.corrupt.get(),
        }
    }
}
