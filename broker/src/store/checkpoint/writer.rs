//! Writes frozen memtables into the checkpoint: one function for each table, all in one
//! transaction. Also copies a snapshot for a backup.

use std::io;
use std::path::Path;

use redb::{Builder, Database, Durability, ReadableTable, WriteTransaction};

use super::{
    FLIGHTS, FORMAT, META, RECEIVED, RETAINED, SESSIONS, SUBSCRIPTIONS, WAITING, migrate, queue, retained_key,
};
use crate::store::checkpoint::bodies::{self, BODIES, BODY_USES, CheckpointResult, Log, UsageDelta};
use crate::store::checkpoint::meta::Meta;
use crate::store::checkpoint::reader::CheckpointReader;
use crate::store::checkpoint::row_format::{as_io, checked, copy_table, guarded};
use crate::store::codec;
use crate::store::memtable::MemTable;

/// Writes a frozen table in one transaction; returns the segments that are needed from now on, and
/// those that no longer are.
pub(in crate::store) fn write(
    db: &Database,
    table: &MemTable,
    meta: &Meta,
    log: &Log,
    segment_bytes: u64,
) -> io::Result<CheckpointResult> {
    guarded(|| write_all(db, table, meta, log, segment_bytes).map_err(as_io))
}

fn write_all(
    db: &Database,
    table: &MemTable,
    meta: &Meta,
    log: &Log,
    segment_bytes: u64,
) -> Result<CheckpointResult, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    let mut scratch = Vec::new();
    let mut usage = UsageDelta::default();
    write_meta(&txn, meta)?;
    end_sessions(&txn, table)?;
    write_sessions(&txn, table, &mut scratch)?;
    write_subscriptions(&txn, table, &mut scratch)?;
    queue::create(&txn)?;
    queue::write(&txn, table, log, &mut usage)?;
    write_flights(&txn, table, &mut scratch)?;
    write_received(&txn, table)?;
    write_retained(&txn, table, &mut scratch)?;
    write_waiting(&txn, table, &mut scratch)?;
    queue::collect_garbage(&txn, &mut usage)?;
    move_out(&txn, log, segment_bytes, &mut usage)?;
    let settled = usage.settle(&txn)?;
    txn.commit()?;
    Ok(settled)
}

fn write_meta(txn: &WriteTransaction, meta: &Meta) -> Result<(), redb::Error> {
    let mut table = txn.open_table(META)?;
    for (name, value) in [
        ("format", FORMAT),
        ("lsn", meta.lsn),
        ("clock", meta.clock),
        ("number", meta.number),
        ("last_group", u64::from(meta.last_group)),
        ("salt", u64::from(meta.salt)),
        ("segment", meta.segment),
    ] {
        table.insert(name, value.to_le_bytes().as_slice())?;
    }
    Ok(())
}

fn write_sessions(
    txn: &WriteTransaction,
    table: &MemTable,
    scratch: &mut Vec<u8>,
) -> Result<(), redb::Error> {
    let mut rows = txn.open_table(SESSIONS)?;
    for (number, terms) in &table.sessions {
        match terms {
            Some(terms) => rows.insert(number, checked(scratch, |out| codec::put_session(out, terms)))?,
            None => rows.remove(number)?,
        };
    }
    Ok(())
}

fn write_subscriptions(
    txn: &WriteTransaction,
    table: &MemTable,
    scratch: &mut Vec<u8>,
) -> Result<(), redb::Error> {
    let mut rows = txn.open_table(SUBSCRIPTIONS)?;
    for ((session, filter), subscription) in &table.subscriptions {
        let key = (*session, &**filter);
        match subscription {
            Some(subscription) => {
                rows.insert(key, checked(scratch, |out| codec::put_subscription(out, subscription)))?
            }
            None => rows.remove(key)?,
        };
    }
    Ok(())
}

fn write_flights(txn: &WriteTransaction, table: &MemTable, scratch: &mut Vec<u8>) -> Result<(), redb::Error> {
    let mut rows = txn.open_table(FLIGHTS)?;
    for ((session, packet_id), layered) in &table.flights {
        let key = (*session, packet_id.get());
        match &layered.row {
            Some(flight) => rows.insert(key, checked(scratch, |out| codec::put_flight(out, flight)))?,
            None => rows.remove(key)?,
        };
    }
    Ok(())
}

