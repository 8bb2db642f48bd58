//! Random packets of every type and version, and random damage to their bytes.
#![allow(dead_code)] // Each test uses a part.

use lapwing_protocol::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, Publish, QoS, ReasonCodes, RetainHandling,
    SubAck, Subscribe, Subscription, SubscriptionOptions, Subscriptions, TopicFilters, UnsubAck, Unsubscribe,
    Will,
};
use lapwing_protocol::property::{Place, Properties, Property, PropertyWriter};
use lapwing_protocol::{PacketType, ReasonCode, Version};

/// xorshift64*: small, fast, the same everywhere.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn id(&mut self) -> PacketId {
        PacketId::new(self.below(65_535) as u16 + 1).unwrap()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
        if self.flag() { Some(make(self)) } else { None }
    }
}

const TEXTS: [&str; 8] =
    ["", "a", "sensor-17", "ä€🙂", "\u{feff}x", "a/b c", "0123456789abcdef0123456789abcdef", "$x"];
const TOPICS: [&str; 6] = ["t", "a/b/c", "/", "home/ä/🙂", "$SYS/x", "a//b"];
const FILTERS: [&str; 8] = ["t", "#", "+", "a/+/c", "a/#", "$share/g/a/#", "/+", "$SYS/#"];
const BINARIES: [&[u8]; 4] = [b"", b"\x00\xff", b"x", &[7; 40]];

/// A random property that may stand in this place.
fn property(rng: &mut Rng, place: Place) -> Property<'static> {
    loop {
        let bit = rng.below(2) as u8;
        let number = rng.next() as u32;
        let text = rng.pick(&TEXTS);
        let binary = rng.pick(&BINARIES);
        let property = match rng.below(27) {
            0 => Property::PayloadFormatIndicator(bit),
            1 => Property::MessageExpiryInterval(number),
            2 => Property::ContentType(text),
            3 => Property::ResponseTopic(rng.pick(&TOPICS)),
            4 => Property::CorrelationData(binary),
            5 => Property::SubscriptionIdentifier(number % 268_435_455 + 1),
            6 => Property::SessionExpiryInterval(number),
            7 => Property::AssignedClientIdentifier(text),
            8 => Property::ServerKeepAlive(number as u16),
            9 => Property::AuthenticationMethod(text),
            10 => Property::AuthenticationData(binary),
            11 => Property::RequestProblemInformation(bit),
            12 => Property::WillDelayInterval(number),
            13 => Property::RequestResponseInformation(bit),
            14 => Property::ResponseInformation(text),
            15 => Property::ServerReference(text),
            16 => Property::ReasonString(text),
            17 => Property::ReceiveMaximum(number as u16 | 1),
            18 => Property::TopicAliasMaximum(number as u16),
            19 => Property::TopicAlias(number as u16 | 1),
            20 => Property::MaximumQoS(bit),
            21 => Property::RetainAvailable(bit),
            22 => Property::UserProperty((text, rng.pick(&TEXTS))),
            23 => Property::MaximumPacketSize(number | 1),
            24 => Property::WildcardSubscriptionAvailable(bit),
            25 => Property::SubscriptionIdentifierAvailable(bit),
            _ => Property::SharedSubscriptionAvailable(bit),
        };
        let mut buffer = [0; 256];
        let mut writer = PropertyWriter::new(&mut buffer);
        writer.push(property).unwrap();
        let alone = Properties::parse(writer.finish().as_bytes(), place);
        if alone.is_ok()
            || (matches!(property, Property::AuthenticationData(_))
                && matches!(place, Place::Packet(PacketType::Auth)))
        {
            return property;
        }
    }
}

fn properties<'b>(
    rng: &mut Rng,
    place: Place,
    version: Version,
    buffer: &'b mut [u8; 2048],
) -> Properties<'b> {
    if version != Version::V5 || rng.flag() {
        return Properties::NONE;
    }
    let mut chosen: Vec<Property<'_>> = Vec::new();
    for _ in 0..rng.below(6) {
        let property = property(rng, place);
        let again = chosen.iter().any(|other| other.id() == property.id());
        if !again || matches!(property, Property::UserProperty(_)) {
            chosen.push(property);
        }
    }
    let has = |chosen: &[Property<'_>], name: &str| chosen.iter().any(|p| format!("{p:?}").starts_with(name));
    if has(&chosen, "AuthenticationData") && !has(&chosen, "AuthenticationMethod") {
        chosen.push(Property::AuthenticationMethod("m"));
    }
    let mut writer = PropertyWriter::new(buffer);
    chosen.iter().for_each(|property| writer.push(*property).unwrap());
    writer.finish()
}

fn reason(rng: &mut Rng, packet: PacketType, version: Version) -> ReasonCode {
    if version != Version::V5 {
        return ReasonCode::Success;
    }
    loop {
        let reason = rng.pick(ReasonCode::ALL);
        if reason.allowed_in(packet) {
            return reason;
        }
    }
}

