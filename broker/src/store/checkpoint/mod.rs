//! The checkpoint: a redb database with all state that outlives the window of the log. A frozen
//! memtable is written to it in one transaction, and nothing else is. `FORMAT.md` lists its tables.

pub(super) mod bodies;
pub(super) mod checkpointer;
pub(in crate::store) mod meta;
mod queue;
pub(in crate::store) mod row_format;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use lapwing_protocol::PacketId;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable,
    StorageBackend, StorageError, TableDefinition, WriteTransaction,
};
use tracing::error;

use super::codec::{self, Reader};
use super::error::OpenError;
use super::record::{KeptFlight, KeptSession, SessionTerms, Waiting};
use crate::message::{Delivery, Message, Seq, SessionNumber};
use crate::store::checkpoint::bodies::{BODIES, BODY_USES, CheckpointResult, Log, UsageDelta};
use crate::store::checkpoint::meta::Meta;
use crate::store::checkpoint::row_format::{RowBytes, as_io, checked, copy_table, guarded, verified};
use crate::store::counters::Counters;
use crate::store::location::MessageRef;
use crate::store::memtable::MemTable;
use crate::store::pins::{ReaderPin, ReaderPins};
use crate::store::wal::disk::{Disk, DiskFile, read_full, write_full};
use crate::store::wal::segments;

/// File name.
pub(in crate::store) const FILE: &str = "checkpoint.redb";
/// Version of the format. Version 1 had no messages in the log; it is read, and becomes this
/// version with the next write.
const FORMAT: u64 = 2;
const FORMAT_MIN: u64 = 1;
/// File name while it is created.
const FILE_NEW: &str = "checkpoint.new";

pub(in crate::store) const META: TableDefinition<'_, &str, RowBytes> = TableDefinition::new("meta");
const SESSIONS: TableDefinition<'_, u64, RowBytes> = TableDefinition::new("sessions");
const SUBSCRIPTIONS: TableDefinition<'_, (u64, &str), RowBytes> = TableDefinition::new("subscriptions");
const FLIGHTS: TableDefinition<'_, (u64, u16), RowBytes> = TableDefinition::new("flights");
const RECEIVED: TableDefinition<'_, (u64, u16), ()> = TableDefinition::new("received");
const RETAINED: TableDefinition<'_, RowBytes, RowBytes> = TableDefinition::new("retained");
const WAITING: TableDefinition<'_, u64, RowBytes> = TableDefinition::new("waiting");

/// redb backend on a [`DiskFile`].
#[derive(Debug)]
struct Backend {
    file: Arc<dyn DiskFile>,
    counters: Arc<Counters>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let wanted = out.len();
        match read_full(&*self.file, out, offset)? {
            n if n == wanted => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.counters.syncs.add(1);
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.counters.checkpoint_bytes.add(data.len() as u64);
        write_full(&*self.file, data, offset)
    }
}

/// The open checkpoint.
#[derive(Debug)]
pub(in crate::store) struct Checkpoint {
    disk: Arc<dyn Disk>,
    counters: Arc<Counters>,
    cache_bytes: usize,
    /// `None` between an error and the next attempt.
    db: Option<Arc<Database>>,
    /// Pins of its readers.
    pins: Arc<ReaderPins>,
}

