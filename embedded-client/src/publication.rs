//! Messages to publish, and their way into the outbox.

#[cfg(feature = "v5")]
use lapwing_protocol::packet::PacketType;
use lapwing_protocol::property::Property;
#[cfg(feature = "v5")]
use lapwing_protocol::property::{self, Place};
use lapwing_protocol::{QoS, copy, same, topic};

use crate::PublishError;
use crate::config::Policy;
use crate::shelf::{HEADER, Record, Shelf, flag, kind};

/// A message to publish, with all options of MQTT 5. An MQTT 3.1.1 server gets those that it
/// understands.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'p> {
    pub(crate) topic: &'p str,
    pub(crate) payload: &'p [u8],
    pub(crate) properties: &'p [Property<'p>],
    pub(crate) expiry_s: u32,
    pub(crate) streamed: u32,
    pub(crate) policy: Option<Policy>,
    pub(crate) flags: u8,
}

impl<'p> Publication<'p> {
    /// Creates a message with QoS 0 that is not retained.
    pub const fn new(topic: &'p str, payload: &'p [u8]) -> Self {
        Publication {
            topic,
            payload,
            properties: &[],
            expiry_s: FOR_EVER,
            streamed: 0,
            policy: None,
            flags: flag::FRESH,
        }
    }

    /// Sets the QoS. A server with a lower maximum gets that.
    pub const fn qos(mut self, qos: QoS) -> Self {
        self.flags = self.flags & !flag::QOS | (qos as u8) << 1;
        self
    }

    /// Asks the server to retain the message, if it supports that.
    pub const fn retain(mut self) -> Self {
        self.flags |= flag::RETAIN;
        self
    }

    /// Sets the seconds after which the message expires.
    ///
    /// An unsent message is dropped then; an MQTT 5 server is told the rest of the time. The time
    /// begins with the first call to the client after this one, and runs only while the client is
    /// called.
    pub const fn expires_in_s(mut self, seconds: u32) -> Self {
        self.expiry_s = seconds;
        self
    }

    /// MQTT 5: sets content type, response topic, correlation data, user properties, payload format
    /// indicator.
    ///
    /// [`expires_in_s`](Self::expires_in_s) sets the message expiry. The client chooses topic
    /// aliases itself.
    pub const fn properties(mut self, properties: &'p [Property<'p>]) -> Self {
        self.properties = properties;
        self
    }

    /// Sets a policy other than that of the [`Config`](crate::Config).
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }
}

/// Length of the fields before the topic in a PUBLISH record.
pub(crate) const FIXED: usize = 8;

/// No expiry.
pub(crate) const FOR_EVER: u32 = u32::MAX;

