//! Counters of what the broker did, cheap enough for every message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; CLASSES],
    micros: Counter,
}

/// What a [`Histogram`] says at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// How often it took at most each of the [`BOUNDS_MICROS`] and longer than the one before; the last: longer than all.
    pub counts: [u64; CLASSES],
    /// All of it, in microseconds.
    pub micros: u64,
}

const CLASSES: usize = BOUNDS_MICROS.len() + 1;
/// The upper bounds of the classes, in microseconds.
pub const BOUNDS_MICROS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

impl Histogram {
    /// It took so long once.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS_MICROS.iter().position(|bound| micros <= *bound);
        if let Some(count) = self.counts.get(class.unwrap_or(BOUNDS_MICROS.len())) {
            count.add(1);
        }
        self.micros.add(micros);
    }

    /// What was observed until now.
    pub fn get(&self) -> Spread {
        Spread {
            counts: std::array::from_fn(|n| self.counts.get(n).map_or(0, Counter::get)),
            micros: self.micros.get(),
        }
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
