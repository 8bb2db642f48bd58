//! The fixed header: finds one control packet in a byte stream, and rejects it as early as
//! possible.
//!
//! A wrong type, wrong flags, an impossible or forbidden length are found before the body is read.
//! So a receiver never buffers a packet that it will refuse.

use crate::packet::PacketType;
use crate::{DecodeError, Version, limits, varint};

/// The fixed header (`2.1.1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// Type of the packet.
    pub packet_type: PacketType,
    /// The low four bits of the first byte.
    pub flags: u8,
    /// Length of the header itself, in bytes (2 to 5).
    pub header_len: usize,
    /// Number of bytes after the header.
    pub remaining_len: usize,
}

/// One whole packet, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type of the packet.
    pub packet_type: PacketType,
    /// The low four bits of the first byte, valid for the type.
    pub flags: u8,
    /// The bytes after the fixed header.
    pub body: &'a [u8],
}

/// Result of a search for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// The packet is not complete.
    Incomplete {
        /// Total number of bytes, from the start of the packet, that the next decision needs.
        need: usize,
    },
    /// A complete packet.
    Frame {
        /// The packet.
        frame: Frame<'a>,
        /// Length of the packet in the stream, in bytes.
        len: usize,
    },
}

/// Checks the first byte: type and flags.
///
/// # Errors
/// [`DecodeError::ReservedPacketType`], [`DecodeError::ReservedFlags`], and for PUBLISH
/// [`DecodeError::QoSInvalid`] and [`DecodeError::DupWithoutQoS`].
#[inline]
pub fn first_byte(byte: u8, version: Version) -> Result<(PacketType, u8), DecodeError> {
    let flags = byte & 0x0f;
    let packet_type = PacketType::from_u8(byte >> 4)
        .filter(|packet| *packet != PacketType::Auth || version.has_properties())
        .ok_or(DecodeError::ReservedPacketType)?;
    if packet_type == PacketType::Publish {
        if flags & 0b0110 == 0b0110 {
            return Err(DecodeError::QoSInvalid);
        }
        if flags & 0b1110 == 0b1000 && version > Version::V31 {
            return Err(DecodeError::DupWithoutQoS);
        }
    } else if flags != packet_type.flags() && !(version == Version::V31 && lenient_in_v31(packet_type, flags))
    {
        return Err(DecodeError::ReservedFlags);
    }
    Ok((packet_type, flags))
}

/// Returns true for the DUP flag of PUBREL, SUBSCRIBE and UNSUBSCRIBE, which MQTT 3.1 clients set
/// when they send again.
const fn lenient_in_v31(packet: PacketType, flags: u8) -> bool {
    matches!(packet, PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe)
        && flags & 0b0111 == packet.flags()
}

/// Reads the fixed header. Returns `None` while bytes of it are missing.
///
/// # Errors
/// The errors of [`first_byte`]. [`DecodeError::VarintTooLong`],
/// [`DecodeError::VarintNotShortest`], and [`DecodeError::LengthInvalid`] for a length that no
/// packet of this type has.
#[inline]
pub fn header(bytes: &[u8], version: Version) -> Result<Option<FixedHeader>, DecodeError> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let (packet_type, flags) = first_byte(*first, version)?;
    let Some((remaining, n)) = varint::read(rest)? else { return Ok(None) };
    let remaining_len = remaining as usize;
    let (least, most) = packet_type.remaining_len_range(version);
    let least = if packet_type == PacketType::Publish && flags & 0b0110 != 0 { least + 2 } else { least };
    if remaining_len < least || remaining_len > most {
        return Err(DecodeError::LengthInvalid);
    }
    Ok(Some(FixedHeader { packet_type, flags, header_len: 1 + n, remaining_len }))
}

/// Finds the first packet in `bytes`. `packet_bytes_max` is the receiver's Maximum Packet Size,
/// header included.
///
/// # Errors
/// The errors of [`header`], and [`DecodeError::PacketTooLarge`]. Both come as soon as the header
/// shows them.
#[inline]
pub fn split(bytes: &[u8], version: Version, packet_bytes_max: u32) -> Result<Split<'_>, DecodeError> {
    let Some(header) = header(bytes, version)? else {
        return Ok(Split::Incomplete { need: (bytes.len() + 1).max(2) });
    };
    let len = header.header_len + header.remaining_len;
    if len > packet_bytes_max.min(limits::PACKET_BYTES_MAX) as usize {
        return Err(DecodeError::PacketTooLarge);
    }
    match bytes.get(header.header_len..len) {
        Some(body) => {
            let frame = Frame { packet_type: header.packet_type, flags: header.flags, body };
            Ok(Split::Frame { frame, len })
        }
        None => Ok(Split::Incomplete { need: len }),
    }
}
