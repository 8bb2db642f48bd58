//! Counters of one connection, and the rate of its lines in the log.

use crate::message::Millis;
use crate::telemetry::metrics::{LocalCounters, RateWindow};

/// Counters of a connection.
#[derive(Default)]
pub(crate) struct Stats {
    /// Counts since they were last added to the listener's.
    pub(super) counters: LocalCounters,
    /// Rates of the last seconds.
    pub(super) window: RateWindow,
    /// Moment of the last line about a refusal.
    pub(super) last_refusal_log: Option<Millis>,
    /// Number of lines that were suppressed since then.
    pub(super) suppressed: u64,
}

impl Stats {
    /// Creates the counters of a new connection.
    pub(crate) fn new(now: Millis) -> Stats {
        Stats { window: RateWindow::new(now), ..Stats::default() }
    }
}
