//! Errors of packets, each one byte, and the remedy for each.
//!
//! An error names the rule that was broken. The reason code for the peer, the remedy and the text
//! for a log derive from it. So a microcontroller that never prints pays for no texts.

use crate::{ReasonCode, Version};

/// The answer of a receiver to a wrong packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Answer with this code, then close. Used for CONNECT: the code goes into CONNACK; MQTT 3 gets
    /// the nearest return code.
    Refuse(ReasonCode),
    /// Send DISCONNECT with this code, then close.
    Disconnect(ReasonCode),
    /// Close the network connection without an answer.
    Close,
}

macro_rules! decode_errors {
    ($($(#[$doc:meta])* $name:ident => $reason:ident, $text:literal;)+) => {
        /// The rule that a received packet broke.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DecodeError { $($(#[$doc])* $name,)+ }

        impl DecodeError {
            /// Returns the MQTT 5 reason code for the peer.
            pub const fn reason(self) -> ReasonCode {
                match self { $(DecodeError::$name => ReasonCode::$reason,)+ }
            }

            /// Returns the broken rule in words, for a log.
            pub const fn text(self) -> &'static str {
                match self { $(DecodeError::$name => $text,)+ }
            }
        }
    };
}

decode_errors! {
    /// The body ends inside a field.
    Truncated => MalformedPacket, "the packet ends inside a field";
    /// Bytes are left after the last field.
    TrailingBytes => MalformedPacket, "bytes are left over after the last field";
    /// `[MQTT-1.5.5-1]`: a variable byte integer of more than four bytes.
    VarintTooLong => MalformedPacket, "a variable byte integer has more than four bytes";
    /// `[MQTT-1.5.5-1]`: a variable byte integer that is not in its shortest form.
    VarintNotShortest => MalformedPacket, "a variable byte integer is not in its shortest form";
    /// `[MQTT-1.5.4-1]`: a string that is not UTF-8.
    NotUtf8 => MalformedPacket, "a string is not valid UTF-8";
    /// `[MQTT-1.5.4-2]`: a string with U+0000.
    NulInString => MalformedPacket, "a string contains U+0000";
    /// `2.1.2`: packet type 0, or 15 before MQTT 5.0.
    ReservedPacketType => MalformedPacket, "the packet type is reserved";
    /// `[MQTT-2.1.3-1]`: the flags of the fixed header are not those the standard sets.
    ReservedFlags => MalformedPacket, "the flags of the fixed header are wrong for this packet";
    /// `[MQTT-3.3.1-4]`: QoS bits 11.
    QoSInvalid => MalformedPacket, "QoS 3 does not exist";
    /// `[MQTT-3.3.1-2]`: DUP set on QoS 0.
    DupWithoutQoS => MalformedPacket, "DUP is set on a QoS 0 PUBLISH";
    /// The Remaining Length does not fit this packet type.
    LengthInvalid => MalformedPacket, "the remaining length is impossible for this packet";
    /// `[MQTT-3.1.2-24]`: the packet is larger than the receiver's Maximum Packet Size.
    PacketTooLarge => PacketTooLarge, "the packet is larger than the maximum packet size";
    /// `[MQTT-2.2.1-3]`: packet identifier 0.
    PacketIdZero => ProtocolError, "the packet identifier is 0";
    /// `[MQTT-3.1.2-1]`: the protocol name is not `MQTT` or `MQIsdp`.
    ProtocolName => UnsupportedProtocolVersion, "the protocol name is not MQTT";
    /// `[MQTT-3.1.2-2]`: the protocol level is not supported.
    ProtocolLevel => UnsupportedProtocolVersion, "the protocol level is not supported";
    /// `[MQTT-3.1.2-3]`: the reserved connect flag is set.
    ReservedConnectFlag => MalformedPacket, "the reserved connect flag is set";
    /// `[MQTT-3.1.2-11]`: will QoS or will retain without a will.
    WillFlags => MalformedPacket, "will QoS or will retain is set without a will";
    /// `[MQTT-3.1.2-22]` of 3.1.1: a password without a user name.
    PasswordWithoutUserName => MalformedPacket, "a password is given without a user name";
    /// `[MQTT-3.3.2-2]`: a wildcard in a topic name.
    WildcardInTopicName => TopicNameInvalid, "a topic name contains a wildcard";
    /// `[MQTT-4.7.3-1]`: an empty topic name (without a topic alias).
    TopicNameEmpty => ProtocolError, "the topic name is empty and there is no topic alias";
    /// `[MQTT-4.7.1-1]` and its neighbours: a topic filter against the rules.
    TopicFilterInvalid => TopicFilterInvalid, "a topic filter is not valid";
    /// `[MQTT-3.8.3-4]`: No Local on a shared subscription.
    NoLocalOnShared => ProtocolError, "No Local is set on a shared subscription";
    /// `[MQTT-3.8.3-5]`: reserved bits of the subscription options.
    ReservedSubscriptionOptions => MalformedPacket, "reserved bits of the subscription options are set";
    /// `3.8.3.1`: Retain Handling 3.
    RetainHandlingInvalid => ProtocolError, "Retain Handling 3 does not exist";
    /// `[MQTT-3.8.3-2]`, `[MQTT-3.10.3-2]`: a SUBSCRIBE or UNSUBSCRIBE without a topic filter.
    NoTopicFilter => ProtocolError, "there is no topic filter";
    /// A SUBACK or UNSUBACK without a reason code.
    NoReasonCode => ProtocolError, "there is no reason code";
    /// A reason code that does not exist, or does not belong in this packet.
    ReasonCodeInvalid => ProtocolError, "the reason code does not belong in this packet";
    /// `[MQTT-3.2.2-6]`: Session Present with a refusal.
    SessionPresentWithError => ProtocolError, "Session Present is set on a refusal";
    /// `2.2.2.2`: an identifier that no property has.
    PropertyUnknown => MalformedPacket, "a property identifier is not known";
    /// `2.2.2.2`: a property that does not belong in this packet.
    PropertyNotAllowed => MalformedPacket, "a property does not belong in this packet";
    /// A property that may occur once occurs twice.
    PropertyDuplicate => ProtocolError, "a property occurs twice";
    /// A property whose value is outside its range.
    PropertyValue => ProtocolError, "a property has a value outside its range";
    /// `[MQTT-3.3.2-8]`: topic alias 0.
    TopicAliasZero => TopicAliasInvalid, "the topic alias is 0";
    /// `3.1.2.11.10`: authentication data without a method.
    AuthenticationDataWithoutMethod => ProtocolError, "authentication data is given without a method";
}

impl DecodeError {
    /// Returns the remedy for a connection whose CONNECT was accepted. MQTT 3 has no reason codes
    /// there.
    pub const fn remedy(self, version: Version) -> Remedy {
        match version {
            Version::V5 => Remedy::Disconnect(self.reason()),
            _ => Remedy::Close,
        }
    }

    /// Returns the remedy for a connection whose CONNECT was wrong.
    ///
    /// A server may answer a malformed CONNECT (`[MQTT-4.13.1-1]`). It must name an unknown
    /// protocol level (`[MQTT-3.1.2-2]`), and closes without an answer otherwise.
    pub const fn remedy_for_connect(self) -> Remedy {
        match self {
            DecodeError::ProtocolLevel => Remedy::Refuse(ReasonCode::UnsupportedProtocolVersion),
            _ => Remedy::Close,
        }
    }
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for DecodeError {}

/// Error of an encoder. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EncodeError {
    /// A string or binary value is longer than 65,535 bytes.
    StringTooLong,
    /// The packet is longer than the peer's Maximum Packet Size, or than MQTT allows, even without
    /// its optional parts.
    PacketTooLarge,
    /// The output is shorter than the packet.
    OutputTooShort,
    /// The packet or value does not exist in this protocol version (AUTH, an empty topic name …).
    NotInVersion,
    /// A QoS 1 or 2 PUBLISH has no packet identifier, or a QoS 0 one has.
    PacketIdMismatch,
}

impl EncodeError {
    /// Returns the error in words, for a log.
    pub const fn text(self) -> &'static str {
        match self {
            EncodeError::StringTooLong => "a string is longer than 65,535 bytes",
            EncodeError::PacketTooLarge => "the packet is larger than the peer's maximum packet size",
            EncodeError::OutputTooShort => "the output buffer is shorter than the packet",
            EncodeError::NotInVersion => "the packet does not exist in this protocol version",
            EncodeError::PacketIdMismatch => "QoS and packet identifier do not fit together",
        }
    }
}

impl core::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for EncodeError {}
