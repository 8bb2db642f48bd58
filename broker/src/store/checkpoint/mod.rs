//! The checkpoint: a redb database with all state that outlives the window of the log. A frozen
//! memtable is written to it in one transaction, and nothing else is. `FORMAT.md` lists its tables.

pub(super) mod bodies;
pub(super) mod checkpointer;
pub(in crate::store) mod meta;
mod migrate;
mod queue;
mod reader;
pub(in crate::store) mod row_format;
mod writer;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError, TableDefinition,
};
use tracing::info;

pub(in crate::store) use self::reader::{CheckpointReader, kept};
pub(in crate::store) use self::writer::{copy, write};
use super::error::OpenError;
use crate::store::checkpoint::bodies::Log;
use crate::store::checkpoint::meta::{Birth, Meta, StateIdentity};
use crate::store::checkpoint::row_format::{RowBytes, as_io, guarded};
use crate::store::counters::Counters;
use crate::store::memtable::MemTable;
use crate::store::pins::ReaderPins;
use crate::store::wal::disk::{Disk, DiskFile, read_full, write_full};

/// File name.
pub(in crate::store) const FILE: &str = "checkpoint.redb";
/// Version of the format. Older ones are rewritten when they are opened.
const FORMAT: u64 = 3;
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
    /// Opens the checkpoint, or creates an empty one. One of an older format is rewritten.
    pub(in crate::store) fn open(
        disk: Arc<dyn Disk>,
        counters: Arc<Counters>,
        cache_bytes: usize,
        birth: Birth,
    ) -> Result<Checkpoint, OpenError> {
        let path = disk.path(FILE);
        let names = disk.list("").map_err(OpenError::io(format!("listing {}", disk.path(""))))?;
        if !names.iter().any(|name| name == FILE) {
            create(&disk, &counters, birth).map_err(OpenError::io(format!("making {path}")))?;
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
            Some(FORMAT) => {}
            Some(format @ FORMAT_MIN..FORMAT) => {
                migrate::rewrite(&checkpoint).map_err(OpenError::io(format!("rewriting {path}")))?;
                info!(file = path, from = format, to = FORMAT, "the checkpoint has a new format now");
            }
            Some(format) => {
                return Err(OpenError::Foreign(format!(
                    "{path} has format {format}, this version of lapwing reads format {FORMAT}"
                )));
            }
            None => return Err(OpenError::Foreign(format!("{path} was not written by lapwing"))),
        }
        migrate::name_copy(&checkpoint).map_err(OpenError::io(format!("writing {path}")))?;
        Ok(checkpoint)
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
fn create(disk: &Arc<dyn Disk>, counters: &Arc<Counters>, birth: Birth) -> io::Result<()> {
    if disk.list("")?.iter().any(|name| name == FILE_NEW) {
        disk.remove(FILE_NEW)?;
    }
    let db = open_file(disk, counters, 1 << 20, FILE_NEW).map_err(as_io)?;
    let nothing = Log::new(disk.clone());
    let Birth { salt, key } = birth;
    write(&db, &MemTable::default(), &Meta { salt, ..Meta::default() }, &nothing, u64::MAX)?;
    let mut identity = StateIdentity::random()?;
    identity.key = key.unwrap_or(identity.key);
    guarded(|| migrate::write_identity(&db, &identity).map_err(as_io))?;
    drop(db);
    disk.rename(FILE_NEW, FILE)?;
    disk.sync_folder("")
}

/// Key of a topic in the broker's order of topics: `/` sorts below every other byte.
fn retained_key(topic: &str) -> Vec<u8> {
    topic.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect()
}
