//! The writer: one thread that turns records into frames, with one write and at most one sync for
//! all pending records.
//!
//! Records gather during a sync, so the writer need not linger. A failed write or sync is final: a
//! disk cannot be trusted after that. Only "no space" is retried, since nothing was acknowledged
//! yet.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::message::Durability;
use crate::store::append::frame_builder::{BATCH_BYTES_MAX, FrameBuilder};
use crate::store::checkpoint::meta::Meta;
use crate::store::memtable::Queues;
use crate::store::record::{Entry, Record};
use crate::store::shared::Shared;
use crate::store::wal::disk::{write_full, write_full_through};
use crate::store::wal::frame::Head;
use crate::store::wal::segments::{self, Segment};
use crate::store::{Health, Lsn, codec};

/// Average size of large frames, in bytes: metadata of a sync costs some pages.
const LARGE_FRAME: u64 = 64 << 10;
/// Time for which records without a waiting task may gather.
const LAZY: Duration = Duration::from_millis(50);
/// Interval between attempts on a full disk.
const RETRY: Duration = Duration::from_millis(200);

/// State of the writer thread.
pub(in crate::store) struct Writer {
    shared: Arc<Shared>,
    segment: Segment,
    queues: Queues,
    last: Lsn,
    /// Bytes of log since the last freeze.
    since_frozen: u64,
    /// The same, or the memory of the table if that is more.
    gathered: u64,
    synced_at: Option<Instant>,
    /// Time since when written records wait for a sync by the timer.
    unsynced_since: Option<Instant>,
    /// Set once a record asked for a sync. A broker whose records all ask for none is not synced.
    syncs: bool,
    /// The frame that is written, or was.
    builder: FrameBuilder,
    /// Number of frames in this segment.
    frames: u64,
}

