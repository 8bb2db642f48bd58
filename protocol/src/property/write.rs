//! How blocks of properties are written.

use super::{Place, Properties, Property, scan};
use crate::EncodeError;
use crate::wire::{Sticky, Writer};

/// Builds a block of properties in a slice.
#[derive(Debug)]
pub struct PropertyWriter<'b> {
    out: &'b mut [u8],
    len: usize,
    present: u64,
}

impl<'b> PropertyWriter<'b> {
    /// An empty block that may grow to the length of `out`.
    pub fn new(out: &'b mut [u8]) -> Self {
        PropertyWriter { out, len: 0, present: 0 }
    }

    /// Appends a property; on an error the block is as it was.
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

    /// The block.
    pub fn finish(self) -> Properties<'b> {
        let PropertyWriter { out, len, present } = self;
        Properties { bytes: out.get(..len).unwrap_or(&[]), present }
    }
}

/// Writes a list of properties as a block to the front of `out`, if they are valid for the place; the length of the block.
///
/// # Errors
/// [`EncodeError::OutputTooShort`], and [`EncodeError::NotInVersion`] for a property that is not valid there.
#[inline]
pub fn encode_block(list: &[Property<'_>], place: Place, out: &mut [u8]) -> Result<usize, EncodeError> {
    let mut w = Writer::over(out);
    write_list(&mut w, list, place);
    w.finish()
}

/// Writes a list of properties with its length in front of it; twice, since only then the length is known.
pub(crate) fn write_block(w: &mut Writer<'_>, list: &[Property<'_>], place: Place) {
    let start = w.position();
    write_each(w, list);
    let len = w.position() - start;
    w.seek(start);
    w.varint(len as u32);
    write_list(w, list, place);
}

/// Writes a list of properties, and fails when one is not valid for the place.
fn write_list(w: &mut Writer<'_>, list: &[Property<'_>], place: Place) {
    let start = w.position();
    write_each(w, list);
    let mut r = Sticky::new(w.written(start));
    scan(&mut r, place);
    if r.check().is_err() {
        w.fail(EncodeError::NotInVersion);
    }
}

fn write_each(w: &mut Writer<'_>, list: &[Property<'_>]) {
    list.iter().for_each(|property| property.write(w));
}
