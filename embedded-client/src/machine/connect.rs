//! CONNECT and SUBSCRIBE on the way out, CONNACK on the way in.

use core::ops::Range;

use lapwing_protocol::packet::{self, Connect, FromServer};
use lapwing_protocol::property::Properties;
#[cfg(feature = "v5")]
use lapwing_protocol::property::{Property, PropertyId};
use lapwing_protocol::{EncodeError, PacketId, ReasonCode};

use super::{Buffers, Machine, Phase};
use crate::Error;
use crate::event::Happened;
use crate::shelf::{Shelf, flag, kind};

/// Maximum length of an authenticator's first data, in bytes.
#[cfg(feature = "auth")]
const AUTH_DATA: usize = 80;

impl Machine<'_> {
    /// Writes CONNECT into the inbound buffer, near its front. Returns its range; `None` when it
    /// does not fit.
    pub(super) fn write_connect(&mut self, io: &mut Buffers<'_>) -> Option<Range<usize>> {
        self.connect(io).ok()
    }

    fn connect(&self, io: &mut Buffers<'_>) -> Result<Range<usize>, EncodeError> {
        let config = &self.config;
        #[cfg(feature = "auth")]
        let mut data = [0; AUTH_DATA];
        #[cfg(feature = "v5")]
        let list = [
            Property::SessionExpiryInterval(config.session_expiry_s),
            Property::ReceiveMaximum(config.receive_maximum.into()),
            Property::TopicAliasMaximum(if self.no_inbound_aliases {
                0
            } else {
                config.inbound_aliases.into()
            }),
            // The last one, so that it can be left out.
            Property::MaximumPacketSize(io.inbox.len() as u32),
        ];
        #[cfg(feature = "v5")]
        let properties = if config.chunks { list.get(..3).unwrap_or(&list) } else { &list };
        #[cfg(feature = "auth")]
        let properties = &self.with_authentication(properties, &mut data);
        #[cfg(feature = "v5")]
        let will_properties = config.will.as_ref().map_or(&[][..], |will| will.properties);
        #[cfg(not(feature = "v5"))]
        let (properties, will_properties) = (&[], &[]);
        let connect = Connect {
            version: self.version(),
            clean_start: config.clean_start && !(self.connected_once && self.version().has_properties()),
            keep_alive_s: config.keep_alive_s,
            properties: Properties::NONE,
            client_id: config.client_id,
            will: config.will.as_ref().map(|will| packet::Will {
                qos: will.qos,
                retain: will.retain,
                properties: Properties::NONE,
                topic: will.topic,
                payload: will.payload,
            }),
            user_name: config.user_name,
            password: config.password,
        };
        connect.encode_as(self.client_id(&io.shelf), properties, will_properties, io.inbox)
    }

    /// Returns the client identifier, or the one that the server chose last.
    #[inline(never)]
    fn client_id<'s>(&'s self, shelf: &'s Shelf<'_>) -> &'s [u8] {
        let own = self.config.client_id.as_bytes();
        if cfg!(not(feature = "v5")) || !own.is_empty() {
            return own;
        }
        let record = shelf.find(kind::CLIENT_ID, 0);
        shelf.slice(record.body(), record.end())
    }

    /// Returns the properties, with those of the authenticator if there is one.
    #[cfg(feature = "auth")]
    fn with_authentication<'p>(
        &'p self,
        own: &[Property<'p>],
        data: &'p mut [u8],
    ) -> heapless::Vec<Property<'p>, 6> {
        let mut list: heapless::Vec<_, 6> = own.iter().copied().collect();
        if let Some(authenticator) = self.config.authenticator {
            let first = authenticator.respond(None, data).and_then(|len| data.get(..len));
            list.extend([Property::AuthenticationMethod(authenticator.method())]);
            list.extend(first.map(Property::AuthenticationData));
        }
        list
    }

    /// Writes SUBSCRIBE for the subscriptions of the configuration into the inbound buffer.
    pub(super) fn write_subscribe(&mut self, io: &mut Buffers<'_>) -> Option<Range<usize>> {
        self.subscribing = 0;
        self.subscribing = self.allocate(&io.shelf);
        let packet_id = PacketId::new(self.subscribing)?;
        let list = self.config.all_subscriptions();
        packet::encode_subscribe(packet_id, list, self.version(), self.packet_bytes_max(), io.inbox).ok()
    }

    /// Writes the birth message into the inbound buffer.
    #[cfg(feature = "birth")]
    pub(super) fn write_birth(&mut self, io: &mut Buffers<'_>) -> Option<Range<usize>> {
        self.birth_due = false;
        let (topic, payload) = self.config.birth?;
        if !lapwing_protocol::topic::is_name(topic) {
            return None;
        }
        #[cfg(feature = "v5")]
        let may_retain = self.limits.retain;
        #[cfg(not(feature = "v5"))]
        let may_retain = true;
        let retain = may_retain && self.config.will.as_ref().is_some_and(|will| will.retain);
        let header = packet::PublishHeader {
            retain,
            topic: topic.as_bytes(),
            payload_len: payload.len(),
            ..packet::PublishHeader::default()
        };
        let head = header.encode(self.version(), self.packet_bytes_max(), io.inbox).ok()?;
        let place = head..head + payload.len();
        lapwing_protocol::copy(io.inbox.get_mut(place.clone())?, payload);
        Some(0..place.end)
    }

    /// Notes that the server refused the connection. The front end closes the link, and the pause
    /// grows.
    pub(super) fn refused(&mut self, reason: ReasonCode) {
        self.phase = Phase::Closing;
        self.end_reason = reason;
        let passing = matches!(
            reason,
            ReasonCode::ServerUnavailable | ReasonCode::ServerBusy | ReasonCode::ConnectionRateExceeded
        );
        if !passing {
            self.tell = Happened::Failed(Error::Refused(reason));
        }
    }

    /// Handles CONNACK.
    pub(super) fn connected(&mut self, io: &mut Shelf<'_>, connack: &FromServer<'_>, now_ms: u32) {
        self.subscribe = false;
        if connack.reason != ReasonCode::Success {
            return self.refused(connack.reason);
        }
        #[cfg(feature = "auth")]
        if let Some(authenticator) = self.config.authenticator
            && self.version().has_properties()
            && !authenticator.conclude(connack.properties.authentication_data().unwrap_or(&[]))
        {
            self.fail(ReasonCode::NotAuthorized, now_ms);
            self.tell = Happened::Failed(Error::ServerUnproven);
            return;
        }
        let mut keep_alive_s = self.config.keep_alive_s;
        let mut quota = u16::from(self.config.send_maximum);
        #[cfg(feature = "v5")]
        for (id, value, bytes) in connack.properties.raw() {
            const RECEIVE_MAXIMUM: u8 = PropertyId::ReceiveMaximum as u8;
            const MAXIMUM_PACKET_SIZE: u8 = PropertyId::MaximumPacketSize as u8;
            const TOPIC_ALIAS_MAXIMUM: u8 = PropertyId::TopicAliasMaximum as u8;
            const MAXIMUM_QOS: u8 = PropertyId::MaximumQoS as u8;
            const RETAIN_AVAILABLE: u8 = PropertyId::RetainAvailable as u8;
            const SERVER_KEEP_ALIVE: u8 = PropertyId::ServerKeepAlive as u8;
            const ASSIGNED_CLIENT_IDENTIFIER: u8 = PropertyId::AssignedClientIdentifier as u8;
            match id {
                RECEIVE_MAXIMUM => quota = quota.min(value as u16),
                MAXIMUM_PACKET_SIZE => self.limits.packet_bytes = value,
                TOPIC_ALIAS_MAXIMUM => self.limits.aliases = value as u16,
                MAXIMUM_QOS => self.limits.qos = value as u8,
                RETAIN_AVAILABLE => self.limits.retain = value != 0,
                SERVER_KEEP_ALIVE => keep_alive_s = value as u16,
                ASSIGNED_CLIENT_IDENTIFIER => {
                    io.forget(kind::CLIENT_ID, 0);
                    io.push(kind::CLIENT_ID, 0, bytes);
                    self.dirty = true;
                }
                _ => {}
            }
        }
        #[cfg(not(feature = "v5"))]
        let _ = (&mut keep_alive_s, &mut quota);
        if !connack.session_present {
            // Messages that the server may have are sent as new. Flights that it has are over.
            io.forget(kind::RELEASE | kind::RECEIVED, flag::TRIED);
            self.foreign = false;
        }
        // After a start, the subscriptions may differ from those of the session.
        self.subscribed &= connack.session_present;
        self.subscribe = !self.subscribed && !self.config.all_subscriptions().is_empty();
        #[cfg(feature = "birth")]
        {
            self.birth_due = self.config.birth.is_some();
        }
        self.connected_once = true;
        self.announced = true;
        self.phase = Phase::Up;
        self.since_ms = now_ms;
        self.quota = quota;
        self.keep_alive_s = keep_alive_s;
        self.sent_ms = now_ms;
        self.introduced = 0;
        self.tell = Happened::Connected(connack.session_present);
    }
}
