//! Bytes in: read from the stream, split into packets, handed to the session, and what the session
//! says is carried out.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::Packet;
use lapwing_protocol::{DecodeError, PacketType, ReasonCode, Version};
use tokio::io::{AsyncRead, ReadBuf};

use super::negotiated::AliasedTopic;
use super::{Connection, Exit};
use crate::core::publish_rules::user_properties_fit;
use crate::limits::budget::Pressure;
use crate::limits::rate::RateLimits;
use crate::message::Millis;
use crate::session::{Acknowledgement, Effect, Violation};
use crate::store::{FlightStep, Record, Ticket};
use crate::telemetry::drop_reason::Reason;

/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 * 1024;
/// Acknowledgements that wait for the store before no more packets are read.
const HELD_ACKS_MAX: usize = 4_096;
/// Pause after which a connection asks again whether memory is still short, in milliseconds.
const PAUSE_MS: Millis = 100;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The receiving half of a connection.
#[derive(Default)]
pub(crate) struct Inbound {
    /// Bytes of a packet that is not whole, or that wait because reading has paused.
    pub(super) input: Vec<u8>,
    /// Set while `input` may hold whole packets.
    pub(super) has_buffered_packets: bool,
    /// Moment before which nothing is read: memory is short, or the client publishes too fast.
    pub(super) paused_until: Option<Millis>,
    /// Topics that the client's aliases stand for.
    pub(super) aliases: Vec<AliasedTopic>,
    /// Rates at which the client and its user may publish.
    pub(super) rates: RateLimits,
}

impl Inbound {
    /// Creates the half with the bytes that came behind CONNECT.
    pub(crate) fn new(input: Vec<u8>, rates: RateLimits) -> Inbound {
        Inbound { has_buffered_packets: !input.is_empty(), input, rates, ..Inbound::default() }
    }
}

/// Result of one read.
pub(super) enum ReadOutcome {
    /// Number of bytes that came.
    Some(usize),
    None,
    /// Nothing is read for now.
    Paused,
}

impl Connection {
    /// Returns `true` when packets may be read now. A client that does not read its answers is not
    /// read from.
    pub(super) fn may_read(&self, now: Millis) -> bool {
        self.outbound.output.len() < self.endpoint.limits.write_buffer_bytes_max as usize
            && self.commits.acks.len() < HELD_ACKS_MAX
            && self.inbound.paused_until.is_none_or(|until| until <= now)
            && !(self.commits.store_full && self.inbound.has_buffered_packets)
    }

    /// Reads once and handles what came.
    pub(super) fn poll_read(&mut self, now: Millis, cx: &mut Context<'_>) -> Result<ReadOutcome, Exit> {
        // The part of a large packet that has come counts as memory, too.
        if !self.may_read(now) || (self.inbound.input.len() > READ_BYTES && self.pauses(now)) {
            // Keep-alive does not run while nothing is read. `limits.write_stall_timeout_s` finds a
            // client that does not read.
            self.pacing.keep_alive.heard(now as u32);
            return Ok(ReadOutcome::Paused);
        }
        self.inbound.paused_until = None;
        if std::mem::take(&mut self.inbound.has_buffered_packets) {
            let input = std::mem::take(&mut self.inbound.input);
            return self.consume(input, now).map(|()| ReadOutcome::Some(0));
        }
        let mut scratch = SCRATCH.take();
        scratch.resize(READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut scratch);
        let result = match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(ReadOutcome::None),
            Poll::Ready(Err(error)) => Err(Exit::Gone(Some(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(Exit::Gone(None)),
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().len();
                self.stats.counters.bytes_received += bytes as u64;
                self.core.budget.took_in(bytes);
                self.take_in(buffer.filled(), now).map(|()| ReadOutcome::Some(bytes))
            }
        };
        SCRATCH.set(scratch);
        result
    }

    /// Handles bytes that came, and keeps the rest. Only the bytes of an incomplete packet are
    /// copied: whole packets are handled where they are.
    fn take_in(&mut self, mut fresh: &[u8], now: Millis) -> Result<(), Exit> {
        while !self.inbound.input.is_empty() && !fresh.is_empty() {
            let packet_bytes_max = self.negotiated.announced.packet_bytes_max;
            let need = match frame::split(&self.inbound.input, self.negotiated.version, packet_bytes_max) {
                Ok(Split::Incomplete { need }) => need.saturating_sub(self.inbound.input.len()).max(1),
                // `packets` reports the error.
                _ => fresh.len(),
            };
            let (more, rest) = fresh.split_at_checked(need).unwrap_or((fresh, &[]));
            self.inbound.input.extend_from_slice(more);
            fresh = rest;
            let input = std::mem::take(&mut self.inbound.input);
            self.consume(input, now)?;
            if self.inbound.has_buffered_packets {
                self.inbound.input.extend_from_slice(fresh);
                return Ok(());
            }
        }
        let used = self.packets(fresh, now)?;
        self.inbound.input.extend_from_slice(fresh.get(used..).unwrap_or(&[]));
        Ok(())
    }

    /// Handles the packets in bytes that were kept, and keeps the rest.
    fn consume(&mut self, mut input: Vec<u8>, now: Millis) -> Result<(), Exit> {
        let used = self.packets(&input, now)?;
        if used < input.len() {
            input.drain(..used);
            self.inbound.input = input;
        }
        Ok(())
    }

    /// Returns `true` when memory is short: PUBLISH packets wait. Acknowledgements before them were
    /// handled.
    fn pauses(&mut self, now: Millis) -> bool {
        let pauses = self.core.budget.pressure() >= Pressure::Pause;
        if pauses {
            self.inbound.paused_until = Some(now + PAUSE_MS);
        }
        pauses
    }

    /// Handles the whole packets at the front of `bytes` and returns how many bytes they took.
    pub(super) fn packets(&mut self, bytes: &[u8], now: Millis) -> Result<usize, Exit> {
        let packet_bytes_max = self.negotiated.announced.packet_bytes_max;
        let output_max = self.endpoint.limits.write_buffer_bytes_max as usize;
        let version = self.negotiated.version;
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let (frame, len) = match frame::split(rest, version, packet_bytes_max) {
                Ok(Split::Frame { frame, len }) => (frame, len),
                Ok(Split::Incomplete { .. }) => break,
                Err(error) => return Err(self.malformed(error, rest)),
            };
            let publish = frame.packet_type == PacketType::Publish;
            let barred = self.pacing.slice.is_over() || self.outbound.output.len() >= output_max;
            if barred || publish && (self.commits.store_full || self.pauses(now) || self.over_rate(len, now))
            {
                self.inbound.has_buffered_packets = true;
                break;
            }
            // MQTT 5 refuses a bad topic filter alone. In MQTT 3 it ends the connection.
            let packet = match version {
                Version::V5 => Packet::decode_reporting_filters(frame, version),
                _ => Packet::decode(frame, version),
            };
            let packet = packet.map_err(|error| self.malformed(error, rest))?;
            self.stats.counters.packets_received += 1;
            self.pacing.slice.spend(1);
            self.pacing.keep_alive.heard(now as u32);
            used += len;
            if !self.user_properties_allowed(&packet) {
                let text =
                    "more user properties than limits.user_properties_max or limits.user_property_bytes_max";
                return Err(Violation::new(ReasonCode::QuotaExceeded, text).into());
            }
            if !publish && self.core.outcomes.traces.is_on() {
                self.tell_acknowledged(&packet);
            }
            let effect = self.owned.session.handle(packet).inspect_err(|_| {
                if publish {
                    self.core.outcomes.drops.add(Reason::Violation, 1);
                }
            })?;
            self.carry_out(effect, now)?;
        }
        Ok(used)
    }

