//! The queues in the checkpoint: rows in a run stand together in chunks, since a B-tree pays for each of its entries.
//!
//! A chunk is written once. Rows that are gone are noted beside it until all of them are; then all of it goes.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::checkpoint::{BODIES, BODY_USES, Bytes, as_io, checked, copy_table, seal, unsealed, verified};
use super::codec::{self, Reader};
use super::table::{QueueRow, Table};
use super::{Lsn, Seq};
use crate::message::{Message, SessionNumber};
use crate::outbox::Delivery;

/// Session and first place → the rows from there on.
const CHUNKS: TableDefinition<'_, (u64, u64), Bytes> = TableDefinition::new("queue_chunks");
/// Rows that are gone out of chunks that are not.
const GONE: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("queue_gone");
/// Sessions that ended with something in their queue.
const GARBAGE: TableDefinition<'_, u64, ()> = TableDefinition::new("garbage");

/// With its key and head it fits into a page of 16 KiB.
const CHUNK_BYTES_MAX: usize = 15_500;
/// Rows of ended sessions that one checkpoint removes, so that no checkpoint takes long.
const GARBAGE_ROWS_MAX: usize = 50_000;

/// How many uses of messages that stand elsewhere are over, by message.
pub(super) type Less = HashMap<Lsn, u64>;

/// Gets a row's place, and how to read it; whether it wants more.
pub(super) type Give<'g> = dyn FnMut(Seq, &mut dyn FnMut() -> Option<Delivery>) -> bool + 'g;

/// The rows of a chunk, each still packed.
fn rows(chunk: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = Reader(verified(chunk)?);
    let mut rows = Vec::new();
    while !reader.0.is_empty() {
        rows.push(codec::bytes(&mut reader)?);
    }
    Some(rows)
}

/// Where a packed row has its message, if that is elsewhere.
fn body_of(row: &[u8]) -> Option<Lsn> {
    let mut body = None;
    let mut note = |lsn| {
        body = Some(lsn);
        None
    };
    // Without the message this is no delivery; its place is what is asked for.
    let _ = codec::delivery(&mut Reader(row), 0, |reader| placed(reader, &mut note));
    body
}

fn placed(reader: &mut Reader<'_>, fetch: &mut dyn FnMut(Lsn) -> Option<Message>) -> Option<Message> {
    match codec::shared_body(reader)? {
        Some(lsn) => fetch(lsn),
        None => codec::message(reader),
    }
}

/// Makes the tables.
pub(super) fn create(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(CHUNKS)?;
    txn.open_table(GONE)?;
    txn.open_table(GARBAGE)?;
    Ok(())
}

/// Copies them.
pub(super) fn copy(from: &ReadTransaction, to: &WriteTransaction) -> io::Result<()> {
    copy_table(from, to, CHUNKS)?;
    copy_table(from, to, GONE)?;
    copy_table(from, to, GARBAGE)
}

/// A session ended: what it has in its queue is removed bit by bit.
pub(super) fn discard(txn: &WriteTransaction, session: SessionNumber) -> Result<(), redb::Error> {
    txn.open_table(GARBAGE)?.insert(session, ())?;
    Ok(())
}

/// A run of rows on its way into a chunk.
#[derive(Default)]
struct Run {
    session: SessionNumber,
    first: Seq,
    count: u64,
    bytes: Vec<u8>,
}

/// Writes the rows of a table, and takes away those that are gone.
pub(super) fn write(txn: &WriteTransaction, table: &Table, less: &mut Less) -> Result<(), redb::Error> {
    take_away(txn, table, less)?;
    let mut chunks = txn.open_table(CHUNKS)?;
    let mut bodies = txn.open_table(BODIES)?;
    let mut body_uses = txn.open_table(BODY_USES)?;
    // A message with one row left stands in it; one with several is written once.
    let mut uses: HashMap<Lsn, u64> = HashMap::new();
    for row in table.queue.values().flatten().filter(|row| row.shared_by > 1) {
        *uses.entry(row.lsn).or_default() += 1;
    }
    let mut written: BTreeSet<Lsn> = BTreeSet::new();
    let (mut packed, mut run) = (Vec::new(), Run::default());
    let mut put = |run: &mut Run| -> Result<(), redb::Error> {
        if run.count > 0 {
            seal(&mut run.bytes);
            chunks.insert((run.session, run.first), run.bytes.as_slice())?;
        }
        run.count = 0;
        Ok(())
    };
    let mut scratch = Vec::new();
    for ((session, seq), row) in &table.queue {
        let Some(row) = row else { continue };
        let shared = uses.get(&row.lsn).copied().filter(|uses| *uses > 1);
        if let Some(uses) = shared
            && written.insert(row.lsn)
        {
            let message = &row.delivery.message;
            bodies.insert(row.lsn, checked(&mut scratch, |out| codec::put_message(out, message)))?;
            body_uses.insert(row.lsn, uses)?;
        }
        packed.clear();
        pack(&mut packed, row, shared.is_some());
        let goes_on = run.session == *session && run.first + run.count == *seq;
        if run.count > 0 && (!goes_on || run.bytes.len() + packed.len() > CHUNK_BYTES_MAX) {
            put(&mut run)?;
        }
        if run.count == 0 {
            (run.session, run.first) = (*session, *seq);
            unsealed(&mut run.bytes);
        }
        run.count += 1;
        codec::put_bytes(&mut run.bytes, &packed);
    }
    put(&mut run)
}