fn write_received(txn: &WriteTransaction, table: &MemTable) -> Result<(), redb::Error> {
    let mut rows = txn.open_table(RECEIVED)?;
    for ((session, packet_id), layered) in &table.received {
        let key = (*session, packet_id.get());
        match layered.row {
            Some(()) => rows.insert(key, ())?,
            None => rows.remove(key)?,
        };
    }
    Ok(())
}

fn write_retained(
    txn: &WriteTransaction,
    table: &MemTable,
    scratch: &mut Vec<u8>,
) -> Result<(), redb::Error> {
    let mut rows = txn.open_table(RETAINED)?;
    for (topic, message) in &table.retained {
        let key = retained_key(topic);
        match message {
            Some(message) => rows.insert(&*key, checked(scratch, |out| codec::put_message(out, message)))?,
            None => rows.remove(&*key)?,
        };
    }
    Ok(())
}

fn write_waiting(txn: &WriteTransaction, table: &MemTable, scratch: &mut Vec<u8>) -> Result<(), redb::Error> {
    let mut rows = txn.open_table(WAITING)?;
    for (session, waiting) in &table.waiting {
        rows.insert(session, checked(scratch, |out| codec::put_waiting(out, waiting)))?;
    }
    Ok(())
}

/// Moves messages out of mostly empty segments, a part of them at each checkpoint.
fn move_out(
    txn: &WriteTransaction,
    log: &Log,
    segment_bytes: u64,
    usage: &mut UsageDelta,
) -> Result<(), redb::Error> {
    const AT: [&str; 2] = ["moved_session", "moved_place"];
    let sparse = bodies::sparse(txn, segment_bytes)?;
    if sparse.is_empty() {
        return Ok(());
    }
    let mut meta = txn.open_table(META)?;
    let at = |name| -> Option<u64> { meta.get(name).ok()??.value().try_into().ok().map(u64::from_le_bytes) };
    let from = (at(AT[0]).unwrap_or(0), at(AT[1]).unwrap_or(0));
    let next = queue::move_out(txn, &sparse, from, log, usage)?;
    meta.insert(AT[0], next.0.to_le_bytes().as_slice())?;
    meta.insert(AT[1], next.1.to_le_bytes().as_slice())?;
    Ok(())
}

fn end_sessions(txn: &WriteTransaction, table: &MemTable) -> Result<(), redb::Error> {
    let mut waiting = txn.open_table(WAITING)?;
    let mut subscriptions = txn.open_table(SUBSCRIPTIONS)?;
    let mut flights = txn.open_table(FLIGHTS)?;
    let mut received = txn.open_table(RECEIVED)?;
    for session in &table.ended {
        let session = *session;
        if waiting.remove(session)?.is_some() {
            queue::discard(txn, session)?;
        }
        subscriptions.retain_in((session, "")..(session + 1, ""), |_, _| false)?;
        flights.retain_in((session, 0)..(session + 1, 0), |_, _| false)?;
        received.retain_in((session, 0)..(session + 1, 0), |_, _| false)?;
    }
    Ok(())
}

/// Copies all tables of this snapshot into a new file.
pub(in crate::store) fn copy(read: &CheckpointReader, to: &Path) -> io::Result<()> {
    let from = &read.txn;
    guarded(|| {
        let db = Builder::new().set_cache_size(16 << 20).create(to).map_err(as_io)?;
        let mut txn = db.begin_write().map_err(as_io)?;
        txn.set_quick_repair(true);
        copy_table(from, &txn, META)?;
        migrate::mark_copy(&txn).map_err(as_io)?;
        copy_table(from, &txn, SESSIONS)?;
        copy_table(from, &txn, SUBSCRIPTIONS)?;
        copy_table(from, &txn, BODIES)?;
        copy_table(from, &txn, BODY_USES)?;
        copy_table(from, &txn, FLIGHTS)?;
        copy_table(from, &txn, RECEIVED)?;
        copy_table(from, &txn, RETAINED)?;
        copy_table(from, &txn, WAITING)?;
        queue::copy(from, &txn, &read.log)?;
        txn.commit().map_err(as_io)
    })
}
