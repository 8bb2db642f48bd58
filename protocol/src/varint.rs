//! The variable byte integer: 1 to 4 bytes of seven bits each, least significant first (`1.5.5`).

use crate::DecodeError;

/// The largest value.
pub const MAX: u32 = crate::limits::REMAINING_LENGTH_MAX;

/// Reads an integer from the front of `bytes`. Returns its value and length, or `None` when bytes
/// are missing.
///
/// # Errors
/// [`DecodeError::VarintTooLong`] after four continued bytes. [`DecodeError::VarintNotShortest`]
/// for a last byte of zero (`[MQTT-1.5.5-1]`).
#[inline]
pub fn read(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    if cfg!(target_os = "none") {
        return read_slowly(bytes);
    }
    let mut value = 0u32;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err(DecodeError::VarintNotShortest);
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { Err(DecodeError::VarintTooLong) } else { Ok(None) }
}

/// Reads like [`read`], for microcontrollers that link the loop once.
#[inline]
fn read_slowly(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    match scan(bytes) {
        (_, 0) => Ok(None),
        (value, n) if n <= 4 => Ok(Some((value, n))),
        (0, _) => Err(DecodeError::VarintNotShortest),
        _ => Err(DecodeError::VarintTooLong),
    }
}

/// Returns value and length. Length 0 means that bytes are missing, 5 means too long; with the
/// value 0 it is not the shortest form. Two words travel in registers.
#[inline(never)]
fn scan(bytes: &[u8]) -> (u32, usize) {
    let mut value = 0u32;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return if *byte == 0 && index > 0 { (0, 5) } else { (value, index + 1) };
        }
    }
    if bytes.len() >= 4 { (1, 5) } else { (0, 0) }
}

/// Returns the length of `value`, in bytes. Values above [`MAX`] do not occur in a packet and count
/// as four.
#[inline]
pub const fn len(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

/// Returns the bytes of `value` (at most [`MAX`]), and how many of them count.
#[inline]
pub const fn bytes(value: u32) -> ([u8; 4], usize) {
    let n = len(value);
    let mut out = [0u8; 4];
    let mut rest = value;
    let mut index = 0;
    while index < n {
        out[index] = (rest & 0x7f) as u8 | if index + 1 < n { 0x80 } else { 0 };
        rest >>= 7;
        index += 1;
    }
    (out, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_border_value_comes_back_in_its_shortest_form() {
        for (value, n) in
            [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_151, 3), (2_097_152, 4), (MAX, 4)]
        {
            let (out, len) = bytes(value);
            assert_eq!(len, n);
            assert_eq!(read(&out[..len]), Ok(Some((value, n))));
            assert_eq!(read(&out[..len - 1]), Ok(None));
        }
    }

    #[test]
    fn the_small_reader_judges_as_the_fast_one() {
        const BYTES: [u8; 5] = [0x00, 0x01, 0x7f, 0x80, 0xff];
        for pick in 0..5usize.pow(5) {
            let bytes: [u8; 5] = core::array::from_fn(|at| BYTES[pick / 5usize.pow(at as u32) % 5]);
            for len in 0..=5 {
                assert_eq!(read_slowly(&bytes[..len]), read(&bytes[..len]), "{:02x?}", &bytes[..len]);
            }
        }
    }

    // 5.0: [MQTT-1.5.5-1]
    #[test]
    fn a_fifth_byte_and_a_padded_form_are_refused() {
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x01]), Err(DecodeError::VarintTooLong));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff]), Err(DecodeError::VarintTooLong));
        assert_eq!(read(&[0x80, 0x00]), Err(DecodeError::VarintNotShortest));
    }
}
