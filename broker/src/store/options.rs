//! Options that a durable store is opened with.

use std::time::Duration;

use crate::config::OnCorruption;

/// How a store is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long `Durability::Interval` may leave what is written unsynced.
    pub sync_interval: Duration,
    /// The least time between two syncs.
    pub min_sync_interval: Duration,
    /// How much log there is between two checkpoints, in bytes, or memory of what stands in it,
    /// whichever is reached first; up to four times as much while a disk is slow.
    pub window_bytes: u64,
    /// A segment of the log, in bytes.
    pub segment_bytes: u64,
    /// The memory of the checkpoint's cache, in bytes.
    pub cache_bytes: usize,
    /// The memory of records that wait to be written, in bytes.
    pub pending_bytes_max: usize,
    /// What to do about a damaged file.
    pub on_corruption: OnCorruption,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sync_interval: Duration::from_secs(1),
            min_sync_interval: Duration::ZERO,
            window_bytes: 32 << 20,
            segment_bytes: 4 << 20,
            cache_bytes: 8 << 20,
            pending_bytes_max: 16 << 20,
            on_corruption: OnCorruption::default(),
        }
    }
}
