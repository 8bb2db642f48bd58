//! SUBACK and UNSUBACK (`3.9`, `3.11`): one reason code for each topic filter.

use super::PacketId;
use crate::property::{Omit, Place, Properties};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, EncodeError, PacketType, ReasonCode, Version};

/// A SUBACK packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// Reason codes, one for each subscription, in order.
    pub reasons: ReasonCodes<'a>,
}

/// An UNSUBACK packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// Packet identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// Reason codes, one for each topic filter, in order. MQTT 3 has none.
    pub reasons: ReasonCodes<'a>,
}

/// A list of reason codes, read from a packet or to be written.
#[derive(Clone, Copy, Debug)]
pub struct ReasonCodes<'a>(CodeSource<'a>);

#[derive(Clone, Copy, Debug)]
enum CodeSource<'a> {
    Bytes(&'a [u8]),
    List(&'a [ReasonCode]),
}

impl<'a> ReasonCodes<'a> {
    /// Creates a list for encoding.
    pub const fn new(list: &'a [ReasonCode]) -> Self {
        ReasonCodes(CodeSource::List(list))
    }

    /// Iterates over the reason codes, in order.
    pub fn iter(&self) -> impl Iterator<Item = ReasonCode> + use<'a> {
        let (bytes, list): (&[u8], &[ReasonCode]) = match self.0 {
            CodeSource::Bytes(bytes) => (bytes, &[]),
            CodeSource::List(list) => (&[], list),
        };
        bytes.iter().filter_map(|byte| ReasonCode::from_u8(*byte)).chain(list.iter().copied())
    }

    fn decode(bytes: &'a [u8], packet: PacketType, version: Version) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::NoReasonCode);
        }
        let known = |byte: &u8| {
            if version.has_properties() {
                ReasonCode::from_u8(*byte).is_some_and(|reason| reason.allowed_in(packet))
            } else {
                matches!(byte, 0..=2 | 0x80)
            }
        };
        if bytes.iter().all(known) {
            Ok(ReasonCodes(CodeSource::Bytes(bytes)))
        } else {
            Err(DecodeError::ReasonCodeInvalid)
        }
    }

    fn write(&self, w: &mut Writer<'_>, version: Version) {
        let mut none = true;
        for reason in self.iter() {
            none = false;
            // MQTT 3 knows one failure (`[MQTT-3.9.3-2]` of 3.1.1).
            let failed_in_v3 = !version.has_properties() && reason.is_failure();
            w.u8(if failed_in_v3 { 0x80 } else { reason as u8 });
        }
        if none {
            w.fail(EncodeError::NotInVersion);
        }
    }
}

/// Two lists are equal when they hold the same codes in the same order.
impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ReasonCodes<'_> {}

impl<'a> SubAck<'a> {
    /// Reads the body of the packet.
    ///
    /// # Errors
    /// The first rule that the packet breaks.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let packet_id = r.packet_id()?;
        let properties = Properties::read_in(version, &mut r, Place::Packet(PacketType::SubAck))?;
        let reasons = ReasonCodes::decode(r.rest(), PacketType::SubAck, version)?;
        Ok(SubAck { packet_id, properties, reasons })
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version, omit: Omit) {
        w.packet_id(self.packet_id);
        if version.has_properties() {
            self.properties.write(w, omit);
        }
        self.reasons.write(w, version);
    }
}

impl<'a> UnsubAck<'a> {
    /// Reads the body of the packet.
    ///
    /// # Errors
    /// The first rule that the packet breaks.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let packet_id = r.packet_id()?;
        if !version.has_properties() {
            r.end()?;
            return Ok(UnsubAck { packet_id, properties: Properties::NONE, reasons: ReasonCodes::new(&[]) });
        }
        let properties = Properties::read(&mut r, Place::Packet(PacketType::UnsubAck))?;
        let reasons = ReasonCodes::decode(r.rest(), PacketType::UnsubAck, version)?;
        Ok(UnsubAck { packet_id, properties, reasons })
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version, omit: Omit) {
        w.packet_id(self.packet_id);
        if version.has_properties() {
            self.properties.write(w, omit);
            self.reasons.write(w, version);
        }
    }
}
