//! The writer: one thread that turns records into frames, one write and at most one sync for as
//! many as there are.
//!
//! While a sync runs, the next records gather by themselves, so that nothing has to linger. A write
//! or sync that fails is the end: what a disk says after that is worth nothing. Only "no space" is
//! waited out, since nothing was promised yet.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::disk::{write_full, write_full_through};
use super::frame::Head;
use super::segments::Segment;
use crate::message::Durability;
use crate::store::checkpoint::meta::Meta;
use crate::store::memtable::Queues;
use crate::store::record::{Entry, Record};
use crate::store::shared::Shared;
use crate::store::sync::lock;
use crate::store::wal::frame_builder::{BATCH_BYTES_MAX, FrameBuilder};
use crate::store::{Health, Lsn};

/// Frames of this size on average are large, in bytes: noting in the file system what was written
/// costs some pages.
const LARGE_FRAME: u64 = 64 << 10;
/// How long records that nobody waits for may gather.
const LAZY: Duration = Duration::from_millis(50);
/// How often a full disk is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// See the module.
pub(in crate::store) struct Writer {
    shared: Arc<Shared>,
    segment: Segment,
    queues: Queues,
    last: Lsn,
    /// Since the table was frozen last, in bytes of log.
    since_frozen: u64,
    /// The same, or the memory of the table: whichever is more.
    gathered: u64,
    synced_at: Option<Instant>,
    /// Since when written records wait for a sync by the timer.
    unsynced_since: Option<Instant>,
    /// What is written, or was.
    pack: FrameBuilder,
    /// Frames in this segment.
    frames: u64,
}

/// Why the writer stops.
enum Stop {
    Closed,
    Failed(io::Error),
}

impl Writer {
    pub(in crate::store) fn new(shared: Arc<Shared>, segment: Segment, queues: Queues, last: Lsn) -> Writer {
        Writer {
            shared,
            segment,
            queues,
            last,
            since_frozen: 0,
            gathered: 0,
            synced_at: None,
            unsynced_since: None,
            pack: FrameBuilder::default(),
            frames: 0,
        }
    }

    /// Runs until the store closes or fails.
    pub(in crate::store) fn run(mut self) {
        let stop = loop {
            let Some(next) = self.next() else { break self.finish().err().unwrap_or(Stop::Closed) };
            let result = match next {
                Some(durability) => self.commit(durability),
                None => self.sync(),
            };
            if let Err(stop) = result {
                break stop;
            }
        };
        if let Stop::Failed(error) = stop {
            error!(%error, segment = %self.shared.disk.path(&super::segments::name(self.segment.id)),
                "the store has failed: nothing is acknowledged any more, publishers are told 0x97. Check the disk, then restart");
            self.shared.set_health(Health::Failed);
            self.shared.abandon();
            self.shared.pending_full.store(false, Ordering::Release);
        }
        self.shared.wake();
    }

