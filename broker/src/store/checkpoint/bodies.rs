//! Where the messages of queued rows stand: in the row, once for several rows, or still in the log.
//!
//! A message that outlives its window was written to the log already. Where most of what a window
//! put into a segment outlives it, the rows only say where, and the segment is kept for as long as
//! a row needs it: a backlog is written once, not twice. Elsewhere the message moves into its row,
//! and the segment is recycled.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::message::Message;
use crate::store::Lsn;
use crate::store::checkpoint::row_format::{RowBytes, as_io};
use crate::store::codec::{self, Reader};
use crate::store::location::{LogLocation, MessageRef};
use crate::store::memtable::MemTable;
use crate::store::wal::disk::{Disk, DiskFile, read_full};
use crate::store::wal::segments;

/// Messages with several rows, by the record that brought them.
pub(in crate::store) const BODIES: TableDefinition<'_, u64, RowBytes> = TableDefinition::new("bodies");
/// How many rows each of those has.
pub(in crate::store) const BODY_USES: TableDefinition<'_, u64, u64> = TableDefinition::new("body_uses");
/// Segment → how many rows have their message in it, and how many ever had.
const LOG_USES: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("log_uses");

/// What is read of a segment at first, and at most, in bytes: a queue is read in order, so that the
/// next message is likely to stand right behind.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 256 << 10;
/// Segments that are mostly empty are let be until there are so many bytes of that, whatever the
/// backlog.
const EMPTY_BYTES_MIN: u64 = 64 << 20;

/// Where a packed row has its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum PayloadRef {
    /// Right behind.
    Here,
    /// In [`BODIES`].
    Shared(Lsn),
    /// In the log.
    Log(MessageRef),
}

/// Packs where the message is.
pub(in crate::store) fn put(out: &mut Vec<u8>, body: &PayloadRef) {
    match body {
        PayloadRef::Here => out.push(0),
        PayloadRef::Shared(lsn) => {
            out.push(1);
            codec::put_number(out, *lsn);
        }
        PayloadRef::Log(MessageRef { spot, len, sum }) => {
            out.push(2);
            codec::put_number(out, spot.segment);
            codec::put_number(out, spot.at);
            codec::put_number(out, u64::from(*len));
            codec::put_number(out, u64::from(*sum));
        }
    }
}

/// Reads it back.
pub(in crate::store) fn body(reader: &mut Reader<'_>) -> Option<PayloadRef> {
    Some(match reader.u8()? {
        0 => PayloadRef::Here,
        1 => PayloadRef::Shared(reader.number()?),
        2 => PayloadRef::Log(MessageRef {
            spot: LogLocation { segment: reader.number()?, at: reader.number()? },
            len: reader.u32()?,
            sum: reader.u32()?,
        }),
        _ => return None,
    })
}

/// TrafficTotals by segment. The rows of a queue stand in the order of the log, so that the same
/// segment is meant many times, one after the other.
#[derive(Debug, Default)]
struct SegmentUsage {
    known: BTreeMap<u64, u64>,
    /// The segment that was meant last, and what came to its sum since then.
    last: Option<(u64, u64)>,
}

impl SegmentUsage {
    fn add(&mut self, segment: u64, more: u64) {
        match &mut self.last {
            Some((last, sum)) if *last == segment => *sum += more,
            _ => {
                self.note();
                self.last = Some((segment, more));
            }
        }
    }

    fn note(&mut self) {
        if let Some((segment, more)) = self.last.take() {
            *self.known.entry(segment).or_default() += more;
        }
    }

    fn all(mut self) -> BTreeMap<u64, u64> {
        self.note();
        self.known
    }
}

/// What is to be known of the rows of a table before they are written.
#[derive(Debug, Default)]
pub(in crate::store) struct Survey {
    /// The segments whose messages stay where they are: those of which at least half outlives this
    /// table.
    pub(in crate::store) staying: BTreeSet<u64>,
    /// There are messages in other ones.
    pub(in crate::store) moving: bool,
    /// Some were brought together with others.
    pub(in crate::store) shared: bool,
}

