//! What comes: bytes are gathered until a packet is whole, and never beyond it.

use lapwing_protocol::flight::{Answer, Arrival, InboundStore, OutboundStore};
use lapwing_protocol::frame::{self, FixedHeader};
use lapwing_protocol::packet::{Ack, ConnAck, Disconnect, PacketType, Publish, SubAck, UnsubAck};
use lapwing_protocol::{DecodeError, PacketId, QoS, ReasonCode};

use super::{Buffers, Machine, Phase};
use crate::Error;
use crate::event::{Event, Happened, Message};
use crate::shelf::{Shelf, flag, kind};

/// The packet that is coming.
pub(super) struct Incoming {
    /// What of it is in the inbound buffer, and what shall be before it is looked at again.
    len: u16,
    need: u16,
    /// What is still to come of a message larger than the buffer, and the last piece of it.
    left: u32,
    chunk: u16,
    /// The answer to it: packet identifier and QoS.
    id: u16,
    qos: QoS,
    /// It is handed over; otherwise it is skipped.
    wanted: bool,
}

impl Incoming {
    pub(super) const NONE: Incoming =
        Incoming { len: 0, need: 2, left: 0, chunk: 0, id: 0, qos: QoS::AtMostOnce, wanted: false };
}

/// A rule that the server broke.
struct Broken(ReasonCode);

impl From<DecodeError> for Broken {
    fn from(error: DecodeError) -> Self {
        Broken(if cfg!(feature = "v5") { error.reason() } else { ReasonCode::MalformedPacket })
    }
}

const PROTOCOL_ERROR: Broken = Broken(ReasonCode::ProtocolError);