    /// Waits for the next records and takes them; how durable they are to be. `Some(None)`: a sync
    /// is due; `None`: all is done and the store closes.
    fn next(&mut self) -> Option<Option<Durability>> {
        let shared = self.shared.clone();
        let options = &shared.options;
        let mut inbox = lock(&shared.pending);
        let mut lazy_since: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let sync_at = self.unsynced_since.map(|since| since + options.sync_interval);
            let ready = inbox.ready();
            let closed = shared.is_closed();
            let mut wait = sync_at.map(|at| at.saturating_duration_since(now));
            if let Some((bytes, durability)) = ready {
                let since = *lazy_since.get_or_insert(now);
                let due = match durability {
                    // Each sync wears the flash: they can be made rarer.
                    Durability::Always => self.synced_at.map_or(now, |at| at + options.min_sync_interval),
                    Durability::Interval => now,
                    Durability::None if inbox.needed >= inbox.first() => now,
                    Durability::None => since + LAZY,
                };
                if due <= now || closed || bytes >= BATCH_BYTES_MAX / 2 && durability != Durability::Always {
                    let was_full = inbox.bytes() >= options.pending_bytes_max;
                    self.pack = inbox.take(std::mem::take(&mut self.pack)).unwrap_or_default();
                    if was_full && inbox.bytes() < options.pending_bytes_max {
                        shared.pending_full.store(false, Ordering::Release);
                        shared.wake();
                    }
                    return Some(Some(durability));
                }
                let until = due - now;
                wait = Some(wait.map_or(until, |wait| wait.min(until)));
            } else if closed && shared.seal(inbox.first() - 1) {
                return None;
            }
            if sync_at.is_some_and(|at| at <= now) {
                return Some(None);
            }
            // What waits for the next sync to be due waits for nobody else.
            inbox.sleeping = ready.is_none_or(|(_, durability)| durability != Durability::Always);
            inbox = match wait {
                Some(wait) => {
                    let waited = shared.pending_filled.wait_timeout(inbox, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => shared.pending_filled.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            };
            inbox.sleeping = false;
        }
    }

    /// Writes a frame, syncs it if it is asked for, and shows it to readers.
    fn commit(&mut self, durability: Durability) -> Result<(), Stop> {
        let last = self.pack.last();
        let framed = self.write(durability, false)?;
        let shared = self.shared.clone();
        shared.written.store(last, Ordering::Release);
        self.last = last;
        let synced = match durability {
            Durability::Always => self.sync(),
            Durability::Interval => {
                self.unsynced_since.get_or_insert_with(Instant::now);
                Ok(())
            }
            Durability::None => Ok(()),
        };
        if durability != Durability::None {
            shared.wake();
        }
        // The acknowledgements are on their way meanwhile; who reads waits until it is shown.
        let frozen = self.show(framed);
        self.pack.shrink();
        if !lock(&shared.requests).is_empty() {
            shared.requests_changed.notify_all();
        }
        synced?;
        if frozen {
            lock(&shared.segments).wanted = true;
            shared.supply_changed.notify_all();
        } else if self.gathered >= shared.options.window_bytes.saturating_mul(3) {
            self.await_checkpoint();
        }
        Ok(())
    }

    /// Shows what was written to readers, synced or not: nobody acknowledges on account of reading
    /// it. `true`: a table is full now.
    fn show(&mut self, framed: Range<u64>) -> bool {
        let shared = self.shared.clone();
        let mut view = lock(&shared.view);
        view.applied = self.pack.last();
        for (lsn, mut row) in (self.pack.first..).zip(self.pack.rows.drain(..)) {
            row.shift(self.segment.id, framed.start);
            view.active.apply(lsn, row, &mut self.queues);
        }
        *view.active.covers.entry(self.segment.id).or_default() += framed.end - framed.start;
        self.gathered = self.since_frozen.max(view.active.weight() as u64);
        let full = (self.gathered >= shared.options.window_bytes || lock(&shared.pending).freeze)
            && view.frozen.is_none();
        if full {
            lock(&shared.pending).freeze = false;
            self.freeze(&mut view);
        }
        drop(view);
        full
    }

    fn freeze(&mut self, view: &mut crate::store::shared::ReadView) {
        let shared = &self.shared;
        let mut table = std::mem::take(&mut view.active);
        table.close(&self.queues);
        view.active = table.following();
        view.frozen_meta = Meta {
            lsn: view.applied,
            clock: shared.clock.now(),
            number: shared.number.load(Ordering::Relaxed),
            last_group: table.last_group,
            salt: shared.salt,
            segment: self.segment.id,
        };
        view.frozen = Some(Arc::new(table));
        (self.since_frozen, self.gathered) = (0, 0);
    }

    /// The checkpoint is behind: records wait here rather than in memory. On a full disk there is
    /// nothing to wait for.
    fn await_checkpoint(&self) {
        let shared = &self.shared;
        let mut supply = lock(&shared.segments);
        let made = supply.made;
        while supply.made == made && shared.health() == Health::Good && !supply.closed {
            let busy = { lock(&shared.view).frozen.is_some() };
            if !busy {
                return;
            }
            supply =
                shared.supply_changed.wait_timeout(supply, RETRY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes the records as one frame; where in its segment.
    fn write(&mut self, durability: Durability, outcomes: bool) -> Result<Range<u64>, Stop> {
        self.pack.complete();
        let shared = self.shared.clone();
        let len = self.pack.frame.len();
        let padded = self.pack.frame.padded() as u64;
        // A frame that fits nowhere makes its segment longer.
        if self.segment.at > 0 && self.segment.at + padded > shared.options.segment_bytes {
            self.rotate()?;
        }
        let head = Head {
            segment: self.segment.id,
            first: self.pack.first,
            count: self.pack.rows.len() as u32,
            len: len as u32,
            durable: shared.durable.load(Ordering::Relaxed),
            clock: shared.clock.now(),
            number: shared.number.load(Ordering::Relaxed),
            outcomes,
            salt: shared.salt,
        };
        self.pack.frame.seal(&head);
        loop {
            let (file, frame, at) = (&*self.segment.file, self.pack.frame.bytes(), self.segment.at);
            let written = match durability {
                Durability::Always => write_full_through(file, frame, at),
                Durability::Interval | Durability::None => write_full(file, frame, at),
            };
            match written {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => self.await_space(&error)?,
                Err(error) => return Err(Stop::Failed(error)),
            }
        }
        let framed = self.segment.at..self.segment.at + padded;
        self.segment.at = framed.end;
        self.frames += 1;
        self.since_frozen += padded;
        shared.counters.record_bytes.add(len as u64);
        shared.counters.log_bytes.add(padded);
        Ok(framed)
    }

    /// The frame could not be written for want of space. Nobody was promised anything yet: it is
    /// tried again.
    fn await_space(&self, error: &io::Error) -> Result<(), Stop> {
        if self.shared.is_closed() {
            return Err(Stop::Failed(io::Error::new(error.kind(), error.to_string())));
        }
        if self.shared.health() == Health::Good {
            warn!(%error, "the disk is full: new messages are refused until there is space");
        }
        self.shared.set_health(Health::Full);
        lock(&self.shared.segments).no_space = true;
        std::thread::sleep(RETRY);
        Ok(())
    }

    /// Goes on in the next segment; the one before is on disk first, so that only the last one can
    /// have a torn end.
    fn rotate(&mut self) -> Result<(), Stop> {
        self.sync()?;
        let shared = self.shared.clone();
        let mut supply = lock(&shared.segments);
        let mut told = false;
        let next = loop {
            if let Some(next) = supply.ready.pop_front() {
                break next;
            }
            if supply.no_space && !told {
                told = true;
                warn!("the disk is full: records wait for space");
            }
            let given_up = supply.no_space && shared.is_closed();
            if given_up || supply.closed || shared.health() == Health::Failed {
                return Err(Stop::Failed(io::ErrorKind::StorageFull.into()));
            }
            supply =
                shared.supply_changed.wait_timeout(supply, RETRY).unwrap_or_else(PoisonError::into_inner).0;
        };
        supply.full.push((self.segment.id, self.last));
        supply.large_frames = self.segment.at >= std::mem::take(&mut self.frames) * LARGE_FRAME;
        drop(supply);
        shared.supply_changed.notify_all();
        self.segment = next;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Stop> {
        self.unsynced_since = None;
        if self.shared.durable.load(Ordering::Relaxed) >= self.last {
            return Ok(());
        }
        self.shared.counters.syncs.add(1);
        let begun = Instant::now();
        self.segment.file.sync().map_err(Stop::Failed)?;
        let now = Instant::now();
        self.shared.counters.sync_time.observe(now - begun);
        self.synced_at = Some(now);
        self.shared.durable.store(self.last, Ordering::Release);
        Ok(())
    }

    /// Leaves a last frame, which says that all before it is on disk.
    fn finish(&mut self) -> Result<(), Stop> {
        self.sync()?;
        let last = self.last + 1;
        self.pack.begin(last);
        self.pack.add(Entry::new(last, Record::Nothing, Durability::Always));
        self.write(Durability::Always, true)?;
        self.last = last;
        self.sync()?;
        info!(last, "the store is closed: all of it is on disk");
        Ok(())
    }
}
