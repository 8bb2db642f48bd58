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

macro_rules! tally {
    ($($name:ident,)+) => {
        /// What one connection counts for itself and adds to the broker's counters once in a while: a counter that all cores write to
        /// costs as much as everything else about a small message.
        #[derive(Debug, Default)]
        pub struct Tally { $(
            #[allow(missing_docs)]
            pub $name: u64,
        )+ }

        impl Tally {
            /// Adds what was counted, and begins again.
            pub fn add_to(&mut self, metrics: &Metrics) {
                $(if self.$name > 0 {
                    metrics.$name.add(std::mem::take(&mut self.$name));
                })+
            }
        }
    };
}

tally! {
    packets_received,
    packets_sent,
    publish_received,
    publish_sent,
    publish_bytes_received,
    publish_bytes_sent,
    bytes_received,
}
