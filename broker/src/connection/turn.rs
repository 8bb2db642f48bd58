//! How long a connection keeps its thread: others that the thread serves wait meanwhile.

use std::time::{Duration, Instant};

/// How long it takes packets in, and how long it gathers then, if taking in took all of that.
const SLICE: Duration = Duration::from_micros(500);
/// So much work is done before the clock is looked at.
const CHECK_CLOCK_EVERY: u32 = 32;

/// What was done in a turn. A turn of a few packets never looks at the clock.
#[derive(Debug, Default)]
pub(super) struct TimeSlice {
    work: u32,
    until: Option<Instant>,
    over: bool,
}

impl TimeSlice {
    /// Something was done: a packet was handled or made, or a message was given to one of many.
    #[inline]
    pub(super) fn spend(&mut self, work: u32) {
        self.work = self.work.saturating_add(work);
        if self.work >= CHECK_CLOCK_EVERY {
            self.look();
        }
    }

    fn look(&mut self) {
        self.work = 0;
        let now = Instant::now();
        match self.until {
            Some(until) => self.over = now >= until,
            None => self.until = Some(now + SLICE),
        }
    }

    /// Whether others are to have theirs.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}
