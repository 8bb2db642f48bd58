//! What operators are told of one session.

use lapwing_protocol::QoS;

use crate::clients::owned::OwnedSession;
use crate::message::Millis;
use crate::session::Subscription;
use crate::telemetry::metrics::Throughput;

/// See the module. Copied by who owns the session, and bounded.
#[derive(Debug)]
pub struct SessionReport {
    /// The groups of its user.
    pub groups: Vec<Box<str>>,
    /// How it was recognized; empty: it was not.
    pub method: &'static str,
    /// Seconds it outlives its connection.
    pub expiry_s: u32,
    /// While it rests: when it ends.
    pub ends_at: Option<Millis>,
    /// What is published for a bad end.
    pub will: Option<WillReport>,
    /// Messages on their way to the client, and from it.
    pub in_flight: (usize, usize),
    /// How many subscriptions it has.
    pub subscriptions_count: usize,
    /// The first of them.
    pub subscriptions: Vec<(Box<str>, Subscription)>,
    /// What its connection adds.
    pub connection: Option<ConnectionReport>,
}

/// A will, without its payload.
#[derive(Debug)]
pub struct WillReport {
    /// The topic name.
    pub topic: Box<str>,
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Seconds from the end of the connection.
    pub delay_s: u32,
    /// The size of its payload.
    pub payload_bytes: usize,
}

/// What only a live connection knows.
#[derive(Debug)]
pub struct ConnectionReport {
    /// The protocol version.
    pub version: String,
    /// Seconds; 0 is none.
    pub keep_alive_s: u16,
    /// What went through it.
    pub flow: Throughput,
    /// The same in a second, of the last ten to twenty.
    pub rates: [f64; 4],
}

impl SessionReport {
    /// Of a session, with so many of its subscriptions.
    pub fn of(owned: &OwnedSession, subscriptions_max: usize) -> SessionReport {
        let OwnedSession { session, identity, .. } = owned;
        let subscriptions = session.subscriptions.iter().take(subscriptions_max);
        SessionReport {
            groups: identity.groups.to_vec(),
            method: identity.method,
            expiry_s: session.expiry_s,
            ends_at: session.ends_at,
            will: session.will.as_ref().map(|will| WillReport {
                topic: will.topic.clone(),
                qos: will.qos,
                retain: will.retain,
                delay_s: will.delay_s,
                payload_bytes: will.payload.len(),
            }),
            in_flight: (session.outgoing.in_flight(), session.open_inbound()),
            subscriptions_count: session.subscriptions.len(),
            subscriptions: subscriptions.map(|(filter, held)| (filter.into(), *held)).collect(),
            connection: None,
        }
    }
}
