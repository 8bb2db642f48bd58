//! The packets of a server in one shape, for a client that has little room for code.
//!
//! Packets of MQTT 5.0 are built alike: identifier, reason code, properties, the rest. One function that knows the order takes a
//! third of the code of a decoder for each. It judges as they do; `tests/from_server.rs` compares them.

use crate::property::{Place, Properties, PropertyId};
use crate::wire::Reader;
use crate::{DecodeError, PacketType, ReasonCode, Version};

/// A packet from a server; what its type does not have is empty, 0 or success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromServer<'a> {
    /// PUBLISH: the topic name, valid UTF-8; empty only in MQTT 5.0, with a topic alias.
    pub topic: &'a [u8],
    /// Not of a QoS 0 PUBLISH.
    pub packet_id: u16,
    /// CONNACK.
    pub session_present: bool,
    /// The reason code; in SUBACK and UNSUBACK the first failure. Failures before MQTT 5.0 become the nearest.
    pub reason: ReasonCode,
    /// MQTT 5.0.
    pub properties: Properties<'a>,
    /// PUBLISH: the payload, or the beginning of it, if `body` was cut in it.
    pub payload: &'a [u8],
}

impl<'a> FromServer<'a> {
    /// Reads the body of any packet that a server sends; `flags` are those of its fixed header.
    ///
    /// # Errors
    /// The first rule that it breaks; [`DecodeError::ReservedPacketType`] for a packet that a server does not send.
    #[inline]
    pub fn decode(
        packet: PacketType,
        flags: u8,
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        use PacketType as P;
        let v5 = version.has_properties();
        let mut r = Reader::new(body);
        let mut topic = &[][..];
        let mut session_present = false;
        let mut identified = true;
        // May end, or before MQTT 5.0 must, before the reason code and the properties.
        let mut short = true;
        match packet {
            P::Publish => {
                if flags & 0b0110 == 0b0110 {
                    return Err(DecodeError::QoSInvalid);
                }
                topic = r.text()?;
                if topic.iter().any(|byte| matches!(byte, b'+' | b'#')) {
                    return Err(DecodeError::WildcardInTopicName);
                }
                identified = flags & 0b0110 != 0;
                short = false;
            }
            P::ConnAck => {
                let flags = r.u8()?;
                if flags & !1 != 0 {
                    return Err(DecodeError::ReservedFlags);
                }
                session_present = flags != 0;
                identified = false;
                short = false;
            }
            P::SubAck | P::UnsubAck => short = false,
            P::PubAck | P::PubRec | P::PubRel | P::PubComp => {}
            P::PingResp | P::Disconnect | P::Auth => identified = false,
            _ => return Err(DecodeError::ReservedPacketType),
        }
        let packet_id = if identified { r.packet_id()?.get() } else { 0 };
        let mut reason = ReasonCode::Success;
        let ends = short && (r.is_empty() || !v5);
        if packet == P::ConnAck || short && !ends {
            reason = judge(packet, r.u8()?, version)?;
        }
        let mut properties = Properties::NONE;
        // `3.4.2.2.1`: without a property length, there are no properties; only AUTH has it with every reason code.
        if v5 && !ends && !(short && packet != P::Auth && r.is_empty()) {
            properties = Properties::read(&mut r, Place::Packet(packet))?;
        }
        let rest = r.rest();
        if matches!(packet, P::SubAck | P::UnsubAck) && (v5 || packet == P::SubAck) {
            if rest.is_empty() {
                return Err(DecodeError::NoReasonCode);
            }
            for code in rest {
                let one = judge(packet, *code, version)?;
                if !reason.is_failure() {
                    reason = one;
                }
            }
        } else if packet != P::Publish && !rest.is_empty() {
            return Err(DecodeError::TrailingBytes);
        }
        if packet == P::Publish && topic.is_empty() && !properties.has(PropertyId::TopicAlias) {
            return Err(DecodeError::TopicNameEmpty);
        }
        if session_present && reason != ReasonCode::Success {
            return Err(DecodeError::SessionPresentWithError);
        }
        Ok(FromServer { topic, packet_id, session_present, reason, properties, payload: rest })
    }
}

/// The reason code of a byte in this packet.
fn judge(packet: PacketType, code: u8, version: Version) -> Result<ReasonCode, DecodeError> {
    let reason = if version.has_properties() {
        ReasonCode::from_u8(code).filter(|reason| reason.allowed_in(packet))
    } else if packet == PacketType::ConnAck {
        ReasonCode::from_connect_return_code(code)
    } else {
        match code {
            0..=2 => Some(ReasonCode::Success),
            0x80 => Some(ReasonCode::UnspecifiedError),
            _ => None,
        }
    };
    reason.ok_or(DecodeError::ReasonCodeInvalid)
}
