//! What the client tells the application.

use lapwing_protocol::property::{Place, Properties};
use lapwing_protocol::{PacketType, QoS, ReasonCode};

use crate::shelf::flag;

/// Names a message or a request of this client, until it is delivered, refused or dropped. QoS 0 messages have the empty
/// token, which no event carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Token(pub(crate) u16);

impl Token {
    /// The packet identifier; 0 for QoS 0.
    pub const fn id(self) -> u16 {
        self.0
    }
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'b> {
    /// A message came, whole or (with [`Config::chunks`](crate::Config::chunks)) its beginning. It is acknowledged with the next
    /// call; a chunked one when its last chunk was handed over.
    Message(Message<'b>),
    /// The next piece of the message that began last.
    Chunk {
        /// The piece.
        payload: &'b [u8],
        /// The bytes that are still to come; 0: this is the last.
        left: u32,
    },
    /// The server has the message (QoS 1: PUBACK, QoS 2: PUBCOMP), or granted the subscription, or ended it.
    Delivered(Token),
    /// The server refused a message, a subscription or an unsubscription. The client does not repeat it.
    Refused(Token, ReasonCode),
    /// The message was forgotten before it was sent: too old, larger than the server takes, or displaced by a newer one under its
    /// [`Policy`](crate::Policy). Until it is told, its token takes six bytes of the outbox; where
    /// nobody asks for events and the room is wanted, the oldest of more than eight tokens are forgotten. [`Client::dropped`](crate::Client::dropped) counts all, those of QoS 0 as well.
    Dropped(Token),
    /// The connection is up.
    Connected {
        /// The server still had the session. If not, what was subscribed to at run time is to be subscribed to again; the
        /// subscriptions of the [`Config`](crate::Config) are by themselves.
        session_present: bool,
    },
    /// The connection is gone; the client will dial again. The reason code, if the server or this client had one to say.
    Disconnected(Option<ReasonCode>),
    /// The next piece of a payload that [`publish_in_pieces`](crate::Client::publish_in_pieces) announced is to be sent now, from
    /// `offset` on, which is 0 again after a reconnect. Nothing else is sent until it is whole.
    PayloadWanted {
        /// Which message.
        token: Token,
        /// Where the piece begins, in bytes.
        offset: u32,
        /// The bytes that are left to be sent from there.
        left: u32,
    },
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub struct Message<'b> {
    pub(crate) topic: &'b [u8],
    pub(crate) properties: &'b [u8],
    pub(crate) payload: &'b [u8],
    pub(crate) left: u32,
    pub(crate) flags: u8,
}

// It was checked when it came. Strings and properties are read on demand, so that a program that never asks links no code
// for them.
impl<'b> Message<'b> {
    /// The topic name, also where the server sent an alias for it.
    pub fn topic(&self) -> &'b str {
        core::str::from_utf8(self.topic).unwrap_or_default()
    }

    /// The message itself, or as much of it as fits into the inbound buffer.
    pub const fn payload(&self) -> &'b [u8] {
        self.payload
    }

    /// The bytes of the payload that are still to come as chunks; 0 for a whole message.
    pub const fn left(&self) -> u32 {
        self.left
    }

    /// The QoS of this transfer.
    pub const fn qos(&self) -> QoS {
        match QoS::from_u8((self.flags & flag::QOS) >> 1) {
            Some(qos) => qos,
            None => QoS::AtMostOnce,
        }
    }

    /// Whether it was kept by the server for new subscriptions.
    pub const fn retain(&self) -> bool {
        self.flags & flag::RETAIN != 0
    }

    /// Whether it may have come before. A QoS 2 message is handed over once in any case.
    pub const fn dup(&self) -> bool {
        self.flags & flag::TRIED != 0
    }

    /// MQTT 5: user properties, content type, response topic, correlation data, message expiry …
    pub fn properties(&self) -> Properties<'b> {
        Properties::parse(self.properties, Place::Packet(PacketType::Publish)).unwrap_or_default()
    }
}

/// An [`Event`] without what it borrows.
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
    PayloadWanted,
    Failed(crate::Error),
}
