//! One control packet in a byte stream: the fixed header, judged as early as its bytes allow.
//!
//! A wrong type, wrong flags, an impossible or forbidden length are found before anything of the body is awaited, so
//! that a receiver never buffers what it will refuse.

use crate::packet::PacketType;
use crate::{DecodeError, Version, limits, varint};

/// The fixed header (`2.1.1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// What the packet is.
    pub packet_type: PacketType,
    /// The low four bits of the first byte.
    pub flags: u8,
    /// The length of the header itself, in bytes (2 to 5).
    pub header_len: usize,
    /// The bytes that follow the header.
    pub remaining_len: usize,
}

/// One whole packet, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the packet is.
    pub packet_type: PacketType,
    /// The low four bits of the first byte; right for the type.
    pub flags: u8,
    /// What follows the fixed header.
    pub body: &'a [u8],
}

/// What the bytes so far hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// No whole packet yet.
    Incomplete {
        /// The total number of bytes, from the packet's first, that bring the next insight.
        need: usize,
    },
    /// A packet.
    Frame {
        /// The packet.
        frame: Frame<'a>,
        /// The bytes it took from the stream.
        len: usize,
    },
}

/// Judges the first byte: type and flags.
///
/// # Errors
/// [`DecodeError::ReservedPacketType`], [`DecodeError::ReservedFlags`], and for PUBLISH [`DecodeError::QoSInvalid`] and
/// [`DecodeError::DupWithoutQoS`].
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

/// MQTT 3.1 gave PUBREL, SUBSCRIBE and UNSUBSCRIBE a DUP flag, and its clients set it when they repeat themselves.
const fn lenient_in_v31(packet: PacketType, flags: u8) -> bool {
    matches!(packet, PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe)
        && flags & 0b0111 == packet.flags()
}

/// Reads the fixed header; `None` while bytes of it are missing.
///
/// # Errors
/// As [`first_byte`], and [`DecodeError::VarintTooLong`], [`DecodeError::VarintNotShortest`],
/// [`DecodeError::LengthInvalid`] for a length that no packet of this type has.
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

/// Finds the first packet in `bytes`. `packet_bytes_max` is the receiver's Maximum Packet Size, header included.
///
/// # Errors
/// As [`header`], and [`DecodeError::PacketTooLarge`]; both as soon as the header shows it.
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
