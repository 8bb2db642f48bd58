//! How a tool ends when it does not end well: what it says, and the exit code that scripts look at.

use std::fmt::Display;

use lapwing_protocol::{ReasonCode, Version};

/// Why a tool ends.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What standard error gets; nothing where it is empty.
    pub text: String,
}

/// The time of `-W` is over; mosquitto_sub's code for it.
const TIMED_OUT: u8 = 27;

impl Failure {
    /// Anything without a reason code: exit code 1.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure { code: 1, text: text.into() }
    }

    /// An error in some words.
    pub fn of(what: impl Display, error: impl Display) -> Failure {
        Failure::new(format!("{what}: {error}"))
    }

    /// `-W` is over.
    pub fn timed_out() -> Failure {
        Failure { code: TIMED_OUT, text: "timed out (-W)".to_owned() }
    }

    /// The broker said no: its reason code is the exit code, before MQTT 5 that of CONNACK
    /// (`3.2.2.3` of MQTT 3.1.1).
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
