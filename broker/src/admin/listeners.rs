//! Listeners, with their traffic.

use super::request::ApiRequest;
use super::response::ApiError;
use super::schema::object;
use crate::admin::route::{Route, route};
use crate::core::settings::Snapshot;
use crate::net::endpoint::Endpoint;
use crate::telemetry::metrics::TrafficTotals;

pub(super) const ROUTES: &[Route] = &[
    route!(GET "/listeners", "Lists the listeners, with their traffic since the start", [], list => Listeners),
];

object! {
    /// All listeners.
    Listeners {
        /// The listeners, in the order of the configuration.
        items: Vec<Listener>,
    }
}

object! {
    /// A listener.
    Listener {
        /// Name in the configuration, or else the address.
        name: String,
        /// Addresses that it is open at, like mqtt://127.0.0.1:1883.
        urls: Vec<String>,
        /// Current connections, those before CONNECT included.
        connections: u64,
        /// Largest number of connections; none: as many as the broker.
        connections_max: Option<u64>,
        /// Connections accepted.
        accepted: u64,
        /// Connections refused, or closed for a protocol error.
        refused: u64,
        /// PUBLISH packets from clients.
        messages_received: u64,
        /// PUBLISH packets to clients.
        messages_sent: u64,
        /// Bytes of MQTT from clients.
        bytes_received: u64,
        /// Bytes of MQTT to clients.
        bytes_sent: u64,
    }
}

/// Returns the listeners with unique names. Listeners of one address, as with port 0, are numbered.
pub(super) fn named(snapshot: &Snapshot) -> Vec<(String, &Endpoint)> {
    let mut named: Vec<(String, &Endpoint)> = Vec::new();
    for endpoint in &snapshot.endpoints {
        let label = endpoint.listener.label();
        let same = named.iter().filter(|(_, other)| other.listener.label() == label).count();
        named.push((if same == 0 { label } else { format!("{label}#{}", same + 1) }, endpoint));
    }
    named
}

async fn list(call: ApiRequest) -> Result<Listeners, ApiError> {
    let snapshot = call.admin.core.settings.get();
    let open = call.admin.listeners.borrow().clone();
    let items = named(&snapshot).into_iter().map(|(name, endpoint)| {
        let mut sums = TrafficTotals::default();
        sums.add(&endpoint.traffic);
        let urls = open.iter().filter(|(number, _)| *number == endpoint.number);
        Listener {
            name,
            urls: urls.map(|(_, url)| url.to_string()).collect(),
            connections: endpoint.connections() as u64,
            connections_max: endpoint.listener.connections_max.map(u64::from),
            accepted: sums.connections,
            refused: sums.refused,
            messages_received: sums.publish_received,
            messages_sent: sums.publish_sent,
            bytes_received: sums.bytes_received,
            bytes_sent: sums.bytes_sent,
        }
    });
    Ok(Listeners { items: items.collect() })
}
