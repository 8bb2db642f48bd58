//! What was found right is remembered, so that devices that come back are not hashed again.
//!
//! Kept is a keyed hash of user, stored hash and password; its key is random, never leaves the
//! process and dies with it. A password cannot be read off it, and a user whose stored hash changes
//! is forgotten by that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;

use super::Hash;

type Tag = [u8; 16];

/// See the module.
pub struct VerifiedCache {
    key: hmac::Key,
    /// 0: nothing is remembered, as where there is no randomness.
    entries_max: usize,
    age_max: Duration,
    known: Mutex<Known>,
}

/// Two generations: when the younger is full, the elder is forgotten.
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
    /// Remembers so many for so long; 0 of either: none.
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

    /// Bytes that belong to a text, and that only this process can make.
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

    /// Whether it was found right before.
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

    /// Remembers it.
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
    fn a_success_is_known_for_its_time_for_its_hash_and_within_the_bound() {
        let hash = Hash::Sha512 { salt: [1; 8].into(), hash: [2; 64].into() };
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(11));
        let successes = VerifiedCache::new(4, 10);
        successes.learn("u", &hash, b"p", now);
        assert!(successes.knows("u", &hash, b"p", now));
        assert!(!successes.knows("u", &hash, b"q", now) && !successes.knows("v", &hash, b"p", now));
        assert!(!successes.knows("u", &hash.decoy(), b"p", now), "its hash has changed");
        assert!(!successes.knows("u", &hash, b"p", later));
        for n in 0..10u8 {
            successes.learn("u", &hash, &[n], now);
        }
        let known = successes.known.lock().unwrap();
        assert!(known.young.len() + known.old.len() <= 4);
    }
}
