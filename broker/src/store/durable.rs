//! The durable store: its threads, and its implementation of [`Store`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::Entry;
use super::checkpoint::{self, Checkpoint};
use super::error::OpenError;
use super::read_request::{ReadRequest, ReadView, Wanted};
use super::record::{KeptSession, Record};
use super::shared::{Parts, Shared};
use super::supply::SegmentPool;
use crate::clock::Clock;
use crate::config::OnCorruption;
use crate::message::{Delivery, Durability, Message, Seq, SessionNumber};
use crate::store::append::writer::Writer;
use crate::store::backup::Control;
use crate::store::checkpoint::bodies::Log;
use crate::store::checkpoint::checkpointer;
use crate::store::checkpoint::meta::{Birth, Meta};
use crate::store::counters::Counters;
use crate::store::memtable::{AppliedRecord, MemTable, Queues};
use crate::store::sync::lock;
use crate::store::wal::disk::{Disk, Folder};
use crate::store::wal::segments::{self, Damage, OnDamage, Preallocation, Scan, ScanFrom};
use crate::store::{
    Failed, Figures, Health, Lsn, Options, PageRequest, Paged, ReadReply, Recovered, Store, Ticket,
    Unavailable, WakerSlot, log_records, reader,
};

/// Number of log segments at the start that triggers a checkpoint soon: each run begins a segment
/// of its own.
const SEGMENTS_LEFT: usize = 2;

/// Store with a write-ahead log and a checkpoint in one folder.
#[derive(Debug)]
pub struct DurableStore {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Control socket for backups.
    control: Mutex<Option<Control>>,
    /// State found at the start, until it is fetched.
    found: Mutex<Option<RecoveredState>>,
}

#[derive(Debug)]
struct RecoveredState {
    sessions: Vec<KeptSession>,
    scan: Scan,
    meta: Meta,
}

