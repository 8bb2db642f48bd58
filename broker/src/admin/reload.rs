//! Reload of the configuration and its files.

use super::request::ApiRequest;
use super::response::ApiError;
use super::schema::object;
use crate::admin::route::{Route, route};
use crate::core::control;

pub(super) const ROUTES: &[Route] = &[route!(
    POST "/reload",
    "Reads the configuration and all files that it names again; all of it takes effect, or nothing",
    [],
    reload => Reloaded
)];

object! {
    /// Result of a reload.
    Reloaded {
        /// Changed keys that take effect only with the next start.
        restart: Vec<String>,
    }
}

async fn reload(call: ApiRequest) -> Result<Reloaded, ApiError> {
    call.audit("reload");
    let reloaded = control::ask(&call.admin.reloads, None).await;
    let reloaded = reloaded.map_err(|error| {
        ApiError::conflict(
            error,
            "the previous settings stay in force: correct the configuration, and try again",
        )
    })?;
    Ok(Reloaded { restart: reloaded.restart })
}