    /// Returns `true` when the client or its user is above its rate: this PUBLISH waits.
    fn over_rate(&mut self, len: usize, now: Millis) -> bool {
        let free_at = self.inbound.rates.take(len, now).err();
        if free_at.is_some() {
            self.inbound.paused_until = free_at;
        }
        free_at.is_some()
    }

    /// Returns `true` when the user properties of a packet are within the limits. A PUBLISH is
    /// checked later, since it can be refused alone.
    fn user_properties_allowed(&self, packet: &Packet<'_>) -> bool {
        let properties = match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                &ack.properties
            }
            Packet::Subscribe(subscribe) => &subscribe.properties,
            Packet::Unsubscribe(unsubscribe) => &unsubscribe.properties,
            Packet::Disconnect(disconnect) => &disconnect.properties,
            Packet::Auth(auth) => &auth.properties,
            _ => return true,
        };
        user_properties_fit(properties, &self.endpoint.limits)
    }

    /// Returns the end of the connection for a malformed packet, with figures where a limit is the
    /// cause.
    #[cold]
    fn malformed(&self, error: DecodeError, bytes: &[u8]) -> Exit {
        if bytes.first().is_some_and(|first| first >> 4 == PacketType::Publish as u8) {
            self.core.outcomes.drops.add(Reason::Violation, 1);
        }
        let text = match (error, frame::header(bytes, self.negotiated.version)) {
            (DecodeError::PacketTooLarge, Ok(Some(header))) => format!(
                "a packet of {} bytes, limits.packet_bytes_max is {}",
                header.header_len + header.remaining_len,
                self.negotiated.announced.packet_bytes_max
            ),
            _ => error.text().to_owned(),
        };
        Exit::Violation(error.reason(), text)
    }

    /// Returns the ticket of a step of a QoS 2 flow, which leaves once it is on record. `recorded`
    /// is that of the PUBREC that a PUBREL answers.
    fn step(&mut self, reply: &Acknowledgement, recorded: Ticket) -> Ticket {
        let session = self.owned.session.number;
        let record = match (reply.packet_type, reply.reason) {
            _ if !self.owned.outbox.is_stored() => return Ticket::default(),
            (PacketType::PubComp, ReasonCode::Success) => {
                FlightStep::Released { session, packet_id: reply.packet_id }.into()
            }
            // The record of the first PUBLISH may still be unwritten: this one stands behind it.
            (PacketType::PubRec, _) => Record::Nothing,
            _ => return recorded,
        };
        self.commits.records.append(record, self.level())
    }

    #[inline]
    fn carry_out(&mut self, effect: Effect<'_>, now: Millis) -> Result<(), Exit> {
        let recorded = self.record_outcomes();
        match effect {
            Effect::Nothing => {}
            Effect::Reply(reply) => {
                let ticket = self.step(&reply, recorded);
                self.reply(reply, None, ticket);
            }
            Effect::Publish(publish, acknowledgement) => self.on_publish(&publish, acknowledgement, now)?,
            Effect::Subscribe(subscribe) => self.subscribe(&subscribe)?,
            Effect::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Effect::Pong => self.send(&Packet::PingResp, Ticket::default()),
            Effect::Disconnect(_) => {
                let expiry_max_s = self.endpoint.limits.session_expiry_max_s;
                let session = &mut self.owned.session;
                session.expiry_s = session.expiry_s.min(expiry_max_s);
                return Err(Exit::Disconnected);
            }
            Effect::Auth(auth) => self.reauthenticate(&auth)?,
        }
        Ok(())
    }
}
