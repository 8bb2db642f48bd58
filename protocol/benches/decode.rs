//! Decode time of a QoS 1 PUBLISH (256 B payload, 24 B topic), beside mqttbytes in the same run:
//! `cargo bench -p lapwing-protocol`.
//!
//! Rounds are interleaved; each figure is the median of 21. The program fails above 40 ns in 3.1.1
//! or 80 ns in 5.0 with three properties, or at less than twice the speed of mqttbytes.

use std::hint::black_box;
use std::time::Instant;

use bytes::BytesMut;
use lapwing_protocol::Version;
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{Packet, PacketId, Publish, QoS};
use lapwing_protocol::property::{Properties, Property, PropertyWriter};

fn frame_bytes(version: Version) -> Vec<u8> {
    let mut buffer = [0; 128];
    let mut writer = PropertyWriter::new(&mut buffer);
    writer.push(Property::MessageExpiryInterval(60)).unwrap();
    writer.push(Property::ContentType("application/json")).unwrap();
    writer.push(Property::UserProperty(("site", "plant-7"))).unwrap();
    let properties = if version == Version::V5 { writer.finish() } else { Properties::NONE };
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        topic: "plant/7/line/3/press/temp",
        packet_id: PacketId::new(7),
        properties,
        payload: &[42; 256],
        ..Publish::default()
    };
    let packet = Packet::Publish(Publish { topic: &publish.topic[..24], ..publish });
    let mut bytes = vec![0; packet.encoded_len(version, u32::MAX).unwrap()];
    packet.encode(version, u32::MAX, &mut bytes).unwrap();
    bytes
}

fn ours(bytes: &[u8], version: Version) -> usize {
    match frame::split(black_box(bytes), version, u32::MAX) {
        Ok(Split::Frame { frame, .. }) => match Packet::decode(frame, version) {
            Ok(Packet::Publish(publish)) => publish.payload.len() + publish.topic.len(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Nanoseconds for each call.
fn time(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 20_000;
    let start = Instant::now();
    (0..CALLS).for_each(|_| call());
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let mut good = true;
    for (version, floor) in [(Version::V311, 40.0), (Version::V5, 80.0)] {
        let bytes = frame_bytes(version);
        let (mut us, mut them) = (Vec::new(), Vec::new());
        for _ in 0..21 {
            us.push(time(|| {
                black_box(ours(&bytes, version));
            }));
            // mqttbytes consumes its buffer: many frames in one make refills rare.
            let many: BytesMut = bytes.repeat(1000).as_slice().into();
            let mut buffer = many.clone();
            them.push(time(|| {
                if buffer.is_empty() {
                    buffer = many.clone();
                }
                match version {
                    Version::V5 => drop(black_box(mqttbytes::v5::read(&mut buffer, usize::MAX).unwrap())),
                    _ => drop(black_box(mqttbytes::v4::read(&mut buffer, usize::MAX).unwrap())),
                }
            }));
        }
        let (us, them) = (median(us), median(them));
        println!(
            "decode PUBLISH QoS 1, {version}: lapwing {us:.1} ns, mqttbytes {them:.1} ns, ratio {:.2} (floor {floor} ns)",
            them / us
        );
        good &= us <= floor && them / us >= 2.0;
    }
    assert!(good, "above the floor");
}
