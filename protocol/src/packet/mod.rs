//! The fifteen control packets, one file each, with decoder and encoder.
//!
//! The types are those of MQTT 5.0. Decoding an older version fills in what it lacks: no
//! properties, reason code success. Encoding an older version leaves out what it cannot express.
//! Decoding borrows from the bytes. Encoding is atomic: after an error, nothing in the output
//! counts.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod from_server;
mod publish;
mod suback;
mod subscribe;
mod unsubscribe;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::ConnAck;
pub use connect::{Connect, Will};
pub use disconnect::Disconnect;
pub use from_server::FromServer;
pub use publish::{Publish, PublishHeader};
pub use suback::{ReasonCodes, SubAck, UnsubAck};
pub use subscribe::{
    RetainHandling, Subscribe, Subscription, SubscriptionOptions, Subscriptions, encode_subscribe,
};
pub use unsubscribe::{TopicFilters, Unsubscribe, encode_unsubscribe};

use core::ops::Range;

use crate::frame::Frame;
use crate::property::Omit;
use crate::wire::Writer;
use crate::{DecodeError, EncodeError, Version, limits, varint};

/// A packet identifier, 1 to 65,535 (`2.2.1`).
pub type PacketId = core::num::NonZeroU16;

/// Level of assurance of a message (`4.3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0, at most once.
    #[default]
    AtMostOnce = 0,
    /// QoS 1, at least once.
    AtLeastOnce = 1,
    /// QoS 2, exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// Returns the QoS of these two bits; `None` for 3.
    #[inline]
    pub const fn from_u8(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// Control packet types (`2.1.2`), by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // The standard's names say it.
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// Returns the type with this number.
    #[inline]
    pub const fn from_u8(number: u8) -> Option<PacketType> {
        Some(match number {
            1 => PacketType::Connect,
            2 => PacketType::ConnAck,
            3 => PacketType::Publish,
            4 => PacketType::PubAck,
            5 => PacketType::PubRec,
            6 => PacketType::PubRel,
            7 => PacketType::PubComp,
            8 => PacketType::Subscribe,
            9 => PacketType::SubAck,
            10 => PacketType::Unsubscribe,
            11 => PacketType::UnsubAck,
            12 => PacketType::PingReq,
            13 => PacketType::PingResp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }

    /// Returns the standard's name.
    pub const fn name(self) -> &'static str {
        match self {
            PacketType::Connect => "CONNECT",
            PacketType::ConnAck => "CONNACK",
            PacketType::Publish => "PUBLISH",
            PacketType::PubAck => "PUBACK",
            PacketType::PubRec => "PUBREC",
            PacketType::PubRel => "PUBREL",
            PacketType::PubComp => "PUBCOMP",
            PacketType::Subscribe => "SUBSCRIBE",
            PacketType::SubAck => "SUBACK",
            PacketType::Unsubscribe => "UNSUBSCRIBE",
            PacketType::UnsubAck => "UNSUBACK",
            PacketType::PingReq => "PINGREQ",
            PacketType::PingResp => "PINGRESP",
            PacketType::Disconnect => "DISCONNECT",
            PacketType::Auth => "AUTH",
        }
    }

    /// Returns the flags that the standard sets for every type but PUBLISH (`2.1.3`).
    pub const fn flags(self) -> u8 {
        // One bit for each type takes less code than a table.
        const FLAGGED: u16 = 1 << PacketType::PubRel as u16
            | 1 << PacketType::Subscribe as u16
            | 1 << PacketType::Unsubscribe as u16;
        ((FLAGGED >> self as u16 & 1) << 1) as u8
    }

    /// Returns true if a client may send this type.
    pub const fn is_from_client(self) -> bool {
        !matches!(
            self,
            PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp
        )
    }

    /// Returns true if a server may send this type.
    pub const fn is_from_server(self) -> bool {
        !matches!(
            self,
            PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PingReq
        )
    }

    /// The least and greatest Remaining Length that a packet of this type can have.
    #[inline]
    pub(crate) const fn remaining_len_range(self, version: Version) -> (usize, usize) {
        const MOST: usize = limits::REMAINING_LENGTH_MAX as usize;
        let v5 = version.has_properties();
        match self {
            // Protocol name, level, flags, keep-alive, client identifier. MQTT 3.1 has a longer
            // name, 5.0 has properties.
            PacketType::Connect => (12, MOST),
            PacketType::ConnAck if v5 => (3, MOST),
            PacketType::ConnAck => (2, 2),
            PacketType::Publish if v5 => (3, MOST),
            PacketType::Publish => (2, MOST),
            PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp if v5 => {
                (2, MOST)
            }
            PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp => (2, 2),
            PacketType::UnsubAck if !v5 => (2, 2),
            // A missing list has an error of its own, so only packet identifier and properties
            // count here.
            PacketType::Subscribe | PacketType::Unsubscribe | PacketType::SubAck | PacketType::UnsubAck => {
                (if v5 { 3 } else { 2 }, MOST)
            }
            PacketType::PingReq | PacketType::PingResp => (0, 0),
            PacketType::Disconnect if v5 => (0, MOST),
            PacketType::Disconnect => (0, 0),
            PacketType::Auth => (0, MOST),
        }
    }
}

impl core::fmt::Display for PacketType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// Any control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The standard's names say it.
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// Treatment of an invalid topic filter in SUBSCRIBE and UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FilterPolicy {
    Reject,
    Report,
}

