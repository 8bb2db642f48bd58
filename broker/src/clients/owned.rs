//! A session with its queue and identity, on its way from one owner to the next.

use std::sync::Arc;

use crate::auth::Identity;
use crate::outbox::Outbox;
use crate::session::Session;

/// Names a connection within this broker.
pub type ConnectionNumber = u64;

/// A session with its outbox, on its way from one owner to the next.
#[derive(Debug)]
pub struct OwnedSession {
    /// The session.
    pub session: Box<Session>,
    /// Its queue.
    pub outbox: Arc<Outbox>,
    /// Whose it is, as its last connection was recognized.
    pub identity: Arc<Identity>,
}

impl OwnedSession {
    /// Tells the session queue what the session holds of it, and how much is in flight. To be
    /// called after the pending messages or the flights were changed from outside.
    pub fn sync_counts(&self) {
        self.outbox.set_held(&self.session.outgoing.pending);
        self.outbox.set_in_flight(self.session.outgoing.in_flight());
    }
}

/// Names one rest of one session, so that a timer of an earlier rest does nothing.
pub type OfflineGeneration = u64;
