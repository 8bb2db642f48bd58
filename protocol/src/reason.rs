//! Reason codes of MQTT 5.0, and their return codes in MQTT 3.

use crate::PacketType;

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal, $packets:expr;)+) => {
        /// A reason code of MQTT 5.0 (`2.4`). 0x80 and above are failures.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode { $($(#[$doc])* $name = $value,)+ }

        impl ReasonCode {
            /// All reason codes.
            pub const ALL: &'static [ReasonCode] = &[$(ReasonCode::$name),+];

            /// Returns the reason code of this byte, if the standard defines one.
            pub const fn from_u8(byte: u8) -> Option<ReasonCode> {
                match byte { $($value => Some(ReasonCode::$name),)+ _ => None }
            }

            /// Returns the standard's name, in lower case.
            pub const fn text(self) -> &'static str {
                match self { $(ReasonCode::$name => $text,)+ }
            }

            /// Packet types that may carry the code, one bit each by type number.
            const fn packets(self) -> u16 {
                match self { $(ReasonCode::$name => $packets,)+ }
            }
        }
    };
}

const CONNACK: u16 = 1 << PacketType::ConnAck as u16;
const PUBLISHED: u16 = 1 << PacketType::PubAck as u16 | 1 << PacketType::PubRec as u16;
const RELEASED: u16 = 1 << PacketType::PubRel as u16 | 1 << PacketType::PubComp as u16;
const SUBACK: u16 = 1 << PacketType::SubAck as u16;
const UNSUBACK: u16 = 1 << PacketType::UnsubAck as u16;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u16;
const AUTH: u16 = 1 << PacketType::Auth as u16;
const ALL_BUT_RELEASED_AND_AUTH: u16 = CONNACK | PUBLISHED | SUBACK | UNSUBACK | DISCONNECT;

reason_codes! {
    /// Success; Normal disconnection; Granted QoS 0.
    Success = 0x00, "success", ALL_BUT_RELEASED_AND_AUTH | RELEASED | AUTH;
    /// SUBACK: at most QoS 1 will be sent.
    GrantedQoS1 = 0x01, "granted QoS 1", SUBACK;
    /// SUBACK: at most QoS 2 will be sent.
    GrantedQoS2 = 0x02, "granted QoS 2", SUBACK;
    /// The client disconnects and wants its will published.
    DisconnectWithWill = 0x04, "disconnect with will message", DISCONNECT;
    /// Accepted, but there is no subscriber.
    NoMatchingSubscribers = 0x10, "no matching subscribers", PUBLISHED;
    /// UNSUBACK: there was no such subscription.
    NoSubscriptionExisted = 0x11, "no subscription existed", UNSUBACK;
    /// Continue the enhanced authentication.
    ContinueAuthentication = 0x18, "continue authentication", AUTH;
    /// Start a re-authentication.
    ReAuthenticate = 0x19, "re-authenticate", AUTH;
    /// A failure without a code of its own, or one that the sender does not disclose.
    UnspecifiedError = 0x80, "unspecified error", ALL_BUT_RELEASED_AND_AUTH;
    /// The bytes could not be parsed.
    MalformedPacket = 0x81, "malformed packet", CONNACK | DISCONNECT;
    /// Parsed, but against the rules.
    ProtocolError = 0x82, "protocol error", CONNACK | DISCONNECT;
    /// Valid, but not accepted by this receiver.
    ImplementationSpecificError = 0x83, "implementation specific error", ALL_BUT_RELEASED_AND_AUTH;
    /// The server does not speak this protocol version.
    UnsupportedProtocolVersion = 0x84, "unsupported protocol version", CONNACK;
    /// The client identifier is valid but not allowed.
    ClientIdentifierNotValid = 0x85, "client identifier not valid", CONNACK;
    /// User name or password is wrong.
    BadUserNameOrPassword = 0x86, "bad user name or password", CONNACK;
    /// Not allowed.
    NotAuthorized = 0x87, "not authorized", ALL_BUT_RELEASED_AND_AUTH;
    /// The server is not available.
    ServerUnavailable = 0x88, "server unavailable", CONNACK;
    /// The server is busy.
    ServerBusy = 0x89, "server busy", CONNACK | DISCONNECT;
    /// This client was banned.
    Banned = 0x8a, "banned", CONNACK;
    /// The server shuts down.
    ServerShuttingDown = 0x8b, "server shutting down", DISCONNECT;
    /// The authentication method is not known or not the one in use.
    BadAuthenticationMethod = 0x8c, "bad authentication method", CONNACK | DISCONNECT;
    /// Nothing was received for one and a half times the keep-alive.
    KeepAliveTimeout = 0x8d, "keep alive timeout", DISCONNECT;
    /// Another connection uses this client identifier.
    SessionTakenOver = 0x8e, "session taken over", DISCONNECT;
    /// The topic filter is not allowed or not valid.
    TopicFilterInvalid = 0x8f, "topic filter invalid", SUBACK | UNSUBACK | DISCONNECT;
    /// The topic name is not allowed or not valid.
    TopicNameInvalid = 0x90, "topic name invalid", CONNACK | PUBLISHED | DISCONNECT;
    /// The packet identifier is in use already.
    PacketIdentifierInUse = 0x91, "packet identifier in use", PUBLISHED | SUBACK | UNSUBACK;
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92, "packet identifier not found", RELEASED;
    /// More PUBLISH packets than Receive Maximum allows are unacknowledged.
    ReceiveMaximumExceeded = 0x93, "receive maximum exceeded", DISCONNECT;
    /// The topic alias is 0, above the maximum, or not known.
    TopicAliasInvalid = 0x94, "topic alias invalid", DISCONNECT;
    /// The packet is larger than Maximum Packet Size.
    PacketTooLarge = 0x95, "packet too large", CONNACK | DISCONNECT;
    /// Too many messages in a period of time.
    MessageRateTooHigh = 0x96, "message rate too high", DISCONNECT;
    /// A limit of the receiver was reached.
    QuotaExceeded = 0x97, "quota exceeded", ALL_BUT_RELEASED_AND_AUTH & !UNSUBACK;
    /// An administrator closed the connection.
    AdministrativeAction = 0x98, "administrative action", DISCONNECT;
    /// The payload is not what the payload format indicator says.
    PayloadFormatInvalid = 0x99, "payload format invalid", CONNACK | PUBLISHED | DISCONNECT;
    /// The server does not support retained messages.
    RetainNotSupported = 0x9a, "retain not supported", CONNACK | DISCONNECT;
    /// The QoS is above the server's Maximum QoS.
    QoSNotSupported = 0x9b, "QoS not supported", CONNACK | DISCONNECT;
    /// Use the server of the Server Reference for now.
    UseAnotherServer = 0x9c, "use another server", CONNACK | DISCONNECT;
    /// Use the server of the Server Reference from now on.
    ServerMoved = 0x9d, "server moved", CONNACK | DISCONNECT;
    /// The server does not support shared subscriptions.
    SharedSubscriptionsNotSupported = 0x9e, "shared subscriptions not supported", SUBACK | DISCONNECT;
    /// Too many connections in a period of time.
    ConnectionRateExceeded = 0x9f, "connection rate exceeded", CONNACK | DISCONNECT;
    /// The time granted at authentication is over.
    MaximumConnectTime = 0xa0, "maximum connect time", DISCONNECT;
    /// The server does not support subscription identifiers.
    SubscriptionIdentifiersNotSupported = 0xa1, "subscription identifiers not supported", SUBACK | DISCONNECT;
    /// The server does not support wildcard subscriptions.
    WildcardSubscriptionsNotSupported = 0xa2, "wildcard subscriptions not supported", SUBACK | DISCONNECT;
}

