#![doc = include_str!("../README.md")]
//! # Structure of the crate
//!
//! A machine without socket, clock or executor says what to do next (`machine`). Two front ends do
//! it (`asynchronous`, [`blocking`]). One record buffer, the shelf, is outbox, storage of flights
//! and storage of the session (`shelf`, `publication`, `flights`). Only the [`Client`] around them
//! depends on buffer sizes, so the logic is compiled once.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, doctest, feature = "std"))]
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
