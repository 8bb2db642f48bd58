//! Disks for the store to stand on: one that remembers every write and sync, so that a loss of
//! power can be played at any point of it; and one that fails at a chosen call.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use lapwing::internals::store::{Disk, DiskFile};

use crate::random::Random;

/// One change of the disk.
#[derive(Clone, Debug)]
enum Change {
    Write {
        file: u64,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    SetLen {
        file: u64,
        len: u64,
    },
    Sync {
        file: u64,
    },
    Name {
        name: String,
        file: Option<u64>,
    },
    SyncFolder {
        folder: String,
    },
    /// Something outside happened, like an acknowledgement.
    Mark(u64),
}

/// Kinds of failure of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Half of a write, then an error.
    ShortWrite,
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
}

impl Fault {
    fn error(self) -> io::Error {
        // Linux numbers: EIO and ENOSPC.
        io::Error::from_raw_os_error(if self == Fault::NoSpace { 28 } else { 5 })
    }
}

/// Which calls fail: all or those of a kind, from the `from`th on, for so many.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Option<&'static str>,
    from: u64,
    count: u64,
    fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    contents: BTreeMap<u64, Vec<u8>>,
    names: BTreeMap<String, u64>,
    folders: Vec<String>,
    last_file: u64,
    history: Vec<Change>,
    /// Durable content when the history began.
    history_before: Vec<Change>,
    /// Nothing of the history is kept: for tests without a loss of power.
    forgets: bool,
    calls: u64,
    /// Calls by kind.
    calls_of: BTreeMap<&'static str, u64>,
    plan: Option<Plan>,
    /// The kinds of calls that failed.
    failed: Vec<&'static str>,
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct OpenFile {
    disk: MemoryDisk,
    file: u64,
}

/// Part of the unsynced changes that survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// None of them.
    All,
    /// The first of them.
    Prefix,
    /// Any of their pieces of this many bytes.
    Pieces(usize),
    /// All but the last, which is half written.
    Torn,
    /// All of them, but names are lost.
    Names,
    /// None: every change survives.
    Nothing,
}

/// All kinds of loss.
pub const LOSSES: [Loss; 7] =
    [Loss::All, Loss::Prefix, Loss::Pieces(512), Loss::Pieces(4096), Loss::Torn, Loss::Names, Loss::Nothing];

impl MemoryDisk {
    /// A disk that keeps no history.
    pub fn forgetful() -> MemoryDisk {
        let disk = MemoryDisk::default();
        disk.0.lock().unwrap().forgets = true;
        disk
    }

    /// Notes in the history that something happened outside.
    pub fn mark(&self, n: u64) {
        self.0.lock().unwrap().history.push(Change::Mark(n));
    }

    /// Number of changes so far.
    pub fn changes(&self) -> usize {
        self.0.lock().unwrap().history.len()
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().unwrap().calls
    }

    /// Lets calls fail: from the `from`th on, for `count` calls.
    pub fn fail(&self, from: u64, count: u64, fault: Fault) {
        self.0.lock().unwrap().plan = Some(Plan { kind: None, from, count, fault });
    }

    /// Lets the `n`th call of a kind fail.
    pub fn fail_one(&self, kind: &'static str, n: u64, fault: Fault) {
        self.0.lock().unwrap().plan = Some(Plan { kind: Some(kind), from: n, count: 1, fault });
    }

    /// Number of calls of each kind.
    pub fn kinds(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap().calls_of.clone()
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.0.lock().unwrap().plan = None;
    }

    /// The kinds of calls that failed so far.
    pub fn failed(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().failed.clone()
    }

