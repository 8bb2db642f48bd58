//! Clients that come too often: those that flap, and those that throw each other out because they
//! have the same client identifier. The first are banned for a while if that is asked for; the
//! second are named, both of them, and slowed down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::Limits;
use crate::message::Millis;

/// A takeover within this time of the last belongs to the same quarrel, in milliseconds.
const FIGHT_MS: Millis = 10_000;
/// So many takeovers in a row are nobody's quarrel: a network that breaks, a restart that is tried
/// again.
const FREE_TAKEOVERS: u32 = 3;
/// The first wait, doubled each time.
const WAIT_MS: u64 = 250;
const WAIT_MS_MAX: u64 = 5_000;
/// Above this many client identifiers, those of no interest any more are forgotten; and above the
/// second, all.
const KEPT: usize = 4_096;
const KEPT_MAX: usize = 65_536;

#[derive(Debug, Default)]
struct ConnectHistory {
    /// When its connects were counted from, and how many there were.
    since: Millis,
    connects: u32,
    banned_until: Millis,
    /// Takeovers in a row, and when the last was.
    takeovers: u32,
    last_takeover: Millis,
    told_at: Option<Millis>,
}

/// What there is to be done about a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeoverFight {
    /// The claim waits so long.
    pub wait: Duration,
    /// It is worth a line in the log: one for each client identifier in ten seconds.
    pub log: bool,
}

/// See the module.
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

    /// A client connects.
    ///
    /// # Errors
    /// For how long it is banned, since it came more often than `limits.flapping_connects_max`.
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

    /// A client is about to throw out another connection with its client identifier.
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

    /// The other connection had ended already: it was no takeover.
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
    fn a_client_that_flaps_is_banned_for_a_while_where_that_is_asked_for() {
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
        // Three in each minute are no flapping.
        for n in 0..30 {
            assert_eq!(arrivals.connects(&other, &limits, now + 100_000 + n * 20_000), Ok(()));
        }
        let open = Limits::default();
        assert!((0..1_000).all(|_| arrivals.connects(&id, &open, now).is_ok()));
    }

    #[test]
    fn a_quarrel_is_slowed_down_and_told_and_a_reconnect_is_not() {
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
