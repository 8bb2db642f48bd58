//! One byte buffer that holds a session: records of different length, in order and without gaps.
//!
//! It is the outbox, the store of flights, the memory of QoS 2 identifiers and of inbound topic aliases in one, so that one
//! buffer is sized by the user, one slice is saved for deep sleep, and a message is stored once. Not a ring: removing a
//! record moves those behind it down. That is a short `memmove` on a microcontroller, and in return every record is one
//! slice, and any record can go at any time.
//!
//! ```text
//! 0        2      3       4     6
//! | length | kind | flags | tag | what the kind says …
//! ```
//! All numbers are big-endian. `tag` is a packet identifier or a topic alias. `length` counts the header.

pub(crate) const HEADER: usize = 6;

/// What a record is.
pub(crate) mod kind {
    /// A message to be sent, or sent and not acknowledged: `[expiry 4]? [topic length 2] topic [properties length 2]
    /// properties payload`; the properties only where MQTT 5 is compiled in.
    pub(crate) const PUBLISH: u8 = 1;
    /// QoS 2: the receiver has the message, PUBREL is to be sent or was sent.
    pub(crate) const RELEASE: u8 = 2;
    /// QoS 2, inbound: the message was delivered and not yet released.
    pub(crate) const RECEIVED: u8 = 3;
    /// A whole SUBSCRIBE or UNSUBSCRIBE packet.
    pub(crate) const REQUEST: u8 = 4;
    /// The topic of an inbound alias, for one connection.
    #[cfg(feature = "v5")]
    pub(crate) const ALIAS: u8 = 5;
    /// The client identifier that the server chose.
    #[cfg(feature = "v5")]
    pub(crate) const CLIENT_ID: u8 = 6;
    /// The highest.
    pub(crate) const LAST: u8 = 6;
}

/// The flags of a record; the low bits are those of PUBLISH.
pub(crate) mod flag {
    pub(crate) const RETAIN: u8 = 0x01;
    pub(crate) const QOS: u8 = 0x06;
    /// Begun to be sent, perhaps on an earlier connection: the next time is a repetition.
    pub(crate) const TRIED: u8 = 0x08;
    /// Begun to be sent on this connection (RELEASE: it counts in the quota).
    pub(crate) const SENT: u8 = 0x10;
    /// The body begins with the seconds that the message is good for.
    pub(crate) const EXPIRES: u8 = 0x20;
    /// The payload comes from the application while it is sent; the body ends with its length in 4 bytes.
    pub(crate) const STREAM: u8 = 0x40;
    /// PUBLISH: its seconds do not count yet. RELEASE: PUBREL is to be sent.
    pub(crate) const FRESH: u8 = 0x80;
    pub(crate) const PENDING: u8 = 0x80;
}

/// The header of a record, and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    pub(crate) at: usize,
    pub(crate) end: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) tag: u16,
}

impl Record {
    pub(crate) fn is(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    pub(crate) fn body(&self) -> usize {
        self.at + HEADER
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
    pub(crate) fn slice(&self, at: usize, end: usize) -> &[u8] {
        self.bytes.get(at..end).unwrap_or(&[])
    }

    pub(crate) fn u16(&self, at: usize) -> usize {
        match self.bytes.get(at..) {
            Some([high, low, ..]) => usize::from(*high) << 8 | usize::from(*low),
            _ => 0,
        }
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        (self.u16(at) as u32) << 16 | self.u16(at + 2) as u32
    }

    /// The record at `at`, `None` at the end.
    pub(crate) fn record(&self, at: usize) -> Option<Record> {
        match self.slice(at, self.used()) {
            [_, _, kind, flags, high, low, ..] => {
                let end = at + self.u16(at).max(HEADER);
                let tag = u16::from(*high) << 8 | u16::from(*low);
                Some(Record { at, end, kind: *kind, flags: *flags, tag })
            }
            _ => None,
        }
    }

    pub(crate) fn find(&self, kind: u8, tag: u16) -> Option<Record> {
        let mut at = 0;
        while let Some(record) = self.record(at) {
            if record.kind == kind && record.tag == tag {
                return Some(record);
            }
            at = record.end;
        }
        None
    }

    pub(crate) fn set(&mut self, at: usize, byte: u8) {
        if let Some(place) = self.bytes.get_mut(at) {
            *place = byte;
        }
    }

    pub(crate) fn set_flags(&mut self, record: Record, flags: u8) {
        self.set(record.at + 3, flags);
    }

    fn set_u16(&mut self, at: usize, value: usize) {
        self.set(at, (value >> 8) as u8);
        self.set(at + 1, value as u8);
    }

    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.set_u16(at, (value >> 16) as usize);
        self.set_u16(at + 2, value as usize);
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
        self.set_u16(at, len);
        self.set(at + 2, kind);
        self.set(at + 3, flags);
        self.set_u16(at + 4, usize::from(tag));
        *self.used = (at + len) as u16;
    }

    /// Appends a record with this body; `false` without room.
    pub(crate) fn push(&mut self, kind: u8, flags: u8, tag: u16, body: &[u8]) -> bool {
        let Some(place) = self.free(0).get_mut(HEADER..HEADER + body.len()) else { return false };
        place.copy_from_slice(body);
        self.commit(kind, flags, tag, body.len());
        true
    }

    /// Removes `at..end`; what stands behind moves down.
    pub(crate) fn cut(&mut self, at: usize, end: usize) {
        let used = self.used();
        if at <= end && end <= used && used <= self.bytes.len() {
            self.bytes.copy_within(end..used, at);
            *self.used = (used - (end - at)) as u16;
        }
    }

    /// Shortens a record to its header, as another kind.
    pub(crate) fn shorten(&mut self, record: Record, kind: u8, flags: u8) {
        self.cut(record.body(), record.end);
        self.set_u16(record.at, HEADER);
        self.set(record.at + 2, kind);
        self.set_flags(record, flags);
    }
}
