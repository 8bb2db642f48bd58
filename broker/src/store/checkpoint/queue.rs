//! Session queues in the checkpoint. Consecutive rows form chunks, since a B-tree has a cost for
//! each entry.
//!
//! A chunk is written once. Removed rows are recorded beside it; a chunk without remaining rows is
//! removed.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use tracing::warn;

use super::bodies::{self, BODIES, BODY_USES, Log, PayloadRef, Survey, UsageDelta};
use crate::message::{Delivery, Message, Seq, SessionNumber};
use crate::store::Lsn;
use crate::store::checkpoint::row_format::{RowBytes, as_io, checked, copy_table, seal, unsealed, verified};
use crate::store::codec::{self, Reader};
use crate::store::location::{LogLocation, MessageRef};
use crate::store::memtable::MemTable;
use crate::store::memtable::row::{Row, SharedBody};

/// Session and first slot → the rows from there on.
const CHUNKS: TableDefinition<'_, (u64, u64), RowBytes> = TableDefinition::new("queue_chunks");
/// Removed rows of chunks that still exist.
const GONE: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("queue_gone");
/// Ended sessions that had rows in their queue.
const GARBAGE: TableDefinition<'_, u64, ()> = TableDefinition::new("garbage");

/// With key and head, a chunk of this size fits into a page of 16 KiB.
const CHUNK_BYTES_MAX: usize = 15_500;
/// Rows of ended sessions that one checkpoint removes at most, so that no checkpoint takes long.
const GARBAGE_ROWS_MAX: usize = 50_000;
/// Maximum number of chunks that one checkpoint scans for rows in mostly empty segments, and of
/// rows that it moves.
const SCANNED_MAX: usize = 2_000;
const MOVED_MAX: usize = 20_000;

/// Callback for a row: gets its slot and a function that reads it; returns false to stop.
pub(in crate::store) type Give<'g> = dyn FnMut(Seq, &mut dyn FnMut() -> Option<Delivery>) -> bool + 'g;

/// Splits a chunk into its packed rows.
fn rows(chunk: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = Reader::new(verified(chunk)?);
    let mut rows = Vec::new();
    while !reader.rest().is_empty() {
        rows.push(reader.bytes()?);
    }
    Some(rows)
}

/// Location of a packed row's message.
fn body_of(row: &[u8]) -> PayloadRef {
    let mut body = PayloadRef::Here;
    // The delivery is not needed here, only the location behind its terms.
    let _ = codec::delivery(&mut Reader::new(row), 0, |reader| {
        body = bodies::body(reader)?;
        None
    });
    body
}

/// Unpacks a row, with its message from any location.
fn unpack(
    row: &[u8],
    seq: Seq,
    shared: &mut dyn FnMut(Lsn) -> Option<Message>,
    log: &Log,
) -> Option<Delivery> {
    Reader::all(row, |reader| {
        codec::delivery(reader, seq, |reader| match bodies::body(reader)? {
            PayloadRef::Here => codec::message(reader),
            PayloadRef::Shared(lsn) => shared(lsn),
            PayloadRef::Log(reference) => log.message(&reference),
        })
    })
}

/// Packs the end of a row: the message if it is given, else its location.
fn put_body(out: &mut Vec<u8>, body: &PayloadRef, message: Option<&Message>) {
    bodies::put(out, body);
    if let Some(message) = message {
        codec::put_message(out, message);
    }
}

/// Creates the tables.
pub(in crate::store) fn create(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(CHUNKS)?;
    txn.open_table(GONE)?;
    txn.open_table(GARBAGE)?;
    Ok(())
}

