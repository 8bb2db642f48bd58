//! AUTH (`3.15`): one step of an enhanced authentication. MQTT 5.0 only.

use crate::property::{Omit, Place, Properties};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, EncodeError, PacketType, ReasonCode, Version};

/// An AUTH packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue authentication, or re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method and Data, reason string, user properties.
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    /// Reads the body of the packet.
    ///
    /// # Errors
    /// The first rule that the packet breaks.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let mut auth = Auth { reason: ReasonCode::Success, properties: Properties::NONE };
        // `3.15.2.1`: success without properties may be left out altogether.
        if r.is_empty() {
            return Ok(auth);
        }
        auth.reason = ReasonCode::from_u8(r.u8()?)
            .filter(|reason| reason.allowed_in(PacketType::Auth))
            .ok_or(DecodeError::ReasonCodeInvalid)?;
        // Unlike DISCONNECT, AUTH leaves out its properties only together with the reason code.
        auth.properties = Properties::read(&mut r, Place::Packet(PacketType::Auth))?;
        r.end()?;
        Ok(auth)
    }

    /// Writes this packet without linking code for other packets. Returns its range in `out`, which
    /// begins within the first four bytes.
    ///
    /// # Errors
    /// The errors of [`Packet::encode`](super::Packet::encode).
    pub fn encode(
        &self,
        packet_bytes_max: u32,
        out: &mut [u8],
    ) -> Result<core::ops::Range<usize>, EncodeError> {
        let write = |w: &mut Writer<'_>| self.write(w, Version::V5, Omit::Nothing);
        super::encode_alone(PacketType::Auth, packet_bytes_max, out, write)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version, omit: Omit) {
        if !version.has_properties() {
            return w.fail(EncodeError::NotInVersion);
        }
        if self.reason == ReasonCode::Success && self.properties.is_empty_without(omit) {
            return;
        }
        w.u8(self.reason as u8);
        self.properties.write(w, omit);
    }
}
