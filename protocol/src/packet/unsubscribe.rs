//! UNSUBSCRIBE (`3.10`): a client ends subscriptions.

use super::{FilterPolicy, PacketId};
use crate::property::{Omit, Place, Properties};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, EncodeError, PacketType, Version, topic};

/// An UNSUBSCRIBE packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Packet identifier, repeated in UNSUBACK.
    pub packet_id: PacketId,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// Topic filters, at least one.
    pub filters: TopicFilters<'a>,
}

/// Topic filters of an UNSUBSCRIBE, read from a packet or to be written.
#[derive(Clone, Copy, Debug)]
pub struct TopicFilters<'a>(FilterSource<'a>);

#[derive(Clone, Copy, Debug)]
enum FilterSource<'a> {
    Bytes(&'a [u8]),
    List(&'a [&'a str]),
}

impl<'a> TopicFilters<'a> {
    /// Creates a list for encoding.
    pub const fn new(list: &'a [&'a str]) -> Self {
        TopicFilters(FilterSource::List(list))
    }

    /// Iterates over the topic filters, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (mut r, mut list) = match self.0 {
            FilterSource::Bytes(bytes) => (Reader::new(bytes), [].iter()),
            FilterSource::List(list) => (Reader::new(&[]), list.iter()),
        };
        core::iter::from_fn(move || list.next().copied().or_else(|| r.string().ok()))
    }
}

/// Two lists are equal when they hold the same filters in the same order.
impl PartialEq for TopicFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for TopicFilters<'_> {}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(
        body: &'a [u8],
        version: Version,
        policy: FilterPolicy,
    ) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let packet_id = r.packet_id()?;
        let properties = Properties::read_in(version, &mut r, Place::Packet(PacketType::Unsubscribe))?;
        let list = r.rest();
        if r.is_empty() {
            return Err(DecodeError::NoTopicFilter);
        }
        while !r.is_empty() {
            let filter = r.string()?;
            if policy == FilterPolicy::Reject {
                topic::check_filter(filter).map_err(|_| DecodeError::TopicFilterInvalid)?;
            }
        }
        Ok(Unsubscribe { packet_id, properties, filters: TopicFilters(FilterSource::Bytes(list)) })
    }

    pub(super) fn write(&self, w: &mut Writer<'_>, version: Version) {
        w.packet_id(self.packet_id);
        if version.has_properties() {
            self.properties.write(w, Omit::Nothing);
        }
        let mut none = true;
        for filter in self.filters.iter() {
            none = false;
            w.string(filter);
        }
        if none {
            w.fail(EncodeError::NotInVersion);
        }
    }
}

/// Writes an UNSUBSCRIBE without properties, without linking code for other packets.
///
/// Returns the packet's range in `out`, which begins within the first four bytes.
///
/// # Errors
/// The errors of [`Packet::encode`](super::Packet::encode).
pub fn encode_unsubscribe(
    packet_id: PacketId,
    filters: &[&str],
    version: Version,
    packet_bytes_max: u32,
    out: &mut [u8],
) -> Result<core::ops::Range<usize>, EncodeError> {
    if filters.is_empty() {
        return Err(EncodeError::NotInVersion);
    }
    super::encode_alone(PacketType::Unsubscribe, packet_bytes_max, out, |w| {
        w.packet_id(packet_id);
        if version.has_properties() {
            w.u8(0);
        }
        filters.iter().for_each(|filter| w.string(filter));
    })
}