/// Copies the tables. Messages in the log move into their rows, so that the copy needs no log.
pub(in crate::store) fn copy(from: &ReadTransaction, to: &WriteTransaction, log: &Log) -> io::Result<()> {
    let chunks = from.open_table(CHUNKS).map_err(as_io)?;
    let gone = from.open_table(GONE).map_err(as_io)?;
    let mut copied = to.open_table(CHUNKS).map_err(as_io)?;
    let mut copied_gone = to.open_table(GONE).map_err(as_io)?;
    for chunk in chunks.iter().map_err(as_io)? {
        let (key, chunk) = chunk.map_err(as_io)?;
        let (session, first) = key.value();
        let Some(rows) = rows(chunk.value()) else {
            copied.insert((session, first), chunk.value()).map_err(as_io)?;
            continue;
        };
        let missing = missing(&gone, session, first, rows.len()).map_err(as_io)?;
        let apart = Apart { session, first, rows: &rows, missing: &missing };
        for piece in without_log(&apart, &|_| true, log, &mut UsageDelta::default()) {
            for seq in missing.range(piece.first..piece.first + piece.count) {
                copied_gone.insert((session, *seq), ()).map_err(as_io)?;
            }
            copied.insert((session, piece.first), piece.bytes.as_slice()).map_err(as_io)?;
        }
        log.failure()?;
    }
    copy_table(from, to, GARBAGE)
}

/// Removed rows of a chunk.
fn missing(
    gone: &impl ReadableTable<(u64, u64), ()>,
    session: SessionNumber,
    first: Seq,
    rows: usize,
) -> Result<BTreeSet<Seq>, redb::StorageError> {
    let end = first + rows.max(1) as u64;
    gone.range((session, first)..(session, end))?.map(|row| row.map(|row| row.0.value().1)).collect()
}

/// A chunk, split into rows.
struct Apart<'a> {
    session: SessionNumber,
    first: Seq,
    rows: &'a [&'a [u8]],
    /// Slots of the removed rows.
    missing: &'a BTreeSet<Seq>,
}

/// Rewrites a chunk, in one piece or several, with the messages of these segments moved into it.
/// Pieces without remaining rows are omitted.
fn without_log(
    chunk: &Apart<'_>,
    leaves: &dyn Fn(u64) -> bool,
    log: &Log,
    balance: &mut UsageDelta,
) -> Vec<Run> {
    let Apart { session, first, rows, missing } = *chunk;
    let mut pieces: Vec<Run> = Vec::new();
    let mut packed = Vec::new();
    let mut run = Run { session, first, ..Run::default() };
    unsealed(&mut run.bytes);
    let mut used = false;
    let mut end = |run: &mut Run, used: &mut bool| {
        let next = Run { session, first: run.first + run.count, ..Run::default() };
        let mut done = std::mem::replace(run, next);
        unsealed(&mut run.bytes);
        seal(&mut done.bytes);
        if std::mem::take(used) {
            pieces.push(done);
        }
    };
    for (seq, row) in (first..).zip(rows) {
        let body = body_of(row);
        let moves = matches!(body, PayloadRef::Log(reference) if leaves(reference.location.segment));
        let row: &[u8] = if missing.contains(&seq) {
            &[]
        } else if let Some(delivery) = moves.then(|| unpack(row, seq, &mut |_| None, log)).flatten() {
            balance.moved(&body);
            packed.clear();
            codec::put_terms(&mut packed, &delivery.terms);
            put_body(&mut packed, &PayloadRef::Here, Some(&delivery.message));
            &packed
        } else {
            row
        };
        if run.count > 0 && run.bytes.len() + row.len() > CHUNK_BYTES_MAX {
            end(&mut run, &mut used);
        }
        used |= !missing.contains(&seq);
        run.count += 1;
        codec::put_bytes(&mut run.bytes, row);
    }
    end(&mut run, &mut used);
    pieces
}

