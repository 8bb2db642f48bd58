//! A session (`4.1`): everything that outlives a network connection, as a deterministic core.
//!
//! The contract: a connection gives each packet to [`Session::handle`] once and carries out the
//! [`Effect`], which has the acknowledgement with it. Then it asks [`Session::poll`] for what to
//! send until that returns `None`. There is no runtime, socket, lock, router or store in here, and
//! time is an argument: a test drives it step by step. Nothing in here knows a protocol version.
//!
//! Left to the connection on purpose: what needs other rooms (routing, authorization, the store)
//! and the bytes.

mod inbound;
mod outbound;
mod outcome;
mod subscriptions;
mod terms;
mod will;

use std::sync::Arc;

pub use inbound::ReceivedIds;
use lapwing_protocol::flight::{Answer, Arrival, Inbound, InboundStore};
use lapwing_protocol::limits::SESSION_NEVER_EXPIRES_S;
use lapwing_protocol::packet::{Ack, Auth, Disconnect, Packet, Publish, Subscribe, Unsubscribe};
use lapwing_protocol::property::PropertyId;
use lapwing_protocol::{PacketId, PacketType, QoS, ReasonCode};
pub use outbound::{Outgoing, SharedMessages, Transmit};
pub use outcome::{KeptFlight, Outcome};
pub use subscriptions::{RetainedCursor, Subscription, Subscriptions};
pub use terms::Terms;
pub use will::Will;

use crate::message::{Millis, SessionNumber};

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Number of the session, unique within this broker.
    pub number: SessionNumber,
    /// The client identifier.
    pub client_id: Arc<str>,
    /// User that the session belongs to.
    pub user: Option<Arc<str>>,
    /// Seconds that the session outlives its connection.
    pub expiry_s: u32,
    /// Subscriptions of the session, and retained messages that new ones still bring.
    pub subscriptions: Subscriptions,
    /// Messages to the client.
    pub outgoing: Outgoing,
    /// The will, published when a connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// Moment at which the will of an offline session is due.
    pub will_at: Option<Millis>,
    /// Moment at which an offline session ends.
    pub ends_at: Option<Millis>,
    /// Set when the store has a record of the session.
    pub recorded: bool,
    inbound: Inbound,
    received: ReceivedIds,
}

/// An acknowledgement to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub packet_type: PacketType,
    /// The packet identifier.
    pub packet_id: PacketId,
    /// Reason code to answer with.
    pub reason: ReasonCode,
}

impl Acknowledgement {
    const fn new(packet_type: PacketType, packet_id: PacketId, reason: ReasonCode) -> Acknowledgement {
        Acknowledgement { packet_type, packet_id, reason }
    }
}

