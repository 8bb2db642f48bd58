//! Client identifier → live connection or offline session, and the takeover between them.
//!
//! A session is owned by exactly one task. A new connection *claims* its client identifier: from
//! that moment the registry names the new connection, and the old one is asked to hand the session
//! over. Claims made meanwhile queue up behind each other by themselves, since each claimant asks
//! the one before it.
//!
//! Clients stand in the order of their identifiers, so that operators can look through them a page
//! at a time.

pub mod handle;
pub mod owned;
pub mod report;
pub mod timers;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapwing_protocol::ReasonCode;
use tokio::sync::oneshot;

use crate::auth::Identity;
use crate::clients::handle::ClientHandle;
use crate::clients::owned::{ConnectionNumber, OfflineGeneration, OwnedSession};
use crate::net::endpoint::EndpointId;
use crate::session::Session;

/// Request to a connection to close.
#[derive(Debug)]
pub enum CloseSignal {
    /// Another connection has claimed the session: send it there.
    TakenOver {
        /// Receiver of the session; gets `None` when there is none.
        to: oneshot::Sender<Option<OwnedSession>>,
        /// Name of the connection that has claimed it, for the log.
        by: Arc<str>,
    },
    /// The broker or its operator ends it.
    Closed(ReasonCode),
}

/// Claim of a connection to a client identifier.
#[derive(Debug)]
pub struct ClaimRequest {
    /// Number of the claiming connection.
    pub connection: ConnectionNumber,
    /// Set when the session of another user may be claimed, too.
    pub any_user: bool,
    /// An offline session whose owner cannot come in any more: this client may have it.
    pub abandoned: Option<OfflineGeneration>,
    /// Sender of the request to close that connection.
    pub close: oneshot::Sender<CloseSignal>,
    /// Handle of the connection; the session belongs to its user.
    pub handle: Arc<ClientHandle>,
}

/// Result of a claim.
#[derive(Debug)]
pub enum Claim {
    /// Nobody has this client identifier.
    Fresh,
    /// An offline session.
    Offline(OwnedSession, OfflineGeneration),
    /// A live connection: it will send its session.
    Live(oneshot::Receiver<Option<OwnedSession>>),
    /// The session belongs to another user, or to one of this name in another realm.
    ForeignUser(Arc<Identity>),
    /// `limits.sessions_max` is reached, or the broker stops.
    Full,
}

#[derive(Debug)]
enum Registration {
    Live {
        connection: ConnectionNumber,
        end: Option<oneshot::Sender<CloseSignal>>,
        handle: Arc<ClientHandle>,
    },
    Offline {
        owned: OwnedSession,
        generation: OfflineGeneration,
    },
}

/// A client as others see it.
pub enum ClientView<'a> {
    /// The client is connected.
    Live(&'a Arc<ClientHandle>),
    /// The session of the client is offline.
    Offline(&'a OwnedSession, OfflineGeneration),
}

impl Registration {
    fn client(&self) -> ClientView<'_> {
        match self {
            Registration::Live { handle, .. } => ClientView::Live(handle),
            Registration::Offline { owned, generation } => ClientView::Offline(owned, *generation),
        }
    }
}

/// All clients.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<RegistryState>,
}

#[derive(Debug, Default)]
struct RegistryState {
    entries: BTreeMap<Arc<str>, Registration>,
    sessions_max: usize,
    live: usize,
    live_max: usize,
    last_offline: OfflineGeneration,
    /// Set when no claim succeeds any more.
    closed: bool,
}

/// Clients by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of connected clients.
    pub live: usize,
    /// Largest number of connected clients since the start.
    pub live_max: usize,
    /// Number of offline sessions.
    pub offline: usize,
}

impl Registry {
    /// Creates an empty registry.
    pub fn new(sessions_max: usize) -> Registry {
        Registry { inner: Mutex::new(RegistryState { sessions_max, ..RegistryState::default() }) }
    }