/// Moves some messages out of mostly empty segments, from `from` on; returns the slot to continue
/// at.
pub(in crate::store) fn move_out(
    txn: &WriteTransaction,
    sparse: &BTreeSet<u64>,
    from: (u64, u64),
    log: &Log,
    balance: &mut UsageDelta,
) -> Result<(u64, u64), redb::Error> {
    let mut chunks = txn.open_table(CHUNKS)?;
    let mut gone = txn.open_table(GONE)?;
    let leaves = |segment| sparse.contains(&segment);
    let mut found: Vec<((u64, u64), Vec<u8>)> = Vec::new();
    let (mut looked, mut moving, mut next) = (0, 0, (0, 0));
    for chunk in chunks.range(from..)? {
        let (key, chunk) = chunk?;
        if looked >= SCANNED_MAX || moving >= MOVED_MAX {
            next = key.value();
            break;
        }
        looked += 1;
        let in_them = |row: &&[u8]| matches!(body_of(row), PayloadRef::Log(reference) if leaves(reference.location.segment));
        let count = rows(chunk.value()).unwrap_or_default().iter().filter(|row| in_them(row)).count();
        if count > 0 {
            moving += count;
            found.push((key.value(), chunk.value().to_vec()));
        }
    }
    for ((session, first), chunk) in found {
        let rows = rows(&chunk).unwrap_or_default();
        let missing = missing(&gone, session, first, rows.len())?;
        let apart = Apart { session, first, rows: &rows, missing: &missing };
        let pieces = without_log(&apart, &leaves, log, balance);
        log.failure()?;
        chunks.remove((session, first))?;
        let stays =
            |seq: &Seq| pieces.iter().any(|piece| (piece.first..piece.first + piece.count).contains(seq));
        for seq in missing.iter().filter(|seq| !stays(seq)) {
            gone.remove((session, *seq))?;
        }
        for piece in &pieces {
            chunks.insert((session, piece.first), piece.bytes.as_slice())?;
        }
    }
    Ok(next)
}

/// Marks the queue of an ended session for removal in steps.
pub(in crate::store) fn discard(txn: &WriteTransaction, session: SessionNumber) -> Result<(), redb::Error> {
    txn.open_table(GARBAGE)?.insert(session, ())?;
    Ok(())
}

/// Consecutive rows that will form a chunk.
#[derive(Default)]
struct Run {
    session: SessionNumber,
    first: Seq,
    count: u64,
    bytes: Vec<u8>,
}

impl Run {
    /// Begins the row of this slot; returns the offset of its bytes. The first row sets the slot of
    /// the chunk.
    fn begin(&mut self, session: SessionNumber, seq: Seq) -> usize {
        if self.count == 0 {
            (self.session, self.first) = (session, seq);
            unsealed(&mut self.bytes);
        }
        self.bytes.len()
    }
}

/// Messages of a table that move out of the log, by location. A message that cannot be read stays
/// there.
fn moving(table: &MemTable, survey: &Survey, log: &Log) -> HashMap<LogLocation, Message> {
    if !survey.moving {
        return HashMap::new();
    }
    let references = table.queue.iter().filter_map(|(_, row)| row.body().err());
    let mut references: Vec<MessageRef> =
        references.filter(|reference| !survey.staying.contains(&reference.location.segment)).collect();
    // In the order of the log, so that most of it is read at once.
    references.sort_unstable_by_key(|reference| reference.location);
    references.dedup();
    let moved = references
        .into_iter()
        .filter_map(|reference| Some((reference.location, log.message(&reference)?)))
        .collect();
    if let Err(error) = log.failure() {
        warn!(%error, "failed to read messages in the log: they are left there");
    }
    moved
}

/// Message of a row, or its location if it stays in the log.
fn here<'m>(row: &'m Row, moving: &'m HashMap<LogLocation, Message>) -> Result<&'m Message, MessageRef> {
    row.body().or_else(|reference| moving.get(&reference.location).ok_or(reference))
}

