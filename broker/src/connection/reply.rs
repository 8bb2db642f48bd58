//! Answers to the client: acknowledgements and other packets, at once or once their ticket is good.

use lapwing_protocol::PacketType;
use lapwing_protocol::packet::{Ack, Packet};
use lapwing_protocol::property::{Properties, Property, PropertyWriter};
use tracing::debug;

use super::Connection;
use crate::session::Acknowledgement;
use crate::store::Ticket;

/// The longest reason string that the broker writes, in bytes.
pub(super) const REASON_STRING_MAX: usize = 512;

impl Connection {
    /// Returns properties with a reason string, if there is one and the client takes such
    /// (`[MQTT-3.1.2-29]`).
    pub(super) fn words<'b>(&self, text: Option<&str>, buffer: &'b mut [u8]) -> Properties<'b> {
        let mut properties = PropertyWriter::new(buffer);
        if let Some(text) = text.filter(|_| self.negotiated.problem_information) {
            // A text that does not fit is left out. No program depends on it.
            let _ = properties.push(Property::ReasonString(text));
        }
        properties.finish()
    }

    /// Acknowledges a PUBLISH or a step of its flow, with a reason string where the client takes
    /// one (`[MQTT-3.4.2-2]`).
    pub(super) fn reply(&mut self, reply: Acknowledgement, text: Option<&str>, ticket: Ticket) {
        let Acknowledgement { packet_type, packet_id, reason } = reply;
        if text.is_none()
            && let Some(bytes) = Ack::new(packet_id, reason).short(packet_type, self.negotiated.version)
            && self.negotiated.packet_bytes_max as usize >= bytes.len()
        {
            return self.send_short(&bytes, ticket, reply);
        }
        let mut buffer = [0; REASON_STRING_MAX];
        let ack = Ack { packet_id, reason, properties: self.words(text, &mut buffer) };
        let packet = match packet_type {
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            _ => Packet::PubComp(ack),
        };
        self.send(&packet, ticket);
    }

    /// Sends an acknowledgement of four bytes, which most are, as [`send`](Self::send) does.
    #[inline]
    fn send_short(&mut self, bytes: &[u8], ticket: Ticket, reply: Acknowledgement) {
        self.stats.counters.packets_sent += 1;
        if ticket.is_free() && self.commits.acks.is_empty() {
            self.outbound.output.extend(bytes);
        } else if reply.packet_type == PacketType::PubAck {
            self.commits.hold_puback(bytes, ticket, reply.packet_id, &mut self.owned.session);
        } else {
            self.commits.hold(bytes, ticket);
        }
    }

    /// Sends a packet once its ticket is good, behind the acknowledgements that wait already.
    pub(super) fn send(&mut self, packet: &Packet<'_>, ticket: Ticket) {
        let (version, most) = (self.negotiated.version, self.negotiated.packet_bytes_max);
        self.stats.counters.packets_sent += 1;
        let written = packet.encoded_len(version, most).and_then(|len| {
            if ticket.is_free() && self.commits.acks.is_empty() {
                return self.outbound.output.append(len, |out| packet.encode(version, most, out));
            }
            let mut bytes = std::mem::take(&mut self.publisher.scratch);
            bytes.clear();
            bytes.resize(len, 0);
            let encoded = packet.encode(version, most, &mut bytes);
            if encoded.is_ok() {
                match packet {
                    Packet::PubAck(ack) => {
                        let session = &mut self.owned.session;
                        self.commits.hold_puback(&bytes, ticket, ack.packet_id, session);
                    }
                    _ => self.commits.hold(&bytes, ticket),
                }
            }
            self.publisher.scratch = bytes;
            encoded.map(drop)
        });
        if let Err(error) = written {
            // The packet is larger than the client takes, and is not sent (`[MQTT-3.1.2-25]`).
            debug!(client = %self.owned.session.client_id, packet = %packet.packet_type(), %error, "not sent");
        }
    }
}
