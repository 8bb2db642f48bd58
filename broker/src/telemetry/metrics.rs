//! Counters of the broker's work, cheap enough for every message.
//!
//! Each listener counts its own traffic. The broker's total is the sum over all listeners,
//! including removed ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::message::Millis;
use crate::telemetry::drop_reason::{Drops, Reason};

macro_rules! counters {
    ($(#[$struct_doc:meta])* $Name:ident { $($(#[$doc:meta])* $name:ident,)+ }) => {
        $(#[$struct_doc])*
        #[derive(Debug, Default)]
        pub struct $Name { $($(#[$doc])* pub $name: Counter,)+ }
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

    /// Current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; CLASSES],
    micros: Counter,
}

/// State of a [`Histogram`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Count of durations up to each of the [`BOUNDS_MICROS`] and above the one before; the last
    /// counts longer ones.
    pub counts: [u64; CLASSES],
    /// Sum of all durations, in microseconds.
    pub micros: u64,
}

const CLASSES: usize = BOUNDS_MICROS.len() + 1;
/// Upper bounds of the classes, in microseconds.
pub const BOUNDS_MICROS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS_MICROS.iter().position(|bound| micros <= *bound);
        if let Some(count) = self.counts.get(class.unwrap_or(BOUNDS_MICROS.len())) {
            count.add(1);
        }
        self.micros.add(micros);
    }

    /// Current state.
    pub fn get(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            counts: std::array::from_fn(|n| self.counts.get(n).map_or(0, Counter::get)),
            micros: self.micros.get(),
        }
    }
}

counters! {
    /// Counters that belong to no listener, since the start.
    Metrics {
        /// Clients that failed to authenticate.
        authentication_failures,
        /// Actions that the access rules denied.
        denied,
        /// Sessions that expired.
        sessions_expired,
    }
}

macro_rules! traffic {
    (
        connections { $($(#[$own_doc:meta])* $own:ident,)+ }
        flow { $($(#[$doc:meta])* $name:ident,)+ }
        written { $(#[$written_doc:meta])* $written:ident, }
    ) => {
        counters! {
            /// Traffic counters of one listener.
            Traffic { $($(#[$own_doc])* $own,)+ $($(#[$doc])* $name,)+ $(#[$written_doc])* $written, }
        }

        /// Counters of one listener, or of several, at one moment.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct TrafficTotals {
            $($(#[$own_doc])* pub $own: u64,)+
            $($(#[$doc])* pub $name: u64,)+
            $(#[$written_doc])* pub $written: u64,
        }

        impl TrafficTotals {
            /// Adds the counters of a listener.
            pub fn add(&mut self, traffic: &Traffic) {
                $(self.$own += traffic.$own.get();)+
                $(self.$name += traffic.$name.get();)+
                self.$written += traffic.$written.get();
            }
        }

        /// Counters of one connection, added to its listener's from time to time. A counter that
        /// all cores write to costs as much as everything else about a small message.
        #[derive(Debug, Default)]
        pub struct LocalCounters {
            $($(#[$doc])* pub $name: u64,)+
            /// Messages that no subscription matched, since the last [`add_to`](Self::add_to).
            pub no_subscriber: u64,
            /// Messages skipped by No Local, since the last [`add_to`](Self::add_to).
            pub no_local: u64,
            /// Totals that were added or written already.
            flow: Throughput,
        }

        impl LocalCounters {
            /// Adds the counts to the listener's counters, and begins again.
            #[inline]
            pub fn add_to(&mut self, traffic: &Traffic, drops: &Drops) {
                self.flow.messages_received += self.publish_received;
                self.flow.messages_sent += self.publish_sent;
                self.flow.bytes_received += self.bytes_received;
                $(if self.$name > 0 {
                    traffic.$name.add(std::mem::take(&mut self.$name));
                })+
                if self.no_subscriber + self.no_local > 0 {
                    self.add_skipped(drops);
                }
            }
        }
    };
}

traffic! {
    connections {
        /// Network connections accepted.
        connections,
        /// Connections refused, or closed for breaking a rule.
        refused,
    }
    flow {
        /// Packets received.
        packets_received,
        /// Packets sent.
        packets_sent,
        /// PUBLISH packets received.
        publish_received,
        /// PUBLISH packets sent.
        publish_sent,
        /// Payload bytes received.
        publish_bytes_received,
        /// Payload bytes sent.
        publish_bytes_sent,
        /// Bytes received.
        bytes_received,
    }
    written {
        /// Bytes sent.
        bytes_sent,
    }
}

impl LocalCounters {
    #[cold]
    fn add_skipped(&mut self, drops: &Drops) {
        drops.add(Reason::NoSubscriber, std::mem::take(&mut self.no_subscriber));
        drops.add(Reason::NoLocal, std::mem::take(&mut self.no_local));
    }

    /// True when a packet was received or sent since the last [`add_to`](Self::add_to); messages
    /// are packets, too.
    #[inline]
    pub fn has_news(&self) -> bool {
        (self.bytes_received | self.packets_sent | self.packets_received) != 0
    }

    /// Counts bytes written, with the packets that were counted before.
    #[inline]
    pub fn wrote(&mut self, bytes: u64, traffic: &Traffic) {
        self.flow.bytes_sent += bytes;
        traffic.bytes_sent.add(bytes);
    }
}

/// Totals of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throughput {
    /// PUBLISH packets received.
    pub messages_received: u64,
    /// PUBLISH packets sent.
    pub messages_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
}

/// Rates of a connection, from its totals at the beginning of this window and of the one before. It
/// needs no timer: an idle connection does not wake for it, and one without messages needs no
/// memory for it.
#[derive(Debug, Default)]
pub struct RateWindow {
    past: Option<Box<Past>>,
    end: Millis,
}

#[derive(Clone, Copy, Debug)]
struct Past {
    before: (Millis, Throughput),
    begin: (Millis, Throughput),
}

/// Length of a window.
const WINDOW_MS: Millis = 10_000;

impl RateWindow {
    /// Starts with the first window.
    pub fn new(now: Millis) -> RateWindow {
        RateWindow { past: None, end: now + WINDOW_MS }
    }

    /// Moves the windows on before new work is counted.
    #[inline]
    pub fn pass(&mut self, now: Millis, counters: &LocalCounters) {
        if now >= self.end {
            self.begin_anew(now, counters);
        }
    }

    #[cold]
    fn begin_anew(&mut self, now: Millis, counters: &LocalCounters) {
        if counters.publish_received
            + counters.publish_sent
            + counters.flow.messages_received
            + counters.flow.messages_sent
            == 0
        {
            return;
        }
        let (idle, begin) = (now >= self.end + WINDOW_MS, (now, counters.flow));
        let before = if idle { (now - WINDOW_MS, counters.flow) } else { self.past().begin };
        self.past = Some(Box::new(Past { before, begin }));
        self.end = now + WINDOW_MS;
    }

    /// The first window begins with the connection.
    fn past(&self) -> Past {
        let first = (self.end.saturating_sub(WINDOW_MS), Throughput::default());
        self.past.as_deref().copied().unwrap_or(Past { before: first, begin: first })
    }

    /// Totals, and rates per second over the last ten to twenty seconds.
    pub fn rates(&self, now: Millis, counters: &LocalCounters) -> (Throughput, [f64; 4]) {
        let (all, (since, before)) = (counters.flow, self.past().before);
        if now >= self.end + WINDOW_MS {
            return (all, [0.0; 4]);
        }
        let seconds = now.saturating_sub(since).max(1_000) as f64 / 1_000.0;
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let rates = [
            rate(all.messages_received, before.messages_received),
            rate(all.messages_sent, before.messages_sent),
            rate(all.bytes_received, before.bytes_received),
            rate(all.bytes_sent, before.bytes_sent),
        ];
        (all, rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_connection_covers_its_last_seconds() {
        let (traffic, mut counters, mut pace) =
            (Traffic::default(), LocalCounters::default(), RateWindow::new(1_000));
        let turn = |counters: &mut LocalCounters, pace: &mut RateWindow, now| {
            counters.publish_sent += 10;
            pace.pass(now, counters);
            counters.add_to(&traffic, &Drops::default());
        };
        // Ten messages a second.
        (1..=60).for_each(|s| turn(&mut counters, &mut pace, 1_000 + s * 1_000));
        let (all, [_, rate, ..]) = pace.rates(61_000, &counters);
        assert_eq!((all.messages_sent, traffic.publish_sent.get()), (600, 600));
        assert!((9.0..=11.0).contains(&rate), "{rate}");
        // Silence, then ten at once.
        assert_eq!(pace.rates(100_000, &counters).1[1], 0.0);
        turn(&mut counters, &mut pace, 200_000);
        assert_eq!(pace.rates(200_000, &counters).1[1], 1.0);
    }
}
