//! Writes blocks of properties.

use super::parse::scan;
use super::{Place, Properties, Property, PropertyId};
use crate::EncodeError;
use crate::wire::{StickyReader, Writer};

/// Builder of a property block in a slice.
#[derive(Debug)]
pub struct PropertyWriter<'b> {
    out: &'b mut [u8],
    len: usize,
    present: u64,
}

impl<'b> PropertyWriter<'b> {
    /// Creates an empty block that may grow to the length of `out`.
    pub fn new(out: &'b mut [u8]) -> Self {
        PropertyWriter { out, len: 0, present: 0 }
    }

    /// Appends a property. After an error the block is unchanged.
    ///
    /// # Errors
    /// [`EncodeError::StringTooLong`] and [`EncodeError::OutputTooShort`].
    pub fn push(&mut self, property: Property<'_>) -> Result<(), EncodeError> {
        let mut w = Writer::over(self.out.get_mut(self.len..).unwrap_or(&mut []));
        property.write(&mut w);
        self.len += w.finish()?;
        self.present |= 1 << property.id() as u8;
        Ok(())
    }

    /// Returns the finished block.
    pub fn finish(self) -> Properties<'b> {
        let PropertyWriter { out, len, present } = self;
        Properties { bytes: out.get(..len).unwrap_or(&[]), present }
    }
}

/// Writes a list of properties as a block to the front of `out`, and returns its length.
///
/// # Errors
/// [`EncodeError::OutputTooShort`], and [`EncodeError::NotInVersion`] for a property that is not
/// valid at this place.
#[inline]
pub fn encode_block(list: &[Property<'_>], place: Place, out: &mut [u8]) -> Result<usize, EncodeError> {
    let mut w = Writer::over(out);
    write_list(&mut w, list, place);
    w.finish()
}

/// Writes a list of properties after its length. It writes the list twice, since only then the
/// length is known.
pub(crate) fn write_block(w: &mut Writer<'_>, list: &[Property<'_>], place: Place) {
    let start = w.position();
    write_each(w, list);
    let len = w.position() - start;
    w.seek(start);
    w.varint(len as u32);
    write_list(w, list, place);
}

/// Writes a list of properties; fails when one is not valid at this place.
fn write_list(w: &mut Writer<'_>, list: &[Property<'_>], place: Place) {
    let start = w.position();
    write_each(w, list);
    let mut r = StickyReader::new(w.written(start));
    scan(&mut r, place);
    if r.check().is_err() {
        w.fail(EncodeError::NotInVersion);
    }
}

fn write_each(w: &mut Writer<'_>, list: &[Property<'_>]) {
    list.iter().for_each(|property| property.write(w));
}

impl Property<'_> {
    fn write(&self, w: &mut Writer<'_>) {
        use Property as P;
        w.u8(self.id() as u8);
        match *self {
            P::PayloadFormatIndicator(value)
            | P::RequestProblemInformation(value)
            | P::RequestResponseInformation(value)
            | P::MaximumQoS(value)
            | P::RetainAvailable(value)
            | P::WildcardSubscriptionAvailable(value)
            | P::SubscriptionIdentifierAvailable(value)
            | P::SharedSubscriptionAvailable(value) => w.u8(value),
            P::ServerKeepAlive(value)
            | P::ReceiveMaximum(value)
            | P::TopicAliasMaximum(value)
            | P::TopicAlias(value) => w.u16(value),
            P::MessageExpiryInterval(value)
            | P::SessionExpiryInterval(value)
            | P::WillDelayInterval(value)
            | P::MaximumPacketSize(value) => w.u32(value),
            P::SubscriptionIdentifier(value) => w.varint(value),
            P::ContentType(text)
            | P::ResponseTopic(text)
            | P::AssignedClientIdentifier(text)
            | P::AuthenticationMethod(text)
            | P::ResponseInformation(text)
            | P::ServerReference(text)
            | P::ReasonString(text) => w.string(text),
            P::CorrelationData(bytes) | P::AuthenticationData(bytes) => w.binary(bytes),
            P::UserProperty((name, value)) => {
                w.string(name);
                w.string(value);
            }
        }
    }
}

impl Properties<'_> {
    /// Writes length and block without the omitted properties.
    pub(crate) fn write(&self, w: &mut Writer<'_>, omit: Omit) {
        if omit == Omit::Nothing {
            w.varint(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
            return w.bytes(self.bytes);
        }
        let mut count = Writer::counting();
        self.write_kept(&mut count, omit);
        let n = count.finish().unwrap_or(usize::MAX);
        w.varint(u32::try_from(n).unwrap_or(u32::MAX));
        self.write_kept(w, omit);
    }

    fn write_kept(&self, w: &mut Writer<'_>, omit: Omit) {
        self.iter().filter(|property| omit.keeps(property.id())).for_each(|property| property.write(w));
    }

    /// Returns true if no property would be written.
    pub(crate) fn is_empty_without(&self, omit: Omit) -> bool {
        self.bytes.is_empty()
            || (omit != Omit::Nothing && !self.iter().any(|property| omit.keeps(property.id())))
    }
}

/// Properties that an encoder omits when the packet is too large for the peer (`[MQTT-3.2.2-19]`,
/// `[MQTT-3.2.2-20]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Omit {
    Nothing,
    ReasonString,
    ReasonStringAndUserProperties,
}

impl Omit {
    pub(crate) const STEPS: [Omit; 3] =
        [Omit::Nothing, Omit::ReasonString, Omit::ReasonStringAndUserProperties];

    fn keeps(self, id: PropertyId) -> bool {
        match self {
            Omit::Nothing => true,
            Omit::ReasonString => id != PropertyId::ReasonString,
            Omit::ReasonStringAndUserProperties => {
                !matches!(id, PropertyId::ReasonString | PropertyId::UserProperty)
            }
        }
    }
}
