//! Two foreign codecs beside this one, on generated and damaged frames.
//!
//! - Frames that this codec accepts, `mqttbytes` accepts with the same fields. Its known defects
//!   are skipped by name.
//! - Frames that this codec accepts, `flowsdk` (strict) accepts. The reverse holds for undamaged
//!   frames.
//!
//! `LAPWING_FRAMES` sets the number of frames; `./check --full` runs a million.

mod common;

use common::Rng;
use flowsdk::mqtt_serde::control_packet::MqttPacket;
use flowsdk::mqtt_serde::parser::ParseOk;
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::Packet;
use lapwing_protocol::{ReasonCode, Version};

fn frames() -> u64 {
    std::env::var("LAPWING_FRAMES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

/// Decodes with this codec, if the bytes are exactly one packet.
fn ours(bytes: &[u8], version: Version) -> Option<Packet<'_>> {
    match frame::split(bytes, version, u32::MAX) {
        Ok(Split::Frame { frame, len }) if len == bytes.len() => Packet::decode(frame, version).ok(),
        _ => None,
    }
}

/// Passes each frame to `look`: half as generated, half damaged.
fn each_frame(version: Version, mut look: impl FnMut(&[u8], bool)) {
    for n in 0..frames() {
        let mut rng = Rng::new(n);
        let mut bytes = common::frame(&mut rng, version);
        let damaged = n % 2 == 1;
        if damaged {
            common::damage(&mut rng, &mut bytes);
        }
        look(&bytes, damaged);
    }
}

fn same_in_v4(ours: &Packet<'_>, theirs: &mqttbytes::v4::Packet) -> bool {
    use mqttbytes::v4::Packet as Theirs;
    match (ours, theirs) {
        (Packet::Connect(a), Theirs::Connect(b)) => {
            let will = match (&a.will, &b.last_will) {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    a.topic == b.topic
                        && a.payload == &b.message[..]
                        && a.qos as u8 == b.qos as u8
                        && a.retain == b.retain
                }
                _ => false,
            };
            a.client_id == b.client_id
                && a.keep_alive_s == b.keep_alive
                && a.clean_start == b.clean_session
                && will
        }
        (Packet::ConnAck(a), Theirs::ConnAck(b)) => {
            a.session_present == b.session_present && a.reason.to_connect_return_code() == b.code as u8
        }
        (Packet::Publish(a), Theirs::Publish(b)) => {
            a.topic == b.topic
                && a.payload == &b.payload[..]
                && (a.dup, a.retain, a.qos as u8) == (b.dup, b.retain, b.qos as u8)
                && a.packet_id.map_or(0, |id| id.get()) == b.pkid
        }
        (Packet::PubAck(a), Theirs::PubAck(b)) => a.packet_id.get() == b.pkid,
        (Packet::PubRec(a), Theirs::PubRec(b)) => a.packet_id.get() == b.pkid,
        (Packet::PubRel(a), Theirs::PubRel(b)) => a.packet_id.get() == b.pkid,
        (Packet::PubComp(a), Theirs::PubComp(b)) => a.packet_id.get() == b.pkid,
        (Packet::Subscribe(a), Theirs::Subscribe(b)) => {
            let theirs = b.filters.iter().map(|f| (f.path.as_str(), f.qos as u8));
            a.packet_id.get() == b.pkid
                && a.subscriptions.iter().map(|s| (s.filter, s.options.qos as u8)).eq(theirs)
        }
        (Packet::SubAck(a), Theirs::SubAck(b)) => {
            a.packet_id.get() == b.pkid && a.reasons.iter().count() == b.return_codes.len()
        }
        (Packet::Unsubscribe(a), Theirs::Unsubscribe(b)) => {
            a.packet_id.get() == b.pkid && a.filters.iter().eq(b.topics.iter().map(String::as_str))
        }
        (Packet::UnsubAck(a), Theirs::UnsubAck(b)) => a.packet_id.get() == b.pkid,
        (Packet::PingReq, Theirs::PingReq) | (Packet::PingResp, Theirs::PingResp) => true,
        (Packet::Disconnect(_), Theirs::Disconnect) => true,
        _ => false,
    }
}

/// Returns true for a binary password. It is allowed (`3.1.3.5`), but `mqttbytes` reads it as a
/// string.
fn has_binary_password(packet: &Packet<'_>) -> bool {
    let password = match packet {
        Packet::Connect(connect) => connect.password,
        _ => None,
    };
    password.is_some_and(|password| std::str::from_utf8(password).is_err())
}

#[test]
fn what_ours_accepts_mqttbytes_accepts_with_the_same_fields_in_3_1_1() {
    let mut accepted = 0;
    each_frame(Version::V311, |bytes, _| {
        let Some(packet) = ours(bytes, Version::V311) else { return };
        if matches!(packet, Packet::Connect(c) if c.version != Version::V311) || has_binary_password(&packet)
        {
            return;
        }
        let theirs = mqttbytes::v4::read(&mut bytes::BytesMut::from(bytes), usize::MAX);
        let same = theirs.as_ref().is_ok_and(|theirs| same_in_v4(&packet, theirs));
        assert!(same, "{packet:?}\n{theirs:?}\n{bytes:02x?}");
        accepted += 1;
    });
    assert!(accepted > frames() / 3, "{accepted}");
}

