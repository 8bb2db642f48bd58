//! Sessions: deletion by an operator.

use super::clients;
use super::request::ApiRequest;
use super::response::ApiError;
use super::schema::object;
use crate::admin::route::{Route, route};
use crate::clients::ClientView;

pub(super) const ROUTES: &[Route] = &[route!(
    DELETE "/sessions/{client}",
    "Ends a session, with its subscriptions and its queue; its client is disconnected (0x98). The answer comes once that is on disk",
    [],
    delete => Deleted
)];

object! {
    /// A session that was deleted.
    Deleted {
        /// The client identifier.
        client: String,
        /// True when it was connected.
        connected: bool,
    }
}

async fn delete(call: ApiRequest) -> Result<Deleted, ApiError> {
    let (core, client_id) = (&call.admin.core, call.name());
    call.audit(&format!("delete the session of client {client_id}"));
    for _ in 0..clients::TRIES {
        let found = core.registry.with(client_id, |key, client| match client {
            ClientView::Live(handle) => Ok(handle.clone()),
            ClientView::Offline(_, generation) => Err((key.clone(), generation)),
        });
        let connected = match found.ok_or_else(|| clients::unknown(client_id))? {
            Ok(handle) => {
                if !clients::leave(&handle, true).await? {
                    continue;
                }
                true
            }
            Err((key, generation)) => {
                if !core.end_offline(&key, generation) {
                    continue;
                }
                false
            }
        };
        core.durable().await.map_err(|_| not_kept())?;
        return Ok(Deleted { client: client_id.to_owned(), connected });
    }
    Err(ApiError::unavailable(
        format!("client '{client_id}' reconnects all the time"),
        "try again, or ban it",
    ))
}

/// Returns the error for a failed store.
pub(super) fn not_kept() -> ApiError {
    ApiError::unavailable("it was done, but the store has failed: a restart may undo it", "see the log")
}
