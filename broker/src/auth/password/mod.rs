//! Passwords: the file of users, hashing that delays no other client, and the cache of verified
//! ones.

mod file;
mod hash;
mod hash_pool;
mod verified_cache;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

#[cfg(feature = "internals")]
pub use file::check_name;
pub use file::{PasswordEntry, Passwords, edit, line};
pub use hash::{Cost, Hash};
pub use hash_pool::{HashPool, HashQueueFull};
use tracing::{info, warn};
pub use verified_cache::VerifiedCache;

use super::throttle::Throttle;
use crate::config;
use crate::config::Secret;

/// Result of a password check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The password is the user's.
    Right,
    /// The password is wrong, or there is no such user.
    Wrong,
    /// The address has failed too often.
    LockedOut,
    /// Too many passwords wait to be hashed.
    Busy,
}

/// State that outlives a reload: threads, counts, and verified passwords.
#[derive(Debug)]
pub struct AuthState {
    /// Threads that hash.
    pub hash_pool: HashPool,
    /// Failed attempts by address.
    pub throttle: Arc<Throttle>,
    /// Verified passwords.
    pub verified: VerifiedCache,
    /// The key set that was fetched last.
    #[cfg(feature = "http")]
    pub published: Mutex<Option<String>>,
    /// Users whose line is to be replaced: the old hash and the new entry.
    rehashed: Mutex<HashMap<Box<str>, (Hash, PasswordEntry)>>,
}

impl AuthState {
    /// Creates the state with the limits of the configuration.
    pub fn new(config: &config::Auth) -> AuthState {
        AuthState {
            hash_pool: HashPool::new(
                config.password_hashers_max as usize,
                config.password_queue_max as usize,
            ),
            throttle: Arc::default(),
            verified: VerifiedCache::new(config.password_cache_entries_max as usize, config.password_cache_s),
            #[cfg(feature = "http")]
            published: Mutex::default(),
            rehashed: Mutex::default(),
        }
    }

    /// Checks a user's password.
    pub async fn check(
        &self,
        config: &config::Auth,
        passwords: &Passwords,
        user: &str,
        password: &[u8],
        address: Option<IpAddr>,
    ) -> Checked {
        let entry = passwords.get(user);
        let now = Instant::now();
        if entry.is_some_and(|entry| self.verified.knows(user, &entry.hash, password, now)) {
            return Checked::Right;
        }
        if self.throttle.is_shut(address, config.failures_per_address_max, now) {
            return Checked::LockedOut;
        }
        let Some(hash) = entry.map(|entry| entry.hash.clone()).or_else(|| passwords.decoy().cloned()) else {
            self.throttle.failed(address, now);
            return Checked::Wrong;
        };
        let secret = Secret::new(password);
        let known = entry.is_some();
        // Files of single listeners are not rewritten.
        let own = config.password_file.as_deref().is_some_and(|path| *passwords.path == *Path::new(path));
        let rehash = (config.password_rehash && own && known && hash.is_foreign()).then(|| cost(config));
        let (throttle, most) = (self.throttle.clone(), config.failures_per_address_max);
        let checked = self.hash_pool.run(move |memory| {
            // Other clients of this address may have failed while this one waited.
            if throttle.is_shut(address, most, Instant::now()) {
                return (Checked::LockedOut, None);
            }
            let right = hash.verify(secret.reveal(), memory) && known;
            if !right {
                throttle.failed(address, Instant::now());
                return (Checked::Wrong, None);
            }
            let anew = rehash.and_then(|cost| Hash::make(secret.reveal(), cost, memory).ok());
            (Checked::Right, anew)
        });
        match checked.await {
            Err(HashQueueFull) => Checked::Busy,
            Ok(Some((Checked::Right, anew))) => {
                if let Some(entry) = entry {
                    self.verified.learn(user, &entry.hash, password, now);
                    if let Some(hash) = anew {
                        let new = PasswordEntry { hash, scram: entry.scram.clone() };
                        let mut rehashed = self.rehashed.lock().unwrap_or_else(PoisonError::into_inner);
                        rehashed.insert(user.into(), (entry.hash.clone(), new));
                    }
                }
                Checked::Right
            }
            Ok(Some((other, _))) => other,
            Ok(None) => Checked::Wrong,
        }
    }

    /// Writes the new hashes, all at once. A line that has changed meanwhile is kept. Blocks.
    pub fn write_rehashed(&self, path: &Path) {
        let rehashed = std::mem::take(&mut *self.rehashed.lock().unwrap_or_else(PoisonError::into_inner));
        if rehashed.is_empty() {
            return;
        }
        let mut count = 0;
        let mut judge = |user: &str, old: &str| match rehashed.get(user) {
            Some((was, new))
                if old == line(user, &PasswordEntry { hash: was.clone(), scram: new.scram.clone() }) =>
            {
                count += 1;
                Some(line(user, new))
            }
            _ => Some(old.to_owned()),
        };
        match edit(path, &mut judge, &[]) {
            Ok(()) => info!(target: "audit", "{count} passwords of {} are argon2id now", path.display()),
            Err(error) => {
                warn!("{} could not be written: {error}; auth.password_rehash needs that", path.display())
            }
        }
    }

    /// Returns `true` when [`write_rehashed`](Self::write_rehashed) has something to write.
    pub fn has_rehashed(&self) -> bool {
        !self.rehashed.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Returns the cost of new passwords.
pub fn cost(config: &config::Auth) -> Cost {
    let memory_kib = u32::try_from(config.password_memory_bytes / 1024).unwrap_or(u32::MAX);
    Cost { memory_kib, passes: config.password_passes }
}
