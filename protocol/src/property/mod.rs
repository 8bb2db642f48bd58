//! MQTT 5 properties (`2.2.2`) as a validated block of bytes.
//!
//! [`Properties`] keeps the bytes and one bit for each property that occurs. So an absent property
//! costs nothing to look up, and a block is forwarded as a copy. Decoding checks once that each
//! property is known, allowed in this packet, in range, and not repeated.
//!
//! This file has the table of properties; `parse` reads blocks, and `write` writes them.

mod parse;
mod write;

pub use parse::{Iter, RawIter};
pub(crate) use write::{Omit, write_block};
pub use write::{PropertyWriter, encode_block};

use self::parse::Value;
use crate::DecodeError;
use crate::packet::PacketType;
use crate::wire::Reader;

/// Position of a property block: a packet, or the will inside CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The properties of a packet.
    Packet(PacketType),
    /// The will properties of CONNECT (`3.1.3.2`).
    Will,
}

impl Place {
    const fn bit(self) -> u16 {
        match self {
            Place::Will => 1,
            Place::Packet(packet) => 1 << packet as u16,
        }
    }
}

/// Encoding of a property value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One byte, 0 or 1.
    Bit,
    U16,
    /// Two bytes, not 0.
    U16NotZero,
    U32,
    /// Four bytes, not 0.
    U32NotZero,
    /// A variable byte integer, not 0.
    Varint,
    Text,
    /// Text without wildcards.
    Topic,
    Binary,
    Pair,
}

impl Kind {
    #[inline]
    const fn from_bits(bits: u8) -> Kind {
        match bits & 0x0f {
            0 => Kind::Bit,
            1 => Kind::U16,
            2 => Kind::U16NotZero,
            3 => Kind::U32,
            4 => Kind::U32NotZero,
            5 => Kind::Varint,
            6 => Kind::Text,
            7 => Kind::Topic,
            8 => Kind::Binary,
            _ => Kind::Pair,
        }
    }
}

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident($value:ty) = $id:literal, $kind:ident, $places:expr;)+) => {
        /// A property with its value.
        // Numbered by identifier, so that asking for the identifier is a look at the first byte.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Property<'a> { $($(#[$doc])* $name($value) = $id,)+ }

        /// The identifier of a property.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PropertyId { $($(#[$doc])* $name = $id,)+ }

        impl PropertyId {
            /// All identifiers.
            pub const ALL: &'static [PropertyId] = &[$(PropertyId::$name),+];
        }

        impl Property<'_> {
            /// Returns the identifier of this property.
            pub const fn id(&self) -> PropertyId {
                match self { $(Property::$name(_) => PropertyId::$name,)+ }
            }
        }

        /// Encoding and places of each property, by identifier.
        ///
        /// The low half is the [`Kind`] of the value, the high half an index of [`PLACES`]. Index 0
        /// means that there is no such property. Tables are smaller than a `match`.
        static SPECS: [u8; IDS] = {
            let mut specs = [0; IDS];
            $(specs[$id] = Kind::$kind as u8 | place_index($places) << 4;)+
            specs
        };

        #[inline]
        fn value<'a>(id: u8, r: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
            match id { $($id => Ok(Property::$name(Value::read(r, Kind::$kind)?)),)+ _ => Err(DecodeError::PropertyUnknown) }
        }
    };
}

/// One more than the highest identifier.
const IDS: usize = 0x2b;

/// The sets of places that occur in the table.
static PLACES: [u16; 16] = PLACE_SETS;
const PLACE_SETS: [u16; 16] = [
    0,
    PUBLISH | WILL,
    PUBLISH | SUBSCRIBE,
    PUBLISH,
    WILL,
    CONNECT,
    CONNECT | CONNACK,
    CONNECT | CONNACK | DISCONNECT,
    CONNECT | CONNACK | AUTH,
    CONNACK,
    CONNACK | DISCONNECT,
    REASONED,
    ANY,
    0,
    0,
    0,
];

/// Returns the index of a set in [`PLACES`].
const fn place_index(places: u16) -> u8 {
    let mut index = 0;
    while PLACE_SETS[index as usize] != places {
        index += 1;
    }
    index
}

/// Returns the encoding of `id` and the places where it is allowed.
#[inline]
fn spec(id: u8) -> Option<(Kind, u16)> {
    let spec = *SPECS.get(usize::from(id))?;
    if spec == 0 { None } else { Some((Kind::from_bits(spec), PLACES[usize::from(spec >> 4)])) }
}

