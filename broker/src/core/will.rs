//! A will that is ready to be published away from its session.

use std::sync::Arc;

use crate::auth::Identity;
use crate::message::SessionNumber;
use crate::session::{Session, Will};

/// A will with what is needed to publish it away from its session.
#[derive(Debug)]
pub struct PendingWill {
    pub(super) will: Will,
    pub(super) session: SessionNumber,
    pub(super) client_id: Arc<str>,
    pub(super) identity: Identity,
}

impl PendingWill {
    /// Takes the will out of a session, so that it is published once.
    pub fn take(session: &mut Session, identity: &Identity) -> Option<PendingWill> {
        session.will.take().map(|will| PendingWill {
            will,
            session: session.number,
            client_id: session.client_id.clone(),
            identity: identity.clone(),
        })
    }
}
