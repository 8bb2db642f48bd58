//! What is logged.

use super::answer::Failure;
use super::call::Call;
use super::shape::object;
use crate::admin::route::{Route, route};
use crate::core::control;

pub(super) const ROUTES: &[Route] = &[
    route!(GET "/log", "What is logged", [], get => Level),
    route!(
        PUT "/log",
        "Sets what is logged, until the next start, or until a reload finds another log.level",
        [],
        set <- NewLevel => Level
    ),
];

object! {
    /// What is to be logged.
    NewLevel {
        /// error, warn, info, debug, trace, or a filter like "info,audit=warn,lapwing::net=debug".
        level: String,
    }
}

object! {
    /// What is logged.
    Level {
        /// error, warn, info, debug, trace, or a filter like "info,audit=warn,lapwing::net=debug".
        level: String,
        /// What log.level says.
        configured: String,
    }
}

const LEVELS: &str =
    "give off, error, warn, info, debug, trace, or a filter like \"info,audit=warn,lapwing::net=debug\"";

async fn level(call: &Call, set: Option<String>) -> Result<Level, Failure> {
    let level = control::level(&call.admin.reloads, set).await;
    let level = level.map_err(|error| Failure::bad(format!("log.level: {error}"), LEVELS))?;
    Ok(Level { level, configured: call.admin.core.live.get().config.log.level.clone() })
}

async fn get(call: Call) -> Result<Level, Failure> {
    level(&call, None).await
}

async fn set(call: Call, new: NewLevel) -> Result<Level, Failure> {
    // Alone it would be taken for the only part of the program to log.
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word.to_ascii_lowercase().as_str())
    };
    let odd = new.level.split(',').map(str::trim).find(|part| !part.contains('=') && !is_level(part));
    if let Some(odd) = odd {
        return Err(Failure::bad(format!("'{odd}' is no level"), LEVELS));
    }
    call.audit(&format!("log level {}", new.level));
    level(&call, Some(new.level)).await
}