const WILL: u16 = Place::Will.bit();
const CONNECT: u16 = Place::Packet(PacketType::Connect).bit();
const CONNACK: u16 = Place::Packet(PacketType::ConnAck).bit();
const PUBLISH: u16 = Place::Packet(PacketType::Publish).bit();
const SUBSCRIBE: u16 = Place::Packet(PacketType::Subscribe).bit();
const DISCONNECT: u16 = Place::Packet(PacketType::Disconnect).bit();
const AUTH: u16 = Place::Packet(PacketType::Auth).bit();
const REASONED: u16 = CONNACK
    | Place::Packet(PacketType::PubAck).bit()
    | Place::Packet(PacketType::PubRec).bit()
    | Place::Packet(PacketType::PubRel).bit()
    | Place::Packet(PacketType::PubComp).bit()
    | Place::Packet(PacketType::SubAck).bit()
    | Place::Packet(PacketType::UnsubAck).bit()
    | DISCONNECT
    | AUTH;
const ANY: u16 = u16::MAX;

properties! {
    /// Format of the payload: 0 is bytes, 1 is UTF-8 text.
    PayloadFormatIndicator(u8) = 0x01, Bit, PUBLISH | WILL;
    /// Seconds after which the message expires.
    MessageExpiryInterval(u32) = 0x02, U32, PUBLISH | WILL;
    /// Type of the payload, chosen by the publisher.
    ContentType(&'a str) = 0x03, Text, PUBLISH | WILL;
    /// Topic name for a response.
    ResponseTopic(&'a str) = 0x08, Topic, PUBLISH | WILL;
    /// Data with which the requester matches a response to its request.
    CorrelationData(&'a [u8]) = 0x09, Binary, PUBLISH | WILL;
    /// Identifier of a subscription, 1 to 268,435,455. Set in SUBSCRIBE, and repeated in each
    /// matching PUBLISH.
    SubscriptionIdentifier(u32) = 0x0b, Varint, PUBLISH | SUBSCRIBE;
    /// Seconds that the session outlives its connection; 0xFFFFFFFF means for ever.
    SessionExpiryInterval(u32) = 0x11, U32, CONNECT | CONNACK | DISCONNECT;
    /// Client identifier that the server chose.
    AssignedClientIdentifier(&'a str) = 0x12, Text, CONNACK;
    /// Keep-alive that the server demands, in seconds.
    ServerKeepAlive(u16) = 0x13, U16, CONNACK;
    /// Name of the enhanced authentication method.
    AuthenticationMethod(&'a str) = 0x15, Text, CONNECT | CONNACK | AUTH;
    /// Data of the enhanced authentication method.
    AuthenticationData(&'a [u8]) = 0x16, Binary, CONNECT | CONNACK | AUTH;
    /// 0 asks the server to leave out reason strings and user properties where it may.
    RequestProblemInformation(u8) = 0x17, Bit, CONNECT;
    /// Seconds between the end of the connection and the will.
    WillDelayInterval(u32) = 0x18, U32, WILL;
    /// 1 allows the server to send Response Information.
    RequestResponseInformation(u8) = 0x19, Bit, CONNECT;
    /// Base of response topics.
    ResponseInformation(&'a str) = 0x1a, Text, CONNACK;
    /// Another server to use.
    ServerReference(&'a str) = 0x1c, Text, CONNACK | DISCONNECT;
    /// Diagnostic text for people.
    ReasonString(&'a str) = 0x1f, Text, REASONED;
    /// Number of QoS 1 and 2 messages that the sender accepts at once; not 0.
    ReceiveMaximum(u16) = 0x21, U16NotZero, CONNECT | CONNACK;
    /// Highest topic alias that the sender accepts.
    TopicAliasMaximum(u16) = 0x22, U16, CONNECT | CONNACK;
    /// Number in place of the topic name; not 0.
    TopicAlias(u16) = 0x23, U16NotZero, PUBLISH;
    /// Highest QoS that the server supports, 0 or 1.
    MaximumQoS(u8) = 0x24, Bit, CONNACK;
    /// 0: the server does not support retained messages.
    RetainAvailable(u8) = 0x25, Bit, CONNACK;
    /// A name and a value, any number of times, in order.
    UserProperty((&'a str, &'a str)) = 0x26, Pair, ANY;
    /// Largest packet that the sender accepts, in bytes; not 0.
    MaximumPacketSize(u32) = 0x27, U32NotZero, CONNECT | CONNACK;
    /// 0: the server does not support wildcard subscriptions.
    WildcardSubscriptionAvailable(u8) = 0x28, Bit, CONNACK;
    /// 0: the server does not support subscription identifiers.
    SubscriptionIdentifierAvailable(u8) = 0x29, Bit, CONNACK;
    /// 0: the server does not support shared subscriptions.
    SharedSubscriptionAvailable(u8) = 0x2a, Bit, CONNACK;
}

/// A block of properties that is valid for one [`Place`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Properties<'a> {
    bytes: &'a [u8],
    /// Bit n is set when the property with identifier n occurs.
    present: u64,
}

/// Two blocks are equal when they hold the same properties in the same order.
impl PartialEq for Properties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Properties<'_> {}

impl<'a> Properties<'a> {
    /// The empty block.
    pub const NONE: Properties<'static> = Properties { bytes: &[], present: 0 };

    /// Returns the bytes of the block, without its length.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns true if the block has no properties.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns true if the property occurs.
    #[inline]
    pub const fn has(&self, id: PropertyId) -> bool {
        self.present & (1 << id as u8) != 0
    }

    /// Iterates over all properties, in order.
    pub fn iter(&self) -> Iter<'a> {
        Iter::new(self.bytes)
    }

    /// Iterates over identifier, number and bytes of each property, in order and unchecked.
    ///
    /// A numeric property has empty bytes. Any other has the number 0; a pair gives its name. This
    /// is for receivers with little flash.
    pub fn raw(&self) -> RawIter<'a> {
        RawIter::new(self.bytes)
    }

    /// Returns the first occurrence of a property.
    #[inline]
    pub fn get(&self, id: PropertyId) -> Option<Property<'a>> {
        if self.has(id) { self.iter().find(|property| property.id() == id) } else { None }
    }

    /// Iterates over the user properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(pair) => Some(pair),
            _ => None,
        })
    }

    /// Iterates over the subscription identifiers, in order.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident -> $value:ty, $variant:ident;)+) => {
        impl<'a> Properties<'a> {
            $($(#[$doc])* #[inline] pub fn $name(&self) -> Option<$value> {
                match self.get(PropertyId::$variant) { Some(Property::$variant(value)) => Some(value), _ => None }
            })+
        }
    };
}

getters! {
    /// Payload Format Indicator.
    payload_format_indicator -> u8, PayloadFormatIndicator;
    /// Message Expiry Interval, in seconds.
    message_expiry_interval_s -> u32, MessageExpiryInterval;
    /// Content Type.
    content_type -> &'a str, ContentType;
    /// Response Topic.
    response_topic -> &'a str, ResponseTopic;
    /// Correlation Data.
    correlation_data -> &'a [u8], CorrelationData;
    /// The first Subscription Identifier.
    subscription_identifier -> u32, SubscriptionIdentifier;
    /// Session Expiry Interval, in seconds.
    session_expiry_interval_s -> u32, SessionExpiryInterval;
    /// Assigned Client Identifier.
    assigned_client_identifier -> &'a str, AssignedClientIdentifier;
    /// Server Keep Alive, in seconds.
    server_keep_alive_s -> u16, ServerKeepAlive;
    /// Authentication Method.
    authentication_method -> &'a str, AuthenticationMethod;
    /// Authentication Data.
    authentication_data -> &'a [u8], AuthenticationData;
    /// Request Problem Information.
    request_problem_information -> u8, RequestProblemInformation;
    /// Will Delay Interval, in seconds.
    will_delay_interval_s -> u32, WillDelayInterval;
    /// Request Response Information.
    request_response_information -> u8, RequestResponseInformation;
    /// Response Information.
    response_information -> &'a str, ResponseInformation;
    /// Server Reference.
    server_reference -> &'a str, ServerReference;
    /// Reason String.
    reason_string -> &'a str, ReasonString;
    /// Receive Maximum.
    receive_maximum -> u16, ReceiveMaximum;
    /// Topic Alias Maximum.
    topic_alias_maximum -> u16, TopicAliasMaximum;
    /// Topic Alias.
    topic_alias -> u16, TopicAlias;
    /// Maximum QoS.
    maximum_qos -> u8, MaximumQoS;
    /// Retain Available.
    retain_available -> u8, RetainAvailable;
    /// Maximum Packet Size, in bytes.
    maximum_packet_size -> u32, MaximumPacketSize;
    /// Wildcard Subscription Available.
    wildcard_subscription_available -> u8, WildcardSubscriptionAvailable;
    /// Subscription Identifier Available.
    subscription_identifier_available -> u8, SubscriptionIdentifierAvailable;
    /// Shared Subscription Available.
    shared_subscription_available -> u8, SharedSubscriptionAvailable;
}
