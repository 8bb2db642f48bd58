//! What a reload replaces: who may do what, and the TLS of every listener. One snapshot, replaced whole or not at all.
//!
//! A new connection takes the snapshot of its moment; a live one sees by the generation that there is a newer one and asks it
//! what has become of its rights. Old TLS connections go on with the certificate that they began with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::auth::Auth;
use crate::auth::ban::Bans;
use crate::message::Millis;
use crate::net::Acceptors;

/// The snapshot.
pub struct Trust {
    /// Who may do what.
    pub auth: Auth,
    /// The TLS of each listener, in the order of the configuration.
    pub tls: Acceptors,
    /// Who is not let in.
    pub bans: Bans,
    /// When it was put in place.
    pub since: Millis,
    /// Counts the snapshots.
    pub generation: u64,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// What the files say, before it is in place.
pub struct Loaded {
    /// Who may do what.
    pub auth: Auth,
    /// The TLS of each listener, in the order of the configuration.
    pub tls: Acceptors,
    /// Who is not let in.
    pub bans: Bans,
}

impl Loaded {
    fn into_trust(self, since: Millis, generation: u64) -> Trust {
        let Loaded { auth, tls, bans } = self;
        Trust { auth, tls, bans, since, generation }
    }
}

/// Where the current one is.
#[derive(Debug)]
pub struct Live {
    current: RwLock<Arc<Trust>>,
    generation: AtomicU64,
}

impl Live {
    /// Begins with this.
    pub fn new(loaded: Loaded, since: Millis) -> Live {
        Live { current: RwLock::new(Arc::new(loaded.into_trust(since, 0))), generation: AtomicU64::new(0) }
    }

    /// The current snapshot.
    pub fn get(&self) -> Arc<Trust> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this is it; cheap enough for every wake of every connection.
    #[inline]
    pub fn is_current(&self, trust: &Trust) -> bool {
        self.generation.load(Ordering::Acquire) == trust.generation
    }

    /// Puts another in its place.
    pub fn replace(&self, loaded: Loaded, since: Millis) -> Arc<Trust> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + 1;
        *current = Arc::new(loaded.into_trust(since, generation));
        self.generation.store(generation, Ordering::Release);
        current.clone()
    }
}
