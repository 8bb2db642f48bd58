//! The broker's clock: milliseconds since the Unix epoch at its start, and monotonic from there.
//!
//! What is kept on disk names moments, so the clock goes on over a restart, time spent down
//! included. A jump of the wall clock while the broker runs moves nothing; one that happened before
//! it started can make it begin late, never early.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::message::Millis;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Millis,
    started: Instant,
}

impl Clock {
    /// Starts now, and not before `last`, the last moment that is known to have passed.
    pub fn after(last: Millis) -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let wall = Millis::try_from(wall.as_millis()).unwrap_or(Millis::MAX / 2);
        Clock { base: wall.max(last), started: Instant::now() }
    }

    /// How far the wall clock is behind this one at its start.
    pub fn ahead_ms(&self) -> Millis {
        self.base.saturating_sub(Clock::after(0).base)
    }

    /// The moment.
    pub fn now(&self) -> Millis {
        self.base + self.uptime_ms()
    }

    /// Since the start.
    pub fn uptime_ms(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: Millis = 86_400_000;

    #[test]
    fn a_wall_clock_that_was_set_by_a_day_makes_time_stand_or_leap_but_never_go_back() {
        let wall = Clock::after(0).now();
        // Set back: the last run saw a moment that the wall clock has not reached.
        let behind = Clock::after(wall + DAY_MS);
        assert!(behind.now() >= wall + DAY_MS && behind.now() < wall + DAY_MS + 60_000);
        assert!(behind.ahead_ms() > DAY_MS - 60_000, "nobody could be told");
        // Set forward: it is believed.
        let forward = Clock::after(wall - DAY_MS);
        assert!(forward.now() >= wall && forward.now() < wall + 60_000);
        assert_eq!(forward.ahead_ms(), 0);
    }
}
