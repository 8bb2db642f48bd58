//! Packets with a known verdict, as data.

use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::Packet;
use lapwing_protocol::{DecodeError, Version};

/// Decodes one whole packet. "Needs more bytes" is no verdict.
fn judge(bytes: &[u8], version: Version) -> Result<(), String> {
    let text = |error: DecodeError| format!("{error:?}");
    match frame::split(bytes, version, u32::MAX).map_err(text)? {
        Split::Frame { frame, len } if len == bytes.len() => {
            Packet::decode(frame, version).map(drop).map_err(text)
        }
        Split::Frame { .. } => Err("bytes behind the packet".to_owned()),
        Split::Incomplete { need } => panic!("{bytes:02x?} needs {need} bytes: the verdict is late"),
    }
}

#[test]
fn every_vector_is_judged_right() {
    let text = include_str!("../../tests/cases/vectors.tsv");
    let mut judged = 0;
    for row in text.lines().filter(|row| !row.starts_with('#')).skip(1) {
        let [version, verdict, _clause, name, hex] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        let version = if version == "5" { Version::V5 } else { Version::V311 };
        let judged_ok = judge(&bytes, version);
        assert_eq!(judged_ok.is_ok(), verdict == "accept", "{name} ({version}): {judged_ok:?}");
        judged += 1;
    }
    assert_eq!(judged, 150);
}

/// A header is checked by its first bytes, before any of the body is there.
#[test]
fn what_the_header_shows_is_told_before_the_body() {
    for (bytes, version, error) in [
        (&[0x00][..], Version::V5, DecodeError::ReservedPacketType),
        (&[0xf0], Version::V311, DecodeError::ReservedPacketType),
        (&[0x80], Version::V311, DecodeError::ReservedFlags),
        (&[0x36], Version::V5, DecodeError::QoSInvalid),
        (&[0x38], Version::V5, DecodeError::DupWithoutQoS),
        (&[0xc0, 0x01], Version::V5, DecodeError::LengthInvalid),
        (&[0x40, 0x03], Version::V311, DecodeError::LengthInvalid),
        (&[0x30, 0xff, 0xff, 0xff, 0xff], Version::V5, DecodeError::VarintTooLong),
    ] {
        assert_eq!(frame::split(bytes, version, u32::MAX), Err(error), "{bytes:02x?}");
    }
    assert_eq!(frame::split(&[0x30, 0xe8, 0x07], Version::V5, 1_000), Err(DecodeError::PacketTooLarge));
    assert_eq!(frame::split(&[0x30, 0xe5, 0x07], Version::V5, 1_000), Ok(Split::Incomplete { need: 1_000 }));
}