/// Writes the rows of a table, and removes those that are gone.
pub(in crate::store) fn write(
    txn: &WriteTransaction,
    table: &MemTable,
    log: &Log,
    balance: &mut UsageDelta,
) -> Result<(), redb::Error> {
    take_away(txn, table, balance)?;
    let mut chunks = txn.open_table(CHUNKS)?;
    let mut bodies = txn.open_table(BODIES)?;
    let mut body_uses = txn.open_table(BODY_USES)?;
    let survey = Survey::of(table);
    let moving = moving(table, &survey, log);
    // A message with one remaining row goes into it; one with several is written once.
    let mut uses: HashMap<Lsn, u64> = HashMap::new();
    if survey.shared {
        for (_, row) in table.queue.iter() {
            if let Some(shared) = table.shared_body(row).filter(|_| here(row, &moving).is_ok()) {
                *uses.entry(shared.lsn).or_default() += 1;
            }
        }
    }
    let mut written: BTreeSet<Lsn> = BTreeSet::new();
    let mut run = Run::default();
    let mut put = |run: &mut Run| -> Result<(), redb::Error> {
        if run.count > 0 {
            seal(&mut run.bytes);
            chunks.insert((run.session, run.first), run.bytes.as_slice())?;
        }
        run.count = 0;
        Ok(())
    };
    let mut scratch = Vec::new();
    table.queue.iter().try_for_each(|(session, row)| -> Result<(), redb::Error> {
        let seq = row.seq();
        let uses = |shared: &SharedBody| uses.get(&shared.lsn).is_some_and(|uses| *uses > 1);
        let (body, message) = match here(row, &moving) {
            Err(reference) => (PayloadRef::Log(reference), None),
            Ok(message) => match table.shared_body(row).filter(uses) {
                Some(SharedBody { lsn, .. }) => {
                    if written.insert(lsn) {
                        bodies.insert(lsn, checked(&mut scratch, |out| codec::put_message(out, message)))?;
                    }
                    (PayloadRef::Shared(lsn), None)
                }
                None => (PayloadRef::Here, Some(message)),
            },
        };
        balance.more(&body);
        if run.session != session || run.first + run.count != seq {
            put(&mut run)?;
        }
        let begins = run.begin(session, seq);
        codec::put_sized(&mut run.bytes, |out| {
            codec::put_terms(out, &row.terms());
            put_body(out, &body, message);
        });
        if run.count > 0 && run.bytes.len() > CHUNK_BYTES_MAX {
            // The row is the first of the next chunk.
            let row = run.bytes.split_off(begins);
            put(&mut run)?;
            run.begin(session, seq);
            run.bytes.extend_from_slice(&row);
        }
        run.count += 1;
        Ok(())
    })?;
    for lsn in written {
        body_uses.insert(lsn, uses.get(&lsn).copied().unwrap_or(0))?;
    }
    put(&mut run)
}

fn take_away(txn: &WriteTransaction, table: &MemTable, balance: &mut UsageDelta) -> Result<(), redb::Error> {
    let mut chunks = txn.open_table(CHUNKS)?;
    let mut gone = txn.open_table(GONE)?;
    let mut over = table.gone.keys().copied().peekable();
    while let Some((session, seq)) = over.next() {
        let (first, bodies) = {
            let Some(found) = chunks.range((session, 0)..=(session, seq))?.next_back() else { continue };
            let (key, chunk) = found?;
            let Some(rows) = rows(chunk.value()) else { continue };
            (key.value().1, rows.into_iter().map(body_of).collect::<Vec<_>>())
        };
        let end = first + bodies.len() as u64;
        if seq >= end {
            continue;
        }
        let mut lost: BTreeSet<Seq> = BTreeSet::from([seq]);
        while let Some((_, seq)) = over.next_if(|(of, seq)| *of == session && *seq < end) {
            lost.insert(seq);
        }
        let before = missing(&gone, session, first, bodies.len())?;
        for seq in lost.difference(&before) {
            if let Some(body) = bodies.get((seq - first) as usize) {
                balance.less(body);
            }
        }
        if before.union(&lost).count() == bodies.len() {
            chunks.remove((session, first))?;
            for seq in before {
                gone.remove((session, seq))?;
            }
        } else {
            for seq in lost.difference(&before) {
                gone.insert((session, *seq), ())?;
            }
        }
    }
    Ok(())
}

