//! Packets of a server in one type, for clients that have little flash.
//!
//! Packets of MQTT 5.0 are built alike: identifier, reason code, properties, the rest. One function
//! that knows the order takes a third of the code of separate decoders. It accepts and rejects the
//! same packets; `tests/from_server.rs` compares them.

use crate::property::{Place, Properties, PropertyId};
use crate::wire::StickyReader;
use crate::{DecodeError, PacketType, ReasonCode, Version, topic};

/// A packet from a server. Fields that its type does not have are empty, 0 or success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromServer<'a> {
    /// Type of the packet.
    pub packet: PacketType,
    /// PUBLISH: the topic name, valid UTF-8; empty only in MQTT 5.0, with a topic alias.
    pub topic: &'a [u8],
    /// Packet identifier; 0 for a QoS 0 PUBLISH.
    pub packet_id: u16,
    /// CONNACK: the server has a session for this client.
    pub session_present: bool,
    /// Reason code. In SUBACK and UNSUBACK it is the first failure. Failures before MQTT 5.0 become
    /// the nearest code.
    pub reason: ReasonCode,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// PUBLISH: the payload, or its beginning if `body` was cut there.
    pub payload: &'a [u8],
}

impl<'a> FromServer<'a> {
    /// Reads the body of any packet that a server sends. `first` is the first byte of the fixed
    /// header.
    ///
    /// # Errors
    /// The first rule that the packet breaks; [`DecodeError::ReservedPacketType`] for a packet that
    /// a server does not send.
    #[inline]
    pub fn decode(first: u8, body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        use PacketType as P;
        let packet = PacketType::from_u8(first >> 4).ok_or(DecodeError::ReservedPacketType)?;
        let flags = first & 0x0f;
        if packet != P::Publish && flags != packet.flags() {
            return Err(DecodeError::ReservedFlags);
        }
        let v5 = version.has_properties();
        let mut r = StickyReader::new(body);
        let (mut topic, mut session_present, mut packet_id) = (&[][..], false, 0);
        // `short`: the packet may end before reason code and properties. Before MQTT 5.0 it must.
        let (mut identified, mut short) = (true, true);
        match packet {
            P::Publish => {
                if flags & 0b0110 == 0b0110 {
                    r.fail(DecodeError::QoSInvalid);
                }
                topic = r.text();
                if topic::has_wildcard_byte(topic) {
                    r.fail(DecodeError::WildcardInTopicName);
                }
                identified = flags & 0b0110 != 0;
                short = false;
            }
            P::ConnAck => {
                let flags = r.number(1);
                if flags > 1 {
                    r.fail(DecodeError::ReservedFlags);
                }
                session_present = flags != 0;
                identified = false;
                short = false;
            }
            P::SubAck | P::UnsubAck => short = false,
            P::PubAck | P::PubRec | P::PubRel | P::PubComp => {}
            P::PingResp | P::Disconnect | P::Auth => identified = false,
            _ => r.fail(DecodeError::ReservedPacketType),
        }
        if identified {
            packet_id = r.number(2) as u16;
            if packet_id == 0 {
                r.fail(DecodeError::PacketIdZero);
            }
        }
        let mut reason = ReasonCode::Success;
        let ends = short && (r.is_empty() || !v5);
        if packet == P::ConnAck || short && !ends {
            reason = judge(&mut r, packet, version);
        }
        let mut properties = Properties::NONE;
        // `3.4.2.2.1`: without a property length there are no properties. Only AUTH always has one
        // beside a reason code.
        if v5 && !ends && !(short && packet != P::Auth && r.is_empty()) {
            properties = read_properties(&mut r, packet);
        }
        let payload = r.rest();
        if matches!(packet, P::SubAck | P::UnsubAck) && (v5 || packet == P::SubAck) {
            reason = first_failure(&mut r, packet, version);
        } else if packet != P::Publish && !payload.is_empty() {
            r.fail(DecodeError::TrailingBytes);
        }
        if packet == P::Publish && topic.is_empty() && !properties.has(PropertyId::TopicAlias) {
            r.fail(DecodeError::TopicNameEmpty);
        }
        if session_present && reason != ReasonCode::Success {
            r.fail(DecodeError::SessionPresentWithError);
        }
        r.check()?;
        Ok(FromServer { packet, topic, packet_id, session_present, reason, properties, payload })
    }
}

/// Reads a block of properties after its length.
#[inline]
fn read_properties<'a>(r: &mut StickyReader<'a>, packet: PacketType) -> Properties<'a> {
    let n = r.varint();
    let mut block = StickyReader::new(r.take(n as usize));
    let properties = Properties::scan(&mut block, Place::Packet(packet));
    if let Err(error) = block.check() {
        r.fail(error);
    }
    properties
}

/// Reads the reason codes of SUBACK or UNSUBACK. Returns the first failure, or the last code.
#[inline]
fn first_failure(r: &mut StickyReader<'_>, packet: PacketType, version: Version) -> ReasonCode {
    if r.is_empty() {
        r.fail(DecodeError::NoReasonCode);
    }
    let mut reason = ReasonCode::Success;
    while !r.is_empty() {
        let one = judge(r, packet, version);
        if !reason.is_failure() {
            reason = one;
        }
    }
    reason
}

/// Reads the next byte as a reason code of this packet.
fn judge(r: &mut StickyReader<'_>, packet: PacketType, version: Version) -> ReasonCode {
    let code = r.number(1) as u8;
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
    reason.unwrap_or_else(|| {
        r.fail(DecodeError::ReasonCodeInvalid);
        ReasonCode::Success
    })
}
