//! Counters of the store.

use crate::telemetry::metrics::{Counter, Histogram};

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) record_bytes: Counter,
    pub(super) log_bytes: Counter,
    pub(super) checkpoint_bytes: Counter,
    pub(super) syncs: Counter,
    /// Duration of the syncs of the log.
    pub(super) sync_time: Histogram,
    pub(super) checkpoints: Counter,
    pub(super) moved: Counter,
    pub(super) corrupt: Counter,
}
