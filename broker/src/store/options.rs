//! Options that a durable store is opened with.

use std::time::Duration;

use crate::config::OnCorruption;

/// Options of a durable store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Maximum time that `Durability::Interval` leaves written data unsynced.
    pub sync_interval: Duration,
    /// Minimum time between two syncs.
    pub min_sync_interval: Duration,
    /// Bytes of log, or of memtable memory, between two checkpoints. Up to four times as much while
    /// the disk is slow.
    pub window_bytes: u64,
    /// Size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// Cache memory of the checkpoint, in bytes.
    pub cache_bytes: usize,
    /// Maximum memory of records that wait to be written, in bytes.
    pub pending_bytes_max: usize,
    /// Reaction to a damaged file.
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
