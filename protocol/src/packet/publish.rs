//! PUBLISH (`3.3`): one application message.

use super::{PacketId, QoS};
use crate::property::{Place, Properties, PropertyId};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, EncodeError, PacketType, Version, limits, topic, varint};

/// A PUBLISH packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    /// DUP flag: the packet was perhaps sent before (`3.3.1.1`). Only with QoS 1 and 2.
    pub dup: bool,
    /// QoS of this transfer.
    pub qos: QoS,
    /// RETAIN flag. From a client: store the message. From a server: the message was stored.
    pub retain: bool,
    /// Topic name. It is empty only in MQTT 5.0, with a topic alias.
    pub topic: &'a str,
    /// Packet identifier; present for QoS 1 and 2 only.
    pub packet_id: Option<PacketId>,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// Payload, 0 bytes or more.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Reads the body of the packet. `flags` are those of its fixed header, which
    /// [`frame`](crate::frame) has checked.
    ///
    /// # Errors
    /// The first rule that the packet breaks.
    #[inline]
    pub fn decode(flags: u8, body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let qos = QoS::from_u8(flags >> 1 & 0b11).ok_or(DecodeError::QoSInvalid)?;
        let mut r = Reader::new(body);
        let topic = r.string()?;
        if topic::has_wildcard(topic) {
            return Err(DecodeError::WildcardInTopicName);
        }
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(r.packet_id()?) };
        let properties = Properties::read_in(version, &mut r, Place::Packet(PacketType::Publish))?;
        if topic.is_empty() && !properties.has(PropertyId::TopicAlias) {
            return Err(DecodeError::TopicNameEmpty);
        }
        Ok(Publish {
            dup: flags & 0b1000 != 0,
            qos,
            retain: flags & 1 != 0,
            topic,
            packet_id,
            properties,
            payload: r.rest(),
        })
    }

    pub(super) fn flags(&self) -> u8 {
        flags(self.dup, self.qos, self.retain)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version) {
        if self.packet_id.is_some() != (self.qos != QoS::AtMostOnce) {
            w.fail(EncodeError::PacketIdMismatch);
        }
        if self.topic.is_empty() && !(version.has_properties() && self.properties.has(PropertyId::TopicAlias))
        {
            w.fail(EncodeError::NotInVersion);
        }
        w.string(self.topic);
        if let Some(id) = self.packet_id {
            w.packet_id(id);
        }
        if version.has_properties() {
            self.properties.write(w, crate::property::Omit::Nothing);
        }
        w.bytes(self.payload);
    }
}

#[inline]
const fn flags(dup: bool, qos: QoS, retain: bool) -> u8 {
    (dup as u8) << 3 | (qos as u8) << 1 | retain as u8
}

/// Lengths for the header, known to fit.
struct Sizes {
    remaining: u32,
    property_len: usize,
    header_len: usize,
}

/// A PUBLISH without its payload, so that many receivers can share one payload.
///
/// Topic and properties are bytes that were checked when the message was received. Properties that
/// change from hop to hop stand apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishHeader<'a> {
    /// DUP flag: the packet was perhaps sent before.
    pub dup: bool,
    /// QoS of this transfer.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Topic name; empty only with a topic alias.
    pub topic: &'a [u8],
    /// Packet identifier; present for QoS 1 and 2 only.
    pub packet_id: Option<PacketId>,
    /// MQTT 5.0: the block of properties that a server forwards unchanged.
    pub forwarded: &'a [u8],
    /// MQTT 5.0: seconds that are left of the Message Expiry Interval.
    pub message_expiry_interval_s: Option<u32>,
    /// MQTT 5.0: topic alias of this connection.
    pub topic_alias: Option<u16>,
    /// MQTT 5.0: identifiers of the matching subscriptions.
    pub subscription_identifiers: &'a [u32],
    /// Length of the payload that follows, in bytes.
    pub payload_len: usize,
}

