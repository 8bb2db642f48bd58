//! Disk interface of the store. Every call that can fail is here, so that tests can run the real
//! store on a disk that loses power or breaks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A folder with files. Names may contain one `/`.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Opens a file for reading and writing; `create`: creates it if it is missing.
    ///
    /// # Errors
    /// Errors of the file system.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// As `open` with `create`, for a file that is written once and seldom read:
    /// [`DiskFile::write_through`] may bypass the page cache.
    ///
    /// # Errors
    /// Errors of the file system.
    fn open_log(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name, true)
    }

    /// Creates a folder if it is missing.
    ///
    /// # Errors
    /// Errors of the file system.
    fn create_folder(&self, name: &str) -> io::Result<()>;

    /// Names of the files in a folder, sorted; `""` is the root.
    ///
    /// # Errors
    /// Errors of the file system.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Renames a file, replacing one with that name.
    ///
    /// # Errors
    /// Errors of the file system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Errors of the file system.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// Errors of the file system.
    fn sync_folder(&self, name: &str) -> io::Result<()>;

    /// Name of a file for error texts.
    fn path(&self, name: &str) -> String;
}

/// An open file.
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Length, in bytes.
    ///
    /// # Errors
    /// Errors of the file system.
    fn len(&self) -> io::Result<u64>;

    /// Returns true for a file of no bytes.
    ///
    /// # Errors
    /// Errors of the file system.
    #[cfg(feature = "internals")]
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Truncates the file, or extends it with zeros.
    ///
    /// # Errors
    /// Errors of the file system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reads some bytes; returns 0 at the end.
    ///
    /// # Errors
    /// Errors of the file system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes; returns their number.
    ///
    /// # Errors
    /// Errors of the file system.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// As `write_at`, for data that will be synced at once. Whole pages, aligned in the file and in
    /// memory, need not be copied.
    ///
    /// # Errors
    /// Errors of the file system.
    fn write_through(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write_at(bytes, offset)
    }

    /// Extends the file to this length and allocates its space; unwritten bytes read as zeros.
    ///
    /// # Errors
    /// Errors of the file system, such as no space.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// Makes written data and the length durable.
    ///
    /// # Errors
    /// Errors of the file system; data written before may be lost then.
    fn sync(&self) -> io::Result<()>;
}

/// Reads until the buffer is full or the file ends; returns the number of bytes.
pub(in crate::store) fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all bytes.
pub(in crate::store) fn write_full(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_all(bytes, offset, |rest, at| file.write_at(rest, at))
}

/// As [`write_full`], for data that will be synced at once.
pub(in crate::store) fn write_full_through(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_all(bytes, offset, |rest, at| file.write_through(rest, at))
}

fn write_all(
    bytes: &[u8],
    offset: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match write(rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Size of a page of the page cache, and largest block of disks, in bytes.
pub(in crate::store) const PAGE: usize = 4096;
/// Zeros written at once, in bytes.
const PIECE: usize = 64 << 10;

/// Writes zeros between two offsets of a file, to be synced at once.
pub(in crate::store) fn write_zeros(file: &dyn DiskFile, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0u8; PIECE + PAGE];
    let zeros = zeros.get(lead(&zeros)..).and_then(|zeros| zeros.get(..PIECE)).unwrap_or(&[]);
    while from < to {
        let n = (to - from).min(zeros.len() as u64);
        write_full_through(file, zeros.get(..n as usize).unwrap_or(&[]), from)?;
        from += n;
    }
    Ok(())
}

/// Number of bytes before the first multiple of [`PAGE`] in memory.
pub(in crate::store) fn lead(bytes: &[u8]) -> usize {
    // Less than a page, unless the alignment is unknown.
    bytes.as_ptr().align_offset(PAGE).min(PAGE)
}

/// A folder of the file system.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Lock file, held while this process owns the folder.
    _lock: Option<File>,
}

/// File whose lock marks the folder as in use.
const LOCK: &str = "lock";

impl Folder {
    /// Creates the folder if it is missing, for its owner only, and locks it against other
    /// processes. `None` when another process has it.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn lock(root: &Path) -> io::Result<Option<Folder>> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Folder { root: root.to_owned(), _lock: Some(file) })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Disk for Folder {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file =
            OpenOptions::new().read(true).write(true).create(create).truncate(false).open(self.at(name))?;
        Ok(Arc::new(file))
    }

    fn open_log(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.at(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        // Some file systems have no direct I/O; the store works without it.
        let direct =
            OpenOptions::new().write(true).custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32).open(&path);
        Ok(Arc::new(LogFile { file, direct: direct.ok(), refused: AtomicBool::new(false) }))
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.at(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.at(folder))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.at(name))
    }

    fn sync_folder(&self, name: &str) -> io::Result<()> {
        File::open(self.at(name))?.sync_all()
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(self, FallocateFlags::empty(), 0, len) {
            // The file system cannot allocate space: zeros have to be written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(self, DiskFile::len(self)?, len),
            done => done.map_err(io::Error::from),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A file that can also be written past the page cache. Its data is on the way to the disk before
/// the sync. For a frame of 300 KB that takes a sixth of the CPU and two thirds of the time.
#[derive(Debug)]
struct LogFile {
    file: File,
    /// The same file, opened for direct I/O.
    direct: Option<File>,
    /// Set when direct I/O was refused, because of larger blocks or another reason.
    refused: AtomicBool,
}

impl DiskFile for LogFile {
    fn len(&self) -> io::Result<u64> {
        DiskFile::len(&self.file)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(&self.file, bytes, offset)
    }

    fn write_through(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let whole =
            lead(bytes) == 0 && bytes.len().is_multiple_of(PAGE) && offset.is_multiple_of(PAGE as u64);
        match &self.direct {
            Some(direct) if whole && !self.refused.load(Ordering::Relaxed) => {
                match FileExt::write_at(direct, bytes, offset) {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        self.refused.store(true, Ordering::Relaxed);
                        FileExt::write_at(&self.file, bytes, offset)
                    }
                    done => done,
                }
            }
            _ => FileExt::write_at(&self.file, bytes, offset),
        }
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_written_past_the_page_cache_is_read_back() {
        let root = std::env::temp_dir().join(format!("lapwing-disk-{}", std::process::id()));
        let folder = Folder::lock(&root).unwrap().unwrap();
        let log = folder.open_log("log").unwrap();
        let reader = folder.open("log", false).unwrap();
        write_zeros(&*log, 0, 5 * PAGE as u64).unwrap();
        let memory: Vec<u8> = (0..4 * PAGE).map(|n| (n / 7) as u8).collect();
        let whole = lead(&memory);
        // Aligned pages, pages at any address in memory, and a part of a page.
        let kinds =
            [memory.get(whole..whole + 2 * PAGE), memory.get(whole + 1..whole + 1 + PAGE), memory.get(..100)];
        for bytes in kinds.into_iter().flatten() {
            write_full_through(&*log, bytes, PAGE as u64).unwrap();
            log.sync().unwrap();
            let mut found = vec![0; bytes.len()];
            assert_eq!(read_full(&*reader, &mut found, PAGE as u64).unwrap(), bytes.len());
            assert_eq!(found, bytes);
        }
        assert_eq!(log.len().unwrap(), 5 * PAGE as u64);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
