//! `FromServer` accepts, rejects and reads the packets of a server like the decoder of each.

mod common;

use common::Rng;
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{Ack, FromServer, Packet, ReasonCodes};
use lapwing_protocol::property::Properties;
use lapwing_protocol::{ReasonCode, Version};

/// The same packet as the other decoder read it; `None` for packets that a server does not send.
fn told<'a>(packet: &Packet<'a>, version: Version) -> Option<FromServer<'a>> {
    let none = FromServer {
        packet: packet.packet_type(),
        topic: &[],
        packet_id: 0,
        session_present: false,
        reason: ReasonCode::Success,
        properties: Properties::NONE,
        payload: &[],
    };
    let ack = |ack: &Ack<'a>| FromServer {
        packet_id: ack.packet_id.get(),
        reason: ack.reason,
        properties: ack.properties,
        ..none
    };
    // Before MQTT 5.0, everything that is granted is success.
    let worst = |reasons: &ReasonCodes<'_>| {
        let failed = reasons.iter().find(|reason| reason.is_failure());
        let last = if version == Version::V5 { reasons.iter().last() } else { None };
        failed.or(last).unwrap_or(ReasonCode::Success)
    };
    Some(match packet {
        Packet::Publish(p) => FromServer {
            topic: p.topic.as_bytes(),
            packet_id: p.packet_id.map_or(0, |id| id.get()),
            properties: p.properties,
            payload: p.payload,
            ..none
        },
        Packet::ConnAck(c) => FromServer {
            session_present: c.session_present,
            reason: c.reason,
            properties: c.properties,
            ..none
        },
        Packet::PubAck(a) | Packet::PubRec(a) | Packet::PubRel(a) | Packet::PubComp(a) => ack(a),
        Packet::SubAck(s) => FromServer {
            packet_id: s.packet_id.get(),
            properties: s.properties,
            reason: worst(&s.reasons),
            ..none
        },
        Packet::UnsubAck(u) => FromServer {
            packet_id: u.packet_id.get(),
            properties: u.properties,
            reason: worst(&u.reasons),
            ..none
        },
        Packet::PingResp => none,
        Packet::Disconnect(d) => FromServer { reason: d.reason, properties: d.properties, ..none },
        Packet::Auth(a) => FromServer { reason: a.reason, properties: a.properties, ..none },
        _ => return None,
    })
}

fn compare(bytes: &[u8], version: Version) {
    let Ok(Split::Frame { frame, len }) = frame::split(bytes, version, u32::MAX) else { return };
    if len != bytes.len() || !frame.packet_type.is_from_server() {
        return;
    }
    if version != Version::V5 && frame.packet_type == lapwing_protocol::PacketType::Disconnect {
        return;
    }
    let ours = FromServer::decode(bytes[0], frame.body, version);
    match Packet::decode(frame, version) {
        Ok(packet) => {
            let mut ours = ours.unwrap_or_else(|error| panic!("{error:?} for {packet:?}"));
            if matches!(packet, Packet::SubAck(_) | Packet::UnsubAck(_)) {
                // The reason codes are checked, and not kept apart.
                ours.payload = &[];
            }
            assert_eq!(Some(ours), told(&packet, version), "{packet:?}");
        }
        Err(error) => assert!(ours.is_err(), "{error:?}, but it was read: {ours:?}, {bytes:02x?}"),
    }
}

#[test]
fn every_packet_of_a_server_reads_the_same_and_damaged_ones_are_judged_the_same() {
    let mut rng = Rng::new(17);
    for _ in 0..if cfg!(miri) { 60 } else { 60_000 } {
        let version = rng.pick(&[Version::V311, Version::V5]);
        let mut bytes = common::frame(&mut rng, version);
        compare(&bytes, version);
        common::damage(&mut rng, &mut bytes);
        compare(&bytes, version);
    }
}

#[test]
fn every_vector_is_judged_the_same() {
    let text = include_str!("../../tests/cases/vectors.tsv");
    for row in text.lines().filter(|row| !row.starts_with('#')).skip(1) {
        let mut columns = row.split('\t');
        let version = if columns.next() == Some("5") { Version::V5 } else { Version::V311 };
        let hex = columns.next_back().expect("bytes");
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        compare(&bytes, version);
    }
}
