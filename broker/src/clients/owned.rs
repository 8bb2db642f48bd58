//! A session with its queue and identity, on its way from one owner to the next.

use std::sync::Arc;

use crate::auth::Identity;
use crate::outbox::Outbox;
use crate::session::Session;

/// Number of a connection, unique as long as the broker runs.
pub type ConnectionNumber = u64;

/// A session with its outbox, on its way from one owner to the next.
#[derive(Debug)]
pub struct OwnedSession {
    /// The session.
    pub session: Box<Session>,
    /// Its queue.
    pub outbox: Arc<Outbox>,
    /// Identity of the client at its last connection.
    pub identity: Arc<Identity>,
}

impl OwnedSession {
    /// Tells the session queue what the session holds of it, and how much is in flight. Must be
    /// called after pending messages or flights were changed from outside.
    pub fn sync_counts(&self) {
        self.outbox.set_held(&self.session.outgoing.pending);
        self.outbox.set_in_flight(self.session.outgoing.in_flight());
    }
}

/// Number of one offline period of a session: a timer of an earlier period does nothing.
pub type OfflineGeneration = u64;
