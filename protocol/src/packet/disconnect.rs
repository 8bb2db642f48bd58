//! DISCONNECT (`3.14`): the last packet of a connection. In MQTT 3 only a client sends it, without
//! a reason.

use crate::property::{Omit, Place, Properties};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, EncodeError, PacketType, ReasonCode, Version};

/// A DISCONNECT packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Reason code; Normal disconnection in MQTT 3.
    pub reason: ReasonCode,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    /// Creates a DISCONNECT without properties.
    pub const fn new(reason: ReasonCode) -> Self {
        Disconnect { reason, properties: Properties::NONE }
    }

    /// Reads the body of the packet.
    ///
    /// # Errors
    /// The first rule that the packet breaks.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        // `3.14.2.1`: an empty body is a normal disconnection.
        if r.is_empty() {
            return Ok(disconnect);
        }
        if !version.has_properties() {
            return Err(DecodeError::TrailingBytes);
        }
        disconnect.reason = ReasonCode::from_u8(r.u8()?)
            .filter(|reason| reason.allowed_in(PacketType::Disconnect))
            .ok_or(DecodeError::ReasonCodeInvalid)?;
        if !r.is_empty() {
            disconnect.properties = Properties::read(&mut r, Place::Packet(PacketType::Disconnect))?;
        }
        r.end()?;
        Ok(disconnect)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version, omit: Omit) {
        if !version.has_properties() {
            if self.reason != ReasonCode::Success {
                w.fail(EncodeError::NotInVersion);
            }
            return;
        }
        let properties = !self.properties.is_empty_without(omit);
        if properties || self.reason != ReasonCode::Success {
            w.u8(self.reason as u8);
        }
        if properties {
            self.properties.write(w, omit);
        }
    }
}