impl DurableStore {
    /// Opens the state in a folder, or creates it there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, options: Options) -> Result<DurableStore, OpenError> {
        let shown = folder.display().to_string();
        let locked = Folder::lock(folder).map_err(OpenError::io(format!("opening {shown}")))?;
        let store = DurableStore::on(Arc::new(locked.ok_or(OpenError::Locked(shown))?), options)?;
        match Control::start(store.shared.clone(), folder) {
            Ok(control) => *lock(&store.control) = Some(control),
            Err(error) => warn!(%error, "no control socket: no backup can be made while the broker runs"),
        }
        Ok(store)
    }

    /// Creates a state in an empty folder, with the key of the state that it is a copy of.
    ///
    /// # Errors
    /// [`OpenError`]
    #[cfg(feature = "internals")]
    pub(super) fn new_with_key(folder: &Path, key: Option<[u8; 32]>) -> Result<DurableStore, OpenError> {
        let shown = folder.display().to_string();
        let locked = Folder::lock(folder).map_err(OpenError::io(format!("opening {shown}")))?;
        let disk: Arc<dyn Disk> = Arc::new(locked.ok_or(OpenError::Locked(shown))?);
        let options = Options::default();
        let salt = random_salt().map_err(OpenError::io("drawing a random number"))?;
        Checkpoint::open(disk.clone(), Arc::default(), options.cache_bytes, Birth { salt, key })?;
        DurableStore::on(disk, options)
    }

    /// Identity of the state.
    ///
    /// # Errors
    /// The checkpoint cannot be read.
    #[cfg(feature = "internals")]
    pub fn identity(&self) -> Result<crate::store::StateIdentity, OpenError> {
        let read = self.shared.reads.view().checkpoint.read();
        read.and_then(|read| read.identity()).map_err(OpenError::io("reading the checkpoint"))
    }

    /// Copies the current state into a new folder, while the store is in use.
    ///
    /// # Errors
    /// The folder is not empty or cannot be written, or the store has failed.
    #[cfg(feature = "internals")]
    pub fn backup(&self, to: &Path) -> Result<(), crate::store::error::Problem> {
        crate::store::backup::backup(&self.shared, to)
    }

    /// As [`open`](Self::open), on any disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn on(disk: Arc<dyn Disk>, options: Options) -> Result<DurableStore, OpenError> {
        let counters = Arc::new(Counters::default());
        disk.create_folder(segments::FOLDER)
            .map_err(OpenError::io(format!("making {}", disk.path(segments::FOLDER))))?;
        let checkpoint = open_checkpoint(&disk, &counters, &options)?;
        let path = disk.path(checkpoint::FILE);
        let mut bad = 0;
        let known =
            checkpoint.read().and_then(|read| Ok((read.meta()?, read.sessions(&mut bad)?, read.segments()?)));
        let (meta, kept, mut needed) = known.map_err(OpenError::io(format!("reading {path}")))?;

        let (mut table, mut queues, scan) = replay(&*disk, &kept, &meta, &options)?;
        let sessions = reader::sessions(kept, &table, &queues);
        table.last_group = table.last_group.max(meta.last_group);
        table.covers = scan.covers.clone();
        let clock = Clock::after(scan.clock.max(meta.clock));
        let applied = scan.last;
        let mut next_id = scan.segments.last().map_or(0, |(id, _)| *id);
        let mut view =
            ReadView { active: table, frozen: None, frozen_meta: Meta::default(), checkpoint, applied };
        counters.corrupt.add(bad + scan.damage.len() as u64);
        let number = scan.number.max(meta.number);
        let mut full: Vec<(u64, Lsn)> = scan.segments.clone();
        let mut kept = meta.lsn;
        if !scan.damage.is_empty() {
            view.active.close(&queues);
            let meta = Meta {
                lsn: applied,
                clock: clock.now(),
                number,
                last_group: view.active.last_group,
                salt: meta.salt,
                segment: next_id + 1,
            };
            save_sound_records(&disk, &options, &mut view, &meta, &mut full, &mut needed)
                .map_err(OpenError::io(format!("writing {path}")))?;
            kept = applied;
        }
        next_id += 1;
        let mut pool =
            SegmentPool { full, needed, kept: VecDeque::from([(0, kept)]), ..SegmentPool::default() };
        let old = pool.reusable(0);
        let first = segments::prepare(&*disk, next_id, old, options.segment_bytes, Preallocation::Zeroed)
            .map_err(OpenError::io(format!("making {}", disk.path(&segments::name(next_id)))))?;
        queues.shrink_to_fit();
        let left = pool.full.iter().filter(|(_, last)| *last > kept).count();
        pool.next_id = next_id;
        let shared = Arc::new(Shared::new(
            Parts { disk, options, counters, clock, number, salt: meta.salt },
            view,
            pool,
        ));
        let writer = Writer::new(shared.clone(), first, queues, applied);
        let threads = spawn_threads(&shared, writer).map_err(OpenError::io("starting a thread"))?;
        if left >= SEGMENTS_LEFT {
            // Runs that were too short for a checkpoint of their own.
            shared.intake.freeze_soon();
            shared.append(Record::Nothing, Durability::None);
        }
        Ok(DurableStore {
            shared,
            threads: Mutex::new(threads),
            control: Mutex::new(None),
            found: Mutex::new(Some(RecoveredState { sessions, scan, meta })),
        })
    }

    fn ask<T>(&self, wanted: impl FnOnce(oneshot::Sender<T>) -> Wanted) -> ReadReply<T> {
        let (sender, receiver) = oneshot::channel();
        let after = self.shared.intake.flush_soon();
        self.shared.reads.ask(ReadRequest { after, wanted: wanted(sender) });
        receiver
    }
}

/// Watches a thread of the store: its panic is a failure of the store.
struct Watched(Arc<Shared>);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(
                "a thread of the store has panicked: nothing is acknowledged any more. Restart, and report it"
            );
            self.0.set_health(Health::Failed);
        }
    }
}

/// Starts the threads of the store; the writer is the first.
fn spawn_threads(shared: &Arc<Shared>, writer: Writer) -> io::Result<Vec<JoinHandle<()>>> {
    let (for_checkpointer, for_reader) = (shared.clone(), shared.clone());
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let watched = Watched(shared.clone());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _watched = watched;
            run();
        })
    };
    let threads = [
        spawn("store-writer", Box::new(move || writer.run())),
        spawn("checkpointer", Box::new(move || checkpointer::run(&for_checkpointer))),
        spawn("store-reader", Box::new(move || reader::run(&for_reader))),
    ];
    threads.into_iter().collect()
}

