//! Publish rates of clients and users. The broker stops reading from a publisher above its rate:
//! nothing is lost, and TCP slows it down.
//!
//! A token bucket is one number: the time until which everything taken is paid for. Each message
//! moves it forward by its price. One second may be taken ahead, so that short bursts pass.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::config::Limits;
use crate::message::Millis;

const SECOND_NS: u64 = 1_000_000_000;
/// Above this number of users, those without a connection are forgotten.
const USERS_KEPT: usize = 1_024;

/// One token bucket, of messages or of bytes.
#[derive(Debug, Default)]
struct TokenBucket(AtomicU64);

impl TokenBucket {
    /// Time from which more can be taken, in nanoseconds.
    fn free_at(&self) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_sub(SECOND_NS)
    }

    fn charge(&self, count: u64, per_s: u64, now_ns: u64) {
        let price = u64::try_from(u128::from(count) * u128::from(SECOND_NS) / u128::from(per_s.max(1)));
        let price = price.unwrap_or(u64::MAX);
        // At most one second is saved up.
        let paid = |until: u64| Some(until.max(now_ns).saturating_add(price));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
    }
}

/// Messages and bytes that a publisher, or all clients of a user, may send in a second; 0: any
/// number.
#[derive(Debug)]
struct RateLimit {
    messages_per_s: u64,
    bytes_per_s: u64,
    messages: TokenBucket,
    bytes: TokenBucket,
}

impl RateLimit {
    fn new(messages_per_s: u32, bytes_per_s: u64) -> Option<RateLimit> {
        (messages_per_s > 0 || bytes_per_s > 0).then(|| RateLimit {
            messages_per_s: messages_per_s.into(),
            bytes_per_s,
            messages: TokenBucket::default(),
            bytes: TokenBucket::default(),
        })
    }

    fn is_like(&self, other: &RateLimit) -> bool {
        (self.messages_per_s, self.bytes_per_s) == (other.messages_per_s, other.bytes_per_s)
    }

    fn free_at(&self) -> u64 {
        let of = |meter: &TokenBucket, per_s| if per_s > 0 { meter.free_at() } else { 0 };
        of(&self.messages, self.messages_per_s).max(of(&self.bytes, self.bytes_per_s))
    }

    fn charge(&self, bytes: u64, now_ns: u64) {
        if self.messages_per_s > 0 {
            self.messages.charge(1, self.messages_per_s, now_ns);
        }
        if self.bytes_per_s > 0 {
            self.bytes.charge(bytes, self.bytes_per_s, now_ns);
        }
    }
}

/// Limits that a connection's messages are charged to; empty without limits.
#[derive(Debug, Default)]
pub struct RateLimits {
    own: Option<RateLimit>,
    user: Option<Arc<UserRate>>,
}

/// Limit of all clients of a user together.
#[derive(Debug)]
pub struct UserRate(RateLimit);

impl RateLimits {
    /// Takes a PUBLISH of this size, or returns the time when it can be taken.
    pub fn take(&self, bytes: usize, now: Millis) -> Result<(), Millis> {
        if self.own.is_none() && self.user.is_none() {
            return Ok(());
        }
        let now_ns = now.saturating_mul(1_000_000);
        let all = || self.own.iter().chain(self.user.iter().map(|user| &user.0));
        let free_at = all().map(RateLimit::free_at).max().unwrap_or(0);
        if free_at > now_ns {
            return Err(free_at.div_ceil(1_000_000));
        }
        all().for_each(|allowance| allowance.charge(bytes as u64, now_ns));
        Ok(())
    }
}

/// Limits of all users with connections.
#[derive(Debug, Default)]
pub struct UserRates(Mutex<HashMap<Arc<str>, Weak<UserRate>>>);

impl UserRates {
    /// Limits of a new connection of this user.
    pub fn rate_limits(&self, user: Option<&Arc<str>>, limits: &Limits) -> RateLimits {
        let own = RateLimit::new(limits.publishes_per_client_per_s, limits.publish_bytes_per_client_per_s);
        let of_user = || RateLimit::new(limits.publishes_per_user_per_s, limits.publish_bytes_per_user_per_s);
        let user = user.and_then(|user| {
            let fresh = of_user()?;
            let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A reload may have changed the limit.
            let same = |known: &Arc<UserRate>| known.0.is_like(&fresh);
            if let Some(known) = users.get(user).and_then(Weak::upgrade).filter(same) {
                return Some(known);
            }
            if users.len() >= USERS_KEPT {
                users.retain(|_, allowance| allowance.strong_count() > 0);
            }
            let allowance = Arc::new(UserRate(fresh));
            users.insert(user.clone(), Arc::downgrade(&allowance));
            Some(allowance)
        });
        RateLimits { own, user }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of messages that pass when a client sends all the time from `from` to `to`.
    fn passed(rates: &[&RateLimits], bytes: usize, from: Millis, to: Millis) -> u64 {
        let mut count = 0;
        for now in from..to {
            for rates in rates {
                while rates.take(bytes, now).is_ok() {
                    count += 1;
                    assert!(count < 1_000_000, "no bound");
                }
            }
        }
        count
    }

    #[test]
    fn a_client_gets_its_rate_and_at_most_one_second_ahead() {
        let limits = Limits { publishes_per_client_per_s: 100, ..Limits::default() };
        let rates = UserRates::default().rate_limits(None, &limits);
        let now = 1_000_000;
        assert!((1_099..=1_102).contains(&passed(&[&rates], 10, now, now + 10_000)));
        // A minute of silence is not saved up.
        let now = now + 70_000;
        assert!((199..=202).contains(&passed(&[&rates], 10, now, now + 1_000)));
    }

    #[test]
    fn a_refusal_says_when_the_next_message_can_be_taken() {
        let limits = Limits { publish_bytes_per_client_per_s: 1_000, ..Limits::default() };
        let rates = UserRates::default().rate_limits(None, &limits);
        // A message larger than one second's worth passes, and later ones wait for it.
        assert_eq!(rates.take(5_000, 1_000_000), Ok(()));
        assert_eq!(rates.take(1, 1_000_000), Err(1_004_000));
        assert_eq!(rates.take(1, 1_003_999), Err(1_004_000));
        assert_eq!(rates.take(1, 1_004_000), Ok(()));
    }

    #[test]
    fn the_clients_of_a_user_share_its_rate() {
        let limits = Limits { publishes_per_user_per_s: 100, ..Limits::default() };
        let users = UserRates::default();
        let (u, v): (Arc<str>, Arc<str>) = ("u".into(), "v".into());
        let [one, two, other] = [&u, &u, &v].map(|user| users.rate_limits(Some(user), &limits));
        let now = 1_000_000;
        assert!((1_099..=1_102).contains(&passed(&[&one, &two], 10, now, now + 10_000)));
        assert!((1_099..=1_102).contains(&passed(&[&other], 10, now, now + 10_000)));
        let anonymous = users.rate_limits(None, &limits);
        assert_eq!(anonymous.take(10, now), Ok(()), "without a user there is no limit per user");
    }
}
