//! Encoded packets decode to the same, for every packet in every version. Encoders obey their
//! limits.

mod common;

use common::Rng;
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{Ack, Packet, Publish, PublishHeader, QoS};
use lapwing_protocol::property::{Property, PropertyWriter};
use lapwing_protocol::{EncodeError, ReasonCode, Version};
use proptest::prelude::*;

fn decode(bytes: &[u8], version: Version) -> Packet<'_> {
    match frame::split(bytes, version, u32::MAX) {
        Ok(Split::Frame { frame, len }) => {
            assert_eq!(len, bytes.len());
            Packet::decode(frame, version).unwrap_or_else(|error| panic!("{error:?}: {bytes:02x?}"))
        }
        other => panic!("{other:?}: {bytes:02x?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 40 } else { 4_000 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_comes_back(seed: u64, version in prop::sample::select(&Version::ALL[..])) {
        common::with_packet(&mut Rng::new(seed), version, |packet| {
            let mut bytes = vec![0; packet.encoded_len(version, u32::MAX).unwrap()];
            packet.encode(version, u32::MAX, &mut bytes).unwrap();
            assert_eq!(decode(&bytes, version), packet);
            // Every shorter piece needs more, and never more than the packet has.
            for cut in 0..bytes.len() {
                match frame::split(&bytes[..cut], version, u32::MAX) {
                    Ok(Split::Incomplete { need }) => assert!(need > cut && need <= bytes.len()),
                    other => panic!("{other:?}"),
                }
            }
        });
    }

    #[test]
    fn an_encoder_that_fails_leaves_nothing_behind(seed: u64, version in prop::sample::select(&Version::ALL[..])) {
        common::with_packet(&mut Rng::new(seed), version, |packet| {
            let len = packet.encoded_len(version, u32::MAX).unwrap();
            let mut bytes = vec![0xaa; len - 1];
            assert_eq!(packet.encode(version, u32::MAX, &mut bytes), Err(EncodeError::OutputTooShort));
            assert!(bytes.iter().all(|byte| *byte == 0xaa));
            match packet.encoded_len(version, len as u32 - 1) {
                Ok(shorter) => assert!(shorter < len && version == Version::V5),
                Err(error) => assert_eq!(error, EncodeError::PacketTooLarge),
            }
        });
    }

    #[test]
    fn damaged_bytes_never_panic(seed: u64, version in prop::sample::select(&Version::ALL[..])) {
        let mut rng = Rng::new(seed);
        let mut bytes = common::frame(&mut rng, version);
        common::damage(&mut rng, &mut bytes);
        if let Ok(Split::Frame { frame, .. }) = frame::split(&bytes, version, u32::MAX) {
            if let Ok(packet) = Packet::decode(frame, version) {
                // A decoded packet can be encoded again.
                packet.encoded_len(version, u32::MAX).unwrap();
            }
            let _ = Packet::decode_reporting_filters(frame, version);
        }
    }
}

fn too_long() -> String {
    "x".repeat(65_536)
}

#[test]
fn a_string_above_65535_bytes_is_refused() {
    let topic = too_long();
    let publish = Packet::Publish(Publish { topic: &topic, ..Publish::default() });
    assert_eq!(publish.encoded_len(Version::V311, u32::MAX), Err(EncodeError::StringTooLong));
    let mut buffer = vec![0; 70_000];
    let mut writer = PropertyWriter::new(&mut buffer);
    assert_eq!(writer.push(Property::ReasonString(&topic)), Err(EncodeError::StringTooLong));
    assert!(writer.finish().is_empty());
}

// 5.0: [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3]
// 5.0: [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.14.2-3] [MQTT-3.14.2-4]
#[test]
fn an_answer_loses_its_reason_string_then_its_user_properties_then_is_refused() {
    let mut buffer = [0; 64];
    let mut writer = PropertyWriter::new(&mut buffer);
    writer.push(Property::UserProperty(("key", "value"))).unwrap();
    writer.push(Property::ReasonString("because")).unwrap();
    let id = lapwing_protocol::PacketId::MIN;
    let ack =
        Packet::PubAck(Ack { packet_id: id, reason: ReasonCode::QuotaExceeded, properties: writer.finish() });
    let len = |most| ack.encoded_len(Version::V5, most);
    assert_eq!(len(100), Ok(2 + 2 + 1 + 1 + 13 + 10));
    assert_eq!(len(28), Ok(2 + 2 + 1 + 1 + 13));
    // Without properties the length of the block is left out as well.
    assert_eq!(len(18), Ok(2 + 2 + 1));
    assert_eq!(len(4), Err(EncodeError::PacketTooLarge));
    let mut bytes = [0; 19];
    ack.encode(Version::V5, 28, &mut bytes).unwrap();
    let Packet::PubAck(read) = decode(&bytes, Version::V5) else { panic!("{bytes:02x?}") };
    assert_eq!(read.properties.user_properties().collect::<Vec<_>>(), [("key", "value")]);
    assert_eq!(read.properties.reason_string(), None);
}

#[test]
fn a_message_is_never_cut_to_fit() {
    let publish = Packet::Publish(Publish { topic: "t", payload: &[0; 100], ..Publish::default() });
    assert_eq!(publish.encoded_len(Version::V311, 104), Err(EncodeError::PacketTooLarge));
    assert_eq!(publish.encoded_len(Version::V311, 105), Ok(105));
}

#[test]
fn a_header_alone_and_its_payload_are_the_whole_packet() {
    let forwarded = [0x03, 0x00, 0x01, b'x'];
    let payload = [7; 300];
    let header = PublishHeader {
        qos: QoS::AtLeastOnce,
        topic: b"a/b",
        packet_id: lapwing_protocol::PacketId::new(9),
        forwarded: &forwarded,
        message_expiry_interval_s: Some(60),
        topic_alias: Some(3),
        subscription_identifiers: &[1, 200, 268_435_455],
        payload_len: payload.len(),
        ..PublishHeader::default()
    };
    let mut bytes = vec![0; PublishHeader::OVERHEAD_MAX + 3 + forwarded.len() + 15];
    let len = header.encode(Version::V5, u32::MAX, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes.extend(payload);
    let Packet::Publish(publish) = decode(&bytes, Version::V5) else { panic!("{bytes:02x?}") };
    assert_eq!((publish.topic, publish.payload, publish.qos), ("a/b", &payload[..], QoS::AtLeastOnce));
    let p = publish.properties;
    assert_eq!(
        (p.content_type(), p.message_expiry_interval_s(), p.topic_alias()),
        (Some("x"), Some(60), Some(3))
    );
    assert_eq!(p.subscription_identifiers().collect::<Vec<_>>(), [1, 200, 268_435_455]);
    for version in [Version::V31, Version::V311] {
        let mut bytes = vec![0; 40];
        let len = header.encode(version, u32::MAX, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes.extend(payload);
        let Packet::Publish(publish) = decode(&bytes, version) else { panic!("{bytes:02x?}") };
        assert_eq!((publish.topic, publish.payload), ("a/b", &payload[..]));
    }
    assert_eq!(header.encode(Version::V5, 300, &mut [0; 100]), Err(EncodeError::PacketTooLarge));
}
