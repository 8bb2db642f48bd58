//! The scenarios, each with its name and Lapwing's target ratio to Mosquitto 2.0.11.

use std::time::Duration;

use crate::load::{Layout, Spec};
use crate::wire::Version;

/// Method of measuring a scenario.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Messages flow: CPU time for each delivered message.
    Flow(Spec),
    /// Clients connect and disconnect one after the other: CPU time for each.
    Connects { tls: bool, count: usize },
    /// Clients do nothing: memory for each.
    Idle { count: usize },
    /// Wildcard subscriptions of 100 clients, then matching messages: CPU time and memory for each.
    Subscriptions { count: usize, messages: usize },
    /// Retained messages: CPU time and memory for each, then the cost of delivering all and some of
    /// them.
    Retained { count: usize },
    /// Messages for an absent client, which then connects: CPU time and memory for each.
    Queue { count: usize },
}

/// Features that some brokers lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Qos2,
    Mqtt5,
    /// Shared subscriptions.
    Shared,
    Tls,
}

impl Kind {
    /// Returns true if the scenario needs the feature.
    pub fn needs(self, need: Need) -> bool {
        match (need, self) {
            (Need::Qos2, Kind::Flow(spec)) => spec.qos == 2,
            (Need::Mqtt5, Kind::Flow(spec)) => spec.version == Version::V5,
            (Need::Shared, Kind::Flow(spec)) => matches!(spec.layout, Layout::Shared(..)),
            (Need::Tls, Kind::Flow(spec)) => spec.tls,
            (Need::Tls, Kind::Connects { tls, .. }) => tls,
            _ => false,
        }
    }
}

/// A scenario with its target.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub kind: Kind,
    /// Highest ratio of Lapwing's main figure to Mosquitto's, if there is a target.
    pub at_most: Option<f64>,
}

/// The default load.
pub const SPEC: Spec = Spec {
    layout: Layout::Pairs(4),
    qos: 0,
    payload: 64,
    window: 100,
    version: Version::V311,
    tls: false,
    rate: None,
};

const fn flow(name: &'static str, what: &'static str, spec: Spec, at_most: Option<f64>) -> Scenario {
    Scenario { name, what, kind: Kind::Flow(spec), at_most }
}

/// All scenarios, in the order of the table.
pub const ALL: &[Scenario] = &[
    flow("p2p-q0", "4 pairs, QoS 0, window 100", SPEC, Some(0.066)),
    flow(
        "p2p-q0-x100",
        "100 pairs, QoS 0, window 4",
        Spec { layout: Layout::Pairs(100), window: 4, ..SPEC },
        Some(0.33),
    ),
    flow("p2p-q1", "4 pairs, QoS 1, window 50", Spec { qos: 1, window: 50, ..SPEC }, Some(0.057)),
    flow("p2p-q2", "4 pairs, QoS 2, window 50", Spec { qos: 2, window: 50, ..SPEC }, Some(0.046)),
    flow(
        "fan-in",
        "50 publishers to 1, QoS 0, window 10",
        Spec { layout: Layout::FanIn(50), window: 10, ..SPEC },
        Some(0.10),
    ),
    flow(
        "fan-out-100",
        "1 to 100, QoS 0, window 50",
        Spec { layout: Layout::FanOut(100), window: 50, ..SPEC },
        Some(0.047),
    ),
    flow(
        "fan-out-1000",
        "1 to 1,000, QoS 0, window 10",
        Spec { layout: Layout::FanOut(1_000), window: 10, ..SPEC },
        Some(0.145),
    ),
    flow("tls-p2p-q0", "4 pairs over TLS 1.3, QoS 0, window 100", Spec { tls: true, ..SPEC }, Some(0.062)),
    flow(
        "shared",
        "50 publishers to a shared group of 4, QoS 0, window 10",
        Spec { layout: Layout::Shared(50, 4), window: 10, ..SPEC },
        Some(0.095),
    ),
    flow(
        "fan-out-100-q1",
        "1 to 100, QoS 1, window 50",
        Spec { layout: Layout::FanOut(100), qos: 1, window: 50, ..SPEC },
        Some(0.08),
    ),
    flow(
        "p2p-q1-v5",
        "4 pairs, QoS 1 in MQTT 5, window 50",
        Spec { qos: 1, window: 50, version: Version::V5, ..SPEC },
        Some(0.07),
    ),
    flow("p2p-q0-16k", "4 pairs, QoS 0, 16 KiB, window 100", Spec { payload: 16 << 10, ..SPEC }, Some(0.30)),
    flow("p2p-q0-16", "4 pairs, QoS 0, 16 B, window 100", Spec { payload: 16, ..SPEC }, None),
    flow(
        "p2p-q1-256",
        "4 pairs, QoS 1, 256 B, window 50",
        Spec { qos: 1, window: 50, payload: 256, ..SPEC },
        None,
    ),
    flow("p2p-q0-1m", "4 pairs, QoS 0, 1 MiB, window 2", Spec { payload: 1 << 20, window: 2, ..SPEC }, None),
    flow(
        "topics",
        "1 pair, 10,000 topics in turn, QoS 0, window 100",
        Spec { layout: Layout::Topics(10_000), ..SPEC },
        None,
    ),
    flow(
        "latency",
        "10 pairs, QoS 0, 5,000 messages/s in all, open loop",
        Spec { layout: Layout::Pairs(10), rate: Some(5_000), ..SPEC },
        None,
    ),
    Scenario {
        name: "connect",
        what: "connect, CONNACK, close",
        kind: Kind::Connects { tls: false, count: 10_000 },
        at_most: Some(1.0),
    },
    Scenario {
        name: "tls-connect",
        what: "the same over TLS 1.3, full handshakes",
        kind: Kind::Connects { tls: true, count: 1_500 },
        at_most: Some(0.8),
    },
    Scenario {
        name: "subscriptions",
        what: "100,000 mixed wildcards over 100 clients, then messages that match",
        kind: Kind::Subscriptions { count: 100_000, messages: 20_000 },
        at_most: Some(0.4),
    },
    Scenario {
        name: "retained",
        what: "100,000 retained messages of 64 B, delivered to #",
        kind: Kind::Retained { count: 100_000 },
        at_most: Some(0.17),
    },
    Scenario {
        name: "queue",
        what: "50,000 QoS 1 messages for an offline client, then delivered",
        kind: Kind::Queue { count: 50_000 },
        at_most: None,
    },
    Scenario {
        name: "idle",
        what: "10,000 idle connections",
        kind: Kind::Idle { count: 10_000 },
        at_most: None,
    },
];

/// Time before the measurement.
pub const WARM: Duration = Duration::from_millis(500);
