//! Packets from the broker: what each does to the flights, and the event that it makes.

use lapwing_protocol::flight::{Answer, Arrival, ReceiveMaximumExceeded};
use lapwing_protocol::packet::{Ack, Packet, Publish};
use lapwing_protocol::{PacketType, QoS, ReasonCode, Version, frame};

use super::super::failure::Failure;
use super::{ALIASES_MAX, Connection, Event, Message};

/// A packet before it is decoded.
pub(super) struct Raw {
    pub(super) packet_type: PacketType,
    pub(super) flags: u8,
    pub(super) body: Vec<u8>,
}

impl Raw {
    pub(super) fn decode(&self, version: Version) -> Result<Packet<'_>, Failure> {
        let frame = frame::Frame { packet_type: self.packet_type, flags: self.flags, body: &self.body };
        Packet::decode(frame, version)
            .map_err(|error| Failure::of(format_args!("a bad {}", self.packet_type), error))
    }
}

impl Connection {
    pub(super) fn handle(&mut self, raw: Raw) -> Result<Option<Event>, Failure> {
        self.keep_alive.answered();
        let answer = match raw.decode(self.version)? {
            Packet::Publish(publish) => {
                let Some(topic) = self.arrived(&publish)? else { return Ok(None) };
                let Raw { flags, body, .. } = raw;
                return Ok(Some(Event::Message(Message { topic, flags, body, version: self.version })));
            }
            Packet::PubAck(ack) => (self.outbound.puback(ack.packet_id, &mut self.flights), ack, true),
            Packet::PubRec(ack) => {
                let answer = self.outbound.pubrec(ack.packet_id, ack.reason, &mut self.flights);
                (answer, ack, ack.reason.is_failure())
            }
            Packet::PubComp(ack) => (self.outbound.pubcomp(ack.packet_id, &mut self.flights), ack, true),
            Packet::PubRel(ack) => {
                let reason = self.inbound.pubrel(ack.packet_id, &mut self.received);
                self.send(&Packet::PubComp(Ack::new(ack.packet_id, reason)))?;
                return Ok(None);
            }
            Packet::SubAck(suback) => return Ok(Some(Event::Subscribed(suback.reasons.iter().collect()))),
            Packet::UnsubAck(_) => return Ok(Some(Event::Unsubscribed)),
            Packet::Disconnect(disconnect) => {
                let text = disconnect.properties.reason_string();
                return Err(Failure::refused(
                    "the broker ended the connection",
                    disconnect.reason,
                    text,
                    self.version,
                ));
            }
            Packet::PingResp => return Ok(None),
            other => return Err(Failure::of("unexpected packet from the broker", other.packet_type())),
        };
        let (answer, ack, over) = answer;
        match answer {
            Answer::Violation => Err(Failure::new("the broker acknowledged a message that was not sent")),
            Answer::PubRel(reason) => {
                self.send(&Packet::PubRel(Ack::new(ack.packet_id, reason)))?;
                Ok(None)
            }
            Answer::Nothing if !over => Ok(None),
            Answer::Nothing => {
                let text = ack.properties.reason_string().map(str::to_owned);
                Ok(Some(Event::Delivered { reason: ack.reason, text }))
            }
        }
    }

    /// Returns the topic of a new message; `None` for a repeated one.
    fn arrived(&mut self, publish: &Publish<'_>) -> Result<Option<String>, Failure> {
        let topic = match publish.properties.topic_alias() {
            None => publish.topic.to_owned(),
            Some(alias) if publish.topic.is_empty() => {
                let known = self.aliases.get(&alias).cloned();
                known.ok_or_else(|| Failure::new("the broker used a topic alias without its topic"))?
            }
            Some(alias) => {
                if self.aliases.len() < ALIASES_MAX {
                    self.aliases.insert(alias, publish.topic.to_owned());
                }
                publish.topic.to_owned()
            }
        };
        let Some(id) = publish.packet_id else { return Ok(Some(topic)) };
        let arrival = self.inbound.publish(publish.qos, publish.packet_id, &mut self.received);
        match arrival {
            Err(ReceiveMaximumExceeded) => Err(Failure::new("the broker exceeded the Receive Maximum")),
            Ok(Arrival::Repeated) => {
                self.send(&Packet::PubRec(Ack::new(id, ReasonCode::Success)))?;
                Ok(None)
            }
            Ok(Arrival::New) => {
                let packet =
                    if publish.qos == QoS::AtLeastOnce { PacketType::PubAck } else { PacketType::PubRec };
                self.due = Some((packet, id));
                Ok(Some(topic))
            }
        }
    }
}
