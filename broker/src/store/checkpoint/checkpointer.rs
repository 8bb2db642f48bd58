//! The checkpointer: one thread that writes frozen memtables into the checkpoint, recycles the log
//! behind it, and prepares new segments before the writer needs them. It notices a full disk first,
//! while there is still room for acknowledgements.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{error, info, warn};

use super::bodies::Log;
use crate::store::shared::Shared;
use crate::store::wal::segments::{self, Preallocation};
use crate::store::{Health, checkpoint};

/// Minimum number of ready segments beside the current one.
const READY_MIN: usize = 2;
/// Segments kept for reuse, beyond those of one window of log; others are removed.
const REUSE_MARGIN: u64 = 4;
/// Interval between attempts on a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the store closes.
pub(in crate::store) fn run(shared: &Shared) {
    let mut retry = false;
    loop {
        let mut pool = shared.supply.lock();
        loop {
            let health = shared.health();
            let due = pool.wanted || pool.ready.len() < READY_MIN || health == Health::Full;
            if pool.closed {
                return;
            }
            if std::mem::take(&mut retry) {
                pool = shared.supply.wait(pool, Some(RETRY));
            } else if due && health != Health::Failed {
                break;
            } else {
                pool = shared.supply.wait(pool, None);
            }
        }
        let wanted = std::mem::take(&mut pool.wanted);
        drop(pool);
        let result = if wanted { checkpoint(shared) } else { Ok(()) }.and_then(|()| prepare_segments(shared));
        let full = match &result {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => true,
            Err(error) => {
                error!(%error, "the store has failed: the checkpoint or a new segment could not be written");
                shared.set_health(Health::Failed);
                continue;
            }
        };
        let before = shared.health();
        {
            let mut pool = shared.supply.lock();
            pool.no_space = full;
            pool.wanted |= wanted && full;
        }
        match (full, before) {
            (true, Health::Good) => {
                warn!("the disk is full: new messages are refused (0x97) until there is space");
                shared.set_health(Health::Full);
            }
            (false, Health::Full) => {
                info!("the disk has space again: messages are taken");
                shared.set_health(Health::Good);
            }
            _ => {}
        }
        retry = full;
    }
}

/// Writes the frozen table into the checkpoint, if there is one.
fn checkpoint(shared: &Shared) -> io::Result<()> {
    let (table, meta, db, pins) = {
        let mut view = shared.reads.view();
        let Some(table) = view.frozen.clone() else { return Ok(()) };
        if view.checkpoint.database().is_none() {
            view.checkpoint.reopen()?;
        }
        (table, view.frozen_meta, view.checkpoint.database(), view.checkpoint.pins().clone())
    };
    if shared.progress.durable.load(Ordering::Acquire) < meta.lsn {
        // The checkpoint may refer to the log, so the log must be on disk first.
        for segment in table.covers.keys() {
            shared.counters.syncs.add(1);
            shared.disk.open(&segments::name(*segment), false)?.sync()?;
        }
    }
    let log = Log::new(shared.disk.clone());
    let written = match &db {
        Some(db) => checkpoint::write(db, &table, &meta, &log, shared.options.segment_bytes),
        None => Err(io::Error::other("the checkpoint is closed")),
    };
    drop(db);
    let settled = match written {
        Ok(settled) => settled,
        Err(error) => {
            // redb is unusable after an error: it is opened again, and the table written again.
            let nobody_reads = shared.reads.nobody_reads();
            let reopened = shared.reads.view().checkpoint.reopen();
            drop(nobody_reads);
            return reopened.and(Err(error));
        }
    };
    let mut view = shared.reads.view();
    view.frozen = None;
    drop(view);
    shared.counters.checkpoints.add(1);
    shared.counters.moved.add(settled.moved);
    {
        let mut pool = shared.supply.lock();
        pool.settle(settled, pins.made(), meta.lsn);
        pool.made += 1;
    }
    shared.supply.notify();
    // Freeing a large table takes time; here no other thread waits for it.
    drop(table);
    Ok(())
}

/// Prepares segments: from recycled ones, which costs no write, or new ones when too few are left.
fn prepare_segments(shared: &Shared) -> io::Result<()> {
    let options = &shared.options;
    let enough = (options.window_bytes / options.segment_bytes.max(1) + REUSE_MARGIN) as usize;
    loop {
        let oldest = shared.reads.view().checkpoint.pins().oldest();
        let (id, old, room) = {
            let mut pool = shared.supply.lock();
            let old = pool.reusable(oldest);
            match old {
                Some(old) if pool.ready.len() >= enough => {
                    drop(pool);
                    shared.disk.remove(&segments::name(old))?;
                    continue;
                }
                None if pool.ready.len() >= READY_MIN => return Ok(()),
                _ => {}
            }
            pool.next_id += 1;
            let room = if pool.large_frames { Preallocation::Reserved } else { Preallocation::Zeroed };
            (pool.next_id, old, room)
        };
        let made = segments::prepare(&*shared.disk, id, old, options.segment_bytes, room);
        if made.is_err() {
            // A half-made segment only takes up space, perhaps the space that is missing.
            let _ = shared.disk.remove(&segments::name(id));
        }
        shared.supply.lock().ready.push_back(made?);
        shared.supply.notify();
    }
}
