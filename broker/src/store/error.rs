//! Reasons why a store does not open; their texts name cause and remedy.

use std::io;

/// Reason why the state cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The disk returned an error.
    Io {
        /// Failed operation.
        doing: String,
        /// Error of the disk.
        error: io::Error,
    },
    /// Another process has it.
    Locked(String),
    /// It was written by a newer version, or not by lapwing.
    Foreign(String),
    /// It is damaged.
    Corrupt {
        /// File name.
        file: String,
        /// Offset in the file, in bytes.
        offset: u64,
        /// Kind of damage.
        what: String,
    },
}

impl OpenError {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let doing = doing.into();
        move |error| OpenError::Io { doing, error }
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Io { doing, error } => write!(
                f,
                "store: {doing}: {error}. Check the permissions and the free space of the data directory, name another one with \
                 --data-dir, or keep nothing with --in-memory"
            ),
            OpenError::Locked(folder) => write!(
                f,
                "store: {folder} is in use by another lapwing. Stop that one, or name another directory with --data-dir"
            ),
            OpenError::Foreign(what) => write!(
                f,
                "store: {what}. Use the version that wrote it, or name another directory with --data-dir; `lapwing store export` \
                 of that version and `lapwing store import` of this one carry the state over"
            ),
            OpenError::Corrupt { file, offset, what } => write!(
                f,
                "store: {file} is damaged at byte {offset}: {what}. Restore a backup, or start with store.on_corruption = \
                 \"quarantine\": the damaged part is set aside and the rest is used"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Any problem, as text.
pub type Problem = Box<dyn std::error::Error + Send + Sync>;