/// Opens the checkpoint, or begins a new one after a damaged one was set aside.
fn open_checkpoint(
    disk: &Arc<dyn Disk>,
    counters: &Arc<Counters>,
    options: &Options,
) -> Result<Checkpoint, OpenError> {
    let reading = || OpenError::io(format!("reading {}", disk.path(segments::FOLDER)));
    let salt = match segments::salt(&**disk).map_err(reading())? {
        Some(salt) => salt,
        None => random_salt().map_err(reading())?,
    };
    let birth = Birth { salt, key: None };
    let open = || Checkpoint::open(disk.clone(), counters.clone(), options.cache_bytes, birth);
    match open() {
        Err(OpenError::Corrupt { file, offset, what })
            if options.on_corruption == OnCorruption::Quarantine =>
        {
            warn!(
                file,
                offset, what, "the checkpoint is damaged: it is set aside, only the log behind it is used"
            );
            counters.corrupt.add(1);
            let doing = || OpenError::io(format!("setting {file} aside"));
            disk.create_folder(segments::QUARANTINE).map_err(doing())?;
            let aside = format!("{}/{}-{}", segments::QUARANTINE, Clock::after(0).now(), checkpoint::FILE);
            disk.rename(checkpoint::FILE, &aside).map_err(doing())?;
            disk.sync_folder("").map_err(doing())?;
            open()
        }
        other => other,
    }
}

/// Salt of a new state.
fn random_salt() -> io::Result<u32> {
    getrandom::u32().map_err(|error| io::Error::other(error.to_string()))
}

/// Writes the sound records of a damaged log into the checkpoint, and removes the segments that are
/// no longer needed. The damaged log was set aside before.
fn save_sound_records(
    disk: &Arc<dyn Disk>,
    options: &Options,
    view: &mut ReadView,
    meta: &Meta,
    full: &mut Vec<(u64, Lsn)>,
    needed: &mut BTreeSet<u64>,
) -> io::Result<()> {
    if let Some(db) = view.checkpoint.database() {
        let log = Log::new(disk.clone());
        let settled = checkpoint::write(&db, &view.active, meta, &log, options.segment_bytes)?;
        needed.retain(|segment| !settled.freed.contains(segment));
    }
    view.active = view.active.following();
    for (id, _) in full.extract_if(.., |(id, _)| !needed.contains(id)) {
        disk.remove(&segments::name(id))?;
    }
    disk.sync_folder(segments::FOLDER)
}

/// Reads the log behind the checkpoint into a table.
fn replay(
    disk: &dyn Disk,
    kept: &HashMap<SessionNumber, KeptSession>,
    meta: &Meta,
    options: &Options,
) -> Result<(MemTable, Queues, Scan), OpenError> {
    let read = |beyond| {
        let mut queues: Queues = kept.iter().map(|(number, kept)| (*number, kept.waiting)).collect();
        let mut table = MemTable::default();
        let since = ScanFrom { after: meta.lsn, segment: meta.segment, salt: Some(meta.salt) };
        let scan = log_records::scan(disk, since, beyond, &mut |lsn, record, reference| {
            // A damaged log is set aside: no message may stay in it.
            table.apply(
                lsn,
                AppliedRecord::of(record, reference.filter(|_| beyond == OnDamage::Stop)),
                &mut queues,
            );
        })?;
        Ok((table, queues, scan))
    };
    let (table, queues, scan) = read(OnDamage::Stop)?;
    let file = |damage: &Damage| disk.path(&segments::name(damage.segment));
    if let Some(torn) = &scan.torn {
        info!(
            file = file(torn),
            offset = torn.offset,
            "the end of the log was torn and is cut; it was never acknowledged"
        );
        cut(disk, torn).map_err(OpenError::io(format!("cutting {}", file(torn))))?;
    }
    let Some(damage) = scan.damage.first() else { return Ok((table, queues, scan)) };
    if options.on_corruption == OnCorruption::Refuse {
        return Err(OpenError::Corrupt {
            file: file(damage),
            offset: damage.offset,
            what: damage.what.clone(),
        });
    }
    let (mut table, mut queues, mut scan) = read(OnDamage::GoOn)?;
    let doing = || OpenError::io("setting the damaged log aside");
    disk.create_folder(segments::QUARANTINE).map_err(doing())?;
    // Without the checkpoint, uses of segments kept for a backlog are unknown, and their records
    // are old. Only the log behind the last of them is contiguous.
    let begins = scan.contiguous_from;
    if meta.lsn == 0 && begins > 0 {
        let kept: Vec<u64> = scan.segments.iter().map(|(id, _)| *id).filter(|id| *id < begins).collect();
        for id in &kept {
            set_aside(disk, *id).map_err(doing())?;
        }
        disk.sync_folder(segments::QUARANTINE).map_err(doing())?;
        for id in &kept {
            disk.remove(&segments::name(*id)).map_err(doing())?;
        }
        (table, queues, scan) = read(OnDamage::GoOn)?;
    }
    for damage in &scan.damage {
        warn!(
            file = file(damage),
            offset = damage.offset,
            what = damage.what,
            "the log is damaged here: it is set aside, and what is sound of it is used"
        );
        set_aside(disk, damage.segment).map_err(doing())?;
    }
    disk.sync_folder(segments::QUARANTINE).map_err(doing())?;
    Ok((table, queues, scan))
}