#[test]
fn what_ours_accepts_mqttbytes_accepts_in_5_0_where_it_is_sound() {
    let mut accepted = 0;
    each_frame(Version::V5, |bytes, _| {
        let Some(packet) = ours(bytes, Version::V5) else { return };
        let sound = match packet {
            Packet::Publish(p) => p.properties.subscription_identifiers().count() < 2,
            // The DISCONNECT and AUTH of mqttbytes are known to be wrong.
            Packet::Disconnect(_) | Packet::Auth(_) => false,
            other => !has_binary_password(&other),
        };
        if !sound {
            return;
        }
        match (mqttbytes::v5::read(&mut bytes::BytesMut::from(bytes), usize::MAX), packet) {
            (Ok(mqttbytes::v5::Packet::Publish(theirs)), Packet::Publish(ours)) => {
                assert_eq!(
                    (ours.topic, ours.payload),
                    (theirs.topic.as_str(), &theirs.payload[..]),
                    "{bytes:02x?}"
                );
                assert_eq!(ours.packet_id.map_or(0, |id| id.get()), theirs.pkid);
                let p = theirs.properties.unwrap_or(mqttbytes::v5::PublishProperties {
                    payload_format_indicator: None,
                    message_expiry_interval: None,
                    topic_alias: None,
                    response_topic: None,
                    correlation_data: None,
                    user_properties: vec![],
                    subscription_identifiers: vec![],
                    content_type: None,
                });
                assert_eq!(ours.properties.message_expiry_interval_s(), p.message_expiry_interval);
                assert_eq!(ours.properties.topic_alias(), p.topic_alias);
                assert_eq!(ours.properties.content_type(), p.content_type.as_deref());
                assert_eq!(ours.properties.correlation_data(), p.correlation_data.as_deref());
                let users: Vec<(String, String)> =
                    ours.properties.user_properties().map(|(k, v)| (k.into(), v.into())).collect();
                assert_eq!(users, p.user_properties);
            }
            (Ok(_), _) => {}
            (Err(error), packet) => panic!("{error:?} {packet:?} {bytes:02x?}"),
        }
        accepted += 1;
    });
    assert!(accepted > frames() / 3, "{accepted}");
}

/// Returns true where `flowsdk` is stricter than the standard, or checks more than one packet.
fn flowsdk_refuses_knowingly(packet: &Packet<'_>) -> bool {
    match packet {
        // `3.1.3.1`: an empty client identifier is allowed for any Clean Start. Its payload check
        // is a server's choice. It fails at an empty will payload, user name or password.
        Packet::Connect(c) => {
            c.user_name == Some("")
                || c.password == Some(b"")
                || c.will.is_some_and(|will| will.payload.is_empty())
                || (c.client_id.is_empty() && !c.clean_start)
                || c.will.is_some_and(|will| {
                    will.properties.payload_format_indicator() == Some(1)
                        && std::str::from_utf8(will.payload).is_err()
                })
        }
        // flowsdk wants an Assigned Client Identifier that is not empty.
        Packet::ConnAck(c) => c.properties.assigned_client_identifier() == Some(""),
        // `2.4` lists 0x8C for DISCONNECT, the table of `3.14.2.1` does not.
        Packet::Disconnect(d) => d.reason == ReasonCode::BadAuthenticationMethod,
        Packet::Publish(p) => {
            p.properties.payload_format_indicator() == Some(1) && std::str::from_utf8(p.payload).is_err()
        }
        _ => false,
    }
}

fn flowsdk_accepts(bytes: &[u8], version: Version) -> bool {
    let level = if version == Version::V5 { 5 } else { 4 };
    let judged = MqttPacket::from_bytes_with_version(bytes, level);
    matches!(judged, Ok(ParseOk::Packet(_, len)) if len == bytes.len())
}

#[test]
fn what_ours_writes_flowsdk_reads() {
    let mut refused: std::collections::BTreeMap<String, (u64, Vec<u8>)> = Default::default();
    let mut read = 0;
    for version in [Version::V311, Version::V5] {
        each_frame(version, |bytes, damaged| {
            let Some(packet) = ours(bytes, version).filter(|_| !damaged) else { return };
            read += 1;
            if !flowsdk_refuses_knowingly(&packet) && !flowsdk_accepts(bytes, version) {
                let entry = refused
                    .entry(format!("{version} {}", packet.packet_type()))
                    .or_insert((0, bytes.to_vec()));
                entry.0 += 1;
            }
        });
    }
    assert!(read > frames() / 2);
    assert!(refused.is_empty(), "{refused:02x?}");
}

#[test]
fn what_flowsdk_refuses_of_damaged_frames_ours_refuses_too_or_is_known() {
    let mut differ: std::collections::BTreeMap<String, (u64, Vec<u8>)> = Default::default();
    for version in [Version::V311, Version::V5] {
        each_frame(version, |bytes, damaged| {
            let Some(packet) = ours(bytes, version).filter(|_| damaged) else { return };
            if !flowsdk_refuses_knowingly(&packet) && !flowsdk_accepts(bytes, version) {
                let entry = differ
                    .entry(format!("{version} {}", packet.packet_type()))
                    .or_insert((0, bytes.to_vec()));
                entry.0 += 1;
            }
        });
    }
    assert!(differ.is_empty(), "{differ:02x?}");
}
