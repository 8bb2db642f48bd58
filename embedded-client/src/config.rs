//! Configuration of a client: identity, limits, subscriptions.

use heapless::Vec;
use lapwing_protocol::packet::Subscription;
use lapwing_protocol::property::Property;
use lapwing_protocol::{QoS, Version};

/// Maximum number of subscriptions for [`Config::subscribe`]. [`Config::subscriptions`] takes any
/// number.
pub const SUBSCRIPTIONS_INLINE: usize = 4;

/// The message that the server publishes when the client is gone without DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// The topic name.
    pub topic: &'a str,
    /// Payload, 0 to 65,535 bytes.
    pub payload: &'a [u8],
    /// The QoS.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// MQTT 5: content type, will delay, message expiry, user properties, …
    pub properties: &'a [Property<'a>],
}

impl<'a> Will<'a> {
    /// Creates a will with QoS 0 that is not retained.
    pub const fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Will { topic, payload, qos: QoS::AtMostOnce, retain: false, properties: &[] }
    }

    /// Makes the server retain the will.
    pub const fn retained(mut self) -> Self {
        self.retain = true;
        self
    }
}

/// Treatment of new messages while earlier ones wait in the outbox. A message whose sending has
/// begun is never dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Policy {
    /// A full outbox refuses the new message.
    #[default]
    Reject,
    /// A full outbox drops its oldest messages that were not sent yet.
    DropOldest,
    /// A new message replaces an unsent one with the same topic. A full outbox refuses.
    LatestPerTopic,
}

/// Configuration of a [`Client`](crate::Client). Everything but the client identifier has a
/// default.
#[derive(Clone)]
pub struct Config<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) user_name: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) will: Option<Will<'a>>,
    #[cfg(feature = "birth")]
    pub(crate) birth: Option<(&'a str, &'a [u8])>,
    pub(crate) inline: Vec<Subscription<'a>, SUBSCRIPTIONS_INLINE>,
    pub(crate) listed: &'a [Subscription<'a>],
    #[cfg(feature = "v5")]
    pub(crate) aliased: &'a [&'a str],
    #[cfg(feature = "auth")]
    pub(crate) authenticator: Option<&'a dyn crate::Authenticator>,
    pub(crate) session_expiry_s: u32,
    pub(crate) backoff_max_ms: u32,
    pub(crate) backoff_min_ms: u16,
    pub(crate) keep_alive_s: u16,
    pub(crate) response_ms: u16,
    pub(crate) receive_maximum: u8,
    pub(crate) send_maximum: u8,
    pub(crate) inbound_aliases: u8,
    pub(crate) version: Version,
    pub(crate) policy: Policy,
    pub(crate) clean_start: bool,
    pub(crate) chunks: bool,
    pub(crate) too_many: bool,
}

impl<'a> Config<'a> {
    /// Creates a configuration with this client identifier, which names the session at the server.
    ///
    /// Every server accepts 1 to 23 letters and digits. If it is empty, the server chooses one.
    pub const fn new(client_id: &'a str) -> Self {
        Config {
            client_id,
            user_name: None,
            password: None,
            will: None,
            #[cfg(feature = "birth")]
            birth: None,
            inline: Vec::new(),
            listed: &[],
            #[cfg(feature = "v5")]
            aliased: &[],
            #[cfg(feature = "auth")]
            authenticator: None,
            session_expiry_s: 24 * 3600,
            backoff_max_ms: 60_000,
            backoff_min_ms: 1_000,
            keep_alive_s: 60,
            response_ms: 10_000,
            receive_maximum: 8,
            send_maximum: 16,
            inbound_aliases: 0,
            version: if cfg!(feature = "v5") { Version::V5 } else { Version::V311 },
            policy: Policy::Reject,
            clean_start: false,
            chunks: false,
            too_many: false,
        }
    }

    /// Sets the protocol version, MQTT 3.1.1 or 5.0, where both features (`v3` and `v5`) are on.
    /// Default 5.0; other values count as 3.1.1.
    pub const fn version(mut self, version: Version) -> Self {
        self.version = match version {
            Version::V5 => Version::V5,
            _ => Version::V311,
        };
        self
    }

    /// Sets user name and password.
    pub const fn login(mut self, user_name: &'a str, password: &'a [u8]) -> Self {
        self.user_name = Some(user_name);
        self.password = Some(password);
        self
    }

    /// Sets the seconds without a packet to the server, or without a byte from it, after which the
    /// client pings. Default 60.
    ///
    /// A dead link is found within this time and the response timeout, whatever is published
    /// meanwhile. With 0 it is found only by writing. The server may overrule the value (Server
    /// Keep Alive).
    pub const fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    /// Sets the response timeout in milliseconds. Default 10,000.
    ///
    /// It bounds a dial, and then each silence: before CONNACK, after a ping, and in a write or a
    /// flush that stalls. After that the link counts as dead. Bytes of a packet that is still
    /// coming end a silence.
    pub const fn response_timeout_ms(mut self, ms: u16) -> Self {
        self.response_ms = ms;
        self
    }