/// Task of the connection after a packet.
#[derive(Debug, PartialEq)]
pub enum Effect<'p> {
    /// Nothing.
    Nothing,
    /// Send the acknowledgement.
    Reply(Acknowledgement),
    /// Pass the message on, then send the acknowledgement; QoS 0 has none. Where the message is
    /// refused, [`Session::refuse`] changes the acknowledgement.
    Publish(Publish<'p>, Option<Acknowledgement>),
    /// Subscribe, then answer SUBACK.
    Subscribe(Subscribe<'p>),
    /// Unsubscribe, then answer UNSUBACK.
    Unsubscribe(Unsubscribe<'p>),
    /// Answer PINGRESP.
    Pong,
    /// The client leaves.
    Disconnect(Disconnect<'p>),
    /// Go on with the authentication.
    Auth(Auth<'p>),
}

/// The client broke the protocol: DISCONNECT with this reason code, then close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Reason code for the client.
    pub reason: ReasonCode,
    /// Text for the log.
    pub text: &'static str,
}

impl Violation {
    /// Makes a violation.
    pub const fn new(reason: ReasonCode, text: &'static str) -> Violation {
        Violation { reason, text }
    }
}

impl Session {
    /// Creates a session for its first connection. `stored` is set when the store keeps it.
    pub fn new(
        number: SessionNumber,
        client_id: Arc<str>,
        user: Option<Arc<str>>,
        terms: &Terms,
        stored: bool,
    ) -> Session {
        Session {
            number,
            client_id,
            user,
            expiry_s: terms.expiry_s,
            subscriptions: Subscriptions::default(),
            outgoing: Outgoing::new(terms, stored),
            will: None,
            will_at: None,
            ends_at: None,
            recorded: false,
            inbound: Inbound::new(terms.receive_maximum),
            received: ReceivedIds::default(),
        }
    }

    /// Restores an offline session after a restart. `flights` stand in the order of their first
    /// sending, `last_id` is the packet identifier that was used last, and `received` are the QoS 2
    /// messages that the client has not released.
    pub fn restored(
        number: SessionNumber,
        client_id: Arc<str>,
        user: Option<Arc<str>>,
        flights: &[KeptFlight],
        last_id: u16,
        received: &[PacketId],
    ) -> Session {
        let mut ids = ReceivedIds::default();
        for id in received {
            ids.insert(*id);
        }
        Session {
            number,
            client_id,
            user,
            expiry_s: 0,
            subscriptions: Subscriptions::default(),
            outgoing: Outgoing::restored(flights, last_id),
            will: None,
            will_at: None,
            ends_at: None,
            recorded: true,
            inbound: Inbound::new(1),
            received: ids,
        }
    }

    /// Resumes an offline session over a new connection: flights are sent again (`[MQTT-4.4.0-1]`),
    /// and the quotas start afresh (`4.9`).
    pub fn resume(&mut self, terms: &Terms) {
        self.expiry_s = terms.expiry_s;
        (self.will_at, self.ends_at) = (None, None);
        self.inbound.reconnected(terms.receive_maximum, &self.received);
        self.outgoing.reconnected(terms);
    }

    /// Goes offline. QoS 0 messages that were not sent are dropped; the will and the end get their
    /// moments (`[MQTT-3.1.2-8]`, `[MQTT-3.1.2-23]`). Returns the first of these moments.
    pub fn go_offline(&mut self, now: Millis) -> Option<Millis> {
        self.outgoing.rest();
        let after = |seconds: u32| now + u64::from(seconds) * 1000;
        self.ends_at = (self.expiry_s != SESSION_NEVER_EXPIRES_S).then(|| after(self.expiry_s));
        self.will_at = self.will.as_ref().map(|will| after(will.delay_s));
        self.due_at()
    }

    /// Returns the next moment at which the offline session's will or end is due.
    pub fn due_at(&self) -> Option<Millis> {
        self.will_at.into_iter().chain(self.ends_at).min()
    }

    /// Handles a packet of the client.
    ///
    /// # Errors
    /// A [`Violation`] of the protocol.
    pub fn handle<'p>(&mut self, packet: Packet<'p>) -> Result<Effect<'p>, Violation> {
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::PubAck(Ack { packet_id, .. }) => {
                let answer = self.outgoing.puback(packet_id);
                answered(answer, packet_id)
            }
            Packet::PubRec(Ack { packet_id, reason, .. }) => {
                let answer = self.outgoing.pubrec(packet_id, reason);
                answered(answer, packet_id)
            }
            Packet::PubComp(Ack { packet_id, .. }) => {
                let answer = self.outgoing.pubcomp(packet_id);
                answered(answer, packet_id)
            }
            Packet::PubRel(Ack { packet_id, .. }) => {
                let reason = self.inbound.pubrel(packet_id, &mut self.received);
                Ok(Effect::Reply(Acknowledgement::new(PacketType::PubComp, packet_id, reason)))
            }
            Packet::Subscribe(subscribe) => Ok(Effect::Subscribe(subscribe)),
            Packet::Unsubscribe(unsubscribe) => Ok(Effect::Unsubscribe(unsubscribe)),
            Packet::PingReq => Ok(Effect::Pong),
            Packet::Disconnect(disconnect) => self.disconnect(disconnect),
            Packet::Auth(auth) => Ok(Effect::Auth(auth)),
            Packet::Connect(_) => {
                Err(Violation::new(ReasonCode::ProtocolError, "a second CONNECT on one connection"))
            }
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Violation::new(ReasonCode::ProtocolError, "a packet that only a server sends"))
            }
        }
    }

    fn publish<'p>(&mut self, publish: Publish<'p>) -> Result<Effect<'p>, Violation> {
        // `[MQTT-3.3.4-6]`
        if publish.properties.has(PropertyId::SubscriptionIdentifier) {
            return Err(Violation::new(
                ReasonCode::ProtocolError,
                "a subscription identifier, which only a server sends",
            ));
        }
        let Some(id) = publish.packet_id else { return Ok(Effect::Publish(publish, None)) };
        let at_least_once = publish.qos == QoS::AtLeastOnce;
        let answer = if at_least_once { PacketType::PubAck } else { PacketType::PubRec };
        let acknowledgement = Acknowledgement::new(answer, id, ReasonCode::Success);
        match self.inbound.publish(publish.qos, Some(id), &mut self.received) {
            Ok(Arrival::New) => {
                if at_least_once {
                    // Most PUBACKs leave in the same turn. `puback_held` counts one that waits.
                    self.inbound.puback_sent();
                }
                Ok(Effect::Publish(publish, Some(acknowledgement)))
            }
            Ok(Arrival::Repeated) => Ok(Effect::Reply(acknowledgement)),
            Err(_) => Err(Violation::new(
                ReasonCode::ReceiveMaximumExceeded,
                "more unacknowledged QoS 1 and 2 messages than the receive maximum",
            )),
        }
    }

    /// Returns the acknowledgement of a message that is not taken in. PUBREC with an error ends the
    /// flow (`[MQTT-4.3.3-9]`).
    #[cold]
    pub fn refuse(&mut self, acknowledgement: Acknowledgement, reason: ReasonCode) -> Acknowledgement {
        if acknowledgement.packet_type == PacketType::PubRec && reason.is_failure() {
            self.inbound.refused(acknowledgement.packet_id, &mut self.received);
        }
        Acknowledgement { reason, ..acknowledgement }
    }

    /// Returns the number of QoS 1 and 2 messages that came and are not acknowledged, or not
    /// released.
    pub fn open_inbound(&self) -> usize {
        self.inbound.open(&self.received)
    }

    /// Counts a QoS 1 message whose PUBACK waits for the store: the Receive Maximum includes it
    /// until [`puback_released`](Self::puback_released).
    pub fn puback_held(&mut self, id: PacketId) {
        // Cannot fail: `handle` has just found room for this message.
        let _ = self.inbound.publish(QoS::AtLeastOnce, Some(id), &mut self.received);
    }

    /// Counts a held PUBACK out.
    pub fn puback_released(&mut self) {
        self.inbound.puback_sent();
    }

    fn disconnect<'p>(&mut self, disconnect: Disconnect<'p>) -> Result<Effect<'p>, Violation> {
        if !disconnect.reason.client_may_disconnect_with() {
            return Err(Violation::new(ReasonCode::ProtocolError, "a reason code that only a server sends"));
        }
        if let Some(expiry_s) = disconnect.properties.session_expiry_interval_s() {
            // `[MQTT-3.14.2-2]`, `3.14.2.2.2`: a session that ends with its connection stays so.
            if self.expiry_s == 0 && expiry_s != 0 {
                return Err(Violation::new(
                    ReasonCode::ProtocolError,
                    "a session expiry at DISCONNECT where CONNECT had none",
                ));
            }
            self.expiry_s = expiry_s;
        }
        if disconnect.reason == ReasonCode::Success {
            self.will = None;
        }
        Ok(Effect::Disconnect(disconnect))
    }

    /// Returns the next thing to send to the client, if there is one and the quota allows it.
    pub fn poll(&mut self, now: Millis) -> Option<Transmit> {
        self.outgoing.poll(now)
    }
}

