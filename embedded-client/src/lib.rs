//! MQTT client.
#![no_std]
#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(feature = "async")]
mod asynchronous;
#[cfg(feature = "auth")]
mod authenticator;
pub mod blocking;
mod client;
mod config;
pub mod dialers;
mod error;
mod event;
mod flights;
mod machine;
mod persist;
mod publication;
mod shelf;

#[cfg(feature = "async")]
pub use asynchronous::{Dialer, Timer};
#[cfg(feature = "auth")]
pub use authenticator::Authenticator;
pub use client::Client;
pub use config::{Config, Policy, SUBSCRIPTIONS_INLINE, Will};
pub use error::{Error, LinkDown, PublishError};
pub use event::{Event, Message, Token};
pub use lapwing_protocol::packet::{RetainHandling, Subscription, SubscriptionOptions};
pub use lapwing_protocol::property::{Properties, Property, PropertyId};
pub use lapwing_protocol::{QoS, ReasonCode, Version};
pub use persist::Persist;
pub use publication::Publication;
