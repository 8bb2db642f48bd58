//! The will (`3.1.2.5`): what is published when a connection ends badly.

use lapwing_protocol::{QoS, packet};

use crate::message::{Message, MessageParts, Millis, PublishedBy, forwarded};

/// A will as the session keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// The topic name.
    pub topic: Box<str>,
    /// The payload.
    pub payload: Box<[u8]>,
    /// The properties that go with the message.
    pub properties: Box<[u8]>,
    /// Its QoS.
    pub qos: QoS,
    /// Set when the message is to be retained.
    pub retain: bool,
    /// Message Expiry Interval, in seconds from its publication.
    pub expiry_s: Option<u32>,
    /// Will Delay Interval, in seconds.
    pub delay_s: u32,
}

impl Will {
    /// Makes the will of a CONNECT, its delay capped at `delay_max_s`.
    pub fn new(will: &packet::Will<'_>, delay_max_s: u32) -> Will {
        let mut scratch = Vec::new();
        Will {
            topic: will.topic.into(),
            payload: will.payload.into(),
            properties: forwarded(&will.properties, &mut scratch).into(),
            qos: will.qos,
            retain: will.retain,
            expiry_s: will.properties.message_expiry_interval_s(),
            delay_s: will.properties.will_delay_interval_s().unwrap_or(0).min(delay_max_s),
        }
    }

    /// Makes the message, published at `now` by `publisher`. `source` is kept with a retained
    /// message.
    pub fn message(&self, publisher: u64, now: Millis, source: Option<PublishedBy<'_>>) -> Message {
        let content = MessageParts {
            topic: &self.topic,
            properties: &self.properties,
            payload: &self.payload,
            qos: self.qos,
            retain: self.retain,
            publisher,
            published_at: now,
            expires_at: self.expiry_s.map(|seconds| now + u64::from(seconds) * 1000),
        };
        Message::from_source(&content, source)
    }
}