impl Survey {
    pub(in crate::store) fn of(table: &MemTable) -> Survey {
        let (mut live, mut shared) = (SegmentUsage::default(), false);
        table.queue.iter().for_each(|(_, row)| {
            let count = table.siblings(row).map_or(1, |siblings| siblings.count.max(1));
            shared |= count > 1;
            if let Err(MessageRef { spot, len, .. }) = row.body() {
                live.add(spot.segment, u64::from(len / count));
            }
        });
        let live = live.all();
        let stays = |(segment, live): (&u64, &u64)| {
            let covered = table.covers.get(segment).copied().unwrap_or(u64::MAX);
            (*live >= covered / 2).then_some(*segment)
        };
        let staying: BTreeSet<u64> = live.iter().filter_map(stays).collect();
        Survey { moving: staying.len() < live.len(), staying, shared }
    }
}

/// What a checkpoint changes about who needs which message.
#[derive(Debug, Default)]
pub(in crate::store) struct UsageDelta {
    less_shared: HashMap<Lsn, u64>,
    less_log: SegmentUsage,
    more_log: SegmentUsage,
    moved: u64,
}

/// What follows from that for the segments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct CheckpointResult {
    /// They are needed now.
    pub(in crate::store) kept: Vec<u64>,
    /// They are not any more.
    pub(in crate::store) freed: Vec<u64>,
    /// Messages that were moved out of sparse ones.
    pub(in crate::store) moved: u64,
}

impl UsageDelta {
    /// A row that needs this is written.
    pub(in crate::store) fn more(&mut self, body: &PayloadRef) {
        if let PayloadRef::Log(place) = body {
            self.more_log.add(place.spot.segment, 1);
        }
    }

    /// A row that needed this is gone.
    pub(in crate::store) fn less(&mut self, body: &PayloadRef) {
        match body {
            PayloadRef::Here => {}
            PayloadRef::Shared(lsn) => *self.less_shared.entry(*lsn).or_default() += 1,
            PayloadRef::Log(place) => self.less_log.add(place.spot.segment, 1),
        }
    }

    /// A row has its message now.
    pub(in crate::store) fn moved(&mut self, body: &PayloadRef) {
        self.less(body);
        self.moved += 1;
    }

    /// Writes it down.
    pub(in crate::store) fn settle(self, txn: &WriteTransaction) -> Result<CheckpointResult, redb::Error> {
        let (mut uses, mut bodies) = (txn.open_table(BODY_USES)?, txn.open_table(BODIES)?);
        for (body, fewer) in self.less_shared {
            let left = uses.get(body)?.map_or(0, |uses| uses.value()).saturating_sub(fewer);
            if left == 0 {
                uses.remove(body)?;
                bodies.remove(body)?;
            } else {
                uses.insert(body, left)?;
            }
        }
        let mut settled = CheckpointResult { moved: self.moved, ..CheckpointResult::default() };
        let mut log = txn.open_table(LOG_USES)?;
        for (segment, more) in self.more_log.all() {
            let (now, ever) = log.get(segment)?.map_or((0, 0), |uses| uses.value());
            log.insert(segment, (now + more, ever + more))?;
            settled.kept.push(segment);
        }
        for (segment, fewer) in self.less_log.all() {
            let (now, ever) = log.get(segment)?.map_or((0, 0), |uses| uses.value());
            if now > fewer {
                log.insert(segment, (now - fewer, ever))?;
            } else {
                log.remove(segment)?;
                settled.kept.retain(|kept| *kept != segment);
                settled.freed.push(segment);
            }
        }
        Ok(settled)
    }
}

