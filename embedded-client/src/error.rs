//! What can go wrong, in one byte each.

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
    /// Why a message or a request was not taken into the outbox.
    PublishError {
        /// There is no room in the outbox, now or (when it is empty) at all.
        Full => "the outbox is full: publish later, choose another policy, or make the outbox larger",
        /// The topic name is empty, has a wildcard or U+0000; or the topic filter is not valid.
        TopicInvalid => "the topic is not valid",
        /// A property that does not belong in PUBLISH, or whose value is out of range or longer than 65,535 bytes.
        PropertyInvalid => "a property is not valid in a PUBLISH",
    }
}

/// What the application has to know about. A lost link is not among it: the client connects again by itself. After each of
/// these the next call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The server refused the connection, for a reason that waiting alone does not cure (MQTT 3.1.1: the nearest). The next
    /// call waits, then tries again.
    Refused(ReasonCode),
    /// The server refused a subscription of the [`Config`](crate::Config); the others stand.
    SubscriptionRefused,
    /// A message was larger than the inbound buffer: it was acknowledged and skipped. See [`Config::chunks`](crate::Config::chunks).
    MessageSkipped,
    /// CONNECT or SUBSCRIBE is longer than the inbound buffer, in which they are written: make it larger. Or a string is longer
    /// than 65,535 bytes, or a will property is not valid.
    ConfigTooLarge,
    /// More than [`SUBSCRIPTIONS_INLINE`](crate::SUBSCRIPTIONS_INLINE) subscriptions: use
    /// [`Config::subscriptions`](crate::Config::subscriptions).
    TooManySubscriptions,
    /// The [`Authenticator`](crate::Authenticator) did not believe the server that let it in. The next call waits, then tries again.
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
                "a message larger than the inbound buffer was skipped: enlarge it, or take chunks",
            ),
            Error::ConfigTooLarge => {
                f.write_str("CONNECT or SUBSCRIBE does not fit into the inbound buffer: enlarge it")
            }
            Error::TooManySubscriptions => {
                f.write_str("too many subscriptions: hand them over as a list with Config::subscriptions")
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
            #[cfg(feature = "auth")]
            Error::ServerUnproven => defmt::write!(f, "the server did not prove who it is"),
        }
    }
}

/// A link or a dial failed. The reason is the dialer's to log: the client dials again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LinkDown;
