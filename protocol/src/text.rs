//! UTF-8 strings as MQTT allows them (`1.5.4`).

use crate::DecodeError;

/// The string in `bytes`.
///
/// # Errors
/// [`DecodeError::NotUtf8`] for ill-formed UTF-8, surrogates included (`[MQTT-1.5.4-1]`), and
/// [`DecodeError::NulInString`] for U+0000 (`[MQTT-1.5.4-2]`). A byte order mark is kept as it is (`[MQTT-1.5.4-3]`).
#[inline]
pub fn parse(bytes: &[u8]) -> Result<&str, DecodeError> {
    let text = core::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
    if has_nul(bytes) { Err(DecodeError::NulInString) } else { Ok(text) }
}

/// Whether a byte is zero, eight at a time: topics are short, and every PUBLISH asks.
#[inline]
fn has_nul(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let any = words.iter().any(|word| {
        let word = u64::from_ne_bytes(*word);
        word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080 != 0
    });
    any || rest.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // 3.1.1: [MQTT-1.5.3-1] [MQTT-1.5.3-2] [MQTT-1.5.3-3]  5.0: [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-1.5.4-3]
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
}