/// Reason why the writer stops.
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
            syncs: false,
            builder: FrameBuilder::default(),
            frames: 0,
        }
    }

    /// Runs until the store closes or fails.
    pub(in crate::store) fn run(mut self) {
        let stop = loop {
            let Some(next) = self.next() else { break self.finish().err().unwrap_or(Stop::Closed) };
            let result = match next {
                Some(durability) => self.commit(durability),
                None => self.sync().inspect(|()| self.shared.progress.wake()),
            };
            if let Err(stop) = result {
                break stop;
            }
        };
        if let Stop::Failed(error) = stop {
            error!(%error, segment = %self.shared.disk.path(&segments::name(self.segment.id)),
                "the store has failed: nothing is acknowledged any more, publishers are warned 0x97. Check the disk, then restart");
            self.shared.set_health(Health::Failed);
            self.shared.intake.abandon();
        }
        self.shared.progress.wake();
    }

    /// Waits for records and takes them; returns their strictest durability. `Some(None)`: a sync
    /// is due; `None`: all is written and the store closes.
    fn next(&mut self) -> Option<Option<Durability>> {
        let shared = self.shared.clone();
        let options = &shared.options;
        let mut pending = shared.intake.lock();
        let mut lazy_since: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let sync_at = self.unsynced_since.map(|since| since + options.sync_interval);
            let ready = pending.ready();
            let closed = shared.intake.is_closed();
            let mut wait = sync_at.map(|at| at.saturating_duration_since(now));
            if let Some((bytes, durability)) = ready {
                let since = *lazy_since.get_or_insert(now);
                let due = match durability {
                    // Each sync wears the flash: the configuration can make them rarer.
                    Durability::Always => self.synced_at.map_or(now, |at| at + options.min_sync_interval),
                    Durability::Interval => now,
                    Durability::None if pending.needed >= pending.first() => now,
                    Durability::None => since + LAZY,
                };
                if due <= now || closed || bytes >= BATCH_BYTES_MAX / 2 && durability != Durability::Always {
                    let before = pending.bytes();
                    self.builder = pending.take(std::mem::take(&mut self.builder)).unwrap_or_default();
                    if shared.intake.has_room_again(before, &pending) {
                        shared.progress.wake();
                    }
                    return Some(Some(durability));
                }
                let until = due - now;
                wait = Some(wait.map_or(until, |wait| wait.min(until)));
            } else if closed && shared.intake.seal(pending.first() - 1) {
                return None;
            }
            if sync_at.is_some_and(|at| at <= now) {
                return Some(None);
            }
            // Records that wait until the next sync is due wait for no other record.
            pending.sleeping = ready.is_none_or(|(_, durability)| durability != Durability::Always);
            pending = shared.intake.wait(pending, wait);
            pending.sleeping = false;
        }
    }

    /// Writes a frame, syncs it if required, and makes it readable.
    fn commit(&mut self, durability: Durability) -> Result<(), Stop> {
        let last = self.builder.last();
        self.syncs |= durability != Durability::None;
        let framed = self.write(durability, false)?;
        let shared = self.shared.clone();
        shared.progress.written.store(last, Ordering::Release);
        self.last = last;
        let synced = match durability {
            Durability::Always => self.sync(),
            // Nobody waits for acknowledgements by clients, and yet a loss of power must not bring
            // back what was done long ago, because nobody has published since.
            Durability::None if !self.syncs => Ok(()),
            Durability::Interval | Durability::None => {
                self.unsynced_since.get_or_insert_with(Instant::now);
                Ok(())
            }
        };
        if durability != Durability::None {
            shared.progress.wake();
        }
        // Acknowledgements are sent already; readers wait until the frame is readable.
        let frozen = self.show(framed);
        self.builder.shrink();
        shared.reads.notify_waiting();
        synced?;
        if frozen {
            shared.supply.want_checkpoint();
        } else if self.gathered >= shared.options.window_bytes.saturating_mul(3) {
            self.await_checkpoint();
        }
        Ok(())
    }

    /// Makes written records readable, synced or not: a read is no acknowledgement. Returns `true`
    /// when a table is full.
    fn show(&mut self, framed: Range<u64>) -> bool {
        let shared = self.shared.clone();
        let mut view = shared.reads.view();
        view.applied = self.builder.last();
        for (lsn, mut row) in (self.builder.first..).zip(self.builder.rows.drain(..)) {
            row.shift(self.segment.id, framed.start);
            view.active.apply(lsn, row, &mut self.queues);
        }
        *view.active.covers.entry(self.segment.id).or_default() += framed.end - framed.start;
        self.gathered = self.since_frozen.max(view.active.weight() as u64);
        let full = (self.gathered >= shared.options.window_bytes || shared.intake.lock().freeze)
            && view.frozen.is_none();
        if full {
            shared.intake.lock().freeze = false;
            self.freeze(&mut view);
        }
        drop(view);
        full
    }

    fn freeze(&mut self, view: &mut crate::store::read_request::ReadView) {
        let shared = &self.shared;
        let mut table = std::mem::take(&mut view.active);
        table.close(&self.queues);
        view.active = table.following();
        view.frozen_meta = Meta {
            lsn: view.applied,
            clock: shared.clock.now(),
            number: shared.intake.number.load(Ordering::Relaxed),
            last_group: table.last_group,
            salt: shared.salt,
            segment: self.segment.id,
        };
        view.frozen = Some(Arc::new(table));
        (self.since_frozen, self.gathered) = (0, 0);
    }

    /// Waits while the checkpoint is behind, so that records wait here and not in memory. On a full
    /// disk it does not wait.
    fn await_checkpoint(&self) {
        let shared = &self.shared;
        let mut pool = shared.supply.lock();
        let made = pool.made;
        while pool.made == made && shared.health() == Health::Good && !pool.closed {
            let busy = { shared.reads.view().frozen.is_some() };
            if !busy {
                return;
            }
            pool = shared.supply.wait(pool, Some(RETRY));
        }
    }

    /// Writes the records as one frame; returns its range in the segment.
    fn write(&mut self, durability: Durability, is_last: bool) -> Result<Range<u64>, Stop> {
        self.builder.complete();
        let shared = self.shared.clone();
        let len = self.builder.frame.len();
        let padded = self.builder.frame.padded() as u64;
        // A frame larger than a segment makes its segment longer.
        if self.segment.at > 0 && self.segment.at + padded > shared.options.segment_bytes {
            self.rotate()?;
        }
        let head = Head {
            segment: self.segment.id,
            first: self.builder.first,
            count: self.builder.rows.len() as u32,
            len: len as u32,
            durable: shared.progress.durable.load(Ordering::Relaxed),
            clock: shared.clock.now(),
            number: shared.intake.number.load(Ordering::Relaxed),
            is_last,
            salt: shared.salt,
            format: codec::FORMAT,
        };
        self.builder.frame.seal(&head);
        loop {
            let (file, frame, at) = (&*self.segment.file, self.builder.frame.bytes(), self.segment.at);
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

    /// Waits after a frame could not be written for lack of space. Nothing was acknowledged yet, so
    /// the write is repeated.
    fn await_space(&self, error: &io::Error) -> Result<(), Stop> {
        if self.shared.intake.is_closed() {
            return Err(Stop::Failed(io::Error::new(error.kind(), error.to_string())));
        }
        if self.shared.health() == Health::Good {
            warn!(%error, "the disk is full: new messages are refused until there is space");
        }
        self.shared.set_health(Health::Full);
        self.shared.supply.lock().no_space = true;
        std::thread::sleep(RETRY);
        Ok(())
    }

    /// Moves on to the next segment. The previous one is synced first, so that only the last one
    /// can have a torn end.
    fn rotate(&mut self) -> Result<(), Stop> {
        self.sync()?;
        let shared = self.shared.clone();
        let mut pool = shared.supply.lock();
        let mut warned = false;
        let next = loop {
            if let Some(next) = pool.ready.pop_front() {
                break next;
            }
            if pool.no_space && !warned {
                warned = true;
                warn!("the disk is full: records wait for space");
            }
            let given_up = pool.no_space && shared.intake.is_closed();
            if given_up || pool.closed || shared.health() == Health::Failed {
                return Err(Stop::Failed(io::ErrorKind::StorageFull.into()));
            }
            pool = shared.supply.wait(pool, Some(RETRY));
        };
        pool.full.push((self.segment.id, self.last));
        pool.large_frames = self.segment.at >= std::mem::take(&mut self.frames) * LARGE_FRAME;
        drop(pool);
        shared.supply.notify();
        self.segment = next;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Stop> {
        self.unsynced_since = None;
        if self.shared.progress.durable.load(Ordering::Relaxed) >= self.last {
            return Ok(());
        }
        self.shared.counters.syncs.add(1);
        let begun = Instant::now();
        self.segment.file.sync().map_err(Stop::Failed)?;
        let now = Instant::now();
        self.shared.counters.sync_time.observe(now - begun);
        self.synced_at = Some(now);
        self.shared.progress.durable.store(self.last, Ordering::Release);
        Ok(())
    }

    /// Writes a last frame, which marks all records before it as on disk.
    fn finish(&mut self) -> Result<(), Stop> {
        self.sync()?;
        let last = self.last + 1;
        self.builder.begin(last);
        self.builder.add(Entry::new(last, Record::Nothing, Durability::Always));
        self.write(Durability::Always, true)?;
        self.last = last;
        self.sync()?;
        info!(last, "store closed: all records are on disk");
        Ok(())
    }
}
