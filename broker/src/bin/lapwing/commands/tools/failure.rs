//! Failure of a tool: its text, and the exit code that scripts look at.

use std::fmt::Display;

use lapwing_protocol::{ReasonCode, Version};

/// Failure that ends a tool.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// Text for standard error; empty: nothing is printed.
    pub text: String,
}

/// Exit code for the end of `-W`, as in mosquitto_sub.
const TIMED_OUT: u8 = 27;

impl Failure {
    /// Creates a failure without a reason code: exit code 1.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure { code: 1, text: text.into() }
    }

    /// Creates a failure of an error and its context.
    pub fn of(what: impl Display, error: impl Display) -> Failure {
        Failure::new(format!("{what}: {error}"))
    }

    /// Creates the failure for the end of `-W`.
    pub fn timed_out() -> Failure {
        Failure { code: TIMED_OUT, text: "timed out (-W)".to_owned() }
    }

    /// Creates the failure for a refusal by the broker. Its reason code is the exit code, before
    /// MQTT 5 that of CONNACK (`3.2.2.3` of MQTT 3.1.1).
    pub fn refused(what: &str, reason: ReasonCode, text: Option<&str>, version: Version) -> Failure {
        let code = match reason {
            reason if version.has_properties() => reason as u8,
            ReasonCode::UnsupportedProtocolVersion => 1,
            ReasonCode::ClientIdentifierNotValid => 2,
            ReasonCode::ServerUnavailable => 3,
            ReasonCode::BadUserNameOrPassword => 4,
            ReasonCode::NotAuthorized => 5,
            _ => 128,
        };
        let more = text.map_or(String::new(), |text| format!(" ({text})"));
        Failure { code, text: format!("{what}: {reason}{more}") }
    }
}
