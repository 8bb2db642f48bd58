//! MQTT packets as bytes for a load generator: only what it needs, without an allocation for a
//! message.

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1
    V311,
    /// 5.0
    V5,
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Writes a packet with this first byte and body.
pub fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    let mut len = body.len();
    loop {
        let byte = (len % 128) as u8;
        len /= 128;
        out.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
}

/// Keep-alive in seconds and session kind of a client. Keep-alive 0 is none, which some brokers
/// refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    pub keep_alive_s: u16,
    pub clean: bool,
}

impl Stay {
    /// No keep-alive, and a session that ends with its connection.
    pub const SHORT: Stay = Stay { keep_alive_s: 0, clean: true };
}

/// Writes CONNECT. A session that is not clean outlives its connection by an hour.
pub fn connect(out: &mut Vec<u8>, version: Version, id: &str, Stay { keep_alive_s, clean }: Stay) {
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.extend([if version == Version::V5 { 5 } else { 4 }, if clean { 2 } else { 0 }]);
    body.extend(keep_alive_s.to_be_bytes());
    if version == Version::V5 {
        // Session Expiry Interval.
        if clean { body.push(0) } else { body.extend([5, 0x11, 0, 0, 14, 16]) }
    }
    text(&mut body, id);
    packet(out, 0x10, &body);
}

/// Writes SUBSCRIBE with packet identifier 1.
pub fn subscribe<'a>(out: &mut Vec<u8>, version: Version, filters: impl Iterator<Item = &'a str>, qos: u8) {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        text(&mut body, filter);
        body.push(qos);
    }
    packet(out, 0x82, &body);
}

/// Writes PUBLISH. Returns the positions of the packet identifier (QoS 1 and 2) and the payload.
pub fn publish(
    version: Version,
    topic: &str,
    qos: u8,
    retain: bool,
    payload: &[u8],
) -> (Vec<u8>, usize, usize) {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 5);
    text(&mut body, topic);
    let id = body.len();
    if qos > 0 {
        body.extend([0, 1]);
    }
    if version == Version::V5 {
        body.push(0);
    }
    let start = body.len();
    body.extend(payload);
    let mut out = Vec::with_capacity(body.len() + 5);
    packet(&mut out, 0x30 | qos << 1 | u8::from(retain), &body);
    let head = out.len() - body.len();
    (out, head + id, head + start)
}

/// Returns first byte, start and end of the body of a whole packet.
pub fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (mut len, mut at) = (0usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at > 4 {
            return None;
        }
    }
    (bytes.len() >= at + len).then_some((bytes[0], at, at + len))
}

/// Returns packet identifier (0 for QoS 0) and payload of a PUBLISH body.
pub fn published(first: u8, body: &[u8], version: Version) -> Option<(u16, &[u8])> {
    let topic = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
    let mut at = 2 + topic;
    let mut id = 0;
    if first & 6 != 0 {
        id = u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]);
        at += 2;
    }
    if version == Version::V5 {
        // Properties are short here: one byte of length.
        at += 1 + usize::from(*body.get(at)?);
    }
    Some((id, body.get(at..)?))
}