fn pack(out: &mut Vec<u8>, row: &QueueRow, shared: bool) {
    codec::put_delivery_terms(out, &row.delivery);
    codec::put_shared_body(out, shared.then_some(row.lsn));
    if !shared {
        codec::put_message(out, &row.delivery.message);
    }
}

fn take_away(txn: &WriteTransaction, table: &Table, less: &mut Less) -> Result<(), redb::Error> {
    let mut chunks = txn.open_table(CHUNKS)?;
    let mut gone = txn.open_table(GONE)?;
    let mut over = table.queue.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| *key).peekable();
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
        let mut before = BTreeSet::new();
        for row in gone.range((session, first)..(session, end))? {
            before.insert(row?.0.value().1);
        }
        for seq in lost.difference(&before) {
            if let Some(Some(body)) = bodies.get((seq - first) as usize) {
                *less.entry(*body).or_default() += 1;
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

/// Removes some of what ended sessions have left in their queues.
pub(super) fn collect_garbage(txn: &WriteTransaction, less: &mut Less) -> Result<(), redb::Error> {
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
        let end = first + bodies.len().max(1) as u64;
        let mut before = BTreeSet::new();
        for row in gone.range((session, first)..(session, end))? {
            before.insert(row?.0.value().1);
        }
        for (seq, body) in (first..).zip(&bodies) {
            if let Some(body) = body.filter(|_| !before.contains(&seq)) {
                *less.entry(body).or_default() += 1;
            }
        }
        for seq in before {
            gone.remove((session, seq))?;
        }
        chunks.remove((session, first))?;
        left = left.saturating_sub(bodies.len().max(1));
    }
    Ok(())
}

/// Where a chunk begins, and where its rows have their messages if that is elsewhere.
type Chunk = (Seq, Vec<Option<Lsn>>);

/// The first chunk of a session: where it begins, and where its rows have their messages.
fn first_chunk(
    chunks: &impl ReadableTable<(u64, u64), Bytes>,
    session: SessionNumber,
) -> Result<Option<Chunk>, redb::Error> {
    let Some(found) = chunks.range((session, 0)..(session + 1, 0))?.next() else { return Ok(None) };
    let (key, chunk) = found?;
    let bodies = rows(chunk.value()).unwrap_or_default().into_iter().map(body_of).collect();
    Ok(Some((key.value().1, bodies)))
}

/// Goes through the rows of a queue in this range for as long as `give` wants more; it gets each row's place, and how to read
/// it. `corrupt` hears of rows and chunks that are not as they should be.
pub(super) fn read(
    txn: &ReadTransaction,
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
        let end = first + rows.len() as u64;
        let mut missing = BTreeSet::new();
        for row in gone.range((session, first)..(session, end)).map_err(as_io)? {
            missing.insert(row.map_err(as_io)?.0.value().1);
        }
        for (seq, row) in (first..).zip(rows).filter(|(seq, _)| range.contains(seq) && !missing.contains(seq))
        {
            let mut read = || {
                let found = Reader::all(row, |reader| {
                    codec::delivery(reader, seq, |reader| {
                        placed(reader, &mut |lsn| {
                            let body = bodies.get(lsn).ok()??;
                            Reader::all(verified(body.value())?, codec::message)
                        })
                    })
                });
                if found.is_none() {
                    corrupt(session, seq);
                }
                found
            };
            if !give(seq, &mut read) {
                return Ok(());
            }
        }
    }
    Ok(())
}
