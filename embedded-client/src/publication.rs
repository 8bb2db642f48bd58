//! A message to be published, and how it comes into the outbox.

#[cfg(feature = "v5")]
use lapwing_protocol::packet::PacketType;
use lapwing_protocol::property::Property;
#[cfg(feature = "v5")]
use lapwing_protocol::{
    EncodeError,
    property::{self, Place, PropertyId},
};
use lapwing_protocol::{QoS, copy, same, topic};

use crate::PublishError;
use crate::config::Policy;
use crate::shelf::{HEADER, Record, Shelf, flag, kind};

/// A message to be published, with everything that MQTT 5 can say about it; an MQTT 3.1.1 server gets what it understands.
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
    /// QoS 0, not retained.
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

    /// The QoS; a server that takes less gets less.
    pub const fn qos(mut self, qos: QoS) -> Self {
        self.flags = self.flags & !flag::QOS | (qos as u8) << 1;
        self
    }

    /// To be kept by the server for new subscriptions, if it does that.
    pub const fn retain(mut self) -> Self {
        self.flags |= flag::RETAIN;
        self
    }

    /// The seconds after which the message is void. It is forgotten when it was not sent by then; a server of MQTT 5 is told
    /// what is left. Counted from the first call to the client after this one, and only while it is called.
    pub const fn expires_in_s(mut self, seconds: u32) -> Self {
        self.expiry_s = seconds;
        self
    }

    /// MQTT 5: content type, response topic, correlation data, user properties, payload format indicator. The message expiry is
    /// [`expires_in_s`](Self::expires_in_s), the topic alias the client's own affair.
    pub const fn properties(mut self, properties: &'p [Property<'p>]) -> Self {
        self.properties = properties;
        self
    }

    /// Another policy than that of the [`Config`](crate::Config).
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }
}

/// What a PUBLISH record says in front of its topic.
pub(crate) const FIXED: usize = 8;

/// No expiry.
pub(crate) const FOR_EVER: u32 = u32::MAX;

impl Shelf<'_> {
    /// Where the properties and the payload of a message begin.
    pub(crate) fn parts(&self, record: Record) -> (usize, usize) {
        let lens = self.u32(record.body() + 4);
        let properties = record.body() + FIXED + (lens >> 16) as usize;
        (properties, properties + (lens & 0xffff) as usize)
    }

    pub(crate) fn topic(&self, record: Record) -> &[u8] {
        self.slice(record.body() + FIXED, self.parts(record).0)
    }

    /// Writes a message behind the last record, keeping `kept` bytes free.
    pub(crate) fn enqueue(
        &mut self,
        message: &Publication<'_>,
        tag: u16,
        kept: usize,
    ) -> Result<(), PublishError> {
        let mut w = Cursor { out: self.free(kept), at: HEADER + FIXED, full: false };
        w.put(message.topic.as_bytes());
        #[cfg(feature = "v5")]
        let properties_len = w.properties(message.properties)?;
        #[cfg(not(feature = "v5"))]
        let properties_len = 0u32;
        w.put(message.payload);
        if message.flags & flag::STREAM != 0 {
            w.put(&message.streamed.to_be_bytes());
        }
        if w.full {
            return Err(PublishError::Full);
        }
        let len = w.at - HEADER;
        let body = self.used() + HEADER;
        self.put_u32(body, message.expiry_s);
        self.put_u32(body + 4, (message.topic.len() as u32) << 16 | properties_len);
        self.commit(kind::PUBLISH, message.flags, tag, len);
        Ok(())
    }

    /// The oldest message that was not begun to be sent; with a topic, the one of that topic. Or the end.
    pub(crate) fn oldest_unsent(&self, topic: Option<&str>) -> Record {
        let mut record = self.first();
        while record.kind() != 0 {
            if record.of(kind::PUBLISH)
                && !record.is(flag::TRIED | flag::SENT)
                && topic.is_none_or(|topic| same(self.topic(record), topic.as_bytes()))
            {
                break;
            }
            record = self.after(record);
        }
        record
    }

    /// Takes `seconds` off what every message that expires has left, and names the first record that is to go: a message that is void
    /// and was not begun to be sent, or one that was dropped. Or the end.
    #[inline(never)]
    pub(crate) fn age(&mut self, seconds: u32) -> Record {
        let (mut record, mut void) = (self.first(), Record::NONE);
        while record.kind() != 0 {
            let flags = record.flags();
            let mut gone = record.of(kind::DROPPED);
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
    /// Something did not fit.
    full: bool,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        match self.out.get_mut(self.at..end) {
            Some(place) => copy(place, bytes),
            None => self.full = true,
        }
        self.at = end;
    }

    #[cfg(feature = "v5")]
    fn properties(&mut self, properties: &[Property<'_>]) -> Result<u32, PublishError> {
        let out = self.out.get_mut(self.at..).unwrap_or(&mut []);
        // What the client says itself, and what only a server says.
        let reserved = properties.iter().any(|property| {
            matches!(
                property.id(),
                PropertyId::TopicAlias
                    | PropertyId::MessageExpiryInterval
                    | PropertyId::SubscriptionIdentifier
            )
        });
        let place = Place::Packet(PacketType::Publish);
        let len = match property::encode_block(properties, place, out) {
            Ok(len) if !reserved => len,
            Err(EncodeError::OutputTooShort) => return Err(PublishError::Full),
            _ => return Err(PublishError::PropertyInvalid),
        };
        self.at += len;
        Ok(len as u32)
    }
}

/// Whether a topic name may be published to.
pub(crate) fn check(message: &Publication<'_>) -> Result<(), PublishError> {
    if topic::is_name(message.topic) { Ok(()) } else { Err(PublishError::TopicInvalid) }
}
