//! The level of the log.

use super::request::ApiRequest;
use super::response::ApiError;
use super::schema::object;
use crate::admin::route::{Route, route};
use crate::core::control;

pub(super) const ROUTES: &[Route] = &[
    route!(GET "/log", "What is logged", [], get => Level),
    route!(
        PUT "/log",
        "Sets the level of the log, until the next start, or until a reload finds another log.level",
        [],
        set <- NewLevel => Level
    ),
];

object! {
    /// A level to set.
    NewLevel {
        /// error, warn, info, debug, trace, or a filter like "info,audit=warn,lapwing::net=debug".
        level: String,
    }
}

object! {
    /// The level in force.
    Level {
        /// error, warn, info, debug, trace, or a filter like "info,audit=warn,lapwing::net=debug".
        level: String,
        /// Value of log.level.
        configured: String,
    }
}

const LEVELS: &str =
    "give off, error, warn, info, debug, trace, or a filter like \"info,audit=warn,lapwing::net=debug\"";

async fn level(call: &ApiRequest, set: Option<String>) -> Result<Level, ApiError> {
    let level = control::level(&call.admin.reloads, set).await;
    let level = level.map_err(|error| ApiError::bad(format!("log.level: {error}"), LEVELS))?;
    Ok(Level { level, configured: call.admin.core.settings.get().config.log.level.clone() })
}

async fn get(call: ApiRequest) -> Result<Level, ApiError> {
    level(&call, None).await
}

async fn set(call: ApiRequest, new: NewLevel) -> Result<Level, ApiError> {
    // Alone it would be taken for the only part of the program to log.
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word.to_ascii_lowercase().as_str())
    };
    let odd = new.level.split(',').map(str::trim).find(|part| !part.contains('=') && !is_level(part));
    if let Some(odd) = odd {
        return Err(ApiError::bad(format!("'{odd}' is no level"), LEVELS));
    }
    call.audit(&format!("log level {}", new.level));
    level(&call, Some(new.level)).await
}
