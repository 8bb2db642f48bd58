//! CONNACK (`3.2`): the server's answer to CONNECT.

use crate::property::{Omit, Place, Properties};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, PacketType, ReasonCode, Version};

/// A CONNACK packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// The server has a session for this client (`[MQTT-3.2.2-2]`). MQTT 3.1 has no such flag.
    pub session_present: bool,
    /// Success or a refusal. MQTT 3 knows six return codes; the nearest one is written.
    pub reason: ReasonCode,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
}

impl<'a> ConnAck<'a> {
    /// Reads the body of the packet.
    ///
    /// # Errors
    /// The first rule that the packet breaks.
    pub fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let flags = r.u8()?;
        if flags & !1 != 0 {
            return Err(DecodeError::ReservedFlags);
        }
        let code = r.u8()?;
        let (reason, properties) = if version.has_properties() {
            let reason = ReasonCode::from_u8(code).filter(|reason| reason.allowed_in(PacketType::ConnAck));
            (reason, Properties::read(&mut r, Place::Packet(PacketType::ConnAck))?)
        } else {
            (ReasonCode::from_connect_return_code(code), Properties::NONE)
        };
        let reason = reason.ok_or(DecodeError::ReasonCodeInvalid)?;
        r.end()?;
        // MQTT 3.1 leaves that byte unused.
        let session_present = flags & 1 != 0 && version > Version::V31;
        if session_present && reason != ReasonCode::Success {
            return Err(DecodeError::SessionPresentWithError);
        }
        Ok(ConnAck { session_present, reason, properties })
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version, omit: Omit) {
        let session_present =
            self.session_present && self.reason == ReasonCode::Success && version > Version::V31;
        w.u8(u8::from(session_present));
        if version.has_properties() {
            w.u8(self.reason as u8);
            self.properties.write(w, omit);
        } else {
            w.u8(self.reason.to_connect_return_code());
        }
    }
}
