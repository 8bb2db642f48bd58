//! The record buffer that holds a session: records of different length, in order and without gaps.
//!
//! The shelf is the outbox, and the storage of flights, QoS 2 identifiers and inbound topic
//! aliases. So the user sizes one buffer, deep sleep saves one slice, and a message is stored once.
//! It is not a ring: removing a record moves the records behind it down. That is a short copy, and
//! in return every record is one slice that can go at any time.
//!
//! ```text
//! 0        2      3       4     6
//! | length | kind | flags | tag | fields of the kind …
//! ```
//!
//! All numbers are big-endian. `tag` is a packet identifier or a topic alias. `length` counts the
//! header.

use lapwing_protocol::copy;

pub(crate) const HEADER: usize = 6;

/// Kinds of records, one bit each, so that a search can look for several at once.
pub(crate) mod kind {
    /// A message that is unsent or unacknowledged: `expiry 4, topic length 2, properties length 2,
    /// topic, properties, payload`.
    ///
    /// The expiry is the number of seconds that are left; all ones mean for ever.
    pub(crate) const PUBLISH: u8 = 0x01;
    /// QoS 2: the receiver has the message. PUBREL must be sent or was sent.
    pub(crate) const RELEASE: u8 = 0x02;
    /// A whole SUBSCRIBE or UNSUBSCRIBE packet.
    pub(crate) const REQUEST: u8 = 0x04;
    /// QoS 2, inbound: the message was delivered and is not released.
    pub(crate) const RECEIVED: u8 = 0x08;
    /// The topic of an inbound alias, for one connection.
    pub(crate) const ALIAS: u8 = 0x10;
    /// The client identifier that the server chose.
    pub(crate) const CLIENT_ID: u8 = 0x20;
    /// A notice: the token of a message that was dropped before it was sent, or that was delivered,
    /// until the application is told.
    pub(crate) const NOTICE: u8 = 0x40;
    /// Set beside PUBLISH: its identifier is not that of an earlier message at the server.
    pub(crate) const UNUSED_ID: u8 = 0x80;
    /// Kinds that are sent and acknowledged under an outbound packet identifier.
    pub(crate) const OUTBOUND: u8 = PUBLISH | RELEASE | REQUEST;
}

/// Flags of a record. The low bits are those of PUBLISH.
pub(crate) mod flag {
    pub(crate) const RETAIN: u8 = 0x01;
    pub(crate) const QOS: u8 = 0x06;
    /// Sending has begun, perhaps on an earlier connection: the next time is a repetition.
    pub(crate) const TRIED: u8 = 0x08;
    /// Sending has begun on this connection. Without TRIED, its identifier is being released.
    pub(crate) const SENT: u8 = 0x10;
    /// The application gives the payload while it is sent. Its length in 4 bytes stands in its
    /// place.
    pub(crate) const STREAM: u8 = 0x40;
    /// NOTICE: the message was dropped, not delivered.
    pub(crate) const DROPPED: u8 = 0x01;
    /// PUBLISH: its expiry does not run yet.
    pub(crate) const FRESH: u8 = 0x80;
    /// RELEASE: counts in the quota of this connection.
    pub(crate) const COUNTED: u8 = 0x20;
}

/// Header and position of a record, in two words that travel in registers.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    /// Start in the low half, end in the high half.
    place: u32,
    /// Tag, flags and kind, from the low bits on. Kind 0 is the end.
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

    /// Returns true if the record is of one of these kinds. The end is of none.
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

/// The records in a buffer of which `used` bytes, at most 65,535, are valid.
pub(crate) struct Shelf<'b> {
    pub(crate) bytes: &'b mut [u8],
    pub(crate) used: &'b mut u16,
}

impl Shelf<'_> {
    pub(crate) fn used(&self) -> usize {
        usize::from(*self.used)
    }

    /// Returns the bytes from `at` to `end`; empty if they do not exist.
    #[inline(never)]
    pub(crate) fn slice(&self, at: usize, end: usize) -> &[u8] {
        self.bytes.get(at..end).unwrap_or(&[])
    }

    #[inline(never)]
    pub(crate) fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        u32::from_be_bytes(*bytes.unwrap_or(&[0; 4]))
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) {
            *place = value.to_be_bytes();
        }
    }

    /// Returns the record at `at`.
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

    /// Returns the first record of one of these kinds with this tag.
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

    /// Returns the free bytes, less `kept` bytes that stay free.
    #[inline(never)]
    pub(crate) fn free(&mut self, kept: usize) -> &mut [u8] {
        let end = self.bytes.len().min(usize::from(u16::MAX)).saturating_sub(kept);
        let used = self.used();
        self.bytes.get_mut(used..end).unwrap_or(&mut [])
    }

    /// Makes a record of the first `body` bytes, which were written after [`HEADER`] free ones.
    pub(crate) fn commit(&mut self, kind: u8, flags: u8, tag: u16, body: usize) {
        let at = self.used();
        let len = HEADER + body;
        let what = u32::from(u16::from_be_bytes([kind, flags]));
        self.put_u32(at, (len as u32) << 16 | what);
        self.put_u32(at + 2, what << 16 | u32::from(tag));
        *self.used = (at + len) as u16;
    }

    /// Appends a record with this body. Returns `false` without room.
    pub(crate) fn push(&mut self, kind: u8, tag: u16, body: &[u8]) -> bool {
        match self.free(0).get_mut(HEADER..HEADER + body.len()) {
            Some(place) => copy(place, body),
            None => return false,
        }
        self.commit(kind, 0, tag, body.len());
        true
    }

    /// Removes `at..end` and moves the rest down.
    pub(crate) fn cut(&mut self, at: usize, end: usize) {
        let used = self.used();
        if at <= end && end <= used && used <= self.bytes.len() {
            // A loop of a few bytes of code; `copy_within` links six hundred.
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

    /// Removes the records of these kinds, and clears these flags in the others. A RELEASE becomes
    /// a notice that the message was delivered.
    pub(crate) fn forget(&mut self, kinds: u8, flags: u8) {
        let mut record = self.first();
        while record.kind() != 0 {
            if record.of(kinds & kind::RELEASE) {
                self.set(record.at() + 2, kind::NOTICE);
            } else if record.of(kinds) {
                self.remove(record);
                record = self.record(record.at());
                continue;
            }
            self.set_flags(record, record.flags() & !flags);
            record = self.after(record);
        }
    }
}
