//! Limits and options that CONNECT and CONNACK have agreed on; they stand for the connection,
//! whatever a reload brings.

use lapwing_protocol::Version;
use lapwing_protocol::alias::TopicPlace;

/// Terms of a connection, as CONNECT and CONNACK have them.
#[derive(Debug)]
pub struct Negotiated {
    /// Protocol version of the client.
    pub version: Version,
    /// Largest packet that the client takes, in bytes.
    pub packet_bytes_max: u32,
    /// Set when reason strings and user properties may go with more than PUBLISH, CONNACK and
    /// DISCONNECT.
    pub problem_information: bool,
    /// Highest topic alias that the client takes, capped by the broker's limit.
    pub topic_alias_max: u16,
    /// Keep-alive in seconds; 0 is none.
    pub keep_alive_s: u16,
    /// The enhanced authentication method.
    pub auth_method: Option<Box<str>>,
    /// Limits that CONNACK has announced.
    pub announced: AnnouncedLimits,
}

/// Limits of the broker in CONNACK: they stand for the connection, whatever a reload brings.
#[derive(Clone, Copy, Debug)]
pub struct AnnouncedLimits {
    /// The largest packet that the broker takes, in bytes.
    pub packet_bytes_max: u32,
    /// The topic aliases that the client may use.
    pub topic_aliases_max: u16,
    /// The highest QoS.
    pub qos_max: u8,
    /// Set when messages can be retained.
    pub retain_available: bool,
}

/// A topic name that an alias stands for.
#[derive(Debug, Default)]
pub struct AliasedTopic(Vec<u8>);

impl TopicPlace for AliasedTopic {
    fn topic(&self) -> &[u8] {
        &self.0
    }

    fn set(&mut self, topic: &[u8]) -> bool {
        self.0.clear();
        self.0.extend_from_slice(topic);
        true
    }
}