impl Shelf<'_> {
    /// Returns the positions of the properties and the payload of a message.
    pub(crate) fn parts(&self, record: Record) -> (usize, usize) {
        let lens = self.u32(record.body() + 4);
        let properties = record.body() + FIXED + (lens >> 16) as usize;
        (properties, properties + (lens & 0xffff) as usize)
    }

    pub(crate) fn topic(&self, record: Record) -> &[u8] {
        self.slice(record.body() + FIXED, self.parts(record).0)
    }

    /// Writes a message after the last record. [`check`] has found it good, and there is room.
    pub(crate) fn enqueue(&mut self, message: &Publication<'_>, tag: u16) {
        let mut w = Cursor { out: self.free(0), at: HEADER + FIXED };
        w.put(message.topic.as_bytes());
        let properties_at = w.at;
        #[cfg(feature = "v5")]
        w.properties(message.properties);
        let properties_len = (w.at - properties_at) as u32;
        w.put(message.payload);
        if message.flags & flag::STREAM != 0 {
            w.put(&message.streamed.to_be_bytes());
        }
        let len = w.at - HEADER;
        let body = self.used() + HEADER;
        self.put_u32(body, message.expiry_s);
        self.put_u32(body + 4, (message.topic.len() as u32) << 16 | properties_len);
        self.commit(kind::PUBLISH, message.flags, tag, len);
    }

    /// Returns the oldest message whose sending has not begun; with a topic, the oldest of that
    /// topic. Returns the end if there is none. Adds the lengths of all of them, and of drop
    /// notices, to `room`.
    pub(crate) fn oldest_unsent(&self, topic: Option<&str>, room: &mut usize) -> Record {
        let (mut record, mut oldest) = (self.first(), Record::NONE);
        while record.kind() != 0 {
            let unsent = record.of(kind::PUBLISH)
                && !record.is(flag::TRIED | flag::SENT)
                && topic.is_none_or(|topic| same(self.topic(record), topic.as_bytes()));
            if unsent || record.of(kind::NOTICE) {
                *room += record.end() - record.at();
            }
            if unsent && oldest.kind() == 0 {
                oldest = record;
            }
            record = self.after(record);
        }
        oldest
    }

    /// Ages all messages that expire by `seconds`, and returns the first record to drop, or the
    /// end.
    ///
    /// That is a message that has expired and whose sending has not begun, or a drop notice.
    #[inline(never)]
    pub(crate) fn age(&mut self, seconds: u32) -> Record {
        let (mut record, mut void) = (self.first(), Record::NONE);
        while record.kind() != 0 {
            let flags = record.flags();
            let mut gone = record.of(kind::NOTICE);
            if record.of(kind::PUBLISH)
                && let Some(seconds_left) =
                    self.bytes.get_mut(record.body()..).and_then(|b| b.first_chunk_mut())
            {
                let mut left = u32::from_be_bytes(*seconds_left);
                if left != FOR_EVER && flags & flag::FRESH == 0 {
                    left = left.saturating_sub(seconds);
                    *seconds_left = left.to_be_bytes();
                    gone = left == 0 && flags & (flag::TRIED | flag::SENT) == 0;
                }
                if seconds > 0 {
                    self.set_flags(record, flags & !flag::FRESH);
                }
            }
            if gone && void.kind() == 0 {
                void = record;
            }
            record = self.after(record);
        }
        void
    }
}

struct Cursor<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(place) = self.out.get_mut(self.at..end) {
            copy(place, bytes);
        }
        self.at = end;
    }

    #[cfg(feature = "v5")]
    fn properties(&mut self, properties: &[Property<'_>]) {
        let out = self.out.get_mut(self.at..).unwrap_or(&mut []);
        let place = Place::Packet(PacketType::Publish);
        self.at += property::encode_block(properties, place, out).unwrap_or(0);
    }
}

/// Checks a message, and returns the length of its record in bytes.
pub(crate) fn check(message: &Publication<'_>) -> Result<usize, PublishError> {
    if !topic::is_name(message.topic) {
        return Err(PublishError::TopicInvalid);
    }
    #[cfg(feature = "v5")]
    let properties_len = check_properties(message.properties)?;
    #[cfg(not(feature = "v5"))]
    let properties_len = 0;
    let streamed = if message.flags & flag::STREAM != 0 { 4 } else { 0 };
    Ok(HEADER + FIXED + message.topic.len() + properties_len + message.payload.len() + streamed)
}

/// Checks the properties of a PUBLISH, and returns their length in bytes.
///
/// It does so without writing them, since the outbox may be full.
#[cfg(feature = "v5")]
fn check_properties(properties: &[Property<'_>]) -> Result<usize, PublishError> {
    let (mut len, mut present) = (0, 0u32);
    for property in properties {
        let (fixed, name, text, bytes) = match property {
            Property::PayloadFormatIndicator(0 | 1) => (2, "", "", &[][..]),
            Property::ContentType(text) => (3, "", *text, &[][..]),
            Property::ResponseTopic(name) if topic::is_name(name) => (3, "", *name, &[][..]),
            Property::CorrelationData(bytes) => (3, "", "", *bytes),
            Property::UserProperty((name, text)) => (5, *name, *text, &[][..]),
            // The client sets the others itself, or only a server sends them, or the value is
            // wrong.
            _ => return Err(PublishError::PropertyInvalid),
        };
        // Only a user property may repeat.
        let bit = 1u32.checked_shl(property.id() as u32).unwrap_or(0);
        if present & bit != 0 || name.bytes().chain(text.bytes()).any(|byte| byte == 0) {
            return Err(PublishError::PropertyInvalid);
        }
        present |= bit;
        len += fixed + name.len() + text.len() + bytes.len();
    }
    Ok(len)
}
