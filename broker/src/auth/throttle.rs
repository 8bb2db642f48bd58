//! Counts failed attempts per address. An address that fails is slowed down, and soon refused for
//! the rest of the minute.
//!
//! Only wrong credentials count. Credentials that are known to be right pass in any case, so that
//! one broken device behind a router does not lock its neighbours out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::network_of;

const MINUTE: Duration = Duration::from_secs(60);
/// Above this many addresses, those whose minute is over are forgotten.
const ADDRESSES_KEPT: usize = 4_096;
/// Above this many addresses, all of them are forgotten.
const ADDRESSES_MAX: usize = 65_536;

/// Failed attempts by address.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Throttle {
    /// Returns `true` when this address has failed `most` times within the minute; 0 is no limit.
    pub fn is_shut(&self, address: Option<IpAddr>, most: u32, now: Instant) -> bool {
        let Some(address) = address.filter(|_| most > 0) else { return false };
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures
            .get(&network_of(address))
            .is_some_and(|(since, count)| *count >= most && now.saturating_duration_since(*since) < MINUTE)
    }

    /// Counts a failure.
    pub fn failed(&self, address: Option<IpAddr>, now: Instant) {
        let Some(address) = address else { return };
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES_KEPT {
            failures.retain(|_, (since, _)| now.saturating_duration_since(*since) < MINUTE);
            if failures.len() >= ADDRESSES_MAX {
                failures.clear();
            }
        }
        let (since, count) = failures.entry(network_of(address)).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= MINUTE {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_locked_out_until_the_end_of_the_minute() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let bad = Some(IpAddr::from([192, 0, 2, 1]));
        for _ in 0..3 {
            assert!(!throttle.is_shut(bad, 3, now));
            throttle.failed(bad, now);
        }
        assert!(throttle.is_shut(bad, 3, now));
        assert!(!throttle.is_shut(Some(IpAddr::from([192, 0, 2, 2])), 3, now));
        assert!(!throttle.is_shut(bad, 0, now) && !throttle.is_shut(None, 3, now));
        // The next minute begins anew, and has its own end.
        for minute in 1..4 {
            let now = now + minute * MINUTE;
            for _ in 0..3 {
                assert!(!throttle.is_shut(bad, 3, now), "minute {minute}");
                throttle.failed(bad, now);
            }
            assert!(throttle.is_shut(bad, 3, now), "minute {minute}");
        }
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_an_ipv4_address_in_ipv6_as_itself() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        throttle.failed("2001:db8::1".parse().ok(), now);
        assert!(throttle.is_shut("2001:db8::2".parse().ok(), 1, now));
        assert!(!throttle.is_shut("2001:db8:0:1::1".parse().ok(), 1, now));
        throttle.failed("::ffff:192.0.2.1".parse().ok(), now);
        assert!(
            throttle.is_shut("192.0.2.1".parse().ok(), 1, now)
                && !throttle.is_shut("192.0.2.2".parse().ok(), 1, now)
        );
    }
}
