//! One byte buffer that holds a session: records of different length, in order and without gaps.
//!
//! It is the outbox, the store of flights, the memory of QoS 2 identifiers and of inbound topic aliases in one, so that one
//! buffer is sized by the user, one slice is saved for deep sleep, and a message is stored once. Not a ring: removing a
//! record moves those behind it down. That is a short copy on a microcontroller, and in return every record is one slice,
//! and any record can go at any time.
//!
//! ```text
//! 0        2      3       4     6
//! | length | kind | flags | tag | what the kind says …
//! ```
//! All numbers are big-endian. `tag` is a packet identifier or a topic alias. `length` counts the header.

use lapwing_protocol::copy;

pub(crate) const HEADER: usize = 6;

/// What a record is: one bit each, so that several can be looked for at once.
pub(crate) mod kind {
    /// A message to be sent, or sent and not acknowledged: `expiry 4, topic length 2, properties length 2, topic,
    /// properties, payload`. The expiry is the seconds that it is still good for; all ones: for ever.
    pub(crate) const PUBLISH: u8 = 0x01;
    /// QoS 2: the receiver has the message, PUBREL is to be sent or was sent.
    pub(crate) const RELEASE: u8 = 0x02;
    /// A whole SUBSCRIBE or UNSUBSCRIBE packet.
    pub(crate) const REQUEST: u8 = 0x04;
    /// QoS 2, inbound: the message was delivered and not yet released.
    pub(crate) const RECEIVED: u8 = 0x08;
    /// The topic of an inbound alias, for one connection.
    pub(crate) const ALIAS: u8 = 0x10;
    /// The client identifier that the server chose.
    pub(crate) const CLIENT_ID: u8 = 0x20;
    /// The token of a message that was dropped before it was sent, until the application was told.
    pub(crate) const DROPPED: u8 = 0x40;
    /// What is to be sent and answered under an outbound packet identifier.
    pub(crate) const OUTBOUND: u8 = PUBLISH | RELEASE | REQUEST;
}

/// The flags of a record; the low bits are those of PUBLISH.
pub(crate) mod flag {
    pub(crate) const RETAIN: u8 = 0x01;
    pub(crate) const QOS: u8 = 0x06;
    /// Begun to be sent, perhaps on an earlier connection: the next time is a repetition.
    pub(crate) const TRIED: u8 = 0x08;
    /// Begun to be sent on this connection.
    pub(crate) const SENT: u8 = 0x10;
    /// The payload comes from the application while it is sent; in its place stands its length in 4 bytes.
    pub(crate) const STREAM: u8 = 0x40;
    /// PUBLISH: its seconds do not count yet.
    pub(crate) const FRESH: u8 = 0x80;
    /// RELEASE: it counts in the quota of this connection.
    pub(crate) const COUNTED: u8 = 0x80;
}

/// The header of a record, and where it stands. Two words, so that it travels in registers.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    /// Its place in the low half, its end in the high one.
    place: u32,
    /// Tag, flags, kind, from the low bits on. Kind 0 is the end.
    what: u32,
}

impl Record {
    /// The end.
    pub(crate) const NONE: Record = Record { place: 0, what: 0 };

    pub(crate) fn kind(self) -> u8 {
        (self.what >> 24) as u8
    }

    pub(crate) fn flags(self) -> u8 {
        (self.what >> 16) as u8
    }

    pub(crate) fn tag(self) -> u16 {
        self.what as u16
    }

    /// Whether it is one of these kinds; the end is none.
    pub(crate) fn of(self, kinds: u8) -> bool {
        self.kind() & kinds != 0
    }

    pub(crate) fn is(self, flags: u8) -> bool {
        self.flags() & flags != 0
    }

    pub(crate) fn at(self) -> usize {
        (self.place & 0xffff) as usize
    }

    pub(crate) fn body(self) -> usize {
        self.at() + HEADER
    }

    pub(crate) fn end(self) -> usize {
        (self.place >> 16) as usize
    }
}

/// The records in a buffer of which `used` bytes count. At most 65,535 bytes are used.
pub(crate) struct Shelf<'b> {
    pub(crate) bytes: &'b mut [u8],
    pub(crate) used: &'b mut u16,
}