/// Copies a segment to the quarantine.
fn set_aside(disk: &dyn Disk, segment: u64) -> io::Result<()> {
    let from = disk.open(&segments::name(segment), false)?;
    let to = disk.open(&format!("{}/{segment:016}.log", segments::QUARANTINE), true)?;
    let mut bytes = vec![0; from.len()? as usize];
    let read = crate::store::wal::disk::read_full(&*from, &mut bytes, 0)?;
    crate::store::wal::disk::write_full(&*to, bytes.get(..read).unwrap_or(&[]), 0)?;
    to.sync()
}

/// Overwrites the bytes behind a torn end with zeros, so that they are never taken for sound later.
fn cut(disk: &dyn Disk, torn: &Damage) -> io::Result<()> {
    let file = disk.open(&segments::name(torn.segment), false)?;
    let len = file.len()?;
    let zeros = vec![0; len.saturating_sub(torn.offset) as usize];
    crate::store::wal::disk::write_full(&*file, &zeros, torn.offset)?;
    file.sync()
}

impl Store for DurableStore {
    fn is_durable(&self) -> bool {
        true
    }

    fn reserve(&self) -> Result<Lsn, Unavailable> {
        if self.shared.health() != Health::Good {
            return Err(Unavailable);
        }
        self.shared.intake.reserve().ok_or(Unavailable)
    }

    fn reserve_always(&self) -> Lsn {
        self.shared.reserve_always()
    }

    fn fill(&self, entries: &mut dyn Iterator<Item = Entry>) {
        self.shared.intake.fill(entries);
    }

    fn poll(&self, ticket: Ticket, slot: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.shared.progress.poll(ticket, slot, cx)
    }

    fn poll_room(&self, slot: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.poll_room(slot, cx)
    }

    fn queued(&self, page: PageRequest) -> ReadReply<Paged> {
        self.ask(|sender| Wanted::Queued(page, sender))
    }

    fn read_at(&self, session: SessionNumber, slots: Vec<Seq>) -> ReadReply<Vec<Delivery>> {
        self.ask(|sender| Wanted::Placed(session, slots, sender))
    }

    fn retained(&self, topics: Vec<Box<str>>) -> ReadReply<Vec<Message>> {
        self.ask(|sender| Wanted::Retained(topics, sender))
    }

    fn next_number(&self) -> u64 {
        self.shared.next_number()
    }

    fn clock(&self) -> Clock {
        self.shared.clock
    }

    fn figures(&self) -> Figures {
        self.shared.figures()
    }

    fn recover(&self) -> Result<Recovered, OpenError> {
        let Some(found) = lock(&self.found).take() else { return Ok(Recovered::default()) };
        let last_group = self.shared.reads.view().active.last_group.max(found.meta.last_group);
        Ok(Recovered {
            sessions: found.sessions,
            last_group,
            last_clock: found.scan.clock.max(found.meta.clock),
        })
    }

    fn each_retained(&self, give: &mut dyn FnMut(Message)) -> Result<(), OpenError> {
        let mut bad = 0;
        let result = reader::each_retained(&self.shared.reads.view(), &mut bad, give);
        self.shared.counters.corrupt.add(bad);
        result
    }

    fn close(&self) {
        self.shared.intake.close();
        drop(lock(&self.control).take());
        let mut threads = lock(&self.threads);
        let mut threads = threads.drain(..);
        // The writer ends first: it may still need the checkpointer.
        if let Some(writer) = threads.next() {
            let _ = writer.join();
        }
        self.shared.supply.close();
        self.shared.reads.notify();
        threads.for_each(|thread| drop(thread.join()));
        self.shared.progress.wake();
    }
}

impl Drop for DurableStore {
    fn drop(&mut self) {
        self.close();
    }
}
