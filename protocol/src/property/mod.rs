//! MQTT 5 properties (`2.2.2`): a validated block of bytes, read where it lies.
//!
//! [`Properties`] keeps the bytes and one bit for each property that is there, so that asking for an absent one costs
//! nothing and forwarding a block is a copy. Everything that a packet alone allows is checked once, on decoding: known,
//! allowed in this packet, at most once, in range.

mod parse;
mod write;

pub use parse::{Iter, RawIter};
pub(crate) use write::{Omit, write_block};
pub use write::{PropertyWriter, encode_block};

use self::parse::Value;
use crate::DecodeError;
use crate::packet::PacketType;
use crate::wire::Reader;

/// Where a block of properties stands: a packet, or the will inside CONNECT.
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

/// How a value is written.
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
        // Numbered by identifier, so that to ask for it is to look at the first byte.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Property<'a> { $($(#[$doc])* $name($value) = $id,)+ }

        /// The identifier of a property.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PropertyId { $($(#[$doc])* $name = $id,)+ }

        impl PropertyId {
            /// Every property.
            pub const ALL: &'static [PropertyId] = &[$(PropertyId::$name),+];
        }

        impl Property<'_> {
            /// Its identifier.
            pub const fn id(&self) -> PropertyId {
                match self { $(Property::$name(_) => PropertyId::$name,)+ }
            }
        }

        /// How the value of each property is written (the low half) and where it may stand (the high half: an index of
        /// [`PLACES`]; nowhere: there is no such property), by identifier. Tables rather than a `match`: they are smaller.
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

/// The sets of places that occur.
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

/// Where a set stands in [`PLACES`].
const fn place_index(places: u16) -> u8 {
    let mut index = 0;
    while PLACE_SETS[index as usize] != places {
        index += 1;
    }
    index
}

/// How the value of `id` is written and where it may stand.
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
    /// 1: the payload is UTF-8 text.
    PayloadFormatIndicator(u8) = 0x01, Bit, PUBLISH | WILL;
    /// Seconds after which the message is void.
    MessageExpiryInterval(u32) = 0x02, U32, PUBLISH | WILL;
    /// What the payload is, in the publisher's words.
    ContentType(&'a str) = 0x03, Text, PUBLISH | WILL;
    /// The topic name for a response.
    ResponseTopic(&'a str) = 0x08, Topic, PUBLISH | WILL;
    /// What tells the requester which request a response belongs to.
    CorrelationData(&'a [u8]) = 0x09, Binary, PUBLISH | WILL;
    /// 1 to 268,435,455: set in SUBSCRIBE, comes back in each PUBLISH that matched.
    SubscriptionIdentifier(u32) = 0x0b, Varint, PUBLISH | SUBSCRIBE;
    /// Seconds that the session outlives its connection; 0xFFFFFFFF is for ever.
    SessionExpiryInterval(u32) = 0x11, U32, CONNECT | CONNACK | DISCONNECT;
    /// The client identifier that the server chose.
    AssignedClientIdentifier(&'a str) = 0x12, Text, CONNACK;
    /// The keep-alive, in seconds, that the server demands.
    ServerKeepAlive(u16) = 0x13, U16, CONNACK;
    /// The name of the enhanced authentication method.
    AuthenticationMethod(&'a str) = 0x15, Text, CONNECT | CONNACK | AUTH;
    /// What the method exchanges.
    AuthenticationData(&'a [u8]) = 0x16, Binary, CONNECT | CONNACK | AUTH;
    /// 0: the server leaves out reason strings and user properties where it may.
    RequestProblemInformation(u8) = 0x17, Bit, CONNECT;
    /// Seconds between the end of the connection and the will.
    WillDelayInterval(u32) = 0x18, U32, WILL;
    /// 1: the server may send Response Information.
    RequestResponseInformation(u8) = 0x19, Bit, CONNECT;
    /// The base of response topics.
    ResponseInformation(&'a str) = 0x1a, Text, CONNACK;
    /// Another server to use.
    ServerReference(&'a str) = 0x1c, Text, CONNACK | DISCONNECT;
    /// Words for a person who looks for the cause.
    ReasonString(&'a str) = 0x1f, Text, REASONED;
    /// How many QoS 1 and 2 messages the sender of this takes at once; not 0.
    ReceiveMaximum(u16) = 0x21, U16NotZero, CONNECT | CONNACK;
    /// The highest topic alias that the sender of this takes.
    TopicAliasMaximum(u16) = 0x22, U16, CONNECT | CONNACK;
    /// A number in place of the topic name; not 0.
    TopicAlias(u16) = 0x23, U16NotZero, PUBLISH;
    /// The highest QoS that the server takes, 0 or 1.
    MaximumQoS(u8) = 0x24, Bit, CONNACK;
    /// 0: the server keeps no retained messages.
    RetainAvailable(u8) = 0x25, Bit, CONNACK;
    /// A name and a value, in order, any number of times.
    UserProperty((&'a str, &'a str)) = 0x26, Pair, ANY;
    /// The largest packet, in bytes, that the sender of this takes; not 0.
    MaximumPacketSize(u32) = 0x27, U32NotZero, CONNECT | CONNACK;
    /// 0: the server has no wildcard subscriptions.
    WildcardSubscriptionAvailable(u8) = 0x28, Bit, CONNACK;
    /// 0: the server has no subscription identifiers.
    SubscriptionIdentifierAvailable(u8) = 0x29, Bit, CONNACK;
    /// 0: the server has no shared subscriptions.
    SharedSubscriptionAvailable(u8) = 0x2a, Bit, CONNACK;
}

/// A block of properties, valid for the place it was read from or built for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Properties<'a> {
    bytes: &'a [u8],
    /// Bit n: the property with identifier n occurs.
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
    /// No properties.
    pub const NONE: Properties<'static> = Properties { bytes: &[], present: 0 };

    /// The block as it stands in the packet, without its length.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the property occurs.
    #[inline]
    pub const fn has(&self, id: PropertyId) -> bool {
        self.present & (1 << id as u8) != 0
    }

    /// All of them, in order.
    pub fn iter(&self) -> Iter<'a> {
        Iter::new(self.bytes)
    }

    /// The properties in order as identifier, number and bytes, without a look at them: of a number the bytes are empty, of
    /// anything else (a pair: its name) the number is 0. For a receiver that has little room for code.
    pub fn raw(&self) -> RawIter<'a> {
        RawIter::new(self.bytes)
    }

    /// The first occurrence of a property.
    #[inline]
    pub fn get(&self, id: PropertyId) -> Option<Property<'a>> {
        if self.has(id) { self.iter().find(|property| property.id() == id) } else { None }
    }

    /// The user properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(pair) => Some(pair),
            _ => None,
        })
    }

    /// The subscription identifiers, in order.
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
