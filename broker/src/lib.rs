//! Lapwing: an MQTT 3.1, 3.1.1 and 5.0 broker, as a library. The binary `lapwing` is a thin shell around it.
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
//! The house is described in `docs/ARCHITECTURE.md`: net → handshake → connection → session → router → outbox, and back.

mod admin;
pub mod auth;
mod clients;
pub mod clock;
pub mod config;
mod connection;
mod core;
mod limits;
pub mod message;
pub mod net;
#[cfg(feature = "otlp")]
mod otlp;
pub mod outbox;
pub mod router;
mod server;
pub mod session;
pub mod store;
pub mod telemetry;
mod workers;

pub use lapwing_protocol::{QoS, ReasonCode, Version};

pub use crate::core::control::Reloaded;
pub use crate::server::{Broker, Builder, StartError, check_files};

/// The version of this broker.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