    /// Sets a will with QoS 0 that is not retained. [`will_with`](Self::will_with) sets the other
    /// options.
    pub const fn will(self, topic: &'a str, payload: &'a [u8]) -> Self {
        self.will_with(Will::new(topic, payload))
    }

    /// Sets the will.
    pub const fn will_with(mut self, will: Will<'a>) -> Self {
        self.will = Some(will);
        self
    }

    /// Sets a birth message: the counterpart of the will, which the client publishes whenever it
    /// has connected.
    ///
    /// It has QoS 0, and is retained if the will is. It leaves before all other messages, and does
    /// not take room in the outbox; it must fit into the inbound buffer.
    #[cfg(feature = "birth")]
    pub const fn birth(mut self, topic: &'a str, payload: &'a [u8]) -> Self {
        self.birth = Some((topic, payload));
        self
    }

    /// Subscribes to a topic filter, again whenever the server has lost the session.
    ///
    /// At most [`SUBSCRIPTIONS_INLINE`]; the first `next` reports one too many.
    pub fn subscribe(self, filter: &'a str, qos: QoS) -> Self {
        self.subscribe_with(Subscription::new(filter, qos))
    }

    /// Subscribes with the options of MQTT 5. Otherwise it is the same as
    /// [`subscribe`](Self::subscribe).
    pub fn subscribe_with(mut self, subscription: Subscription<'a>) -> Self {
        self.too_many |= self.inline.push(subscription).is_err();
        self
    }

    /// Sets a list of subscriptions of any length, instead of those of
    /// [`subscribe`](Self::subscribe).
    pub const fn subscriptions(mut self, list: &'a [Subscription<'a>]) -> Self {
        self.listed = list;
        self
    }

    /// Starts with a new session, so that the server discards the old one. Default `false`.
    ///
    /// In MQTT 5 that happens once after the start, in MQTT 3.1.1 with each connection.
    pub const fn clean_start(mut self, clean: bool) -> Self {
        self.clean_start = clean;
        self
    }

    /// MQTT 5: sets the seconds that the server keeps the session without a connection. Default one
    /// day.
    pub const fn session_expiry_s(mut self, seconds: u32) -> Self {
        self.session_expiry_s = seconds;
        self
    }

    /// MQTT 5: sets the number of QoS 1 and 2 messages that the server may have in flight to this
    /// client. Range 1 to 255, default 8.
    ///
    /// The outbox keeps six bytes free for each, for QoS 2 identifiers.
    pub const fn receive_maximum(mut self, messages: u8) -> Self {
        self.receive_maximum = if messages == 0 { 1 } else { messages };
        self
    }

    /// Sets the number of QoS 1 and 2 messages that this client has in flight. Range 1 to 255,
    /// default 16.
    ///
    /// An MQTT 5 server may lower it (Receive Maximum). Mosquitto 2.0 loses QoS 2 messages of MQTT
    /// 3.1.1 clients that have more than 20 in flight.
    pub const fn send_maximum(mut self, messages: u8) -> Self {
        self.send_maximum = if messages == 0 { 1 } else { messages };
        self
    }

    /// Sets the policy of the outbox. Default [`Policy::Reject`].
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the shortest and longest pause between two attempts to connect, in milliseconds.
    /// Default 1,000 and 60,000.
    ///
    /// The pause doubles with each failure, and is cut by up to a half at random. 0 counts as 1.
    pub const fn backoff_ms(mut self, shortest: u16, longest: u32) -> Self {
        self.backoff_min_ms = if shortest == 0 { 1 } else { shortest };
        self.backoff_max_ms = if longest == 0 { 1 } else { longest };
        self
    }

    /// Accepts messages larger than the inbound buffer: the beginning as a message, the rest as
    /// chunks.
    ///
    /// Without it, an MQTT 5 server is told the size of the buffer. Larger messages of an MQTT
    /// 3.1.1 server are skipped.
    pub const fn chunks(mut self, take: bool) -> Self {
        self.chunks = take;
        self
    }

    /// MQTT 5: sets topics that are sent as a number from the second time on. The server bounds how
    /// many, at most 32.
    #[cfg(feature = "v5")]
    pub const fn alias_topics(mut self, topics: &'a [&'a str]) -> Self {
        self.aliased = topics;
        self
    }

    /// MQTT 5: sets the number of topic aliases for the server. Their topics are kept in the
    /// outbox. Default 0.
    pub const fn inbound_aliases(mut self, aliases: u8) -> Self {
        self.inbound_aliases = aliases;
        self
    }

    /// MQTT 5: sets the hook for enhanced authentication. Without it, AUTH ends the connection.
    /// MQTT 3.1.1 has none.
    #[cfg(feature = "auth")]
    pub const fn authenticate(mut self, authenticator: &'a dyn crate::Authenticator) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    pub(crate) fn all_subscriptions(&self) -> &[Subscription<'a>] {
        if self.listed.is_empty() { &self.inline } else { self.listed }
    }
}