    /// Puts a file there as it is.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        let file = state.name(name);
        state.contents.insert(file, bytes.to_vec());
    }

    /// The content of a file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.lock().unwrap();
        state.names.get(name).and_then(|file| state.contents.get(file)).cloned()
    }

    /// A disk with the same files, all of them durable, whose history begins with that.
    pub fn copy_with_history(&self) -> MemoryDisk {
        let state = self.0.lock().unwrap();
        let copy = MemoryDisk::default();
        for (name, file) in &state.names {
            copy.put(name, &state.contents[file]);
            let mut copied = copy.0.lock().unwrap();
            let new = copied.names[name];
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            copied.history.extend([
                Change::Name { name: name.clone(), file: Some(new) },
                Change::Write { file: new, offset: 0, bytes: state.contents[file].as_slice().into() },
                Change::Sync { file: new },
                Change::SyncFolder { folder },
            ]);
        }
        // A cut falls behind all of this.
        let history = std::mem::take(&mut copy.0.lock().unwrap().history);
        copy.0.lock().unwrap().history_before = history;
        copy
    }

    /// The disk after a loss of power behind `upto` changes, and the marks until then. `syncs`:
    /// whether the disk does what sync asks for; without, it is the negative control.
    pub fn after_power_loss(
        &self,
        upto: usize,
        loss: Loss,
        random: &mut Random,
        syncs: bool,
    ) -> (MemoryDisk, Vec<u64>) {
        let state = self.0.lock().unwrap();
        let mut image = State { folders: state.folders.clone(), ..State::default() };
        // What is durable for certain, and what is not yet, by file; the same for names by folder.
        let mut pending: BTreeMap<u64, Vec<Change>> = BTreeMap::new();
        let mut names: Vec<(String, Option<u64>)> = Vec::new();
        let mut marks = Vec::new();
        for change in state.history_before.iter().chain(state.history.iter().take(upto)) {
            match change {
                Change::Write { file, .. } | Change::SetLen { file, .. } => {
                    pending.entry(*file).or_default().push(change.clone());
                }
                Change::Sync { file } if syncs => {
                    for change in pending.remove(file).unwrap_or_default() {
                        image.apply(&change);
                    }
                }
                Change::Name { name, file } => names.push((name.clone(), *file)),
                Change::SyncFolder { folder } if syncs => {
                    let of = |name: &str| name.rsplit_once('/').map_or("", |(folder, _)| folder) == folder;
                    names.retain(|(name, file)| {
                        let synced = of(name);
                        if synced {
                            image.rename(name, *file);
                        }
                        !synced
                    });
                }
                Change::Mark(n) => marks.push(*n),
                Change::Sync { .. } | Change::SyncFolder { .. } => {}
            }
        }
        let kept_names = match loss {
            Loss::Nothing | Loss::Torn | Loss::Pieces(_) => names.len(),
            Loss::All | Loss::Names => 0,
            Loss::Prefix => random.below(names.len() as u64 + 1) as usize,
        };
        for (name, file) in names.into_iter().take(kept_names) {
            image.rename(&name, file);
        }
        for changes in pending.into_values() {
            image.lose(&changes, loss, random);
        }
        // A name may be durable before anything that is in the file.
        let files: Vec<u64> = image.names.values().copied().collect();
        for file in files {
            image.contents.entry(file).or_default();
        }
        image.last_file = state.last_file;
        (MemoryDisk(Arc::new(Mutex::new(image))), marks)
    }
}

impl State {
    fn name(&mut self, name: &str) -> u64 {
        if let Some(file) = self.names.get(name) {
            return *file;
        }
        self.last_file += 1;
        let file = self.last_file;
        self.names.insert(name.to_owned(), file);
        self.contents.insert(file, Vec::new());
        file
    }

    fn rename(&mut self, name: &str, file: Option<u64>) {
        match file {
            Some(file) => drop(self.names.insert(name.to_owned(), file)),
            None => drop(self.names.remove(name)),
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { file, offset, bytes } => self.write(*file, *offset, bytes),
            Change::SetLen { file, len } => self.contents.entry(*file).or_default().resize(*len as usize, 0),
            _ => {}
        }
    }

    fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) {
        let content = self.contents.entry(file).or_default();
        let end = offset as usize + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
    }

    /// Applies what a loss leaves of changes that were not synced.
    fn lose(&mut self, changes: &[Change], loss: Loss, random: &mut Random) {
        let prefix = match loss {
            Loss::All => 0,
            Loss::Prefix => random.below(changes.len() as u64 + 1) as usize,
            Loss::Torn => changes.len() - 1,
            Loss::Pieces(_) | Loss::Names | Loss::Nothing => changes.len(),
        };
        for change in &changes[..prefix] {
            match (loss, change) {
                (Loss::Pieces(size), Change::Write { file, offset, bytes }) => {
                    for (n, piece) in bytes.chunks(size).enumerate() {
                        if random.below(2) == 0 {
                            self.write(*file, offset + (n * size) as u64, piece);
                        }
                    }
                }
                _ => self.apply(change),
            }
        }
        if let (Loss::Torn, Some(Change::Write { file, offset, bytes })) = (loss, changes.last()) {
            let torn = random.below(bytes.len() as u64) as usize;
            self.write(*file, *offset, &bytes[..torn]);
        }
    }

    fn remember(&mut self, change: Change) {
        if !self.forgets {
            self.history.push(change);
        }
    }

    /// Counts a call, and lets it fail if its time has come.
    fn call(&mut self, kind: &'static str) -> Result<(), Fault> {
        self.call_for(kind, matches!(kind, "open" | "create_folder"))
    }

    /// As [`call`](Self::call), of a call that may need more space or not: one that needs none has
    /// it on a full disk.
    fn call_for(&mut self, kind: &'static str, needs_space: bool) -> Result<(), Fault> {
        self.calls += 1;
        let of_kind = self.calls_of.entry(kind).or_default();
        *of_kind += 1;
        let Some(Plan { kind: wanted, from, count, fault }) = self.plan else { return Ok(()) };
        let n = match wanted {
            None => self.calls,
            Some(wanted) if wanted == kind => *of_kind,
            Some(_) => return Ok(()),
        };
        if n < from || n >= from.saturating_add(count) || (fault == Fault::NoSpace && !needs_space) {
            return Ok(());
        }
        self.failed.push(kind);
        Err(fault)
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock().unwrap();
        let new = !state.names.contains_key(name);
        if new && !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        if new {
            state.call("open").map_err(Fault::error)?;
        }
        let file = state.name(name);
        if new {
            state.remember(Change::Name { name: name.to_owned(), file: Some(file) });
        }
        Ok(Arc::new(OpenFile { disk: self.clone(), file }))
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call("create_folder").map_err(Fault::error)?;
        state.folders.push(name.to_owned());
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut state = self.0.lock().unwrap();
        state.call("list").map_err(Fault::error)?;
        let inside = |name: &&String| name.rsplit_once('/').map_or("", |(of, _)| of) == folder;
        let last = |name: &String| name.rsplit('/').next().unwrap_or("").to_owned();
        Ok(state.names.keys().filter(inside).map(last).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call("rename").map_err(Fault::error)?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        // A rename is one thing: both of its names, or none.
        state.remember(Change::Name { name: to.to_owned(), file: Some(file) });
        state.remember(Change::Name { name: from.to_owned(), file: None });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call("remove").map_err(Fault::error)?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.remember(Change::Name { name: name.to_owned(), file: None });
        Ok(())
    }

    fn sync_folder(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call("sync_folder").map_err(Fault::error)?;
        state.remember(Change::SyncFolder { folder: name.to_owned() });
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        format!("memory:{name}")
    }
}

impl OpenFile {
    fn resize(&self, call: &'static str, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let grows = state.contents[&self.file].len() < len as usize;
        state.call_for(call, grows).map_err(Fault::error)?;
        let change = Change::SetLen { file: self.file, len };
        state.apply(&change);
        state.remember(change);
        Ok(())
    }
}

impl DiskFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.0.lock().unwrap();
        state.call("len").map_err(Fault::error)?;
        Ok(state.contents[&self.file].len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize("set_len", len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.resize("reserve", len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.0.lock().unwrap();
        state.call("read").map_err(Fault::error)?;
        let content = &state.contents[&self.file];
        let rest = content.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.0.lock().unwrap();
        let grows = state.contents[&self.file].len() < offset as usize + bytes.len();
        let failed = state.call_for("write", grows).err();
        let len = match failed {
            None => bytes.len(),
            Some(Fault::ShortWrite) => bytes.len() / 2,
            Some(fault) => return Err(fault.error()),
        };
        let change = Change::Write { file: self.file, offset, bytes: bytes[..len].into() };
        state.apply(&change);
        state.remember(change);
        match failed {
            Some(fault) if len == 0 => Err(fault.error()),
            _ => Ok(len),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.call("sync").map_err(Fault::error)?;
        state.remember(Change::Sync { file: self.file });
        Ok(())
    }
}
