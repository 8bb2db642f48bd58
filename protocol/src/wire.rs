//! Cursors that read and write the fields of packets.

use crate::{DecodeError, EncodeError, PacketId, text, varint};

/// Reader of fields from the front of a packet's body. Every read is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    #[inline]
    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let (value, n) = varint::read(self.bytes)?.ok_or(DecodeError::Truncated)?;
        self.take(n)?;
        Ok(value)
    }

    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }

    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        text::parse(self.binary()?)
    }

    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero)
    }

    #[inline]
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// Reader of fields that remembers its first error instead of returning it.
///
/// Fields after the error are empty or 0. Code that reads much and checks once is much smaller for
/// it.
#[derive(Clone, Debug)]
pub(crate) struct StickyReader<'a> {
    bytes: &'a [u8],
    error: Option<DecodeError>,
}

impl<'a> StickyReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        StickyReader { bytes, error: None }
    }

    /// Returns the first error so far.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        match self.error {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    #[inline(never)]
    pub(crate) fn fail(&mut self, error: DecodeError) {
        self.error.get_or_insert(error);
        self.bytes = &[];
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        match self.bytes.split_at_checked(n) {
            Some((taken, rest)) => {
                self.bytes = rest;
                taken
            }
            None => {
                self.fail(DecodeError::Truncated);
                &[]
            }
        }
    }

    /// Reads a number of `width` bytes.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn number(&mut self, width: usize) -> u32 {
        let bytes = self.take(width);
        if cfg!(target_os = "none") {
            return bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        }
        match *bytes {
            [a] => a.into(),
            [a, b] => u16::from_be_bytes([a, b]).into(),
            [a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    pub(crate) fn varint(&mut self) -> u32 {
        match varint::read(self.bytes) {
            Ok(Some((value, n))) => {
                self.take(n);
                value
            }
            Ok(None) => {
                self.fail(DecodeError::Truncated);
                0
            }
            Err(error) => {
                self.fail(error);
                0
            }
        }
    }

    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn binary(&mut self) -> &'a [u8] {
        let n = self.number(2);
        self.take(n as usize)
    }

    /// Reads a string that is checked, but stays bytes.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn text(&mut self) -> &'a [u8] {
        let bytes = self.binary();
        if let Err(error) = text::check(bytes) {
            self.fail(error);
        }
        bytes
    }
}

/// Copies bytes to a slice of the same length.
///
/// Without an OS, code size counts more than time. A loop of a few instructions saves the three
/// hundred bytes of `memcpy`.
#[inline]
pub fn copy(place: &mut [u8], bytes: &[u8]) {
    if cfg!(target_os = "none") { copy_slowly(place, bytes) } else { place.copy_from_slice(bytes) }
}

/// Returns true if the bytes are equal. Without an OS a loop saves the hundred bytes of `memcmp`.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    if cfg!(target_os = "none") { a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b) } else { a == b }
}

#[inline(never)]
fn copy_slowly(place: &mut [u8], bytes: &[u8]) {
    for (place, byte) in place.iter_mut().zip(bytes) {
        // Without the black box, the compiler makes a `memcpy` of it.
        *place = core::hint::black_box(*byte);
    }
}

/// Writer of fields to the front of a slice, which can also only count.
///
/// One routine for each packet gives both its length and its bytes, so that the two cannot
/// disagree. The first error is kept until [`finish`](Writer::finish).
#[derive(Debug)]
pub(crate) struct Writer<'o> {
    out: Option<&'o mut [u8]>,
    at: usize,
    error: Option<EncodeError>,
}

impl<'o> Writer<'o> {
    pub(crate) fn counting() -> Self {
        Writer { out: None, at: 0, error: None }
    }

    pub(crate) fn over(out: &'o mut [u8]) -> Self {
        Writer { out: Some(out), at: 0, error: None }
    }

    /// Writes after the first `start` bytes of `out`.
    pub(crate) fn after(start: usize, out: &'o mut [u8]) -> Self {
        Writer { out: Some(out), at: start, error: None }
    }

    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let end = self.at.saturating_add(bytes.len());
        if let Some(out) = &mut self.out {
            match out.get_mut(self.at..end) {
                Some(place) => copy(place, bytes),
                None => return self.fail(EncodeError::OutputTooShort),
            }
        }
        self.at = end;
    }

    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn varint(&mut self, value: u32) {
        // Most lengths take one byte. Without an OS one loop is smaller.
        if !cfg!(target_os = "none") && value <= 0x7f {
            return self.u8(value as u8);
        }
        self.long_varint(value);
    }

    #[cfg_attr(target_os = "none", inline)]
    fn long_varint(&mut self, value: u32) {
        if value > varint::MAX {
            return self.fail(EncodeError::PacketTooLarge);
        }
        let mut rest = value;
        while rest > 0x7f {
            self.u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.u8(rest as u8);
    }

    pub(crate) fn binary(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(n) => {
                self.u16(n);
                self.bytes(bytes);
            }
            Err(_) => self.fail(EncodeError::StringTooLong),
        }
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }

    pub(crate) fn packet_id(&mut self, id: PacketId) {
        self.u16(id.get());
    }

    pub(crate) fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// Continues at another position.
    #[inline]
    pub(crate) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// Returns the bytes that were written since `start`.
    pub(crate) fn written(&self, start: usize) -> &[u8] {
        self.out.as_ref().and_then(|out| out.get(start..self.at)).unwrap_or(&[])
    }

    /// Number of bytes written or counted so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Returns the number of bytes written or counted.
    pub(crate) fn finish(self) -> Result<usize, EncodeError> {
        self.error.map_or(Ok(self.at), Err)
    }
}