impl Checkpoint {
    /// Opens the checkpoint, or creates an empty one with this salt.
    pub(in crate::store) fn open(
        disk: Arc<dyn Disk>,
        counters: Arc<Counters>,
        cache_bytes: usize,
        salt: u32,
    ) -> Result<Checkpoint, OpenError> {
        let path = disk.path(FILE);
        let names = disk.list("").map_err(OpenError::io(format!("listing {}", disk.path(""))))?;
        if !names.iter().any(|name| name == FILE) {
            create(&disk, &counters, salt).map_err(OpenError::io(format!("making {path}")))?;
        }
        let db = open_file(&disk, &counters, cache_bytes, FILE).map_err(|error| match error {
            DatabaseError::UpgradeRequired(version) => {
                OpenError::Foreign(format!("{path} has version {version} of the redb file format"))
            }
            DatabaseError::Storage(StorageError::Corrupted(what)) => {
                OpenError::Corrupt { file: path.clone(), offset: 0, what }
            }
            DatabaseError::Storage(StorageError::Io(error))
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                OpenError::Corrupt { file: path.clone(), offset: 0, what: error.to_string() }
            }
            other => OpenError::Io { doing: format!("opening {path}"), error: as_io(other) },
        })?;
        let checkpoint =
            Checkpoint { disk, counters, cache_bytes, db: Some(Arc::new(db)), pins: Arc::default() };
        let format = checkpoint.read().and_then(|read| read.meta_number("format"));
        match format.map_err(OpenError::io(format!("reading {path}")))? {
            Some(FORMAT_MIN..=FORMAT) => Ok(checkpoint),
            Some(format) => Err(OpenError::Foreign(format!(
                "{path} has format {format}, this version of lapwing reads format {FORMAT}"
            ))),
            None => Err(OpenError::Foreign(format!("{path} was not written by lapwing"))),
        }
    }

    /// Opens it again after an error, which leaves redb unusable. There must be no readers.
    pub(in crate::store) fn reopen(&mut self) -> io::Result<()> {
        self.db = None;
        let db = open_file(&self.disk, &self.counters, self.cache_bytes, FILE).map_err(as_io)?;
        self.db = Some(Arc::new(db));
        Ok(())
    }

    /// The database; it can be written while others read.
    pub(in crate::store) fn database(&self) -> Option<Arc<Database>> {
        self.db.clone()
    }

    /// Pins of its readers.
    pub(in crate::store) fn pins(&self) -> &Arc<ReaderPins> {
        &self.pins
    }

    /// Snapshot that later writes do not change.
    pub(in crate::store) fn read(&self) -> io::Result<CheckpointReader> {
        let Some(db) = &self.db else { return Err(io::Error::other("the checkpoint is closed")) };
        let (path, log) = (self.disk.path(FILE), Log::new(self.disk.clone()));
        let pin = self.pins.begin();
        guarded(|| db.begin_read().map(|txn| CheckpointReader { txn, path, log, _pin: pin }).map_err(as_io))
    }
}

fn open_file(
    disk: &Arc<dyn Disk>,
    counters: &Arc<Counters>,
    cache_bytes: usize,
    name: &str,
) -> Result<Database, DatabaseError> {
    let file = disk.open(name, true).map_err(StorageError::Io)?;
    let backend = Backend { file, counters: counters.clone() };
    let open = || {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        builder.create_with_backend(backend)
    };
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(DatabaseError::Storage(StorageError::Corrupted("the file is no database, or damaged".to_owned())))
    })
}

/// Creates an empty checkpoint under another name first: a half-made one is never taken for
/// complete.
fn create(disk: &Arc<dyn Disk>, counters: &Arc<Counters>, salt: u32) -> io::Result<()> {
    if disk.list("")?.iter().any(|name| name == FILE_NEW) {
        disk.remove(FILE_NEW)?;
    }
    let db = open_file(disk, counters, 1 << 20, FILE_NEW).map_err(as_io)?;
    let nothing = Log::new(disk.clone());
    write(&db, &MemTable::default(), &Meta { salt, ..Meta::default() }, &nothing, u64::MAX)?;
    drop(db);
    disk.rename(FILE_NEW, FILE)?;
    disk.sync_folder("")
}

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
    let mut balance = UsageDelta::default();
    {
        let mut put = txn.open_table(META)?;
        for (name, value) in [
            ("format", FORMAT),
            ("lsn", meta.lsn),
            ("clock", meta.clock),
            ("number", meta.number),
            ("last_group", u64::from(meta.last_group)),
            ("salt", u64::from(meta.salt)),
            ("segment", meta.segment),
        ] {
            put.insert(name, value.to_le_bytes().as_slice())?;
        }
    }
    end_sessions(&txn, table)?;
    {
        let mut rows = txn.open_table(SESSIONS)?;
        for (number, terms) in &table.sessions {
            match terms {
                Some(terms) => {
                    rows.insert(number, checked(&mut scratch, |out| codec::put_session(out, terms)))?
                }
                None => rows.remove(number)?,
            };
        }
    }
    {
        let mut rows = txn.open_table(SUBSCRIPTIONS)?;
        for ((session, filter), kept) in &table.subscriptions {
            let key = (*session, &**filter);
            match kept {
                Some(kept) => {
                    rows.insert(key, checked(&mut scratch, |out| codec::put_subscription(out, kept)))?
                }
                None => rows.remove(key)?,
            };
        }
    }
    queue::create(&txn)?;
    queue::write(&txn, table, log, &mut balance)?;
    {
        let mut rows = txn.open_table(FLIGHTS)?;
        for ((session, packet_id), layered) in &table.flights {
            let key = (*session, packet_id.get());
            match &layered.row {
                Some(flight) => {
                    rows.insert(key, checked(&mut scratch, |out| codec::put_flight(out, flight)))?
                }
                None => rows.remove(key)?,
            };
        }
    }
    {
        let mut rows = txn.open_table(RECEIVED)?;
        for ((session, packet_id), layered) in &table.received {
            let key = (*session, packet_id.get());
            match layered.row {
                Some(()) => rows.insert(key, ())?,
                None => rows.remove(key)?,
            };
        }
    }
    {
        let mut rows = txn.open_table(RETAINED)?;
        for (topic, message) in &table.retained {
            let key = retained_key(topic);
            match message {
                Some(message) => {
                    rows.insert(&*key, checked(&mut scratch, |out| codec::put_message(out, message)))?
                }
                None => rows.remove(&*key)?,
            };
        }
    }
    {
        let mut rows = txn.open_table(WAITING)?;
        for (session, waiting) in &table.waiting {
            rows.insert(session, checked(&mut scratch, |out| codec::put_waiting(out, waiting)))?;
        }
    }
    queue::collect_garbage(&txn, &mut balance)?;
    move_out(&txn, log, segment_bytes, &mut balance)?;
    let settled = balance.settle(&txn)?;
    txn.commit()?;
    Ok(settled)
}

