//! Cache of verified passwords, so that devices that reconnect are not hashed again.
//!
//! It holds a keyed hash of user, stored hash and password. The key is random, never leaves the
//! process, and ends with it. A password cannot be read from the cache, and a user whose stored
//! hash changes is no longer in it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;

use super::Hash;

type Tag = [u8; 16];

/// Cache of verified passwords.
pub struct VerifiedCache {
    key: hmac::Key,
    /// Largest number of entries; 0: none, as where there is no randomness.
    entries_max: usize,
    age_max: Duration,
    known: Mutex<Known>,
}

/// Two generations: when the younger is full, the elder is dropped.
#[derive(Default)]
struct Known {
    young: HashMap<Tag, Instant>,
    old: HashMap<Tag, Instant>,
}

impl std::fmt::Debug for VerifiedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Successes(…)")
    }
}

impl VerifiedCache {
    /// Creates a cache for so many entries of such an age; 0 of either: none.
    pub fn new(entries_max: usize, age_max_s: u32) -> VerifiedCache {
        let mut key = [0; 32];
        let random = getrandom::fill(&mut key).is_ok();
        let entries_max = if random && age_max_s > 0 { entries_max } else { 0 };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        VerifiedCache {
            key,
            entries_max,
            age_max: Duration::from_secs(age_max_s.into()),
            known: Mutex::default(),
        }
    }

    /// Returns a keyed hash of a text, which only this process can make.
    pub fn keyed(&self, text: &str) -> [u8; 32] {
        hmac::sign(&self.key, &[b"text:", text.as_bytes()].concat()).as_ref().try_into().unwrap_or([0; 32])
    }

    fn tag(&self, user: &str, hash: &Hash, password: &[u8]) -> Option<Tag> {
        let mut context = hmac::Context::with_key(&self.key);
        let hash = hash.to_string();
        for part in [user.as_bytes(), hash.as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().get(..16)?.try_into().ok()
    }

    /// Returns `true` when the password was verified before.
    pub fn knows(&self, user: &str, hash: &Hash, password: &[u8], now: Instant) -> bool {
        let Some(tag) = self.tag(user, hash, password) else { return false };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |since: &Instant| now.saturating_duration_since(*since) < self.age_max;
        if known.young.get(&tag).is_some_and(fresh) {
            return true;
        }
        match known.old.remove(&tag) {
            Some(since) if fresh(&since) => {
                self.insert(&mut known, tag, since);
                true
            }
            _ => false,
        }
    }

    /// Adds a verified password.
    pub fn learn(&self, user: &str, hash: &Hash, password: &[u8], now: Instant) {
        let Some(tag) = self.tag(user, hash, password) else { return };
        self.insert(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner), tag, now);
    }

    fn insert(&self, known: &mut Known, tag: Tag, since: Instant) {
        if self.entries_max == 0 {
            return;
        }
        if known.young.len() >= self.entries_max.div_ceil(2) {
            known.old = std::mem::take(&mut known.young);
        }
        known.young.insert(tag, since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verified_password_expires_and_the_cache_is_bounded() {
        let hash = Hash::Sha512 { salt: [1; 8].into(), hash: [2; 64].into() };
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(11));
        let verified = VerifiedCache::new(4, 10);
        verified.learn("u", &hash, b"p", now);
        assert!(verified.knows("u", &hash, b"p", now));
        assert!(!verified.knows("u", &hash, b"q", now) && !verified.knows("v", &hash, b"p", now));
        assert!(!verified.knows("u", &hash.decoy(), b"p", now), "its hash has changed");
        assert!(!verified.knows("u", &hash, b"p", later));
        for n in 0..10u8 {
            verified.learn("u", &hash, &[n], now);
        }
        let known = verified.known.lock().unwrap();
        assert!(known.young.len() + known.old.len() <= 4);
    }
}
