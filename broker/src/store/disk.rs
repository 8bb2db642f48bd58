//! The disk as the store sees it: every call that can fail stands here, so that tests can put a disk of their own below the
//! real engine that loses power or breaks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder with files. Names may have one `/` in them.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Opens a file for reading and writing; `create`: makes it if it is not there.
    ///
    /// # Errors
    /// Of the file system.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a folder if it is not there.
    ///
    /// # Errors
    /// Of the file system.
    fn create_folder(&self, name: &str) -> io::Result<()>;

    /// The names of the files in a folder, in order; `""` is the whole.
    ///
    /// # Errors
    /// Of the file system.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Renames a file over what has that name.
    ///
    /// # Errors
    /// Of the file system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Of the file system.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// Of the file system.
    fn sync_folder(&self, name: &str) -> io::Result<()>;

    /// As errors call a file of it.
    fn path(&self, name: &str) -> String;
}

/// An open file.
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Its length, in bytes.
    ///
    /// # Errors
    /// Of the file system.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// Of the file system.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Cuts it, or adds zeros.
    ///
    /// # Errors
    /// Of the file system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// Of the file system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes; says how many.
    ///
    /// # Errors
    /// Of the file system.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes it this long, and takes the space for it; what was not written reads as zeros.
    ///
    /// # Errors
    /// Of the file system; that it has no space.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// Makes what was written durable, the length included.
    ///
    /// # Errors
    /// Of the file system; what was written before may be lost then.
    fn sync(&self) -> io::Result<()>;
}

/// Reads until the buffer is full or the file ends; says how many bytes.
pub(super) fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
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

/// Writes all of it.
pub(super) fn write_full(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the kernel is given at once, in bytes: of larger pieces it makes folios that it counts as written whole from then on.
const PIECE: usize = 4096;

/// Writes zeros from one byte of a file to another.
pub(super) fn write_zeros(file: &dyn DiskFile, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = [0u8; PIECE];
    while from < to {
        let n = (to - from).min(zeros.len() as u64);
        write_full(file, zeros.get(..n as usize).unwrap_or(&[]), from)?;
        from += n;
    }
    Ok(())
}

/// A folder of the file system.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Held for as long as the folder is ours.
    _lock: Option<File>,
}

/// The file whose lock says that the folder is taken.
const LOCK: &str = "lock";

impl Folder {
    /// Makes the folder if it is not there, for its owner only, and locks it against other processes; `None` when another one has it.
    ///
    /// # Errors
    /// Of the file system.
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
            // A file system that cannot: it has to be written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(self, DiskFile::len(self)?, len),
            done => done.map_err(io::Error::from),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
