//! Counters of what the broker did, cheap enough for every message.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counters since the start.
        #[derive(Debug, Default)]
        pub struct Metrics { $($(#[$doc])* pub $name: Counter,)+ }
    };
}

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Packets that came in.
    packets_received,
    /// Packets that went out.
    packets_sent,
    /// PUBLISH packets that came in.
    publish_received,
    /// PUBLISH packets that went out.
    publish_sent,
    /// Messages dropped: an outbox was full, a client takes no packet that large, or they expired.
    publish_dropped,
    /// Payload bytes that came in.
    publish_bytes_received,
    /// Payload bytes that went out.
    publish_bytes_sent,
    /// Bytes that came in.
    bytes_received,
    /// Bytes that went out.
    bytes_sent,
    /// Network connections accepted.
    connections,
    /// Connections refused or closed for breaking a rule.
    refused,
    /// Clients that could not say who they are.
    authentication_failures,
    /// Things that clients were not allowed to do.
    denied,
    /// Sessions that expired.
    sessions_expired,
}
