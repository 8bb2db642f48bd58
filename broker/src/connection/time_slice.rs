//! The time slice of a connection: other connections of its thread wait meanwhile.

use std::time::{Duration, Instant};

/// Time for reading; gathering has as much again when reading took all of it.
const SLICE: Duration = Duration::from_micros(500);
/// Units of work between two looks at the clock.
const CHECK_CLOCK_EVERY: u32 = 32;

/// Work of one turn. A turn of a few packets never reads the clock.
#[derive(Debug, Default)]
pub(super) struct TimeSlice {
    work: u32,
    until: Option<Instant>,
    over: bool,
}

impl TimeSlice {
    /// Counts work: one unit for each packet handled or made, and for each target of a message.
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

    /// Returns `true` when other connections are to have their turn.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}