    /// Sets the largest number of sessions.
    pub fn set_limits(&self, sessions_max: usize) {
        self.lock().sessions_max = sessions_max;
    }

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection the one that has this client identifier (`[MQTT-3.1.4-3]`).
    pub fn claim(&self, client_id: &Arc<str>, request: ClaimRequest) -> Claim {
        let ClaimRequest { connection, any_user, abandoned, close: end, handle } = request;
        let mut inner = self.lock();
        if inner.closed {
            return Claim::Full;
        }
        let (owner, is_abandoned) = match inner.entries.get(client_id) {
            Some(Registration::Live { handle, .. }) => (Some(handle.identity()), false),
            Some(Registration::Offline { owned, generation }) => {
                (Some(owned.identity.clone()), abandoned == Some(*generation))
            }
            None => (None, false),
        };
        match owner {
            Some(owner) if !(any_user || is_abandoned || owner.is_owner(&handle.identity())) => {
                return Claim::ForeignUser(owner);
            }
            None if inner.entries.len() >= inner.sessions_max => return Claim::Full,
            _ => {}
        }
        let by = handle.label.clone();
        let entry = Registration::Live { connection, end: Some(end), handle };
        let claim = match inner.entries.insert(client_id.clone(), entry) {
            None => Claim::Fresh,
            Some(Registration::Offline { owned, generation }) => Claim::Offline(owned, generation),
            Some(Registration::Live { end, .. }) => {
                inner.live -= 1;
                let (to, from) = oneshot::channel();
                if let Some(end) = end {
                    // A connection that has ended drops `to` with its receiver, and `from` returns
                    // an error.
                    let _ = end.send(CloseSignal::TakenOver { to, by });
                }
                Claim::Live(from)
            }
        };
        inner.live += 1;
        inner.live_max = inner.live_max.max(inner.live);
        claim
    }

    /// Identity of a client, and the listener that it is connected to, if it is.
    pub fn about(&self, client_id: &str) -> Option<(Arc<Identity>, Option<EndpointId>)> {
        self.with(client_id, |_, client| match client {
            ClientView::Live(handle) => (handle.identity(), Some(handle.peer.endpoint)),
            ClientView::Offline(owned, _) => (owned.identity.clone(), None),
        })
    }

    /// Returns the identity of an offline session.
    pub fn offline(&self, client_id: &str) -> Option<(Arc<Identity>, OfflineGeneration)> {
        match self.lock().entries.get(client_id)? {
            Registration::Offline { owned, generation } => Some((owned.identity.clone(), *generation)),
            Registration::Live { .. } => None,
        }
    }

    /// Returns the label of the connection that has this client identifier.
    pub fn holder(&self, client_id: &str) -> Option<Arc<str>> {
        match self.lock().entries.get(client_id) {
            Some(Registration::Live { handle, .. }) => Some(handle.label.clone()),
            _ => None,
        }
    }

