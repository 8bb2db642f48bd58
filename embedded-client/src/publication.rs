//! A message to be published, and how it comes into the outbox.

#[cfg(feature = "v5")]
use lapwing_protocol::packet::PacketType;
use lapwing_protocol::property::Property;
#[cfg(feature = "v5")]
use lapwing_protocol::property::{Place, Properties, PropertyWriter};
use lapwing_protocol::{QoS, topic};

use crate::PublishError;
use crate::config::Policy;
use crate::shelf::{HEADER, Record, Shelf, flag, kind};

/// A message to be published, with everything that MQTT 5 can say about it; an MQTT 3.1.1 server gets what it understands.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'p> {
    pub(crate) topic: &'p str,
    pub(crate) payload: &'p [u8],
    pub(crate) properties: &'p [Property<'p>],
    pub(crate) expiry_s: Option<u32>,
    pub(crate) streamed: Option<u32>,
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
            expiry_s: None,
            streamed: None,
            policy: None,
            flags: 0,
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
        self.expiry_s = Some(seconds);
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

/// Where the parts of a PUBLISH record are.
pub(crate) struct Parts {
    pub(crate) expiry_s: Option<u32>,
    pub(crate) topic: usize,
    pub(crate) topic_end: usize,
    pub(crate) properties: usize,
    pub(crate) payload: usize,
    pub(crate) end: usize,
    pub(crate) streamed: Option<u32>,
}

impl Shelf<'_> {
    pub(crate) fn parts(&self, record: Record) -> Parts {
        let mut at = record.body();
        let expiry_s = record.is(flag::EXPIRES).then(|| self.u32(at));
        if expiry_s.is_some() {
            at += 4;
        }
        let topic = at + 2;
        let topic_end = topic + self.u16(at);
        let properties = topic_end + if cfg!(feature = "v5") { 2 } else { 0 };
        let payload = properties + if cfg!(feature = "v5") { self.u16(topic_end) } else { 0 };
        let end = record.end - if record.is(flag::STREAM) { 4 } else { 0 };
        let streamed = record.is(flag::STREAM).then(|| self.u32(end));
        Parts { expiry_s, topic, topic_end, properties, payload, end, streamed }
    }

    /// Writes a message behind the last record, keeping `kept` bytes free.
    pub(crate) fn enqueue(
        &mut self,
        message: &Publication<'_>,
        tag: u16,
        kept: usize,
    ) -> Result<(), PublishError> {
        let mut flags = message.flags | flag::FRESH;
        let mut w = Cursor { out: self.free(kept), at: HEADER };
        if let Some(seconds) = message.expiry_s {
            flags |= flag::EXPIRES;
            w.put(&seconds.to_be_bytes())?;
        }
        w.put(&(message.topic.len() as u16).to_be_bytes())?;
        w.put(message.topic.as_bytes())?;
        #[cfg(feature = "v5")]
        w.properties(message.properties)?;
        if let Some(len) = message.streamed {
            flags |= flag::STREAM;
            w.put(&len.to_be_bytes())?;
        } else {
            w.put(message.payload)?;
        }
        let len = w.at - HEADER;
        self.commit(kind::PUBLISH, flags, tag, len);
        Ok(())
    }

    /// The oldest message that was not begun to be sent; with a topic, the one of that topic.
    pub(crate) fn oldest_unsent(&self, topic: Option<&str>) -> Option<Record> {
        let mut at = 0;
        while let Some(record) = self.record(at) {
            if record.kind == kind::PUBLISH
                && !record.is(flag::TRIED | flag::SENT)
                && topic.is_none_or(|topic| {
                    let parts = self.parts(record);
                    self.slice(parts.topic, parts.topic_end) == topic.as_bytes()
                })
            {
                return Some(record);
            }
            at = record.end;
        }
        None
    }

    /// Takes `seconds` off what every message that expires has left.
    pub(crate) fn age(&mut self, seconds: u32) {
        let mut at = 0;
        while let Some(record) = self.record(at) {
            at = record.end;
            if record.kind == kind::PUBLISH {
                if record.is(flag::FRESH) {
                    self.set_flags(record, record.flags & !flag::FRESH);
                } else if record.is(flag::EXPIRES) {
                    let left = self.u32(record.body()).saturating_sub(seconds);
                    self.set_u32(record.body(), left);
                }
            }
        }
    }

    /// A message that expired before it was begun to be sent.
    pub(crate) fn void(&self) -> Option<Record> {
        let mut at = 0;
        while let Some(record) = self.record(at) {
            let fixed = record.flags & (flag::FRESH | flag::EXPIRES | flag::TRIED | flag::SENT);
            if record.kind == kind::PUBLISH && fixed == flag::EXPIRES && self.u32(record.body()) == 0 {
                return Some(record);
            }
            at = record.end;
        }
        None
    }
}

struct Cursor<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        let end = self.at + bytes.len();
        self.out.get_mut(self.at..end).ok_or(PublishError::Full)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    #[cfg(feature = "v5")]
    fn properties(&mut self, properties: &[Property<'_>]) -> Result<(), PublishError> {
        let at = self.at;
        self.put(&[0, 0])?;
        let mut w = PropertyWriter::new(self.out.get_mut(self.at..).unwrap_or(&mut []));
        for property in properties {
            w.push(*property).map_err(|error| match error {
                lapwing_protocol::EncodeError::OutputTooShort => PublishError::Full,
                _ => PublishError::PropertyInvalid,
            })?;
        }
        let block = w.finish().as_bytes();
        let len = block.len();
        Properties::parse(block, Place::Packet(PacketType::Publish))
            .ok()
            .filter(|block| {
                use lapwing_protocol::property::PropertyId;
                // What the client says itself, and what only a server says.
                !block.has(PropertyId::TopicAlias)
                    && !block.has(PropertyId::MessageExpiryInterval)
                    && !block.has(PropertyId::SubscriptionIdentifier)
            })
            .ok_or(PublishError::PropertyInvalid)?;
        self.at += len;
        let end = self.at;
        self.at = at;
        self.put(&(len as u16).to_be_bytes())?;
        self.at = end;
        Ok(())
    }
}

/// Whether a topic name may be published to.
pub(crate) fn check(message: &Publication<'_>) -> Result<(), PublishError> {
    topic::check_name(message.topic).map_err(|_| PublishError::TopicInvalid)
}