/// Hands a random valid packet to `f`.
pub fn with_packet<R>(rng: &mut Rng, version: Version, f: impl FnOnce(Packet<'_>) -> R) -> R {
    let (mut one, mut two) = ([0; 2048], [0; 2048]);
    let payload = vec![rng.next() as u8; rng.below(200)];
    let v5 = version == Version::V5;
    let types = if v5 { 15 } else { 14 };
    let packet_type = PacketType::from_u8(rng.below(types) as u8 + 1).unwrap();
    let p = properties(rng, Place::Packet(packet_type), version, &mut one);
    match packet_type {
        PacketType::Connect => {
            let wp = properties(rng, Place::Will, version, &mut two);
            let will = rng.maybe(|rng| Will {
                qos: QoS::from_u8(rng.below(3) as u8).unwrap(),
                retain: rng.flag(),
                properties: wp,
                topic: rng.pick(&TOPICS),
                payload: rng.pick(&BINARIES),
            });
            let user_name = rng.maybe(|rng| rng.pick(&TEXTS));
            let password =
                if user_name.is_some() || v5 { rng.maybe(|rng| rng.pick(&BINARIES)) } else { None };
            f(Packet::Connect(Connect {
                version,
                clean_start: rng.flag(),
                keep_alive_s: rng.next() as u16,
                properties: p,
                client_id: rng.pick(&TEXTS),
                will,
                user_name,
                password,
            }))
        }
        PacketType::ConnAck => {
            let reason = match v5 {
                true => reason(rng, packet_type, version),
                false => ReasonCode::from_connect_return_code(rng.below(6) as u8).unwrap(),
            };
            let session_present = reason == ReasonCode::Success && version > Version::V31 && rng.flag();
            f(Packet::ConnAck(ConnAck { session_present, reason, properties: p }))
        }
        PacketType::Publish => {
            let qos = QoS::from_u8(rng.below(3) as u8).unwrap();
            let aliased = p.topic_alias().is_some() && rng.flag();
            f(Packet::Publish(Publish {
                dup: qos != QoS::AtMostOnce && rng.flag(),
                qos,
                retain: rng.flag(),
                topic: if aliased { "" } else { rng.pick(&TOPICS) },
                packet_id: (qos != QoS::AtMostOnce).then(|| rng.id()),
                properties: p,
                payload: &payload,
            }))
        }
        PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp => {
            let ack = Ack { packet_id: rng.id(), reason: reason(rng, packet_type, version), properties: p };
            f(match packet_type {
                PacketType::PubAck => Packet::PubAck(ack),
                PacketType::PubRec => Packet::PubRec(ack),
                PacketType::PubRel => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            })
        }
        PacketType::Subscribe => {
            let list: Vec<_> = (0..rng.below(4) + 1)
                .map(|_| {
                    let filter = rng.pick(&FILTERS);
                    let mut options = SubscriptionOptions {
                        qos: QoS::from_u8(rng.below(3) as u8).unwrap(),
                        ..Default::default()
                    };
                    if v5 {
                        options.no_local = !filter.starts_with("$share") && rng.flag();
                        options.retain_as_published = rng.flag();
                        options.retain_handling = rng.pick(&[
                            RetainHandling::Send,
                            RetainHandling::SendIfNew,
                            RetainHandling::DoNotSend,
                        ]);
                    }
                    Subscription { filter, options }
                })
                .collect();
            f(Packet::Subscribe(Subscribe {
                packet_id: rng.id(),
                properties: p,
                subscriptions: Subscriptions::new(&list),
            }))
        }
        PacketType::SubAck => {
            let codes: Vec<_> = (0..rng.below(4) + 1)
                .map(|_| match v5 {
                    true => reason(rng, packet_type, version),
                    false => ReasonCode::from_u8(rng.pick(&[0, 1, 2, 0x80])).unwrap(),
                })
                .collect();
            f(Packet::SubAck(SubAck {
                packet_id: rng.id(),
                properties: p,
                reasons: ReasonCodes::new(&codes),
            }))
        }
        PacketType::Unsubscribe => {
            let list: Vec<&str> = (0..rng.below(4) + 1).map(|_| rng.pick(&FILTERS)).collect();
            f(Packet::Unsubscribe(Unsubscribe {
                packet_id: rng.id(),
                properties: p,
                filters: TopicFilters::new(&list),
            }))
        }
        PacketType::UnsubAck => {
            let codes: Vec<_> = match v5 {
                true => (0..rng.below(4) + 1).map(|_| reason(rng, packet_type, version)).collect(),
                false => Vec::new(),
            };
            f(Packet::UnsubAck(UnsubAck {
                packet_id: rng.id(),
                properties: p,
                reasons: ReasonCodes::new(&codes),
            }))
        }
        PacketType::PingReq => f(Packet::PingReq),
        PacketType::PingResp => f(Packet::PingResp),
        PacketType::Disconnect => {
            f(Packet::Disconnect(Disconnect { reason: reason(rng, packet_type, version), properties: p }))
        }
        PacketType::Auth => {
            f(Packet::Auth(Auth { reason: reason(rng, packet_type, version), properties: p }))
        }
    }
}

/// The bytes of a random valid packet.
pub fn frame(rng: &mut Rng, version: Version) -> Vec<u8> {
    with_packet(rng, version, |packet| {
        let mut bytes = vec![0; packet.encoded_len(version, u32::MAX).unwrap()];
        let len = packet.encode(version, u32::MAX, &mut bytes).unwrap();
        assert_eq!(len, bytes.len());
        bytes
    })
}

/// Damages bytes: a few changed, inserted or removed; mostly with a Remaining Length that is right
/// again, so that the damage is seen by more than the framing.
pub fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.below(3) + 1 {
        let at = rng.below(bytes.len().max(1));
        match rng.below(4) {
            0 if !bytes.is_empty() => bytes[at] = rng.next() as u8,
            1 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
            2 => bytes
                .insert(at.min(bytes.len()), rng.pick(&[0, 1, 2, 0x26, 0x7f, 0x80, 0xff, b'#', b'+', b'/'])),
            _ if bytes.len() > 2 => drop(bytes.remove(at)),
            _ => {}
        }
    }
    if bytes.len() >= 2 && bytes.len() < 129 && rng.below(4) > 0 {
        bytes[1] = (bytes.len() - 2) as u8;
    }
}
