//! Numbers, texts and options as bytes.

use lapwing_protocol::{PacketId, QoS};

use super::FORMAT;
use crate::message::Message;

/// Decodes from the front of bytes; `None` at the first invalid byte.
#[derive(Debug)]
pub(in crate::store) struct Reader<'a> {
    rest: &'a [u8],
    /// Format of the bytes: that of their frame.
    pub(super) format: u16,
}

impl<'a> Reader<'a> {
    /// Reads bytes of the current format.
    pub(in crate::store) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader::of_format(bytes, FORMAT)
    }

    /// Reads bytes of this format.
    pub(in crate::store) fn of_format(bytes: &'a [u8], format: u16) -> Reader<'a> {
        Reader { rest: bytes, format }
    }

    /// Bytes that are not decoded yet.
    pub(in crate::store) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    pub(in crate::store) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(in crate::store) fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(in crate::store) fn u32(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    pub(in crate::store) fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.number()?).ok()?;
        self.take(n)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn boolean(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.boolean()? { read(self).map(Some) } else { Some(None) }
    }

    pub(super) fn packet_id(&mut self) -> Option<PacketId> {
        PacketId::new(u16::try_from(self.number()?).ok()?)
    }

    pub(super) fn qos(&mut self) -> Option<QoS> {
        QoS::from_u8(self.u8()?)
    }

    pub(super) fn message(&mut self) -> Option<Message> {
        Message::from_bytes(self.bytes()?)
    }

    /// Decodes the whole input: bytes that are left over make it invalid.
    pub(in crate::store) fn all<T>(bytes: &'a [u8], read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let mut reader = Reader::new(bytes);
        let value = read(&mut reader)?;
        reader.rest.is_empty().then_some(value)
    }
}

pub(in crate::store) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes with their length.
pub(in crate::store) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes that `put` adds, with their length.
pub(in crate::store) fn put_sized(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    put(out);
    let len = out.len() - at - 1;
    match out.get_mut(at) {
        Some(byte) if len < 0x80 => *byte = len as u8,
        _ => {
            let mut number = Vec::new();
            put_number(&mut number, len as u64);
            out.splice(at..=at, number);
        }
    }
}

pub(super) fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn put_id(out: &mut Vec<u8>, id: PacketId) {
    put_number(out, u64::from(id.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_can_be_filled_in_after_its_bytes() {
        for len in [0, 1, 127, 128, 300, 20_000] {
            let bytes = vec![9; len];
            let (mut known, mut found) = (vec![1], vec![1]);
            put_bytes(&mut known, &bytes);
            put_sized(&mut found, |out| out.extend_from_slice(&bytes));
            assert_eq!(found, known, "{len}");
        }
    }
}
