//! Inbound packets: bytes are gathered until a packet is complete, and never beyond it.

use lapwing_protocol::packet::{FromServer, PacketType};
#[cfg(feature = "v5")]
use lapwing_protocol::property::{Properties, PropertyId};
use lapwing_protocol::{DecodeError, QoS, ReasonCode, varint};

use super::{Buffers, Machine, Phase};
use crate::Error;
use crate::event::{Event, Happened, Message};
use crate::flights::Answer;
use crate::shelf::{Shelf, kind};

/// The packet that is being received.
#[repr(C)]
pub(super) struct Incoming {
    /// QoS and packet identifier for the answer.
    qos: QoS,
    /// True if the packet is delivered; otherwise it is skipped.
    wanted: bool,
    id: u16,
    /// Number of bytes in the inbound buffer, and the number needed before the next look.
    len: u16,
    need: u16,
    /// Number of bytes still missing of a message larger than the buffer.
    pub(super) left: u32,
    /// Positions of the parts of a message, or of its last piece, and its flags.
    topic: u16,
    topic_end: u16,
    properties: u16,
    payload: u16,
    end: u16,
    alias: u8,
    flags: u8,
}

impl Incoming {
    pub(super) const NONE: Incoming = Incoming {
        qos: QoS::AtMostOnce,
        wanted: false,
        id: 0,
        len: 0,
        need: 0,
        left: 0,
        topic: 0,
        topic_end: 0,
        properties: 0,
        payload: 0,
        end: 0,
        alias: 0,
        flags: 0,
    };

    /// Prepares for the next packet.
    pub(super) fn next(&mut self) {
        self.len = 0;
        self.need = 2;
    }
}

/// A rule that the server broke.
struct Broken(ReasonCode);

impl From<DecodeError> for Broken {
    fn from(error: DecodeError) -> Self {
        Broken(if cfg!(feature = "v5") { error.reason() } else { ReasonCode::MalformedPacket })
    }
}

#[cfg(feature = "v5")]
fn alias_of(properties: &Properties<'_>) -> Option<u16> {
    let alias =
        |(id, value, _): (u8, u32, &[u8])| (id == PropertyId::TopicAlias as u8).then_some(value as u16);
    properties.raw().find_map(alias)
}

const NOT_FOUND: ReasonCode = ReasonCode::PacketIdentifierNotFound;
/// First byte of CONNACK.
const CONNACK: u8 = (PacketType::ConnAck as u8) << 4;
const PROTOCOL_ERROR: Broken = Broken(ReasonCode::ProtocolError);

