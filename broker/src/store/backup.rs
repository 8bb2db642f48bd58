//! Control socket in the state folder: a running broker makes a backup on request, since no other
//! process may touch its files.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{info, warn};

use super::checkpoint;
use super::record::Record;
use super::shared::Shared;
use crate::message::Durability;
use crate::store::Health;
use crate::store::error::Problem;

/// File name of the socket.
pub(super) const SOCKET: &str = "control.sock";
/// Time that a client has to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request, in bytes.
const LINE_MAX: u64 = 8_192;
/// Interval between checks of a checkpoint in progress.
const CHECK_EVERY: Duration = Duration::from_millis(10);

/// Thread that answers requests; dropping it ends it.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens in the state folder. A socket that exists belongs to a dead broker: the folder is
    /// locked.
    pub(super) fn start(shared: Arc<Shared>, folder: &Path) -> io::Result<Control> {
        let path = folder.join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let thread = std::thread::Builder::new().name("store-control".to_owned()).spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.intake.is_closed() {
                    return;
                }
                if let Err(error) = answer(&shared, stream) {
                    warn!(%error, "failed to answer a request to the control socket");
                }
            }
        })?;
        Ok(Control { path, thread: Some(thread) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Wakes the thread, which finds the store closed.
        drop(UnixStream::connect(&self.path));
        let _ = std::fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(shared: &Shared, stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut line = String::new();
    let mut reader = BufReader::new(io::Read::take(&stream, LINE_MAX));
    reader.read_line(&mut line)?;
    let answer = match line.trim_end().strip_prefix("backup ") {
        Some(to) => match backup(shared, Path::new(to)) {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        },
        None => "unknown request".to_owned(),
    };
    writeln!(&stream, "{answer}")
}

/// Brings the checkpoint up to date, then copies it.
pub(super) fn backup(shared: &Shared, to: &Path) -> Result<(), Problem> {
    let problem = |error: io::Error| format!("{}: {error}", to.display());
    if to.exists() && std::fs::read_dir(to).map_err(problem)?.next().is_some() {
        return Err(format!("{} is not empty: name a new folder", to.display()).into());
    }
    // It holds the same data as the state folder: only the owner may read it.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(problem)?;
    let wanted = shared.append(Record::Nothing, Durability::Always).lsn;
    loop {
        if shared.supply.lock().kept() >= wanted {
            break;
        }
        if shared.health() != Health::Good || shared.supply.lock().closed {
            return Err("the store has failed: no backup can be made of it".into());
        }
        if shared.reads.view().frozen.is_none() {
            shared.intake.freeze_soon();
            shared.append(Record::Nothing, Durability::Always);
        }
        std::thread::sleep(CHECK_EVERY);
    }
    let _reading = shared.reads.reading();
    let read = shared.reads.view().checkpoint.read()?;
    checkpoint::copy(&read, &to.join(checkpoint::FILE))?;
    std::fs::File::open(to).and_then(|folder| folder.sync_all()).map_err(problem)?;
    info!(to = %to.display(), "backup made");
    Ok(())
}
