//! An endpoint: a listener's settings in force, and counters of its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Limits, Listener, Mqtt};
use crate::telemetry::metrics::Traffic;

/// What tells a listener from all others, as long as the broker runs.
pub type EndpointId = u64;

/// A listener as the configuration has it now, with what holds for its clients.
pub struct Endpoint {
    /// Stays with the listener, however often it changes.
    pub number: EndpointId,
    /// Its own keys.
    pub listener: Listener,
    /// What the broker offers there.
    pub mqtt: Mqtt,
    /// What is bounded there.
    pub limits: Limits,
    /// Its TLS.
    pub tls: Option<TlsAcceptor>,
    /// What went through it.
    pub traffic: Arc<Traffic>,
    connections: Arc<AtomicUsize>,
}

/// A connection that a listener counts; dropping it counts it out.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<AtomicUsize>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Endpoint {
    /// The keys of the listener in place of the common ones; `before` is what it was until now.
    pub fn new(
        number: EndpointId,
        config: &Config,
        listener: &Listener,
        tls: Option<TlsAcceptor>,
        before: Option<&Endpoint>,
    ) -> Endpoint {
        let (mqtt, limits) = (&config.mqtt, &config.limits);
        Endpoint {
            number,
            mqtt: Mqtt { qos_max: listener.qos_max.unwrap_or(mqtt.qos_max), ..mqtt.clone() },
            limits: Limits {
                packet_bytes_max: listener.packet_bytes_max.unwrap_or(limits.packet_bytes_max),
                topic_aliases_in_max: listener.topic_aliases_in_max.unwrap_or(limits.topic_aliases_in_max),
                keep_alive_max_s: listener.keep_alive_max_s.unwrap_or(limits.keep_alive_max_s),
                ..limits.clone()
            },
            listener: listener.clone(),
            tls,
            traffic: before.map_or_else(Arc::default, |before| before.traffic.clone()),
            connections: before.map_or_else(Arc::default, |before| before.connections.clone()),
        }
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection in; `None`: the listener has all that it may have.
    pub fn admit(&self) -> Option<ConnectionGuard> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let entered = ConnectionGuard(self.connections.clone());
        let most = self.listener.connections_max.map_or(usize::MAX, |most| most as usize);
        (before < most).then_some(entered)
    }
}
