//! The broker's clock: milliseconds since the Unix epoch at its start, and monotonic from there.
//!
//! Times on disk must stay valid over a restart, so the clock continues and includes downtime. A
//! jump of the wall clock while the broker runs has no effect. A jump before the start can make
//! this clock begin late, never early.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::message::Millis;

/// Monotonic clock that begins at the wall clock's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Millis,
    started: Instant,
}

impl Clock {
    /// Starts now, but not before `last`, the latest time that is known to have passed.
    pub fn after(last: Millis) -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let wall = Millis::try_from(wall.as_millis()).unwrap_or(Millis::MAX / 2);
        Clock { base: wall.max(last), started: Instant::now() }
    }

    /// Milliseconds that the wall clock was behind this clock at the start.
    pub fn ahead_ms(&self) -> Millis {
        self.base.saturating_sub(Clock::after(0).base)
    }

    /// Current time.
    pub fn now(&self) -> Millis {
        self.base + self.uptime_ms()
    }

    /// Milliseconds since the start.
    pub fn uptime_ms(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: Millis = 86_400_000;

    #[test]
    fn time_never_goes_back_when_the_wall_clock_was_set_by_a_day() {
        let wall = Clock::after(0).now();
        // Set back: the last run saw a time that the wall clock has not reached.
        let behind = Clock::after(wall + DAY_MS);
        assert!(behind.now() >= wall + DAY_MS && behind.now() < wall + DAY_MS + 60_000);
        assert!(behind.ahead_ms() > DAY_MS - 60_000, "the lag is not reported");
        // Set forward: it is believed.
        let forward = Clock::after(wall - DAY_MS);
        assert!(forward.now() >= wall && forward.now() < wall + 60_000);
        assert_eq!(forward.ahead_ms(), 0);
    }
}
