//! A report on one session, for operators.

use lapwing_protocol::QoS;

use crate::clients::owned::OwnedSession;
use crate::message::Millis;
use crate::session::Subscription;
use crate::telemetry::metrics::Throughput;

/// Report on a session: a copy made by its owner, of bounded size.
#[derive(Debug)]
pub struct SessionReport {
    /// The groups of its user.
    pub groups: Vec<Box<str>>,
    /// Method that authenticated the client; empty when none did.
    pub method: &'static str,
    /// Seconds that the session outlives its connection.
    pub expiry_s: u32,
    /// Moment at which an offline session ends.
    pub ends_at: Option<Millis>,
    /// Will, published when the connection ends without DISCONNECT.
    pub will: Option<WillReport>,
    /// Messages on their way to the client, and from it.
    pub in_flight: (usize, usize),
    /// Number of subscriptions.
    pub subscriptions_count: usize,
    /// The first of them.
    pub subscriptions: Vec<(Box<str>, Subscription)>,
    /// Figures of the connection, if there is one.
    pub connection: Option<ConnectionReport>,
}

/// A will, without its payload.
#[derive(Debug)]
pub struct WillReport {
    /// The topic name.
    pub topic: Box<str>,
    /// Its QoS.
    pub qos: QoS,
    /// Set when the message is to be retained.
    pub retain: bool,
    /// Delay in seconds from the end of the connection.
    pub delay_s: u32,
    /// The size of its payload.
    pub payload_bytes: usize,
}

/// Figures that only a live connection has.
#[derive(Debug)]
pub struct ConnectionReport {
    /// The protocol version.
    pub version: String,
    /// Keep-alive in seconds; 0 is none.
    pub keep_alive_s: u16,
    /// Traffic since the connection began.
    pub flow: Throughput,
    /// Traffic in a second, over the last ten to twenty seconds.
    pub rates: [f64; 4],
}

impl SessionReport {
    /// Makes the report, with at most this many subscriptions.
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
