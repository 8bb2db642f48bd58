//! Events for the application.

use lapwing_protocol::property::{Place, Properties};
use lapwing_protocol::{PacketType, QoS, ReasonCode};

use crate::shelf::flag;

/// Identifies a message or a request of this client until it is delivered, refused or dropped.
///
/// QoS 0 messages have the empty token, which no event carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Token(pub(crate) u16);

impl Token {
    /// Returns the packet identifier; 0 for QoS 0.
    pub const fn id(self) -> u16 {
        self.0
    }
}

/// An event of the client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'b> {
    /// A message, or its beginning with [`Config::chunks`](crate::Config::chunks).
    ///
    /// The next call acknowledges it; a chunked one is acknowledged after its last chunk.
    Message(Message<'b>),
    /// The next piece of the message that began last.
    Chunk {
        /// The bytes of the piece.
        payload: &'b [u8],
        /// Number of bytes that follow; 0 in the last piece.
        left: u32,
    },
    /// The server has the message (QoS 1: PUBACK, QoS 2: PUBCOMP), granted the subscription, or
    /// ended it.
    Delivered(Token),
    /// The server refused a message, a subscription or an unsubscription. The client does not
    /// repeat it.
    Refused(Token, ReasonCode),
    /// The message was dropped before it was sent: expired, larger than the server accepts, or
    /// displaced under its [`Policy`](crate::Policy).
    ///
    /// Until the event is read, its token takes six bytes of the outbox. If the room is needed, the
    /// oldest of more than eight tokens are discarded. [`Client::dropped`](crate::Client::dropped)
    /// counts all dropped messages, QoS 0 included.
    Dropped(Token),
    /// The connection is up.
    Connected {
        /// The server still had the session.
        ///
        /// If not, subscriptions made at run time must be made again. Those of the
        /// [`Config`](crate::Config) are renewed by the client.
        session_present: bool,
    },
    /// The connection is gone, and the client will dial again. The reason code is that of the
    /// server or of this client, if any.
    Disconnected(Option<ReasonCode>),
    /// The next piece of a payload from [`publish_in_pieces`](crate::Client::publish_in_pieces)
    /// must be sent now. No other packet is sent until the payload is complete.
    PayloadWanted {
        /// The message.
        token: Token,
        /// Offset of the piece in the payload, in bytes; 0 again after a reconnect.
        offset: u32,
        /// Number of bytes that are left from there.
        left: u32,
    },
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'b> {
    pub(crate) topic: &'b [u8],
    pub(crate) properties: &'b [u8],
    pub(crate) payload: &'b [u8],
    pub(crate) left: u32,
    pub(crate) flags: u8,
}

// The message was checked when it was received. Strings and properties are read on demand, so that
// a program that never asks links no code for them.
impl<'b> Message<'b> {
    /// Returns the topic name, also if the server sent an alias for it.
    pub fn topic(&self) -> &'b str {
        core::str::from_utf8(self.topic).unwrap_or_default()
    }

    /// Returns the payload, or as much of it as fits into the inbound buffer.
    pub const fn payload(&self) -> &'b [u8] {
        self.payload
    }

    /// Number of payload bytes that follow as chunks; 0 for a whole message.
    pub const fn left(&self) -> u32 {
        self.left
    }

    /// Returns the QoS of this transfer.
    pub const fn qos(&self) -> QoS {
        match QoS::from_u8((self.flags & flag::QOS) >> 1) {
            Some(qos) => qos,
            None => QoS::AtMostOnce,
        }
    }

    /// Returns true if the server had retained the message.
    pub const fn retain(&self) -> bool {
        self.flags & flag::RETAIN != 0
    }

    /// Returns true if the message was perhaps received before. A QoS 2 message is delivered once
    /// in any case.
    pub const fn dup(&self) -> bool {
        self.flags & flag::TRIED != 0
    }

    /// MQTT 5: returns user properties, content type, response topic, correlation data, message
    /// expiry, …
    pub fn properties(&self) -> Properties<'b> {
        Properties::parse(self.properties, Place::Packet(PacketType::Publish)).unwrap_or_default()
    }
}

/// An [`Event`] without borrowed data.
#[derive(Clone, Copy)]
pub(crate) enum Happened {
    Nothing,
    Message,
    Chunk,
    Delivered(u16),
    Refused(u16, ReasonCode),
    Dropped(u16),
    Connected(bool),
    Disconnected(ReasonCode),
    Failed(crate::Error),
}
