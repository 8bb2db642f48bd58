//! PUBACK, PUBREC, PUBREL and PUBCOMP (`3.4` to `3.7`), which share one body.

use super::PacketId;
use crate::property::{Omit, Place, Properties};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, PacketType, ReasonCode, Version};

/// The body of PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Packet identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// Reason code; success in MQTT 3, which has none.
    pub reason: ReasonCode,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    /// Creates an acknowledgement without properties.
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Ack { packet_id, reason, properties: Properties::NONE }
    }

    /// Returns the whole packet if it is one of four bytes.
    ///
    /// That is so in MQTT 3 always, and in MQTT 5.0 with Success and without properties
    /// (`3.4.2.1`).
    #[inline]
    pub fn short(&self, packet: PacketType, version: Version) -> Option<[u8; 4]> {
        let plain = self.properties.is_empty() && self.reason == ReasonCode::Success;
        let [high, low] = self.packet_id.get().to_be_bytes();
        let flags = if packet == PacketType::PubRel { 2 } else { 0 };
        (plain || !version.has_properties()).then_some([(packet as u8) << 4 | flags, 2, high, low])
    }

    /// Reads the body of the packet.
    ///
    /// # Errors
    /// The first rule that the packet breaks.
    #[inline]
    pub fn decode(packet: PacketType, body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let mut ack = Ack::new(r.packet_id()?, ReasonCode::Success);
        if r.is_empty() {
            return Ok(ack);
        }
        if !version.has_properties() {
            return Err(DecodeError::TrailingBytes);
        }
        ack.reason = ReasonCode::from_u8(r.u8()?)
            .filter(|reason| reason.allowed_in(packet))
            .ok_or(DecodeError::ReasonCodeInvalid)?;
        // `3.4.2.2.1`: without a property length there are no properties.
        if !r.is_empty() {
            ack.properties = Properties::read(&mut r, Place::Packet(packet))?;
        }
        r.end()?;
        Ok(ack)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version, omit: Omit) {
        w.packet_id(self.packet_id);
        if !version.has_properties() {
            return;
        }
        // The shortest form, since strict MQTT 5 clients expect two bytes for a plain success.
        let properties = !self.properties.is_empty_without(omit);
        if properties || self.reason != ReasonCode::Success {
            w.u8(self.reason as u8);
        }
        if properties {
            self.properties.write(w, omit);
        }
    }
}