impl Shelf<'_> {
    pub(crate) fn used(&self) -> usize {
        usize::from(*self.used)
    }

    /// The bytes from `at` on, up to `end`; empty when there are none.
    #[inline(never)]
    pub(crate) fn slice(&self, at: usize, end: usize) -> &[u8] {
        self.bytes.get(at..end).unwrap_or(&[])
    }

    #[inline(never)]
    pub(crate) fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        u32::from_be_bytes(*bytes.unwrap_or(&[0; 4]))
    }

    #[inline(never)]
    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) {
            *place = value.to_be_bytes();
        }
    }

    /// The record at `at`.
    pub(crate) fn record(&self, at: usize) -> Record {
        let header = self.bytes.get(at..self.used()).and_then(|bytes| bytes.first_chunk());
        let [long, short, kind, flags, high, low] = *header.unwrap_or(&[0; HEADER]);
        let end = at as u32 + u32::from(u16::from_be_bytes([long, short]));
        Record { place: end << 16 | at as u32, what: u32::from_be_bytes([kind, flags, high, low]) }
    }

    pub(crate) fn first(&self) -> Record {
        self.record(0)
    }

    pub(crate) fn after(&self, record: Record) -> Record {
        self.record(record.end())
    }

    /// The first record of one of these kinds with this tag.
    pub(crate) fn find(&self, kinds: u8, tag: u16) -> Record {
        let mut record = self.first();
        while record.kind() != 0 && !(record.of(kinds) && record.tag() == tag) {
            record = self.after(record);
        }
        record
    }

    pub(crate) fn set(&mut self, at: usize, byte: u8) {
        if let Some(place) = self.bytes.get_mut(at) {
            *place = byte;
        }
    }

    pub(crate) fn set_flags(&mut self, record: Record, flags: u8) {
        self.set(record.at() + 3, flags);
    }

    /// The free bytes, less those that are `kept` free.
    pub(crate) fn free(&mut self, kept: usize) -> &mut [u8] {
        let end = self.bytes.len().min(usize::from(u16::MAX)).saturating_sub(kept);
        let used = self.used();
        self.bytes.get_mut(used..end).unwrap_or(&mut [])
    }

    /// Makes a record of the first `body` bytes that were written behind [`HEADER`] free ones.
    pub(crate) fn commit(&mut self, kind: u8, flags: u8, tag: u16, body: usize) {
        let at = self.used();
        let len = HEADER + body;
        let what = u32::from(u16::from_be_bytes([kind, flags]));
        self.put_u32(at, (len as u32) << 16 | what);
        self.put_u32(at + 2, what << 16 | u32::from(tag));
        *self.used = (at + len) as u16;
    }

    /// Appends a record with this body; `false` without room.
    pub(crate) fn push(&mut self, kind: u8, tag: u16, body: &[u8]) -> bool {
        match self.free(0).get_mut(HEADER..HEADER + body.len()) {
            Some(place) => copy(place, body),
            None => return false,
        }
        self.commit(kind, 0, tag, body.len());
        true
    }

    /// Removes `at..end`; what stands behind moves down.
    pub(crate) fn cut(&mut self, at: usize, end: usize) {
        let used = self.used();
        if at <= end && end <= used && used <= self.bytes.len() {
            // A loop of a few bytes of code; `copy_within` brings six hundred.
            for from in end..used {
                let byte = self.bytes.get(from).map_or(0, |byte| core::hint::black_box(*byte));
                self.set(from - (end - at), byte);
            }
            *self.used = (used - (end - at)) as u16;
        }
    }

    pub(crate) fn remove(&mut self, record: Record) {
        self.cut(record.at(), record.end());
    }

    /// Removes the records of these kinds, and takes these flags off the others.
    pub(crate) fn forget(&mut self, kinds: u8, flags: u8) {
        let mut record = self.first();
        while record.kind() != 0 {
            if record.of(kinds) {
                self.remove(record);
                record = self.record(record.at());
            } else {
                self.set_flags(record, record.flags() & !flags);
                record = self.after(record);
            }
        }
    }
}
