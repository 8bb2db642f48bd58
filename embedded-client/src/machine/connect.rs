//! CONNECT and SUBSCRIBE on the way out, CONNACK on the way in.

use core::ops::Range;

#[cfg(feature = "v5")]
use lapwing_protocol::PacketType;
use lapwing_protocol::keepalive::ClientKeepAlive;
use lapwing_protocol::packet::{self, Connect, FromServer};
use lapwing_protocol::property::Properties;
#[cfg(feature = "v5")]
use lapwing_protocol::property::{self, Place, PropertyId};
use lapwing_protocol::{EncodeError, PacketId, ReasonCode};

use super::{Buffers, Machine, Phase};
use crate::Error;
use crate::event::Happened;
use crate::shelf::{Shelf, flag, kind};

/// The properties that the client itself puts into CONNECT, and those of an authenticator.
#[cfg(feature = "v5")]
const BLOCK: usize = if cfg!(feature = "auth") { 160 } else { 16 };

impl Machine<'_> {
    /// Writes CONNECT into the inbound buffer, near its front: where, `None` when it does not fit.
    pub(super) fn write_connect(&mut self, io: &mut Buffers<'_>) -> Option<Range<usize>> {
        self.connect(io).ok()
    }

    fn connect(&self, io: &mut Buffers<'_>) -> Result<Range<usize>, EncodeError> {
        let config = &self.config;
        #[cfg(feature = "v5")]
        let mut block = [0; BLOCK];
        #[cfg(feature = "v5")]
        let properties = self.connect_properties(io.inbox.len(), &mut block)?;
        // The block of the will lies in front of the packet.
        #[cfg(feature = "v5")]
        let will_len = match &config.will {
            Some(will) => property::encode_block(will.properties, Place::Will, io.inbox)?,
            None => 0,
        };
        #[cfg(feature = "v5")]
        let (will_block, out) = io.inbox.split_at_mut_checked(will_len).ok_or(EncodeError::OutputTooShort)?;
        #[cfg(feature = "v5")]
        let will_properties = Properties::parse(will_block, Place::Will).unwrap_or_default();
        #[cfg(not(feature = "v5"))]
        let (out, properties, will_properties, will_len) =
            (&mut *io.inbox, Properties::NONE, Properties::NONE, 0);
        let connect = Connect {
            version: self.version(),
            clean_start: config.clean_start && !(self.met && self.version().has_properties()),
            keep_alive_s: config.keep_alive_s,
            properties,
            client_id: config.client_id,
            will: config.will.as_ref().map(|will| packet::Will {
                qos: will.qos,
                retain: will.retain,
                properties: will_properties,
                topic: will.topic,
                payload: will.payload,
            }),
            user_name: config.user_name,
            password: config.password,
        };
        let place = connect.encode_as(self.client_id(&io.shelf), out)?;
        Ok(will_len + place.start..will_len + place.end)
    }

    /// The client identifier, or the one that the server chose the last time.
    #[inline(never)]
    fn client_id<'s>(&'s self, shelf: &'s Shelf<'_>) -> &'s [u8] {
        let own = self.config.client_id.as_bytes();
        if cfg!(not(feature = "v5")) || !own.is_empty() {
            return own;
        }
        let record = shelf.find(kind::CLIENT_ID, 0);
        shelf.slice(record.body(), record.end())
    }

    #[cfg(feature = "v5")]
    fn connect_properties<'b>(
        &self,
        inbox_len: usize,
        block: &'b mut [u8; BLOCK],
    ) -> Result<Properties<'b>, EncodeError> {
        let config = &self.config;
        let [a, b, c, d] = config.session_expiry_s.to_be_bytes();
        let [e, f, g, h] = (inbox_len as u32).to_be_bytes();
        let aliases = if self.no_inbound_aliases { 0 } else { config.inbound_aliases };
        let own = [
            PropertyId::SessionExpiryInterval as u8,
            a,
            b,
            c,
            d,
            PropertyId::ReceiveMaximum as u8,
            0,
            config.receive_maximum,
            PropertyId::TopicAliasMaximum as u8,
            0,
            aliases,
            // The last one, so that it can be left out.
            PropertyId::MaximumPacketSize as u8,
            e,
            f,
            g,
            h,
        ];
        let len = if config.chunks { own.len() - 5 } else { own.len() };
        for (place, byte) in block.iter_mut().zip(own) {
            *place = byte;
        }
        #[cfg(feature = "auth")]
        let len = len + self.auth_properties(block.get_mut(len..).unwrap_or(&mut []))?;
        let block = block.get(..len).unwrap_or(&[]);
        Properties::parse(block, Place::Packet(PacketType::Connect)).map_err(|_| EncodeError::NotInVersion)
    }

    #[cfg(feature = "auth")]
    fn auth_properties(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        use lapwing_protocol::property::Property;
        let Some(authenticator) = self.config.authenticator else { return Ok(0) };
        let mut data = [0; BLOCK / 2];
        let method = Property::AuthenticationMethod(authenticator.method());
        let first = authenticator.respond(None, &mut data).and_then(|len| data.get(..len));
        let list = [method, Property::AuthenticationData(first.unwrap_or(&[]))];
        let list = if first.is_some() { &list[..] } else { &list[..1] };
        property::encode_block(list, Place::Packet(PacketType::Connect), out)
    }

    /// Writes SUBSCRIBE for the subscriptions of the configuration into the inbound buffer.
    pub(super) fn write_subscribe(&mut self, io: &mut Buffers<'_>) -> Option<Range<usize>> {
        self.subscribing = 0;
        self.subscribing = self.allocate(&io.shelf);
        let packet_id = PacketId::new(self.subscribing)?;
        let list = self.config.all_subscriptions();
        packet::encode_subscribe(packet_id, list, self.version(), self.packet_bytes_max(), io.inbox).ok()
    }

    /// CONNACK came.
    pub(super) fn connected(&mut self, io: &mut Shelf<'_>, connack: &FromServer<'_>, now_ms: u32) {
        self.subscribe = false;
        if connack.reason != ReasonCode::Success {
            // The face closes the link, the pause grows.
            self.phase = Phase::Closing;
            self.why = connack.reason;
            let passing = matches!(
                connack.reason,
                ReasonCode::ServerUnavailable | ReasonCode::ServerBusy | ReasonCode::ConnectionRateExceeded
            );
            if !passing {
                self.tell = Happened::Failed(Error::Refused(connack.reason));
            }
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
            // What the server may have got is sent as new, what it has is over.
            io.forget(kind::RELEASE | kind::RECEIVED, flag::TRIED);
        }
        // After a start the subscriptions may be others than those of the session.
        self.subscribed &= connack.session_present;
        self.subscribe = !self.subscribed && !self.config.all_subscriptions().is_empty();
        self.met = true;
        self.announced = true;
        self.phase = Phase::Up;
        self.since_ms = now_ms;
        self.quota = quota;
        self.keep_alive = ClientKeepAlive::new(keep_alive_s, u32::from(self.config.response_ms), now_ms);
        self.introduced = 0;
        self.tell = Happened::Connected(connack.session_present);
    }
}
