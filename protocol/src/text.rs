//! UTF-8 strings as MQTT allows them (`1.5.4`).

use crate::DecodeError;

/// Returns the string in `bytes`. A byte order mark is kept (`[MQTT-1.5.4-3]`).
///
/// # Errors
/// [`DecodeError::NotUtf8`] for ill-formed UTF-8, surrogates included (`[MQTT-1.5.4-1]`).
/// [`DecodeError::NulInString`] for U+0000 (`[MQTT-1.5.4-2]`).
#[inline]
pub fn parse(bytes: &[u8]) -> Result<&str, DecodeError> {
    let text = core::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
    if has_nul(bytes) { Err(DecodeError::NulInString) } else { Ok(text) }
}

/// Checks a string like [`parse`], without returning it. A microcontroller that never prints pays
/// for no more.
///
/// # Errors
/// The errors of [`parse`].
#[inline]
pub fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    // Without an OS, a hundred bytes of code. With one, the fast check of the standard library for
    // strings that are not plain ASCII.
    if cfg!(target_os = "none") {
        check_slowly(bytes)
    } else if is_plain(bytes) {
        Ok(())
    } else {
        parse(bytes).map(drop)
    }
}

/// Decodes the code points with little code.
fn check_slowly(bytes: &[u8]) -> Result<(), DecodeError> {
    // The bits so far, the least code point of this length, and the number of bytes still expected.
    let (mut code, mut least, mut awaited) = (0u32, 0u32, 0u32);
    for &byte in bytes {
        let ones = byte.leading_ones();
        if awaited > 0 {
            awaited -= 1;
            if ones != 1 {
                return Err(DecodeError::NotUtf8);
            }
        } else {
            (awaited, least, code) = match ones {
                0 => (0, 1, 0),
                2 => (1, 0x80, 0),
                3 => (2, 0x800, 0),
                4 => (3, 0x1_0000, 0),
                _ => return Err(DecodeError::NotUtf8),
            };
        }
        code = code << 6 | u32::from(byte) & (0x7f >> ones);
        // An overlong form, a surrogate, or too large.
        if awaited == 0 && (code < least || char::from_u32(code).is_none()) {
            return Err(DecodeError::NotUtf8);
        }
    }
    if awaited == 0 { Ok(()) } else { Err(DecodeError::NotUtf8) }
}

/// The value 1 in each of eight bytes.
const ONES: u64 = u64::MAX / 0xff;

/// Returns true if one of eight bytes is zero.
#[inline]
const fn has_zero(word: u64) -> bool {
    word.wrapping_sub(ONES) & !word & ONES << 7 != 0
}

#[inline]
fn has_nul(bytes: &[u8]) -> bool {
    any(bytes, has_zero, |byte| byte == 0)
}

/// Returns true if all bytes are ASCII and none is zero, as in nearly all strings.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    !any(bytes, |word| (word.wrapping_sub(ONES) | word) & ONES << 7 != 0, |byte| !matches!(byte, 1..=0x7f))
}

/// Returns true if one of the two bytes occurs.
#[inline]
pub(crate) fn has_either(bytes: &[u8], (one, other): (u8, u8)) -> bool {
    let [ones, others] = [one, other].map(|byte| ONES * u64::from(byte));
    let of_eight = |word| has_zero(word ^ ones) || has_zero(word ^ others);
    any(bytes, of_eight, |byte| byte == one || byte == other)
}

/// Returns true if the condition holds for any byte.
///
/// Hosts test eight bytes at a time: topics are short, and every PUBLISH asks. Without an OS it
/// goes byte by byte, with little code.
#[inline]
fn any(bytes: &[u8], of_eight: impl Fn(u64) -> bool, of_one: impl Fn(u8) -> bool) -> bool {
    let word = |eight: &[u8; 8]| of_eight(u64::from_ne_bytes(*eight));
    match bytes.last_chunk() {
        // The last eight bytes overlap those before them.
        Some(last) if !cfg!(target_os = "none") => bytes.as_chunks().0.iter().any(word) || word(last),
        _ => bytes.iter().any(|byte| of_one(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // 3.1.1: [MQTT-1.5.3-1] [MQTT-1.5.3-2] [MQTT-1.5.3-3]
    // 5.0: [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-1.5.4-3]
    #[test]
    fn strings_are_utf8_without_nul_and_keep_a_byte_order_mark() {
        assert_eq!(parse("ä🙂".as_bytes()), Ok("ä🙂"));
        assert_eq!(parse(b"\xed\xa0\x80"), Err(DecodeError::NotUtf8), "a surrogate");
        assert_eq!(parse(b"\xc0\x80"), Err(DecodeError::NotUtf8), "an overlong form");
        for at in 0..20 {
            let mut bytes = [b'a'; 20];
            bytes[at] = 0;
            assert_eq!(parse(&bytes), Err(DecodeError::NulInString));
        }
        assert_eq!(parse("\u{feff}a".as_bytes()), Ok("\u{feff}a"));
    }

    #[test]
    fn one_byte_that_is_not_plain_is_seen_wherever_it_stands() {
        for len in 0..40 {
            let plain = [b'a'; 40];
            assert_eq!(check(&plain[..len]), Ok(()));
            for (at, byte) in (0..len).flat_map(|at| [(at, 0), (at, 0x80), (at, 0xff)]) {
                let mut bytes = plain;
                bytes[at] = byte;
                let expected = if byte == 0 { DecodeError::NulInString } else { DecodeError::NotUtf8 };
                assert_eq!(check(&bytes[..len]), Err(expected), "{byte:#x} at {at} of {len}");
            }
        }
    }

    #[test]
    fn the_small_check_judges_as_the_fast_one() {
        // Every pair of lead and second byte, with various rests.
        let step = if cfg!(miri) { 16 } else { 1 };
        for lead in (0..=255u8).step_by(step) {
            for second in (0..=255u8).step_by(step) {
                for rest in
                    [&[][..], &[0x80], &[0x80, 0x80], &[0x80, 0x80, 0x80], b"a", &[0xc0], &[0x80, b'a']]
                {
                    let mut bytes = std::vec![lead, second];
                    bytes.extend_from_slice(rest);
                    assert_eq!(check_slowly(&bytes).is_ok(), parse(&bytes).is_ok(), "{bytes:02x?}");
                    assert_eq!(check(&bytes), parse(&bytes).map(drop), "{bytes:02x?}");
                }
            }
        }
        assert_eq!(check_slowly("ä🙂".as_bytes()), Ok(()));
        assert_eq!(check_slowly(b""), Ok(()));
    }
}