/// Removes a part of the queues of ended sessions.
pub(in crate::store) fn collect_garbage(
    txn: &WriteTransaction,
    balance: &mut UsageDelta,
) -> Result<(), redb::Error> {
    let mut garbage = txn.open_table(GARBAGE)?;
    let mut chunks = txn.open_table(CHUNKS)?;
    let mut gone = txn.open_table(GONE)?;
    let mut left = GARBAGE_ROWS_MAX;
    while left > 0 {
        let Some(session) = garbage.first()?.map(|(key, _)| key.value()) else { return Ok(()) };
        let Some((first, bodies)) = first_chunk(&chunks, session)? else {
            garbage.remove(session)?;
            left -= 1;
            continue;
        };
        let before = missing(&gone, session, first, bodies.len())?;
        for (_, body) in (first..).zip(&bodies).filter(|(seq, _)| !before.contains(seq)) {
            balance.less(body);
        }
        for seq in before {
            gone.remove((session, seq))?;
        }
        chunks.remove((session, first))?;
        left = left.saturating_sub(bodies.len().max(1));
    }
    Ok(())
}

/// First slot of a chunk, and the locations of its rows' messages.
type Chunk = (Seq, Vec<PayloadRef>);

/// First chunk of a session: its slot, and the locations of its rows' messages.
fn first_chunk(
    chunks: &impl ReadableTable<(u64, u64), RowBytes>,
    session: SessionNumber,
) -> Result<Option<Chunk>, redb::Error> {
    let Some(found) = chunks.range((session, 0)..(session + 1, 0))?.next() else { return Ok(None) };
    let (key, chunk) = found?;
    let bodies = rows(chunk.value()).unwrap_or_default().into_iter().map(body_of).collect();
    Ok(Some((key.value().1, bodies)))
}

/// Reads the rows of a queue in this range until `give` returns false. `corrupt` is called for
/// corrupt rows and chunks.
pub(in crate::store) fn read(
    txn: &ReadTransaction,
    log: &Log,
    session: SessionNumber,
    range: Range<Seq>,
    corrupt: &mut dyn FnMut(SessionNumber, Seq),
    give: &mut Give<'_>,
) -> io::Result<()> {
    let chunks = txn.open_table(CHUNKS).map_err(as_io)?;
    let gone = txn.open_table(GONE).map_err(as_io)?;
    let bodies = txn.open_table(BODIES).map_err(as_io)?;
    let before = chunks.range((session, 0)..=(session, range.start)).map_err(as_io)?.next_back();
    let start = before.transpose().map_err(as_io)?.map_or(range.start, |(key, _)| key.value().1);
    for chunk in chunks.range((session, start)..(session, range.end)).map_err(as_io)? {
        let (key, chunk) = chunk.map_err(as_io)?;
        let first = key.value().1;
        let Some(rows) = rows(chunk.value()) else {
            corrupt(session, first);
            continue;
        };
        let missing = missing(&gone, session, first, rows.len()).map_err(as_io)?;
        for (seq, row) in (first..).zip(rows).filter(|(seq, _)| range.contains(seq) && !missing.contains(seq))
        {
            let mut shared = |lsn| {
                let body = bodies.get(lsn).ok()??;
                Reader::all(verified(body.value())?, codec::message)
            };
            let mut failure = Ok(());
            let mut read = || {
                let found = unpack(row, seq, &mut shared, log);
                failure = log.failure();
                if found.is_none() && failure.is_ok() {
                    corrupt(session, seq);
                }
                found
            };
            let more = give(seq, &mut read);
            // A message that cannot be read now may be readable later: it is not skipped.
            failure?;
            if !more {
                return Ok(());
            }
        }
    }
    Ok(())
}