/// The segments that are needed.
pub(in crate::store) fn needed(txn: &redb::ReadTransaction) -> io::Result<BTreeSet<u64>> {
    match txn.open_table(LOG_USES) {
        Ok(table) => table
            .iter()
            .map_err(as_io)?
            .map(|row| row.map(|(segment, _)| segment.value()).map_err(as_io))
            .collect(),
        // A checkpoint of format 1.
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(BTreeSet::new()),
        Err(error) => Err(as_io(error)),
    }
}

/// Segments to be emptied, since the kept ones have become more empty than full: those that are.
pub(in crate::store) fn sparse(
    txn: &WriteTransaction,
    segment_bytes: u64,
) -> Result<BTreeSet<u64>, redb::Error> {
    let log = txn.open_table(LOG_USES)?;
    let (mut full, mut empty) = (0, 0);
    let mut sparse = BTreeSet::new();
    for row in log.iter()? {
        let (segment, uses) = row?;
        let (now, ever) = uses.value();
        let live = segment_bytes.saturating_mul(now) / ever.max(1);
        full += live;
        empty += segment_bytes - live.min(segment_bytes);
        if now <= ever / 2 {
            sparse.insert(segment.value());
        }
    }
    let min = EMPTY_BYTES_MIN.min(segment_bytes.saturating_mul(16));
    Ok(if empty > full.max(min) { sparse } else { BTreeSet::new() })
}

/// Reads messages that stand in the log.
#[derive(Debug)]
pub(in crate::store) struct Log {
    disk: Arc<dyn Disk>,
    open: RefCell<Option<OpenSegment>>,
    failed: RefCell<Option<io::Error>>,
}

#[derive(Debug)]
struct OpenSegment {
    segment: u64,
    file: Arc<dyn DiskFile>,
    /// What was read of it, and where that begins.
    bytes: Vec<u8>,
    at: u64,
}

impl Log {
    pub(in crate::store) fn new(disk: Arc<dyn Disk>) -> Log {
        Log { disk, open: RefCell::new(None), failed: RefCell::new(None) }
    }

    /// The message that stands there; `None` where it is not whole, or the disk could not be read
    /// ([`failure`](Self::failure) tells).
    pub(in crate::store) fn message(&self, place: &MessageRef) -> Option<Message> {
        self.read(place).unwrap_or_else(|error| {
            *self.failed.borrow_mut() = Some(error);
            None
        })
    }

    /// That the disk could not be read since this was asked last.
    pub(in crate::store) fn failure(&self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn read(&self, place: &MessageRef) -> io::Result<Option<Message>> {
        let MessageRef { spot, len, sum } = *place;
        let len = len as usize;
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_none_or(|open| open.segment != spot.segment) {
            let file = match self.disk.open(&segments::name(spot.segment), false) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            *open = Some(OpenSegment { segment: spot.segment, file, bytes: Vec::new(), at: 0 });
        }
        let Some(open) = open.as_mut() else { return Ok(None) };
        let within =
            |open: &OpenSegment| spot.at.checked_sub(open.at).and_then(|at| usize::try_from(at).ok());
        let known = |open: &OpenSegment| within(open).is_some_and(|at| at + len <= open.bytes.len());
        if !known(open) {
            // More at once where the reading goes on from what was read last.
            let near = within(open).is_some_and(|at| at <= open.bytes.len() + READ_MIN);
            let more = if near { (open.bytes.len() * 2).clamp(READ_MIN, READ_MAX) } else { READ_MIN };
            // What does not end within the file is not there; a damaged length takes no memory.
            let left = open.file.len()?.saturating_sub(spot.at);
            let wanted = (more.max(len) as u64).min(left) as usize;
            open.bytes.resize(wanted, 0);
            let read = read_full(&*open.file, &mut open.bytes, spot.at)?;
            open.bytes.truncate(read);
            open.at = spot.at;
        }
        let bytes = within(open).and_then(|at| open.bytes.get(at..at + len));
        Ok(bytes.filter(|bytes| crc32c::crc32c(bytes) == sum).and_then(Message::from_bytes))
    }
}
