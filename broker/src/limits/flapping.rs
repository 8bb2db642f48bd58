//! Detection of clients that connect too often: flapping, and takeover fights.
//!
//! A flapping client is banned for a while, if the configuration asks for it. Clients that take one
//! identifier from each other are logged, both of them, and slowed down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::Limits;
use crate::message::Millis;

/// Milliseconds after a takeover in which the next one belongs to the same fight.
const FIGHT_MS: Millis = 10_000;
/// Takeovers in a row that are not delayed: a broken network or a retried restart looks like one.
const FREE_TAKEOVERS: u32 = 3;
/// First delay of a takeover, doubled each time.
const WAIT_MS: u64 = 250;
const WAIT_MS_MAX: u64 = 5_000;
/// Above this number of client identifiers, those without recent connects are forgotten; above
/// [`KEPT_MAX`], all of them.
const KEPT: usize = 4_096;
const KEPT_MAX: usize = 65_536;

#[derive(Debug, Default)]
struct ConnectHistory {
    /// Start of the current window, and number of connects in it.
    since: Millis,
    connects: u32,
    banned_until: Millis,
    /// Takeovers in a row, and the time of the last one.
    takeovers: u32,
    last_takeover: Millis,
    told_at: Option<Millis>,
}

/// Reaction to a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeoverFight {
    /// Delay of the claim.
    pub wait: Duration,
    /// True when the log gets a line: once in ten seconds for each client identifier.
    pub log: bool,
}

/// History of connects and takeovers of each client identifier.
#[derive(Debug, Default)]
pub struct FlapDetector(Mutex<HashMap<Arc<str>, ConnectHistory>>);

impl FlapDetector {
    fn with<T>(
        &self,
        client_id: &Arc<str>,
        now: Millis,
        window: Millis,
        f: impl FnOnce(&mut ConnectHistory) -> T,
    ) -> T {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= KEPT && !clients.contains_key(client_id) {
            let busy = |client: &ConnectHistory| {
                now < client.banned_until
                    || now < client.since + window
                    || now < client.last_takeover + FIGHT_MS
            };
            clients.retain(|_, client| busy(client));
            if clients.len() >= KEPT_MAX {
                clients.clear();
            }
        }
        f(clients.entry(client_id.clone()).or_default())
    }

    /// Counts a connect of a client.
    ///
    /// # Errors
    /// The duration of the ban, after more connects than `limits.flapping_connects_max`.
    pub fn connects(&self, client_id: &Arc<str>, limits: &Limits, now: Millis) -> Result<(), Duration> {
        if limits.flapping_connects_max == 0 {
            return Ok(());
        }
        let window = Millis::from(limits.flapping_window_s) * 1_000;
        self.with(client_id, now, window, |client| {
            if now < client.banned_until {
                return Err(Duration::from_millis(client.banned_until - now));
            }
            if now >= client.since + window {
                (client.since, client.connects) = (now, 0);
            }
            client.connects += 1;
            if client.connects > limits.flapping_connects_max {
                client.connects = 0;
                client.banned_until = now + Millis::from(limits.flapping_ban_s) * 1_000;
                return Err(Duration::from_millis(client.banned_until - now));
            }
            Ok(())
        })
    }

    /// Counts an attempt to take over another connection with this client identifier.
    pub fn takes_over(&self, client_id: &Arc<str>, now: Millis) -> TakeoverFight {
        self.with(client_id, now, 0, |client| {
            client.takeovers = if now < client.last_takeover + FIGHT_MS { client.takeovers + 1 } else { 1 };
            client.last_takeover = now;
            if client.takeovers <= FREE_TAKEOVERS {
                return TakeoverFight { wait: Duration::ZERO, log: false };
            }
            let doubled = WAIT_MS << (client.takeovers - FREE_TAKEOVERS - 1).min(8);
            let tell = client.told_at.is_none_or(|at| now >= at + FIGHT_MS);
            if tell {
                client.told_at = Some(now);
            }
            TakeoverFight { wait: Duration::from_millis(doubled.min(WAIT_MS_MAX)), log: tell }
        })
    }

    /// Takes a takeover back: the other connection had ended already.
    pub fn undo(&self, client_id: &Arc<str>, now: Millis, fight: TakeoverFight) {
        self.with(client_id, now, 0, |client| {
            client.takeovers = client.takeovers.saturating_sub(1);
            if fight.log {
                client.told_at = None;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_client_is_banned_for_a_while_if_configured() {
        let limits = Limits { flapping_connects_max: 3, ..Limits::default() };
        let (arrivals, id, other): (_, Arc<str>, Arc<str>) =
            (FlapDetector::default(), "a".into(), "b".into());
        let now = 1_000_000;
        for n in 0..3 {
            assert_eq!(arrivals.connects(&id, &limits, now + n), Ok(()));
        }
        assert_eq!(arrivals.connects(&id, &limits, now + 3), Err(Duration::from_secs(300)));
        assert_eq!(arrivals.connects(&id, &limits, now + 100_003), Err(Duration::from_secs(200)));
        assert_eq!(arrivals.connects(&other, &limits, now + 3), Ok(()));
        assert_eq!(arrivals.connects(&id, &limits, now + 300_003), Ok(()));
        // Three connects in each minute are no flapping.
        for n in 0..30 {
            assert_eq!(arrivals.connects(&other, &limits, now + 100_000 + n * 20_000), Ok(()));
        }
        let open = Limits::default();
        assert!((0..1_000).all(|_| arrivals.connects(&id, &open, now).is_ok()));
    }

    #[test]
    fn a_takeover_fight_is_delayed_and_logged_and_a_reconnect_is_not() {
        let (flapping, id): (_, Arc<str>) = (FlapDetector::default(), "a".into());
        let now = 1_000_000;
        let waits: Vec<u64> =
            (0..9).map(|n| flapping.takes_over(&id, now + n * 100).wait.as_millis() as u64).collect();
        assert_eq!(waits, [0, 0, 0, 250, 500, 1_000, 2_000, 4_000, 5_000]);
        assert!(flapping.takes_over(&id, now + 12_000).wait.is_zero(), "ten seconds of peace");
        let told = |from: Millis| (0..50).filter(|n| flapping.takes_over(&id, from + n * 100).log).count();
        assert_eq!(told(now + 100_000), 1);
        for n in 0..100 {
            assert!(flapping.takes_over(&id, now + 1_000_000 + n * 11_000).wait.is_zero());
        }
    }
}
