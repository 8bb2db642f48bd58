//! Settings that a reload replaces: the configuration, the policy, and the listeners with their
//! TLS. They are one snapshot, replaced whole or not at all.
//!
//! A new connection takes the snapshot of its moment; a live one sees by the generation that there
//! is a newer one and takes that. What a client was told in CONNACK stands for its connection, and
//! old TLS connections go on with the certificate that they began with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::auth::Auth;
use crate::auth::ban::Bans;
use crate::config::{Config, Secret};
use crate::message::Millis;
use crate::net::endpoint::{Endpoint, EndpointId};
use crate::telemetry::metrics::{Traffic, TrafficTotals};

/// Settings that are in force together.
pub struct Snapshot {
    /// The configuration, without changes that wait for the next start.
    pub config: Config,
    /// Stamps of its files from just before they were read.
    pub(crate) files: FileStamps,
    /// Policy and authentication methods.
    pub auth: Auth,
    /// Bans in force.
    pub bans: Bans,
    /// Token of the API for operators.
    pub admin_token: Option<Secret>,
    /// The listeners, in the order of the configuration.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Moment from which the snapshot is in force.
    pub since: Millis,
    /// Number of the snapshot.
    pub generation: u64,
}

impl Snapshot {
    /// Returns a listener, if the configuration still has it.
    pub fn endpoint(&self, number: EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.number == number)
    }

    /// Returns the snapshot with other bans.
    pub fn with_bans(&self, bans: Bans) -> Snapshot {
        Snapshot {
            config: self.config.clone(),
            files: self.files.clone(),
            auth: self.auth.clone(),
            bans,
            admin_token: self.admin_token.clone(),
            endpoints: self.endpoints.clone(),
            ..*self
        }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Cell with the current snapshot.
#[derive(Debug)]
pub struct Settings {
    current: RwLock<Arc<Snapshot>>,
    generation: AtomicU64,
    gone: Mutex<RemovedTraffic>,
}

/// Traffic of removed listeners. Their last connections may still be open.
#[derive(Debug, Default)]
struct RemovedTraffic {
    closed: TrafficTotals,
    open: Vec<Arc<Traffic>>,
}

impl Settings {
    /// Creates the cell with the first snapshot.
    pub fn new(snapshot: Snapshot) -> Settings {
        let generation = AtomicU64::new(snapshot.generation);
        Settings { current: RwLock::new(Arc::new(snapshot)), generation, gone: Mutex::default() }
    }

    /// Returns the current snapshot.
    pub fn get(&self) -> Arc<Snapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns `true` when this is the current snapshot. Every wake of a connection asks, so it is
    /// one load.
    #[inline]
    pub fn is_current(&self, snapshot: &Snapshot) -> bool {
        self.generation.load(Ordering::Acquire) == snapshot.generation
    }

    /// Replaces the snapshot.
    pub fn replace(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + 1;
        let gone = current.endpoints.iter().filter(|endpoint| snapshot.endpoint(endpoint.number).is_none());
        let gone = gone.map(|endpoint| endpoint.traffic.clone());
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).open.extend(gone);
        *current = Arc::new(Snapshot { generation, ..snapshot });
        self.generation.store(generation, Ordering::Release);
        current.clone()
    }

    /// Returns the traffic through all listeners since the start.
    pub fn traffic(&self) -> TrafficTotals {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let RemovedTraffic { closed: sums, open: lingering } = &mut *gone;
        lingering.retain(|traffic| {
            // Once no connection has it, its counters are final.
            let lingers = Arc::strong_count(traffic) > 1;
            if !lingers {
                sums.add(traffic);
            }
            lingers
        });
        let mut all = *sums;
        lingering.iter().for_each(|traffic| all.add(traffic));
        current.endpoints.iter().for_each(|endpoint| all.add(&endpoint.traffic));
        all
    }
}

/// Identity of a file's content: modification and change time, length, inode.
pub(crate) type FileStamp = Option<(i64, i64, i64, i64, u64, u64)>;

/// The files of a configuration as they were at some moment.
pub(crate) type FileStamps = BTreeMap<PathBuf, FileStamp>;