impl Machine<'_> {
    /// Returns the buffer for the next bytes; never empty.
    pub(crate) fn wanted<'b>(&self, io: &'b mut Buffers<'_>) -> &'b mut [u8] {
        let inbound = &self.inbound;
        let (from, to) = if inbound.left > 0 {
            (0, inbound.left.min(u32::from(u16::MAX)) as usize)
        } else {
            (usize::from(inbound.len), usize::from(inbound.need))
        };
        let to = to.min(io.inbox.len());
        io.inbox.get_mut(from..to).unwrap_or(&mut [])
    }

    /// Notes received bytes. The next step says what they mean.
    pub(crate) fn received(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) {
        // Bytes of a packet that is still coming show that the server is there.
        self.heard(now_ms);
        self.extend_deadline(now_ms);
        if let Err(Broken(reason)) = self.gather(io, n, now_ms) {
            if self.phase == Phase::Opening && io.inbox.first() == Some(&CONNACK) {
                // An unknown code is a refusal. Without properties, the server does not know MQTT
                // 5.
                let older = self.version().has_properties() && io.inbox.get(1) == Some(&2);
                let reason = if older { ReasonCode::UnsupportedProtocolVersion } else { reason };
                self.tell = Happened::Failed(Error::Refused(reason));
            }
            self.fail(reason, now_ms);
        }
    }

    fn gather(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) -> Result<(), Broken> {
        if self.inbound.left > 0 {
            self.next_piece(n);
            return Ok(());
        }
        self.inbound.len += n as u16;
        if self.inbound.len < self.inbound.need {
            return Ok(());
        }
        let bytes = io.inbox.get(..usize::from(self.inbound.len)).unwrap_or(&[]);
        let Some((remaining, n)) = varint::read(bytes.get(1..).unwrap_or(&[]))? else {
            self.inbound.need = self.inbound.len + 1;
            return Ok(());
        };
        let head = 1 + n;
        let total = head + remaining as usize;
        let here = total.min(io.inbox.len());
        let first = bytes.first().map_or(0, |first| *first);
        if here < total && first >> 4 != PacketType::Publish as u8 {
            return Err(Broken(ReasonCode::PacketTooLarge));
        }
        self.inbound.need = here as u16;
        if bytes.len() < here {
            return Ok(());
        }
        self.inbound.next();
        self.inbound.left = (total - here) as u32;
        self.packet(io, head, here, now_ms)
    }

    /// Prepares the next piece of a message larger than the buffer.
    fn next_piece(&mut self, n: usize) {
        self.inbound.end = n as u16;
        self.inbound.left = self.inbound.left.saturating_sub(n as u32);
        if self.inbound.left == 0 {
            self.acknowledge();
        }
        if self.inbound.wanted {
            self.tell = Happened::Chunk;
        }
    }

    fn acknowledge(&mut self) {
        match self.inbound.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.out.reply(PacketType::PubAck, self.inbound.id, ReasonCode::Success),
            QoS::ExactlyOnce => self.out.reply(PacketType::PubRec, self.inbound.id, ReasonCode::Success),
        }
    }

    /// Notes that the link was lost inside a message. The server sends it again from its beginning.
    pub(super) fn abort_long_message(&mut self, io: &mut Buffers<'_>) {
        let record = io.shelf.find(kind::RECEIVED, self.inbound.id);
        if self.inbound.left > 0 && record.kind() != 0 && self.inbound.wanted {
            io.shelf.remove(record);
        }
    }

    fn packet(&mut self, io: &mut Buffers<'_>, head: usize, len: usize, now_ms: u32) -> Result<(), Broken> {
        let first = io.inbox.first().map_or(0, |first| *first);
        let body = io.inbox.get(head..len).unwrap_or(&[]);
        // CONNACK comes first and once. AUTH may come before it, DISCONNECT at any time.
        let opening = self.phase == Phase::Opening;
        let packet = FromServer::decode(first, body, self.version())?;
        match packet.packet {
            PacketType::ConnAck if opening => {
                self.connected(&mut io.shelf, &packet, now_ms);
                Ok(())
            }
            #[cfg(feature = "auth")]
            PacketType::Auth => self.authenticate(io, head, len),
            PacketType::Disconnect if self.version().has_properties() => {
                self.phase = Phase::Closing;
                self.end_reason = packet.reason;
                Ok(())
            }
            PacketType::ConnAck | PacketType::Disconnect => Err(PROTOCOL_ERROR),
            #[cfg(not(feature = "auth"))]
            PacketType::Auth => Err(PROTOCOL_ERROR),
            _ if opening => Err(PROTOCOL_ERROR),
            PacketType::Publish => {
                let inbound = &mut self.inbound;
                // Positions follow from the lengths of topic length, topic, identifier, properties
                // and payload.
                inbound.flags = first & 0x0f;
                inbound.topic = head as u16 + 2;
                inbound.topic_end = inbound.topic + packet.topic.len() as u16;
                inbound.end = len as u16;
                inbound.payload = inbound.end - packet.payload.len() as u16;
                inbound.properties = inbound.payload - packet.properties.as_bytes().len() as u16;
                inbound.qos = QoS::from_u8(first >> 1 & 3).unwrap_or_default();
                inbound.id = packet.packet_id;
                self.message(&mut io.shelf, &packet)
            }
            PacketType::PingResp => Ok(()),
            kind => self.acknowledged(&mut io.shelf, kind, packet.packet_id, packet.reason),
        }
    }

    #[cfg_attr(not(feature = "v5"), allow(unused_variables))]
    fn message(&mut self, shelf: &mut Shelf<'_>, publish: &FromServer<'_>) -> Result<(), Broken> {
        #[cfg(feature = "v5")]
        {
            self.inbound.alias = 0;
            if let Some(alias) = alias_of(&publish.properties) {
                self.learn(shelf, alias, publish.topic)?;
                self.inbound.alias = alias as u8;
            }
        }
        let id = self.inbound.id;
        let mut new = true;
        if self.inbound.qos == QoS::ExactlyOnce {
            self.dirty = true;
            // `[MQTT-4.3.3-10]`: an unreleased message is not delivered again.
            new = shelf.find(kind::RECEIVED, id).kind() == 0;
            // Before MQTT 5 the server does not know how many fit. Those beyond may come twice.
            if new && !shelf.push(kind::RECEIVED, id, &[]) && self.config.version.has_properties() {
                return Err(Broken(ReasonCode::ReceiveMaximumExceeded));
            }
        }
        let long = self.inbound.left > 0;
        self.inbound.wanted = new && (!long || self.config.chunks);
        if !long {
            self.acknowledge();
        }
        if self.inbound.wanted {
            self.tell = Happened::Message;
        } else if new {
            self.tell = Happened::Failed(Error::MessageSkipped);
        }
        Ok(())
    }

    /// Stores the topic of an alias (`[MQTT-3.3.2-9]`), or checks that it is stored.
    #[cfg(feature = "v5")]
    fn learn(&mut self, shelf: &mut Shelf<'_>, alias: u16, topic: &[u8]) -> Result<(), Broken> {
        if alias > u16::from(self.config.inbound_aliases) {
            return Err(Broken(ReasonCode::TopicAliasInvalid));
        }
        let known = shelf.find(kind::ALIAS, alias);
        if topic.is_empty() {
            return if known.kind() != 0 { Ok(()) } else { Err(Broken(ReasonCode::TopicAliasInvalid)) };
        }
        if known.kind() != 0 {
            shelf.remove(known);
        }
        // Without room for it, a new connection asks the server for topic names.
        if shelf.push(kind::ALIAS, alias, topic) {
            return Ok(());
        }
        self.no_inbound_aliases = true;
        Err(Broken(ReasonCode::ImplementationSpecificError))
    }

    /// Handles one step of enhanced authentication, or its end (`4.12`). The answer goes from the
    /// free end of the outbox into the inbound buffer.
    #[cfg(feature = "auth")]
    fn authenticate(&mut self, io: &mut Buffers<'_>, head: usize, len: usize) -> Result<(), Broken> {
        use lapwing_protocol::packet::Auth;
        use lapwing_protocol::property::{Property, PropertyWriter};
        let body = io.inbox.get(head..len).unwrap_or(&[]);
        let auth = Auth::decode(body)?;
        let authenticator = self.config.authenticator.ok_or(PROTOCOL_ERROR)?;
        if auth.properties.authentication_method() != Some(authenticator.method()) {
            return Err(PROTOCOL_ERROR);
        }
        const NO: Broken = Broken(ReasonCode::NotAuthorized);
        let challenge = auth.properties.authentication_data().unwrap_or(&[]);
        // Only a client re-authenticates while it is connected, and this one does not (`4.12.1`).
        if auth.reason != ReasonCode::ContinueAuthentication || self.phase != Phase::Opening {
            return Err(PROTOCOL_ERROR);
        }
        let (data, block) = {
            let free = io.shelf.free(0);
            let half = free.len() / 2;
            free.split_at_mut(half)
        };
        let len = authenticator.respond(Some(challenge), data).ok_or(NO)?;
        let mut w = PropertyWriter::new(block);
        w.push(Property::AuthenticationMethod(authenticator.method())).map_err(|_| NO)?;
        w.push(Property::AuthenticationData(data.get(..len).ok_or(NO)?)).map_err(|_| NO)?;
        let answer = Auth { reason: auth.reason, properties: w.finish() };
        let place = answer.encode(u32::MAX, io.inbox).map_err(|_| NO)?;
        self.out.in_inbox(place);
        Ok(())
    }

    /// Handles an acknowledgement of any kind, PUBREL included.
    fn acknowledged(
        &mut self,
        shelf: &mut Shelf<'_>,
        packet: PacketType,
        id: u16,
        reason: ReasonCode,
    ) -> Result<(), Broken> {
        self.dirty = true;
        if packet == PacketType::PubRel {
            let record = shelf.find(kind::RECEIVED, id);
            shelf.remove(record);
            let reason = if record.kind() == 0 { NOT_FOUND } else { ReasonCode::Success };
            self.out.reply(PacketType::PubComp, id, reason);
            return Ok(());
        }
        if packet == PacketType::SubAck && id == self.subscribing {
            self.subscribing = 0;
            self.subscribed = true;
            if reason.is_failure() {
                self.tell = Happened::Failed(Error::SubscriptionRefused);
            }
            return Ok(());
        }
        let record = shelf.find(kind::OUTBOUND, id);
        match shelf.acknowledge(record, packet, reason) {
            Answer::Nothing => return Ok(()),
            Answer::Violation => return Err(PROTOCOL_ERROR),
            Answer::Unknown => {
                self.out.reply(PacketType::PubRel, id, NOT_FOUND);
                return Ok(());
            }
            Answer::Over => {}
        }
        if !record.of(kind::REQUEST) {
            self.quota = self.quota.saturating_add(1);
        }
        let refused = reason.is_failure() && packet != PacketType::PubComp;
        self.tell = if refused { Happened::Refused(id, reason) } else { Happened::Delivered(id) };
        Ok(())
    }

    /// Returns the event with its borrowed data.
    pub(crate) fn event<'b>(&self, io: Buffers<'b>, happened: Happened) -> Result<Event<'b>, Error> {
        Ok(match happened {
            Happened::Message => Event::Message(self.view(io)),
            Happened::Chunk => {
                let inbox: &'b [u8] = io.inbox;
                let payload = inbox.get(..usize::from(self.inbound.end)).unwrap_or(&[]);
                Event::Chunk { payload, left: self.inbound.left }
            }
            Happened::Delivered(id) => Event::Delivered(crate::Token(id)),
            Happened::Refused(id, reason) => Event::Refused(crate::Token(id), reason),
            Happened::Dropped(id) => Event::Dropped(crate::Token(id)),
            Happened::Connected(session_present) => Event::Connected { session_present },
            Happened::Disconnected(reason) => {
                Event::Disconnected(Some(reason).filter(|reason| *reason != ReasonCode::Success))
            }
            Happened::Failed(Error::PayloadWanted) => {
                let (token, offset, left) = self.payload_wanted(&io);
                Event::PayloadWanted { token, offset, left }
            }
            Happened::Failed(error) => return Err(error),
            // `Nothing` is never reported.
            Happened::Nothing => Event::Disconnected(None),
        })
    }

    /// Returns the message in the inbound buffer.
    pub(crate) fn view<'b>(&self, io: Buffers<'b>) -> Message<'b> {
        let Buffers { shelf, inbox } = io;
        let inbox: &'b [u8] = inbox;
        let inbound = &self.inbound;
        let part = |from: u16, to: u16| inbox.get(usize::from(from)..usize::from(to)).unwrap_or_default();
        let mut topic = part(inbound.topic, inbound.topic_end);
        if cfg!(feature = "v5") && topic.is_empty() {
            let record = shelf.find(kind::ALIAS, u16::from(inbound.alias));
            let Shelf { bytes, .. } = shelf;
            topic = bytes.get(record.body()..record.end()).unwrap_or_default();
        }
        Message {
            topic,
            properties: part(inbound.properties, inbound.payload),
            payload: part(inbound.payload, inbound.end),
            left: inbound.left,
            flags: inbound.flags,
        }
    }
}