impl Machine<'_> {
    /// Where the next bytes are to be read to; never empty.
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

    /// So many bytes came; 0 is the end of the stream. `None`: there is nothing to tell.
    pub(crate) fn received(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) -> Option<Happened> {
        match self.gather(io, n, now_ms) {
            Ok(happened) => happened,
            Err(Broken(reason)) => {
                self.fail(reason, now_ms);
                None
            }
        }
    }

    fn gather(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) -> Result<Option<Happened>, Broken> {
        if self.inbound.left > 0 {
            return Ok(self.next_piece(n));
        }
        self.inbound.len += n as u16;
        if self.inbound.len < self.inbound.need {
            return Ok(None);
        }
        let bytes = io.inbox.get(..usize::from(self.inbound.len)).unwrap_or(&[]);
        let Some(header) = frame::header(bytes, self.version())? else {
            self.inbound.need = self.inbound.len + 1;
            return Ok(None);
        };
        let total = header.header_len + header.remaining_len;
        let here = total.min(io.inbox.len());
        if here < total && header.packet_type != PacketType::Publish {
            return Err(Broken(ReasonCode::PacketTooLarge));
        }
        self.inbound.need = here as u16;
        if bytes.len() < here {
            return Ok(None);
        }
        self.inbound.len = 0;
        self.inbound.need = 2;
        self.inbound.left = (total - here) as u32;
        // Whatever comes shows that the server is there.
        self.keep_alive.answered();
        self.packet(io, header, here, now_ms)
    }

    /// The next piece of a message larger than the buffer.
    fn next_piece(&mut self, n: usize) -> Option<Happened> {
        self.inbound.chunk = n as u16;
        self.inbound.left = self.inbound.left.saturating_sub(n as u32);
        self.keep_alive.answered();
        if self.inbound.left == 0 {
            self.acknowledge();
        }
        self.inbound.wanted.then_some(Happened::Chunk)
    }

    fn acknowledge(&mut self) {
        match self.inbound.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.out.reply(PacketType::PubAck, self.inbound.id, ReasonCode::Success),
            QoS::ExactlyOnce => self.out.reply(PacketType::PubRec, self.inbound.id, ReasonCode::Success),
        }
    }

    /// The link is lost in the middle of a message: it will come again, from its beginning.
    pub(super) fn abort_long_message(&mut self, io: &mut Buffers<'_>) {
        if self.inbound.left > 0
            && let Some(id) = PacketId::new(self.inbound.id)
        {
            InboundStore::remove(&mut io.shelf, id);
        }
    }

    fn packet(
        &mut self,
        io: &mut Buffers<'_>,
        header: FixedHeader,
        len: usize,
        now_ms: u32,
    ) -> Result<Option<Happened>, Broken> {
        let body = io.inbox.get(header.header_len..len).unwrap_or(&[]);
        let version = self.version();
        #[cfg(feature = "auth")]
        if header.packet_type == PacketType::Auth {
            return self.authenticate(io, header, len).map(|()| None);
        }
        let shelf = &mut io.shelf;
        match (self.phase, header.packet_type) {
            (Phase::Opening, PacketType::ConnAck) => {
                Ok(self.connected(shelf, &ConnAck::decode(body, version)?, now_ms))
            }
            (Phase::Up, PacketType::Publish) => {
                let publish = Publish::decode(header.flags, body, version)?;
                self.message(shelf, &publish)
            }
            (
                Phase::Up,
                packet @ (PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp),
            ) => {
                let ack = Ack::decode(packet, body, version)?;
                self.dirty = true;
                self.acknowledged(shelf, packet, &ack)
            }
            (Phase::Up, PacketType::SubAck) => {
                let suback = SubAck::decode(body, version)?;
                Ok(self.requested(
                    shelf,
                    suback.packet_id,
                    suback.reasons.iter().find(|reason| reason.is_failure()),
                ))
            }
            (Phase::Up, PacketType::UnsubAck) => {
                let unsuback = UnsubAck::decode(body, version)?;
                Ok(self.requested(
                    shelf,
                    unsuback.packet_id,
                    unsuback.reasons.iter().find(|reason| reason.is_failure()),
                ))
            }
            (Phase::Up, PacketType::PingResp) => Ok(None),
            (_, PacketType::Disconnect) if version.has_properties() => {
                self.phase = Phase::Closing;
                self.why = Some(Disconnect::decode(body, version)?.reason);
                Ok(None)
            }
            _ => Err(PROTOCOL_ERROR),
        }
    }

    fn message(&mut self, shelf: &mut Shelf<'_>, publish: &Publish<'_>) -> Result<Option<Happened>, Broken> {
        #[cfg(feature = "v5")]
        if let Some(alias) = publish.properties.topic_alias() {
            self.learn(shelf, alias, publish.topic)?;
        }
        let arrival = self
            .flights_in
            .publish(publish.qos, publish.packet_id, shelf)
            .map_err(|_| Broken(ReasonCode::ReceiveMaximumExceeded))?;
        if publish.qos == QoS::ExactlyOnce {
            self.dirty = true;
        }
        let long = self.inbound.left > 0;
        self.inbound.qos = publish.qos;
        self.inbound.id = publish.packet_id.map_or(0, PacketId::get);
        self.inbound.wanted = arrival == Arrival::New && (!long || self.config.chunks);
        if !long {
            self.acknowledge();
        }
        if self.inbound.wanted {
            return Ok(Some(Happened::Message));
        }
        Ok((arrival == Arrival::New).then_some(Happened::Failed(Error::MessageSkipped)))
    }

    /// Keeps the topic of an alias (`[MQTT-3.3.2-9]`), or sees that it is there.
    #[cfg(feature = "v5")]
    fn learn(&mut self, shelf: &mut Shelf<'_>, alias: u16, topic: &str) -> Result<(), Broken> {
        if alias > u16::from(self.config.inbound_aliases) {
            return Err(Broken(ReasonCode::TopicAliasInvalid));
        }
        let known = shelf.find(kind::ALIAS, alias);
        match known {
            None if topic.is_empty() => Err(Broken(ReasonCode::TopicAliasInvalid)),
            _ if topic.is_empty() => Ok(()),
            known => {
                if let Some(known) = known {
                    shelf.cut(known.at, known.end);
                }
                // Without room for it, the server is asked for names on a new connection.
                if shelf.push(kind::ALIAS, 0, alias, topic.as_bytes()) {
                    return Ok(());
                }
                self.no_inbound_aliases = true;
                Err(Broken(ReasonCode::ImplementationSpecificError))
            }
        }
    }

    /// A step of the enhanced authentication, or the end of one (`4.12`): the answer is written into the inbound buffer from the free
    /// end of the outbox.
    #[cfg(feature = "auth")]
    fn authenticate(&mut self, io: &mut Buffers<'_>, header: FixedHeader, len: usize) -> Result<(), Broken> {
        use lapwing_protocol::packet::Auth;
        use lapwing_protocol::property::{Property, PropertyWriter};
        let body = io.inbox.get(header.header_len..len).unwrap_or(&[]);
        let auth = Auth::decode(body)?;
        let authenticator = self.config.authenticator.ok_or(PROTOCOL_ERROR)?;
        if auth.properties.authentication_method() != Some(authenticator.method()) {
            return Err(PROTOCOL_ERROR);
        }
        if auth.reason != ReasonCode::ContinueAuthentication {
            return Ok(());
        }
        const NO: Broken = Broken(ReasonCode::NotAuthorized);
        let challenge = auth.properties.authentication_data().unwrap_or(&[]);
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
        let len = answer.encode(self.version(), u32::MAX, io.inbox).map_err(|_| NO)?;
        self.out.in_inbox(len);
        Ok(())
    }

    fn acknowledged(
        &mut self,
        shelf: &mut Shelf<'_>,
        packet: PacketType,
        ack: &Ack<'_>,
    ) -> Result<Option<Happened>, Broken> {
        let (id, reason) = (ack.packet_id, ack.reason);
        let known = shelf.state(id).is_some();
        let answer = match packet {
            PacketType::PubAck => self.outbound.puback(id, shelf),
            PacketType::PubRec => self.outbound.pubrec(id, reason, shelf),
            PacketType::PubComp => self.outbound.pubcomp(id, shelf),
            _ => {
                let reason = self.flights_in.pubrel(id, shelf);
                self.out.reply(PacketType::PubComp, id.get(), reason);
                return Ok(None);
            }
        };
        match answer {
            Answer::Violation => Err(PROTOCOL_ERROR),
            // The record itself asks for PUBREL; only an unknown identifier has none.
            Answer::PubRel(reason) => {
                if !known {
                    self.out.reply(PacketType::PubRel, id.get(), reason);
                }
                Ok(None)
            }
            Answer::Nothing if !known => Ok(None),
            Answer::Nothing if reason.is_failure() && packet != PacketType::PubComp => {
                Ok(Some(Happened::Refused(id.get(), reason)))
            }
            Answer::Nothing => Ok(Some(Happened::Delivered(id.get()))),
        }
    }

    /// SUBACK or UNSUBACK came.
    fn requested(
        &mut self,
        shelf: &mut Shelf<'_>,
        id: PacketId,
        refused: Option<ReasonCode>,
    ) -> Option<Happened> {
        if id.get() == self.subscribing {
            self.subscribing = 0;
            return refused.map(|_| Happened::Failed(Error::SubscriptionRefused));
        }
        let record = shelf.find(kind::REQUEST, id.get()).filter(|record| record.is(flag::SENT))?;
        shelf.cut(record.at, record.end);
        self.dirty = true;
        Some(match refused {
            Some(reason) => Happened::Refused(id.get(), reason),
            None => Happened::Delivered(id.get()),
        })
    }

    /// The event with what it borrows.
    pub(crate) fn event<'b>(&self, io: Buffers<'b>, happened: Happened) -> Result<Event<'b>, Error> {
        Ok(match happened {
            Happened::Message => match self.view(io) {
                Some(message) => Event::Message(message),
                None => Event::Disconnected(None),
            },
            Happened::Chunk => {
                let inbox: &'b [u8] = io.inbox;
                let payload = inbox.get(..usize::from(self.inbound.chunk)).unwrap_or(&[]);
                Event::Chunk { payload, left: self.inbound.left }
            }
            Happened::Delivered(id) => Event::Delivered(crate::Token(id)),
            Happened::Refused(id, reason) => Event::Refused(crate::Token(id), reason),
            Happened::Dropped(id) => Event::Dropped(crate::Token(id)),
            Happened::Connected(session_present) => Event::Connected { session_present },
            Happened::Disconnected(reason) => Event::Disconnected(reason),
            Happened::PayloadWanted => {
                let (token, offset, left) = self.payload_wanted(&io);
                Event::PayloadWanted { token, offset, left }
            }
            Happened::Failed(error) => return Err(error),
        })
    }

    /// Reads the message in the inbound buffer once more, for the application.
    pub(crate) fn view<'b>(&self, io: Buffers<'b>) -> Option<Message<'b>> {
        let Buffers { shelf, inbox } = io;
        let inbox: &'b [u8] = inbox;
        let header = frame::header(inbox, self.version()).ok()??;
        let end = inbox.len().min(header.header_len + header.remaining_len);
        let publish =
            Publish::decode(header.flags, inbox.get(header.header_len..end)?, self.version()).ok()?;
        #[cfg(feature = "v5")]
        let topic = match publish.properties.topic_alias() {
            Some(alias) if publish.topic.is_empty() => {
                let record = shelf.find(kind::ALIAS, alias)?;
                let Shelf { bytes, .. } = shelf;
                core::str::from_utf8(bytes.get(record.body()..record.end)?).ok()?
            }
            _ => publish.topic,
        };
        #[cfg(not(feature = "v5"))]
        let (topic, _) = (publish.topic, shelf);
        Some(Message { publish, topic, left: self.inbound.left })
    }
}