impl<'a> Packet<'a> {
    /// Decodes a frame. `version` is that of the connection; CONNECT names its own.
    ///
    /// # Errors
    /// The first rule that the packet breaks. All rules about a single packet are checked.
    #[inline]
    pub fn decode(frame: Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
        Packet::decode_with(frame, version, FilterPolicy::Reject)
    }

    /// Decodes like [`decode`](Packet::decode), but accepts invalid topic filters in SUBSCRIBE and
    /// UNSUBSCRIBE.
    ///
    /// The caller checks each with [`topic::check_filter`](crate::topic::check_filter), and can
    /// refuse it alone with reason code 0x8F.
    ///
    /// # Errors
    /// The errors of [`decode`](Packet::decode), except [`DecodeError::TopicFilterInvalid`].
    #[inline]
    pub fn decode_reporting_filters(frame: Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
        Packet::decode_with(frame, version, FilterPolicy::Report)
    }

    #[inline]
    fn decode_with(
        frame: Frame<'a>,
        version: Version,
        policy: FilterPolicy,
    ) -> Result<Packet<'a>, DecodeError> {
        let Frame { packet_type, flags, body } = frame;
        Ok(match packet_type {
            PacketType::Publish => Packet::Publish(Publish::decode(flags, body, version)?),
            PacketType::PubAck => Packet::PubAck(Ack::decode(packet_type, body, version)?),
            PacketType::PubRec => Packet::PubRec(Ack::decode(packet_type, body, version)?),
            PacketType::PubRel => Packet::PubRel(Ack::decode(packet_type, body, version)?),
            PacketType::PubComp => Packet::PubComp(Ack::decode(packet_type, body, version)?),
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Connect => Packet::Connect(Connect::decode(body)?),
            PacketType::ConnAck => Packet::ConnAck(ConnAck::decode(body, version)?),
            PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(body, version, policy)?),
            PacketType::SubAck => Packet::SubAck(SubAck::decode(body, version)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(body, version, policy)?),
            PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(body, version)?),
            PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(body, version)?),
            PacketType::Auth => Packet::Auth(Auth::decode(body)?),
        })
    }

    /// Returns the type of the packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::ConnAck(_) => PacketType::ConnAck,
            Packet::Publish(_) => PacketType::Publish,
            Packet::PubAck(_) => PacketType::PubAck,
            Packet::PubRec(_) => PacketType::PubRec,
            Packet::PubRel(_) => PacketType::PubRel,
            Packet::PubComp(_) => PacketType::PubComp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::SubAck(_) => PacketType::SubAck,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::UnsubAck(_) => PacketType::UnsubAck,
            Packet::PingReq => PacketType::PingReq,
            Packet::PingResp => PacketType::PingResp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }

    /// Returns the length, in bytes, that [`encode`](Packet::encode) will write.
    ///
    /// # Errors
    /// The errors of [`encode`](Packet::encode), except [`EncodeError::OutputTooShort`].
    pub fn encoded_len(&self, version: Version, packet_bytes_max: u32) -> Result<usize, EncodeError> {
        Ok(Layout::of(self, version, packet_bytes_max)?.len())
    }

    /// Writes the packet to the front of `out` and returns its length.
    ///
    /// `packet_bytes_max` is the peer's Maximum Packet Size. A larger packet loses its reason
    /// string, then its user properties, where the standard allows that.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was written then.
    pub fn encode(
        &self,
        version: Version,
        packet_bytes_max: u32,
        out: &mut [u8],
    ) -> Result<usize, EncodeError> {
        let layout = Layout::of(self, version, packet_bytes_max)?;
        let len = layout.len();
        let out = out.get_mut(..len).ok_or(EncodeError::OutputTooShort)?;
        let mut w = Writer::over(out);
        w.u8(layout.first_byte);
        w.varint(layout.remaining_len);
        self.write_body(&mut w, version, layout.omit);
        w.finish()
    }

    fn flags(&self) -> u8 {
        match self {
            Packet::Publish(publish) => publish.flags(),
            other => other.packet_type().flags(),
        }
    }

    fn write_body(&self, w: &mut Writer<'_>, version: Version, omit: Omit) {
        match self {
            Packet::Connect(packet) => packet.write(w),
            Packet::ConnAck(packet) => packet.write(w, version, omit),
            Packet::Publish(packet) => packet.write(w, version),
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                ack.write(w, version, omit);
            }
            Packet::Subscribe(packet) => packet.write(w, version),
            Packet::SubAck(packet) => packet.write(w, version, omit),
            Packet::Unsubscribe(packet) => packet.write(w, version),
            Packet::UnsubAck(packet) => packet.write(w, version, omit),
            Packet::PingReq | Packet::PingResp => {}
            Packet::Disconnect(packet) => packet.write(w, version, omit),
            Packet::Auth(packet) => packet.write(w, version, omit),
        }
    }

    /// Returns true if the standard lets the sender leave out reason string and user properties.
    const fn may_omit(&self) -> bool {
        !matches!(
            self,
            Packet::Connect(_) | Packet::Publish(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_)
        )
    }
}

