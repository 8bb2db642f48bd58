//! The W3C Trace Context of a message: `traceparent`, and the identifiers of the broker's own
//! spans.

use lapwing_protocol::PacketType;
use lapwing_protocol::property::{Place, Properties, PropertyId};
use ring::digest::{Context as Hash, SHA256};

use crate::message::TraceId;
use crate::telemetry::trace::TraceSubject;

/// Name of the user property.
const TRACEPARENT: &str = "traceparent";
const SAMPLED: u8 = 1;

/// The publisher's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    pub flags: u8,
}

impl Parent {
    /// Parses the span that a message names; `None` if there is none or it is malformed.
    pub fn of(properties: &[u8]) -> Option<Parent> {
        let properties = Properties::parse(properties, Place::Packet(PacketType::Publish)).ok()?;
        if !properties.has(PropertyId::UserProperty) {
            return None;
        }
        let mut found = properties.user_properties().filter(|(name, _)| *name == TRACEPARENT);
        let (_, text) = found.next()?;
        // With two of them, the right one is unknown.
        found.next().is_none().then(|| Parent::parse(text)).flatten()
    }

    fn parse(text: &str) -> Option<Parent> {
        let mut parts = text.split('-');
        let [version] = hex(parts.next()?)?;
        let parent = Parent {
            trace: hex(parts.next()?)?,
            span: hex(parts.next()?)?,
            flags: hex::<1>(parts.next()?)?[0],
        };
        // Later versions may append fields; version 255 is invalid.
        let well_formed = version != u8::MAX && (version != 0 || parts.next().is_none());
        (well_formed && parent.trace != [0; 16] && parent.span != [0; 8]).then_some(parent)
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Parses lower-case hexadecimal digits, as the standard requires.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != N * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// The broker's own span of a message. It derives from data that travels with the message, so a
/// delivery finds it again behind queues, disk and restarts. The publish time keeps two brokers
/// apart that handle the same message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    /// `None`: the trace begins here.
    pub parent: Option<[u8; 8]>,
    pub flags: u8,
}

impl Own {
    pub fn of(id: TraceId, subject: &TraceSubject<'_>) -> Own {
        let parent = Parent::of(subject.properties);
        let (trace, span) = parent.map_or(Default::default(), |parent| (parent.trace, parent.span));
        let number = [id.to_le_bytes(), subject.at.to_le_bytes()].concat();
        let (own, made) = identifiers(&[&trace, &span, &number, subject.topic.as_bytes()]);
        Own {
            trace: parent.map_or(made, |parent| parent.trace),
            span: own,
            parent: parent.map(|parent| parent.span),
            flags: parent.map_or(SAMPLED, |parent| parent.flags),
        }
    }

    /// Identifier of a child span: a delivery to a client that began at this time.
    pub fn below(&self, client: &str, since: u64) -> [u8; 8] {
        identifiers(&[&self.trace, &self.span, client.as_bytes(), &since.to_le_bytes()]).0
    }
}

/// Derives a span identifier and a trace identifier from the parts.
fn identifiers(parts: &[&[u8]]) -> ([u8; 8], [u8; 16]) {
    let mut hash = Hash::new(&SHA256);
    parts.iter().for_each(|part| hash.update(part));
    let digest = hash.finish();
    let mut bytes = digest.as_ref().iter().copied();
    let mut next = || bytes.next().unwrap_or(1);
    (std::array::from_fn(|_| next()), std::array::from_fn(|_| next()))
}

/// True when the message of this number is in a sample of `per_million` out of a million.
pub(super) fn chosen(id: TraceId, per_million: u32) -> bool {
    // Finalizer of splitmix64: it spreads consecutive numbers evenly.
    let mixed = (id ^ id >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) % 1_000_000 < u64::from(per_million)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_traceparent_counts_as_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = Parent::parse(good).unwrap();
        assert_eq!((parent.trace[0], parent.trace[15], parent.span[0]), (0x0a, 0x9c, 0xb7));
        assert!(parent.is_sampled());
        assert!(!Parent::parse(&good.replace("-01", "-02")).unwrap().is_sampled());
        assert_eq!(Parent::parse(&format!("{}-more", good.replacen("00", "cc", 1))), Some(parent));
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &format!("{good}-more"),
            &good.replacen("00", "ff", 1),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &good[..good.len() - 1],
            &good.replace("b7ad", "b7aä"),
        ] {
            assert_eq!(Parent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_sampled_share_is_close_to_the_configured_one() {
        let count = |per_million| (1..=100_000).filter(|id| chosen(*id, per_million)).count();
        assert_eq!((count(0), count(1_000_000)), (0, 100_000));
        assert!((900..1_100).contains(&count(10_000)), "{}", count(10_000));
    }
}