fn answered(answer: Answer, id: PacketId) -> Result<Effect<'static>, Violation> {
    match answer {
        Answer::Nothing => Ok(Effect::Nothing),
        Answer::PubRel(reason) => Ok(Effect::Reply(Acknowledgement::new(PacketType::PubRel, id, reason))),
        Answer::Violation => Err(Violation::new(
            ReasonCode::ProtocolError,
            "an acknowledgement that does not fit the message's QoS",
        )),
    }
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::property::Properties;

    use super::*;

    fn session(receive_maximum: u16) -> Session {
        let terms = Terms { receive_maximum, in_flight_max: 1, expiry_s: 0, message_expiry_max_s: 0 };
        Session::new(1, "c".into(), None, &terms, false)
    }

    /// Gives a PUBLISH to the session, and returns the acknowledgement that comes with it.
    fn publish(session: &mut Session, qos: QoS, id: u16) -> Result<Option<Acknowledgement>, Violation> {
        let packet_id = PacketId::new(id);
        let properties = Properties::NONE;
        let publish =
            Publish { dup: false, qos, retain: false, topic: "t", packet_id, properties, payload: &[] };
        match session.handle(Packet::Publish(publish))? {
            Effect::Publish(_, acknowledgement) => Ok(acknowledgement),
            effect => panic!("{effect:?}"),
        }
    }

    #[test]
    fn a_puback_counts_for_the_receive_maximum_only_while_it_is_held() {
        let mut session = session(1);
        for id in 1..=3 {
            let puback = publish(&mut session, QoS::AtLeastOnce, id).unwrap().unwrap();
            assert_eq!((puback.packet_type, puback.packet_id.get()), (PacketType::PubAck, id));
        }
        session.puback_held(PacketId::new(3).unwrap());
        assert_eq!(session.open_inbound(), 1);
        let violation = publish(&mut session, QoS::AtLeastOnce, 4).unwrap_err();
        assert_eq!(violation.reason, ReasonCode::ReceiveMaximumExceeded);
        session.puback_released();
        assert!(publish(&mut session, QoS::AtLeastOnce, 4).is_ok());
    }

    // 5.0: [MQTT-4.3.3-9]
    #[test]
    fn a_refused_qos_2_message_is_new_when_it_comes_again() {
        let mut session = session(1);
        let pubrec = publish(&mut session, QoS::ExactlyOnce, 7).unwrap().unwrap();
        assert_eq!((pubrec.packet_type, pubrec.reason), (PacketType::PubRec, ReasonCode::Success));
        let refused = session.refuse(pubrec, ReasonCode::QuotaExceeded);
        assert_eq!((refused.packet_id, refused.reason), (pubrec.packet_id, ReasonCode::QuotaExceeded));
        assert_eq!(publish(&mut session, QoS::ExactlyOnce, 7), Ok(Some(pubrec)));
    }
}
