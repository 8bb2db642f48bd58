//! Errors, one byte each.

use lapwing_protocol::ReasonCode;

macro_rules! errors {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        #[cfg(feature = "display")]
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(match self { $($name::$variant => $text,)+ })
            }
        }

        #[cfg(feature = "display")]
        impl core::error::Error for $name {}
    };
}

errors! {
    /// Reason why a message or a request was not stored in the outbox.
    PublishError {
        /// The outbox has no room now; if it is empty, it is too small.
        Full => "the outbox is full: publish later, choose another policy, or enlarge the outbox",
        /// The topic name is empty, or has a wildcard or U+0000; or the topic filter is not valid.
        TopicInvalid => "the topic is not valid",
        /// A property does not belong in PUBLISH, is out of range, or is longer than 65,535 bytes.
        PropertyInvalid => "a property is not valid in a PUBLISH",
    }
}

/// Errors that the application has to know. The next call continues.
///
/// A lost link is none of them: the client connects again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The server refused the connection for a reason that waiting alone does not cure. MQTT 3.1.1
    /// gives the nearest reason.
    ///
    /// The next call waits, then tries again.
    Refused(ReasonCode),
    /// The server refused a subscription of the [`Config`](crate::Config). The others are in force.
    SubscriptionRefused,
    /// A message was larger than the inbound buffer. It was acknowledged and skipped. See
    /// [`Config::chunks`](crate::Config::chunks).
    MessageSkipped,
    /// CONNECT, SUBSCRIBE or the birth message does not fit into the inbound buffer; enlarge it.
    ///
    /// Or a string is longer than 65,535 bytes, or a will property or the topic of the birth
    /// message is not valid.
    ConfigTooLarge,
    /// More than [`SUBSCRIPTIONS_INLINE`](crate::SUBSCRIPTIONS_INLINE) subscriptions. Use
    /// [`Config::subscriptions`](crate::Config::subscriptions).
    TooManySubscriptions,
    /// The payload of [`publish_in_pieces`](crate::Client::publish_in_pieces) must be sent now:
    /// only a front end that waits for any event can ask for it.
    PayloadWanted,
    /// The [`Authenticator`](crate::Authenticator) rejected the server. The next call waits, then
    /// tries again.
    #[cfg(feature = "auth")]
    ServerUnproven,
}

#[cfg(feature = "display")]
impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Refused(reason) => write!(f, "the server refused the connection: {reason}"),
            Error::SubscriptionRefused => f.write_str("the server refused a subscription"),
            Error::MessageSkipped => f.write_str(
                "a message larger than the inbound buffer was skipped: enlarge the buffer, or accept chunks",
            ),
            Error::ConfigTooLarge => {
                f.write_str("CONNECT or SUBSCRIBE does not fit into the inbound buffer: enlarge the buffer")
            }
            Error::TooManySubscriptions => f.write_str("too many subscriptions: use Config::subscriptions"),
            Error::PayloadWanted => {
                f.write_str("an announced payload must be sent now: wait with `event` or `poll` and send it")
            }
            #[cfg(feature = "auth")]
            Error::ServerUnproven => f.write_str("the server did not prove who it is"),
        }
    }
}

#[cfg(feature = "display")]
impl core::error::Error for Error {}

#[cfg(feature = "defmt")]
impl defmt::Format for Error {
    fn format(&self, f: defmt::Formatter<'_>) {
        match self {
            Error::Refused(reason) => defmt::write!(f, "refused, reason code {=u8:#x}", *reason as u8),
            Error::SubscriptionRefused => defmt::write!(f, "a subscription was refused"),
            Error::MessageSkipped => defmt::write!(f, "a message larger than the inbound buffer was skipped"),
            Error::ConfigTooLarge => {
                defmt::write!(f, "CONNECT or SUBSCRIBE is larger than the inbound buffer")
            }
            Error::TooManySubscriptions => defmt::write!(f, "too many subscriptions"),
            Error::PayloadWanted => defmt::write!(f, "an announced payload must be sent now"),
            #[cfg(feature = "auth")]
            Error::ServerUnproven => defmt::write!(f, "the server did not prove who it is"),
        }
    }
}

/// A link or a dial failed. The dialer logs the cause; the client dials again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LinkDown;