/// Greatest length of a fixed header. [`encode_alone`] leaves as many bytes free in front of the
/// body.
const HEADER_BYTES_MAX: usize = 5;

/// Writes one packet of a known type, so that a client links only the packets it sends.
///
/// One pass writes the body first, then the header before it. Returns the packet's range in `out`,
/// which begins within the first four bytes.
#[inline]
fn encode_alone(
    packet_type: PacketType,
    packet_bytes_max: u32,
    out: &mut [u8],
    body: impl FnOnce(&mut Writer<'_>),
) -> Result<Range<usize>, EncodeError> {
    let mut w = Writer::after(HEADER_BYTES_MAX, out);
    body(&mut w);
    let start = head_alone(&mut w, packet_type, packet_bytes_max);
    w.finish().map(|end| start..end)
}

/// Writes the header in front of the body, and returns its position.
fn head_alone(w: &mut Writer<'_>, packet_type: PacketType, packet_bytes_max: u32) -> usize {
    let end = w.position();
    let remaining_len = end.saturating_sub(HEADER_BYTES_MAX) as u32;
    let start = HEADER_BYTES_MAX - 1 - varint::len(remaining_len);
    if end - start > packet_bytes_max as usize {
        w.fail(EncodeError::PacketTooLarge);
    }
    w.seek(start);
    w.u8((packet_type as u8) << 4 | packet_type.flags());
    w.varint(remaining_len);
    w.seek(end);
    start
}

/// The fixed header to write, and the parts that the body leaves out.
struct Layout {
    first_byte: u8,
    remaining_len: u32,
    omit: Omit,
}

impl Layout {
    fn of(packet: &Packet<'_>, version: Version, packet_bytes_max: u32) -> Result<Layout, EncodeError> {
        let first_byte = (packet.packet_type() as u8) << 4 | packet.flags();
        let steps: &[Omit] = if packet.may_omit() { &Omit::STEPS } else { &[Omit::Nothing] };
        for omit in steps {
            let mut count = Writer::counting();
            packet.write_body(&mut count, version, *omit);
            let remaining_len = u32::try_from(count.finish()?).map_err(|_| EncodeError::PacketTooLarge)?;
            let layout = Layout { first_byte, remaining_len, omit: *omit };
            if remaining_len <= varint::MAX && layout.len() <= packet_bytes_max as usize {
                return Ok(layout);
            }
        }
        Err(EncodeError::PacketTooLarge)
    }

    const fn len(&self) -> usize {
        1 + varint::len(self.remaining_len) + self.remaining_len as usize
    }
}
