//! Locations of queued messages: in the row, shared by several rows, or still in the log.
//!
//! A message that outlives its window was written to the log already. If most messages of a segment
//! outlive the window, their rows only refer to the log, and the segment is kept while a row needs
//! it. So a backlog is written once, not twice. Otherwise the messages move into their rows, and
//! the segment is recycled.

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

/// Messages with several rows, by the LSN of their record.
pub(in crate::store) const BODIES: TableDefinition<'_, u64, RowBytes> = TableDefinition::new("bodies");
/// Number of rows of each shared message.
pub(in crate::store) const BODY_USES: TableDefinition<'_, u64, u64> = TableDefinition::new("body_uses");
/// Segment → rows that have their message in it now, and the highest number of them.
const LOG_USES: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("log_uses");

/// First and largest read from a segment, in bytes. A queue is read in order, so the next message
/// is likely to follow directly.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 256 << 10;
/// Bytes of waste in mostly empty segments below which they stay, whatever the backlog.
const EMPTY_BYTES_MIN: u64 = 64 << 20;

/// Location of a packed row's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum PayloadRef {
    /// Directly behind the row.
    Here,
    /// In [`BODIES`].
    Shared(Lsn),
    /// In the log.
    Log(MessageRef),
}

/// Packs the location.
pub(in crate::store) fn put(out: &mut Vec<u8>, body: &PayloadRef) {
    match body {
        PayloadRef::Here => out.push(0),
        PayloadRef::Shared(lsn) => {
            out.push(1);
            codec::put_number(out, *lsn);
        }
        PayloadRef::Log(MessageRef { location, len, sum }) => {
            out.push(2);
            codec::put_number(out, location.segment);
            codec::put_number(out, location.at);
            codec::put_number(out, u64::from(*len));
            codec::put_number(out, u64::from(*sum));
        }
    }
}

/// Unpacks a location.
pub(in crate::store) fn body(reader: &mut Reader<'_>) -> Option<PayloadRef> {
    Some(match reader.u8()? {
        0 => PayloadRef::Here,
        1 => PayloadRef::Shared(reader.number()?),
        2 => PayloadRef::Log(MessageRef {
            location: LogLocation { segment: reader.number()?, at: reader.number()? },
            len: reader.u32()?,
            sum: reader.u32()?,
        }),
        _ => return None,
    })
}

/// Sums by segment. Rows of a queue are in the order of the log, so consecutive rows mostly name
/// the same segment.
#[derive(Debug, Default)]
struct SegmentUsage {
    known: BTreeMap<u64, u64>,
    /// Segment of the last row, and its change since then.
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

/// Properties of a table's rows, computed before they are written.
#[derive(Debug, Default)]
pub(in crate::store) struct Survey {
    /// Segments whose messages stay in place: at least half of them outlives this table.
    pub(in crate::store) staying: BTreeSet<u64>,
    /// Set when messages are in other segments.
    pub(in crate::store) moving: bool,
    /// Set when rows share a message.
    pub(in crate::store) shared: bool,
}

impl Survey {
    pub(in crate::store) fn of(table: &MemTable) -> Survey {
        let (mut live, mut shared) = (SegmentUsage::default(), false);
        table.queue.iter().for_each(|(_, row)| {
            let count = table.shared_body(row).map_or(1, |shared| shared.count.max(1));
            shared |= count > 1;
            if let Err(MessageRef { location, len, .. }) = row.body() {
                live.add(location.segment, u64::from(len / count));
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

/// Changes of a checkpoint to the uses of messages.
#[derive(Debug, Default)]
pub(in crate::store) struct UsageDelta {
    less_shared: HashMap<Lsn, u64>,
    less_log: SegmentUsage,
    more_log: SegmentUsage,
    moved: u64,
}

/// Effect of a checkpoint on the segments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct CheckpointResult {
    /// Segments that are needed from now on.
    pub(in crate::store) kept: Vec<u64>,
    /// Segments that are no longer needed.
    pub(in crate::store) freed: Vec<u64>,
    /// Messages that were moved out of sparse segments.
    pub(in crate::store) moved: u64,
}

impl UsageDelta {
    /// Counts a row that needs this message.
    pub(in crate::store) fn more(&mut self, body: &PayloadRef) {
        if let PayloadRef::Log(reference) = body {
            self.more_log.add(reference.location.segment, 1);
        }
    }

    /// Counts a removed row that needed this message.
    pub(in crate::store) fn less(&mut self, body: &PayloadRef) {
        match body {
            PayloadRef::Here => {}
            PayloadRef::Shared(lsn) => *self.less_shared.entry(*lsn).or_default() += 1,
            PayloadRef::Log(reference) => self.less_log.add(reference.location.segment, 1),
        }
    }

    /// Counts a row that has its message itself now.
    pub(in crate::store) fn moved(&mut self, body: &PayloadRef) {
        self.less(body);
        self.moved += 1;
    }

    /// Writes the changes to the tables.
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

/// Segments that are needed.
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

/// Segments to be emptied, if the kept segments are more than half empty.
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

/// Reader of messages in the log.
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
    /// Bytes read from the segment, and their offset.
    bytes: Vec<u8>,
    at: u64,
}

impl Log {
    pub(in crate::store) fn new(disk: Arc<dyn Disk>) -> Log {
        Log { disk, open: RefCell::new(None), failed: RefCell::new(None) }
    }

    /// Reads the message; `None` if it is damaged or the disk failed ([`failure`](Self::failure)
    /// tells).
    pub(in crate::store) fn message(&self, reference: &MessageRef) -> Option<Message> {
        self.read(reference).unwrap_or_else(|error| {
            *self.failed.borrow_mut() = Some(error);
            None
        })
    }

    /// Disk error since the last call.
    pub(in crate::store) fn failure(&self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn read(&self, reference: &MessageRef) -> io::Result<Option<Message>> {
        let MessageRef { location, len, sum } = *reference;
        let len = len as usize;
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_none_or(|open| open.segment != location.segment) {
            let file = match self.disk.open(&segments::name(location.segment), false) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            *open = Some(OpenSegment { segment: location.segment, file, bytes: Vec::new(), at: 0 });
        }
        let Some(open) = open.as_mut() else { return Ok(None) };
        let within =
            |open: &OpenSegment| location.at.checked_sub(open.at).and_then(|at| usize::try_from(at).ok());
        let known = |open: &OpenSegment| within(open).is_some_and(|at| at + len <= open.bytes.len());
        if !known(open) {
            // Reads more at once when reading continues behind the last read.
            let near = within(open).is_some_and(|at| at <= open.bytes.len() + READ_MIN);
            let more = if near { (open.bytes.len() * 2).clamp(READ_MIN, READ_MAX) } else { READ_MIN };
            // A message beyond the end of the file is damaged; a damaged length allocates no
            // memory.
            let left = open.file.len()?.saturating_sub(location.at);
            let wanted = (more.max(len) as u64).min(left) as usize;
            open.bytes.resize(wanted, 0);
            let read = read_full(&*open.file, &mut open.bytes, location.at)?;
            open.bytes.truncate(read);
            open.at = location.at;
        }
        let bytes = within(open).and_then(|at| open.bytes.get(at..at + len));
        Ok(bytes.filter(|bytes| crc32c::crc32c(bytes) == sum).and_then(Message::from_bytes))
    }
}
