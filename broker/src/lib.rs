//! Lapwing: an MQTT 3.1, 3.1.1 and 5.0 broker, as a library. The program `lapwing` is a thin shell
//! around it.
//!
//! ```no_run
//! # async fn example() -> Result<(), lapwing::StartError> {
//! let broker = lapwing::Broker::builder().start().await?;
//! println!("listening on {:?}", broker.listeners());
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! A program that embeds the broker takes it with `default-features = false`: the feature `cli` is
//! for the program `lapwing`. It runs on the caller's tokio runtime, which needs the features `rt`,
//! `net` and `time` enabled.
//!
//! `docs/ARCHITECTURE.md` describes the rooms below. Imports between them point down only.

mod admin;
mod auth;
mod clients;
mod clock;
mod config;
mod connection;
mod core;
mod limits;
mod message;
mod net;
#[cfg(feature = "otlp")]
mod otlp;
mod outbox;
mod router;
mod server;
mod session;
mod store;
mod telemetry;
mod workers;

pub use lapwing_protocol::{QoS, ReasonCode, Version};

pub use crate::auth::{
    Action, AuthError, AuthExchange, AuthFuture, AuthMethod, AuthStep, Credentials, Identity, Policy,
};
pub use crate::config::{Config, ConfigErrors, Listener, Secret};
pub use crate::core::control::Reloaded;
pub use crate::core::local::{Local, LocalError, LocalMessage};
pub use crate::net::BindError;
pub use crate::server::{Broker, Builder, StartError, check_files};
pub use crate::store::OpenError;

/// The version of this broker.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The rooms, for the program `lapwing`, the tests, the benchmark and the fuzz targets. Nothing
/// here is stable.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub mod auth {
        pub use crate::auth::*;
    }
    pub mod clock {
        pub use crate::clock::*;
    }
    pub mod config {
        pub use crate::config::*;
    }
    pub mod message {
        pub use crate::message::*;
    }
    pub mod net {
        pub use crate::net::*;
    }
    pub mod outbox {
        pub use crate::outbox::*;
    }
    pub mod router {
        pub use crate::router::*;
    }
    pub mod session {
        pub use crate::session::*;
    }
    pub mod store {
        pub use crate::store::*;
    }
    pub mod telemetry {
        pub use crate::telemetry::*;
    }
}
