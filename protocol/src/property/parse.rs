//! Reads blocks of properties: one validating scan on decoding, then iterators over the checked
//! bytes.

use super::{Kind, Place, Properties, Property, PropertyId, spec, value};
use crate::packet::PacketType;
use crate::wire::{Reader, StickyReader};
use crate::{DecodeError, Version, topic};

/// A type of property value that can be read.
pub(super) trait Value<'a>: Copy {
    fn read(r: &mut Reader<'a>, kind: Kind) -> Result<Self, DecodeError>;
}

impl<'a> Value<'a> for u8 {
    fn read(r: &mut Reader<'a>, _: Kind) -> Result<Self, DecodeError> {
        r.u8()
    }
}

impl<'a> Value<'a> for u16 {
    fn read(r: &mut Reader<'a>, _: Kind) -> Result<Self, DecodeError> {
        r.u16()
    }
}

impl<'a> Value<'a> for &'a str {
    // The bytes have passed `next_raw`. Checking them again is cheap, and keeps this free of
    // `unsafe`.
    fn read(r: &mut Reader<'a>, _: Kind) -> Result<Self, DecodeError> {
        r.string()
    }
}

impl<'a> Value<'a> for &'a [u8] {
    fn read(r: &mut Reader<'a>, _: Kind) -> Result<Self, DecodeError> {
        r.binary()
    }
}

impl<'a> Value<'a> for (&'a str, &'a str) {
    fn read(r: &mut Reader<'a>, _: Kind) -> Result<Self, DecodeError> {
        Ok((r.string()?, r.string()?))
    }
}

/// Reads both encodings of 32-bit values: four bytes, or a variable byte integer.
impl<'a> Value<'a> for u32 {
    fn read(r: &mut Reader<'a>, kind: Kind) -> Result<Self, DecodeError> {
        if kind == Kind::Varint { r.varint() } else { r.u32() }
    }
}

/// A property whose place is not checked yet.
struct Raw<'a> {
    id: u8,
    places: u16,
    /// Value of a numeric property.
    number: u32,
    /// Value of any other property; the name of a pair.
    bytes: &'a [u8],
}

/// Returns the bit of a property in [`Properties`].
///
/// 32-bit targets build it from halves: a shift of two words would call a function.
#[inline]
fn bit(id: u8) -> u64 {
    if cfg!(target_pointer_width = "64") {
        return 1 << (id & 63);
    }
    let bit = 1u32 << (id & 31);
    if id < 32 { bit.into() } else { u64::from(bit) << 32 }
}

/// Reads one property, and checks everything that its kind demands.
#[cfg_attr(not(target_os = "none"), inline)]
fn next_raw<'a>(r: &mut StickyReader<'a>) -> Raw<'a> {
    let id = r.number(1) as u8;
    let Some((kind, places)) = spec(id) else {
        r.fail(DecodeError::PropertyUnknown);
        return Raw { id, places: 0, number: 0, bytes: &[] };
    };
    let (mut number, mut bytes) = (0, &[][..]);
    let width = match kind {
        Kind::Bit => 1,
        Kind::U16 | Kind::U16NotZero => 2,
        Kind::U32 | Kind::U32NotZero => 4,
        _ => 0,
    };
    let mut good = true;
    if width > 0 {
        number = r.number(width);
    } else {
        match kind {
            Kind::Varint => number = r.varint(),
            Kind::Binary => bytes = r.binary(),
            _ => bytes = r.text(),
        }
    }
    match kind {
        Kind::Bit => good = number <= 1,
        Kind::U16NotZero | Kind::U32NotZero | Kind::Varint => good = number != 0,
        Kind::Topic => good = !bytes.is_empty() && !topic::has_wildcard_byte(bytes),
        Kind::Pair => drop(r.text()),
        _ => {}
    }
    if !good {
        let alias = id == PropertyId::TopicAlias as u8;
        r.fail(if alias { DecodeError::TopicAliasZero } else { DecodeError::PropertyValue });
    }
    Raw { id, places, number, bytes }
}

/// Checks all properties, and returns the bits of those that occur. Errors stay in the reader.
#[cfg_attr(target_os = "none", inline(never))]
#[cfg_attr(not(target_os = "none"), inline)]
pub(super) fn scan(r: &mut StickyReader<'_>, place: Place) -> u64 {
    let mut present = 0u64;
    while !r.is_empty() {
        let raw = next_raw(r);
        if raw.places & place.bit() == 0 {
            r.fail(DecodeError::PropertyNotAllowed);
        }
        let bit = bit(raw.id);
        let repeats = raw.id == PropertyId::UserProperty as u8
            || (raw.id == PropertyId::SubscriptionIdentifier as u8
                && place == Place::Packet(PacketType::Publish));
        if present & bit != 0 && !repeats {
            r.fail(DecodeError::PropertyDuplicate);
        }
        present |= bit;
    }
    let authentication =
        bit(PropertyId::AuthenticationData as u8) | bit(PropertyId::AuthenticationMethod as u8);
    if present & authentication == bit(PropertyId::AuthenticationData as u8) {
        r.fail(DecodeError::AuthenticationDataWithoutMethod);
    }
    present
}

impl<'a> Properties<'a> {
    /// Checks a block of properties without its length.
    ///
    /// # Errors
    /// The first rule that the block breaks.
    pub fn parse(bytes: &'a [u8], place: Place) -> Result<Self, DecodeError> {
        let mut r = StickyReader::new(bytes);
        let properties = Properties::scan(&mut r, place);
        r.check()?;
        Ok(properties)
    }

    /// Checks all bytes that are left in the reader.
    #[inline]
    pub(crate) fn scan(r: &mut StickyReader<'a>, place: Place) -> Self {
        Properties { bytes: r.rest(), present: scan(r, place) }
    }

    /// Reads a length and its block from the front of a body.
    #[inline]
    pub(crate) fn read(r: &mut Reader<'a>, place: Place) -> Result<Self, DecodeError> {
        let n = r.varint()?;
        if n == 0 {
            return Ok(Properties::NONE);
        }
        Properties::parse(r.take(usize::try_from(n).map_err(|_| DecodeError::Truncated)?)?, place)
    }

    /// Reads a block if the version has properties; before MQTT 5.0 there is none.
    #[inline]
    pub(crate) fn read_in(version: Version, r: &mut Reader<'a>, place: Place) -> Result<Self, DecodeError> {
        if version.has_properties() { Properties::read(r, place) } else { Ok(Properties::NONE) }
    }
}

/// Iterator over the properties of a block.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    r: Reader<'a>,
}

impl<'a> Iter<'a> {
    #[inline]
    pub(super) fn new(block: &'a [u8]) -> Self {
        Iter { r: Reader::new(block) }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Property<'a>;

    #[inline]
    fn next(&mut self) -> Option<Property<'a>> {
        let id = self.r.u8().ok()?;
        value(id, &mut self.r).ok()
    }
}

/// Iterator over the properties of a block that does not decode their values.
#[derive(Clone, Debug)]
pub struct RawIter<'a> {
    r: StickyReader<'a>,
}

impl<'a> RawIter<'a> {
    #[inline]
    pub(super) fn new(block: &'a [u8]) -> Self {
        RawIter { r: StickyReader::new(block) }
    }
}

impl<'a> Iterator for RawIter<'a> {
    type Item = (u8, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.r.is_empty() {
            return None;
        }
        let raw = next_raw(&mut self.r);
        Some((raw.id, raw.number, raw.bytes))
    }
}