impl PublishHeader<'_> {
    /// Greatest length of the header beyond topic, forwarded properties, and 5 bytes for each
    /// subscription identifier.
    pub const OVERHEAD_MAX: usize = 1 + 4 + 2 + 2 + 4 + 5 + 3;

    /// Writes everything before the payload to the front of `out`, and returns its length.
    ///
    /// # Errors
    /// [`EncodeError::PacketTooLarge`] when header and payload exceed `packet_bytes_max`. The other
    /// errors of [`Packet::encode`](super::Packet::encode); nothing was written then.
    #[inline]
    pub fn encode(
        &self,
        version: Version,
        packet_bytes_max: u32,
        out: &mut [u8],
    ) -> Result<usize, EncodeError> {
        self.check(version)?;
        let sizes = self.sizes(version, packet_bytes_max)?;
        let mut w = Writer::over(out.get_mut(..sizes.header_len).ok_or(EncodeError::OutputTooShort)?);
        self.write_before_topic(&mut w, sizes.remaining);
        w.bytes(self.topic);
        self.write_after_topic(&mut w, version, sizes.property_len);
        if version.has_properties() {
            w.bytes(self.forwarded);
        }
        w.finish()
    }

    /// Writes the header for a sender that sends topic and forwarded properties from elsewhere.
    ///
    /// First comes the part between topic and forwarded properties, and right after it the part
    /// before the topic. Returns both lengths in this order. Together they are at most
    /// [`OVERHEAD_MAX`](Self::OVERHEAD_MAX) and five bytes for each subscription identifier. QoS,
    /// packet identifier and topic are not checked.
    ///
    /// # Errors
    /// [`EncodeError::PacketTooLarge`] and [`EncodeError::OutputTooShort`].
    pub fn encode_around(
        &self,
        version: Version,
        packet_bytes_max: u32,
        out: &mut [u8],
    ) -> Result<(usize, usize), EncodeError> {
        let mut w = Writer::over(out);
        let property_len = if version.has_properties() { self.property_len() } else { 0 };
        self.write_after_topic(&mut w, version, property_len);
        let after = w.position();
        let forwarded = if version.has_properties() { self.forwarded.len() } else { 0 };
        let remaining = 2 + self.topic.len() + after + forwarded + self.payload_len;
        self.write_before_topic(&mut w, remaining as u32);
        let all = w.finish()?;
        if all - after + remaining - 2 > packet_bytes_max as usize {
            return Err(EncodeError::PacketTooLarge);
        }
        Ok((after, all - after))
    }

    #[inline]
    fn check(&self, version: Version) -> Result<(), EncodeError> {
        if self.packet_id.is_some() != (self.qos != QoS::AtMostOnce) {
            return Err(EncodeError::PacketIdMismatch);
        }
        if self.topic.is_empty() && !(version.has_properties() && self.topic_alias.is_some()) {
            return Err(EncodeError::NotInVersion);
        }
        if self.topic.len() > limits::STRING_BYTES_MAX {
            return Err(EncodeError::StringTooLong);
        }
        Ok(())
    }

    #[inline]
    fn sizes(&self, version: Version, packet_bytes_max: u32) -> Result<Sizes, EncodeError> {
        let id_len = if self.packet_id.is_some() { 2 } else { 0 };
        let (property_len, property_field_len) = if version.has_properties() {
            let n = self.property_len();
            (n, n + varint::len(u32::try_from(n).unwrap_or(u32::MAX)))
        } else {
            (0, 0)
        };
        let remaining = 2 + self.topic.len() + id_len + property_field_len + self.payload_len;
        let remaining = u32::try_from(remaining).map_err(|_| EncodeError::PacketTooLarge)?;
        let total = 1 + varint::len(remaining) + remaining as usize;
        if remaining > varint::MAX || total > packet_bytes_max as usize {
            return Err(EncodeError::PacketTooLarge);
        }
        Ok(Sizes { remaining, property_len, header_len: total - self.payload_len })
    }

    fn write_before_topic(&self, w: &mut Writer<'_>, remaining: u32) {
        w.u8((PacketType::Publish as u8) << 4 | flags(self.dup, self.qos, self.retain));
        w.varint(remaining);
        w.u16(self.topic.len() as u16);
    }

    /// Writes everything from the end of the topic to the forwarded properties.
    fn write_after_topic(&self, w: &mut Writer<'_>, version: Version, property_len: usize) {
        if let Some(id) = self.packet_id {
            w.packet_id(id);
        }
        if version.has_properties() {
            w.varint(u32::try_from(property_len).unwrap_or(u32::MAX));
            if let Some(seconds) = self.message_expiry_interval_s {
                w.u8(PropertyId::MessageExpiryInterval as u8);
                w.u32(seconds);
            }
            if let Some(alias) = self.topic_alias {
                w.u8(PropertyId::TopicAlias as u8);
                w.u16(alias);
            }
            for id in self.subscription_identifiers {
                w.u8(PropertyId::SubscriptionIdentifier as u8);
                w.varint(*id);
            }
        }
    }

    #[inline]
    fn property_len(&self) -> usize {
        let ids: usize = self.subscription_identifiers.iter().map(|id| 1 + varint::len(*id)).sum();
        self.forwarded.len()
            + ids
            + if self.message_expiry_interval_s.is_some() { 5 } else { 0 }
            + if self.topic_alias.is_some() { 3 } else { 0 }
    }
}
