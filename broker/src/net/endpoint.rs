//! An endpoint: a listener's settings in force, and counters of its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Limits, Listener, Mqtt};
use crate::telemetry::metrics::Traffic;

/// Number of a listener, unique as long as the broker runs.
pub type EndpointId = u64;

/// A listener's configuration in force, with the limits of its clients.
pub struct Endpoint {
    /// Stays with the listener, however often its settings change.
    pub number: EndpointId,
    /// The listener's own keys.
    pub listener: Listener,
    /// `[mqtt]`, with the listener's overrides.
    pub mqtt: Mqtt,
    /// `[limits]`, with the listener's overrides.
    pub limits: Limits,
    /// TLS settings, if the listener has TLS.
    pub tls: Option<TlsAcceptor>,
    /// Set where nothing but the loopback address protects the listener: then pages of other hosts
    /// may not use it from a browser of this machine.
    pub local_pages_only: bool,
    /// Traffic counters.
    pub traffic: Arc<Traffic>,
    connections: Arc<AtomicUsize>,
}

/// A counted connection of a listener; dropping it counts the connection out.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<AtomicUsize>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Endpoint {
    /// Merges the listener's keys over the common ones. `before` is the endpoint that this one
    /// replaces.
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
            local_pages_only: listener.is_local() && !config.authenticates(listener),
            traffic: before.map_or_else(Arc::default, |before| before.traffic.clone()),
            connections: before.map_or_else(Arc::default, |before| before.connections.clone()),
        }
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection in; `None` when `connections_max` is reached.
    pub fn admit(&self) -> Option<ConnectionGuard> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let entered = ConnectionGuard(self.connections.clone());
        let most = self.listener.connections_max.map_or(usize::MAX, |most| most as usize);
        (before < most).then_some(entered)
    }
}