    /// Calls `look` with a client, under the lock.
    pub fn with<T>(&self, client_id: &str, look: impl FnOnce(&Arc<str>, ClientView<'_>) -> T) -> Option<T> {
        self.lock().entries.get_key_value(client_id).map(|(key, entry)| look(key, entry.client()))
    }

    /// Shows up to `visits` clients in the order of their identifiers, beginning after `after`.
    /// Returns the last one shown when there are more.
    pub fn page(
        &self,
        after: Option<&str>,
        visits: usize,
        mut show: impl FnMut(&Arc<str>, ClientView<'_>),
    ) -> Option<Arc<str>> {
        let inner = self.lock();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = inner.entries.range::<str, _>((start, Bound::Unbounded));
        let mut last = None;
        for (client_id, entry) in entries.by_ref().take(visits) {
            show(client_id, entry.client());
            last = Some(client_id);
        }
        last.filter(|_| entries.next().is_some()).cloned()
    }

    /// Takes the session of a connection that ends, and keeps it offline.
    ///
    /// # Errors
    /// Returns the session when another connection has claimed it: the [`CloseSignal::TakenOver`]
    /// of this connection has the receiver.
    pub fn go_offline(
        &self,
        connection: ConnectionNumber,
        owned: OwnedSession,
    ) -> Result<OfflineGeneration, OwnedSession> {
        let mut inner = self.lock();
        let client_id = owned.session.client_id.clone();
        if !inner.is_of(&client_id, connection) {
            return Err(owned);
        }
        inner.live -= 1;
        inner.last_offline += 1;
        let generation = inner.last_offline;
        inner.entries.insert(client_id, Registration::Offline { owned, generation });
        Ok(generation)
    }

    /// Removes a connection whose session ended with it. Returns `false` when another connection
    /// has claimed the client identifier.
    pub fn release(&self, client_id: &str, connection: ConnectionNumber) -> bool {
        let mut inner = self.lock();
        let own = inner.is_of(client_id, connection);
        if own {
            inner.live -= 1;
            inner.entries.remove(client_id);
        }
        own
    }

    /// Calls `ask` with a session that is still offline in this generation.
    pub fn with_offline_session<T>(
        &self,
        client_id: &str,
        generation: OfflineGeneration,
        ask: impl FnOnce(&mut Session) -> T,
    ) -> Option<T> {
        self.with_offline(client_id, generation, |owned| ask(&mut owned.session))
    }

    /// Like [`with_offline_session`](Self::with_offline_session), with the session's queue and
    /// identity.
    pub fn with_offline<T>(
        &self,
        client_id: &str,
        generation: OfflineGeneration,
        ask: impl FnOnce(&mut OwnedSession) -> T,
    ) -> Option<T> {
        match self.lock().entries.get_mut(client_id) {
            Some(Registration::Offline { owned, generation: current }) if *current == generation => {
                Some(ask(owned))
            }
            _ => None,
        }
    }

    /// Adds an offline session of an earlier run.
    pub fn restore(&self, owned: OwnedSession) -> OfflineGeneration {
        let mut inner = self.lock();
        inner.last_offline += 1;
        let generation = inner.last_offline;
        inner.entries.insert(owned.session.client_id.clone(), Registration::Offline { owned, generation });
        generation
    }

    /// Removes a session that is still offline in this generation.
    pub fn remove_offline(&self, client_id: &str, generation: OfflineGeneration) -> Option<OwnedSession> {
        let mut inner = self.lock();
        match inner.entries.get(client_id) {
            Some(Registration::Offline { generation: current, .. }) if *current == generation => {}
            _ => return None,
        }
        match inner.entries.remove(client_id) {
            Some(Registration::Offline { owned, .. }) => Some(owned),
            _ => None,
        }
    }

    /// Asks every connection to close. From then on, no claim succeeds.
    pub fn close(&self, reason: ReasonCode) {
        let mut inner = self.lock();
        inner.closed = true;
        for entry in inner.entries.values_mut() {
            if let Registration::Live { end, .. } = entry
                && let Some(end) = end.take()
            {
                let _ = end.send(CloseSignal::Closed(reason));
            }
        }
    }

    /// Wakes every connection, for new settings.
    pub fn wake_all(&self) {
        let live = |entry: &Registration| match entry {
            Registration::Live { handle, .. } => Some(handle.waker.clone()),
            Registration::Offline { .. } => None,
        };
        let wakers: Vec<_> = self.lock().entries.values().filter_map(live).collect();
        wakers.iter().for_each(|waker| waker.wake());
    }

    /// Returns the offline sessions.
    pub fn all_offline(&self) -> Vec<(Arc<str>, OfflineGeneration)> {
        let offline = |(client_id, entry): (&Arc<str>, &Registration)| match entry {
            Registration::Offline { generation, .. } => Some((client_id.clone(), *generation)),
            Registration::Live { .. } => None,
        };
        self.lock().entries.iter().filter_map(offline).collect()
    }

    /// Number of clients by kind.
    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        Counts { live: inner.live, live_max: inner.live_max, offline: inner.entries.len() - inner.live }
    }
}

impl RegistryState {
    fn is_of(&self, client_id: &str, connection: ConnectionNumber) -> bool {
        matches!(self.entries.get(client_id), Some(Registration::Live { connection: c, .. }) if *c == connection)
    }
}
