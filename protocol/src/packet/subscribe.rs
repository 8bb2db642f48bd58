//! SUBSCRIBE (`3.8`): a client asks for topics.

use super::{FilterPolicy, PacketId, QoS};
use crate::property::{Omit, Place, Properties};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, EncodeError, PacketType, Version, topic};

/// A SUBSCRIBE packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Packet identifier, repeated in SUBACK.
    pub packet_id: PacketId,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// Subscriptions, at least one.
    pub subscriptions: Subscriptions<'a>,
}

/// One topic filter with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// Topic filter, `$share/…` included.
    pub filter: &'a str,
    /// Subscription options.
    pub options: SubscriptionOptions,
}

impl<'a> Subscription<'a> {
    /// Creates a subscription with a maximum QoS and default options.
    pub const fn new(filter: &'a str, qos: QoS) -> Self {
        let options = SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        Subscription { filter, options }
    }
}

/// Subscription Options (`3.8.3.1`). MQTT 3 has only the QoS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS of deliveries.
    pub qos: QoS,
    /// No Local: skip messages that the same client publishes.
    pub no_local: bool,
    /// Retain As Published: keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// Retain Handling: delivery of retained messages.
    pub retain_handling: RetainHandling,
}

/// Time at which a subscription delivers retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At each SUBSCRIBE.
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl SubscriptionOptions {
    /// Returns the options byte of MQTT 5.0.
    pub const fn to_byte(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }

    /// Reads the options byte.
    ///
    /// # Errors
    /// [`DecodeError::QoSInvalid`], [`DecodeError::ReservedSubscriptionOptions`],
    /// [`DecodeError::RetainHandlingInvalid`].
    pub const fn from_byte(byte: u8, version: Version) -> Result<Self, DecodeError> {
        let reserved = if version.has_properties() { 0xc0 } else { 0xfc };
        if byte & reserved != 0 {
            return Err(DecodeError::ReservedSubscriptionOptions);
        }
        let Some(qos) = QoS::from_u8(byte & 0b11) else { return Err(DecodeError::QoSInvalid) };
        let retain_handling = match byte >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::RetainHandlingInvalid),
        };
        Ok(SubscriptionOptions {
            qos,
            no_local: byte & 0b100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling,
        })
    }
}

/// Subscriptions of a SUBSCRIBE, read from a packet or to be written.
#[derive(Clone, Copy, Debug)]
pub struct Subscriptions<'a>(SubscriptionSource<'a>);

#[derive(Clone, Copy, Debug)]
enum SubscriptionSource<'a> {
    Bytes(&'a [u8], Version),
    List(&'a [Subscription<'a>]),
}

impl<'a> Subscriptions<'a> {
    /// Creates a list for encoding.
    pub const fn new(list: &'a [Subscription<'a>]) -> Self {
        Subscriptions(SubscriptionSource::List(list))
    }

    /// Iterates over the subscriptions, in order.
    pub fn iter(&self) -> impl Iterator<Item = Subscription<'a>> + use<'a> {
        let (mut r, version, mut list) = match self.0 {
            SubscriptionSource::Bytes(bytes, version) => (Reader::new(bytes), version, [].iter()),
            SubscriptionSource::List(list) => (Reader::new(&[]), Version::V5, list.iter()),
        };
        core::iter::from_fn(move || list.next().copied().or_else(|| read(&mut r, version).ok()))
    }
}

/// Two lists are equal when they hold the same subscriptions in the same order.
impl PartialEq for Subscriptions<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Subscriptions<'_> {}

fn read<'a>(r: &mut Reader<'a>, version: Version) -> Result<Subscription<'a>, DecodeError> {
    let filter = r.string()?;
    Ok(Subscription { filter, options: SubscriptionOptions::from_byte(r.u8()?, version)? })
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(
        body: &'a [u8],
        version: Version,
        policy: FilterPolicy,
    ) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let packet_id = r.packet_id()?;
        let properties = Properties::read_in(version, &mut r, Place::Packet(PacketType::Subscribe))?;
        let list = r.rest();
        if r.is_empty() {
            return Err(DecodeError::NoTopicFilter);
        }
        while !r.is_empty() {
            let subscription = read(&mut r, version)?;
            if policy == FilterPolicy::Reject {
                topic::check_filter(subscription.filter).map_err(|_| DecodeError::TopicFilterInvalid)?;
            }
            if subscription.options.no_local && subscription.filter.starts_with(topic::SHARE_PREFIX) {
                return Err(DecodeError::NoLocalOnShared);
            }
        }
        Ok(Subscribe {
            packet_id,
            properties,
            subscriptions: Subscriptions(SubscriptionSource::Bytes(list, version)),
        })
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version) {
        w.packet_id(self.packet_id);
        if version.has_properties() {
            self.properties.write(w, Omit::Nothing);
        }
        let before = w.position();
        self.subscriptions.iter().for_each(|subscription| subscription.write(w, version));
        if w.position() == before {
            w.fail(EncodeError::NotInVersion);
        }
    }
}

impl Subscription<'_> {
    fn write(&self, w: &mut Writer<'_>, version: Version) {
        w.string(self.filter);
        w.u8(if version.has_properties() { self.options.to_byte() } else { self.options.qos as u8 });
    }
}

/// Writes a SUBSCRIBE without properties, without linking code for other packets.
///
/// Returns the packet's range in `out`, which begins within the first four bytes.
///
/// # Errors
/// The errors of [`Packet::encode`](super::Packet::encode).
pub fn encode_subscribe(
    packet_id: PacketId,
    subscriptions: &[Subscription<'_>],
    version: Version,
    packet_bytes_max: u32,
    out: &mut [u8],
) -> Result<core::ops::Range<usize>, EncodeError> {
    if subscriptions.is_empty() {
        return Err(EncodeError::NotInVersion);
    }
    super::encode_alone(PacketType::Subscribe, packet_bytes_max, out, |w| {
        w.packet_id(packet_id);
        if version.has_properties() {
            w.u8(0);
        }
        subscriptions.iter().for_each(|subscription| subscription.write(w, version));
    })
}