impl ReasonCode {
    /// Returns true if the code means that the request failed.
    pub const fn is_failure(self) -> bool {
        self as u8 >= 0x80
    }

    /// Returns true if a packet of this type may carry the code (`3.2.2.2`, `3.4.2.1` and the other
    /// tables).
    pub const fn allowed_in(self, packet: PacketType) -> bool {
        self.packets() & (1 << packet as u16) != 0
    }

    /// Returns true if a client may send the code in a DISCONNECT (`3.14.2.1`). The others are the
    /// server's.
    pub const fn client_may_disconnect_with(self) -> bool {
        matches!(self as u8, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
    }

    /// Returns the CONNACK return code of MQTT 3.1 and 3.1.1 (0 to 5) that is nearest.
    pub const fn to_connect_return_code(self) -> u8 {
        match self {
            ReasonCode::Success => 0,
            ReasonCode::UnsupportedProtocolVersion => 1,
            ReasonCode::ClientIdentifierNotValid => 2,
            ReasonCode::BadUserNameOrPassword => 4,
            ReasonCode::NotAuthorized | ReasonCode::Banned | ReasonCode::BadAuthenticationMethod => 5,
            _ => 3,
        }
    }

    /// Returns the reason code for a return code of MQTT 3.1 or 3.1.1.
    pub const fn from_connect_return_code(code: u8) -> Option<ReasonCode> {
        match code {
            0 => Some(ReasonCode::Success),
            1 => Some(ReasonCode::UnsupportedProtocolVersion),
            2 => Some(ReasonCode::ClientIdentifierNotValid),
            3 => Some(ReasonCode::ServerUnavailable),
            4 => Some(ReasonCode::BadUserNameOrPassword),
            5 => Some(ReasonCode::NotAuthorized),
            _ => None,
        }
    }
}

impl core::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} (0x{:02X})", self.text(), *self as u8)
    }
}