/// Moves messages out of mostly empty segments, a part of them at each checkpoint.
fn move_out(
    txn: &WriteTransaction,
    log: &Log,
    segment_bytes: u64,
    balance: &mut UsageDelta,
) -> Result<(), redb::Error> {
    const AT: [&str; 2] = ["moved_session", "moved_place"];
    let sparse = bodies::sparse(txn, segment_bytes)?;
    if sparse.is_empty() {
        return Ok(());
    }
    let mut meta = txn.open_table(META)?;
    let at = |name| -> Option<u64> { meta.get(name).ok()??.value().try_into().ok().map(u64::from_le_bytes) };
    let from = (at(AT[0]).unwrap_or(0), at(AT[1]).unwrap_or(0));
    let next = queue::move_out(txn, &sparse, from, log, balance)?;
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

/// Key of a topic in the broker's order of topics: `/` sorts below every other byte.
fn retained_key(topic: &str) -> Vec<u8> {
    topic.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect()
}

/// Copies all tables of this snapshot into a new file.
pub(in crate::store) fn copy(read: &CheckpointReader, to: &Path) -> io::Result<()> {
    let from = &read.txn;
    guarded(|| {
        let db = Builder::new().set_cache_size(16 << 20).create(to).map_err(as_io)?;
        let mut txn = db.begin_write().map_err(as_io)?;
        txn.set_quick_repair(true);
        copy_table(from, &txn, META)?;
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

/// A snapshot of the checkpoint.
pub(in crate::store) struct CheckpointReader {
    txn: ReadTransaction,
    path: String,
    log: Log,
    _pin: ReaderPin,
}

impl CheckpointReader {
    fn meta_number(&self, name: &str) -> io::Result<Option<u64>> {
        let table = match self.txn.open_table(META) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(as_io(error)),
        };
        let value = table.get(name).map_err(as_io)?;
        Ok(value.and_then(|value| value.value().try_into().ok().map(u64::from_le_bytes)))
    }

    pub(in crate::store) fn meta(&self) -> io::Result<Meta> {
        let number = |name| self.meta_number(name).map(Option::unwrap_or_default);
        Ok(Meta {
            lsn: number("lsn")?,
            clock: number("clock")?,
            number: number("number")?,
            last_group: u32::try_from(number("last_group")?).unwrap_or(0),
            salt: u32::try_from(number("salt")?).unwrap_or(0),
            segment: number("segment")?,
        })
    }

    /// Logs, counts and skips a corrupt row.
    fn corrupt(&self, table: &str, key: &dyn std::fmt::Debug, bad: &mut u64) {
        *bad += 1;
        error!(file = %self.path, table, ?key, "a row of the checkpoint is corrupt and is skipped");
    }

    /// Reads rows of a queue, until `give` returns false.
    pub(in crate::store) fn queue(
        &self,
        session: SessionNumber,
        range: std::ops::Range<Seq>,
        bad: &mut u64,
        mut give: impl FnMut(Seq, &mut dyn FnMut() -> Option<Delivery>) -> bool,
    ) -> io::Result<()> {
        let mut corrupt = |session, seq: Seq| self.corrupt("queue_chunks", &(session, seq), bad);
        guarded(|| queue::read(&self.txn, &self.log, session, range, &mut corrupt, &mut give))
    }

    /// Reads a message from the log; `None` when it is damaged.
    pub(in crate::store) fn logged(
        &self,
        reference: &MessageRef,
        bad: &mut u64,
    ) -> io::Result<Option<Message>> {
        let message = self.log.message(reference);
        self.log.failure()?;
        if message.is_none() {
            *bad += 1;
            let file = segments::name(reference.location.segment);
            error!(file, offset = reference.location.at, "a message in the log is damaged: it is skipped");
        }
        Ok(message)
    }

    /// Segments that hold messages of the checkpoint.
    pub(in crate::store) fn segments(&self) -> io::Result<BTreeSet<u64>> {
        guarded(|| bodies::needed(&self.txn))
    }

    pub(in crate::store) fn retained(&self, topic: &str, bad: &mut u64) -> io::Result<Option<Message>> {
        guarded(|| {
            let rows = self.txn.open_table(RETAINED).map_err(as_io)?;
            let Some(row) = rows.get(&*retained_key(topic)).map_err(as_io)? else { return Ok(None) };
            let message = verified(row.value()).and_then(|row| Reader::all(row, codec::message));
            if message.is_none() {
                self.corrupt("retained", &topic, bad);
            }
            Ok(message)
        })
    }

    /// All retained messages, in the broker's order of topics.
    pub(in crate::store) fn each_retained(
        &self,
        bad: &mut u64,
        give: &mut dyn FnMut(Message),
    ) -> io::Result<()> {
        guarded(|| {
            let rows = self.txn.open_table(RETAINED).map_err(as_io)?;
            for row in rows.iter().map_err(as_io)? {
                let (key, value) = row.map_err(as_io)?;
                match verified(value.value()).and_then(|row| Reader::all(row, codec::message)) {
                    Some(message) => give(message),
                    None => self.corrupt("retained", &String::from_utf8_lossy(key.value()), bad),
                }
            }
            Ok(())
        })
    }

    /// All sessions with their state, except their queues.
    pub(in crate::store) fn sessions(
        &self,
        bad: &mut u64,
    ) -> io::Result<HashMap<SessionNumber, KeptSession>> {
        guarded(|| {
            let mut all = HashMap::new();
            for row in self.txn.open_table(SESSIONS).map_err(as_io)?.iter().map_err(as_io)? {
                let (key, value) = row.map_err(as_io)?;
                match verified(value.value()).and_then(|row| Reader::all(row, codec::session)) {
                    Some(terms) => drop(all.insert(key.value(), kept(terms))),
                    None => self.corrupt("sessions", &key.value(), bad),
                }
            }
            for row in self.txn.open_table(SUBSCRIPTIONS).map_err(as_io)?.iter().map_err(as_io)? {
                let (key, value) = row.map_err(as_io)?;
                let (session, filter) = key.value();
                let Some(kept) = all.get_mut(&session) else { continue };
                match verified(value.value()).and_then(|row| Reader::all(row, codec::subscription)) {
                    Some(subscription) => kept.subscriptions.push((filter.into(), subscription)),
                    None => self.corrupt("subscriptions", &(session, filter), bad),
                }
            }
            for row in self.txn.open_table(FLIGHTS).map_err(as_io)?.iter().map_err(as_io)? {
                let (key, value) = row.map_err(as_io)?;
                let (session, id) = key.value();
                let Some(kept) = all.get_mut(&session) else { continue };
                let flight: Option<KeptFlight> = PacketId::new(id)
                    .zip(verified(value.value()))
                    .and_then(|(id, row)| Reader::all(row, |reader| codec::flight(reader, id)));
                match flight {
                    Some(flight) => kept.flights.push(flight),
                    None => self.corrupt("flights", &(session, id), bad),
                }
            }
            for row in self.txn.open_table(RECEIVED).map_err(as_io)?.iter().map_err(as_io)? {
                let (session, id) = row.map_err(as_io)?.0.value();
                if let Some(kept) = all.get_mut(&session) {
                    kept.received.extend(PacketId::new(id));
                }
            }
            for row in self.txn.open_table(WAITING).map_err(as_io)?.iter().map_err(as_io)? {
                let (key, value) = row.map_err(as_io)?;
                let Some(kept) = all.get_mut(&key.value()) else { continue };
                match verified(value.value()).and_then(|row| Reader::all(row, codec::waiting)) {
                    Some(waiting) => kept.waiting = waiting,
                    None => self.corrupt("waiting", &key.value(), bad),
                }
            }
            Ok(all)
        })
    }
}

pub(in crate::store) fn kept(terms: SessionTerms) -> KeptSession {
    KeptSession {
        terms,
        subscriptions: Vec::new(),
        flights: Vec::new(),
        received: Vec::new(),
        waiting: Waiting::default(),
    }
}
