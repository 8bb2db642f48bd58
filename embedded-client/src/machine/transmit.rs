//! Outbound packets: one at a time, in up to four pieces that are sent from their places.
//!
//! A PUBLISH is `head topic mid rest`. Topic and rest (properties and payload) lie on the shelf.
//! Head and mid depend on the connection: DUP, QoS, length, packet identifier, expiry, alias. They
//! lie in a scratch of a few bytes, mid first, since its length is part of head.
//!
//! Other packets are a head alone, or lie whole in the inbound buffer or on the shelf.

use core::ops::Range;

use lapwing_protocol::packet::{PacketType, PublishHeader};
use lapwing_protocol::{PacketId, QoS, ReasonCode};

use super::liveness::Pulse;
use super::{Buffers, Flush, Machine, Phase};
use crate::event::Happened;
use crate::publication::{FIXED, FOR_EVER};
use crate::shelf::{Record, flag, kind};
use crate::{Error, Token};

/// No record.
const NOWHERE: u16 = u16::MAX;

#[repr(C)]
pub(super) struct Outgoing {
    /// Type of an answer that waits for its turn.
    reply: Option<PacketType>,
    reply_reason: ReasonCode,
    /// The rest lies in the inbound buffer, not on the shelf.
    rest_in_inbox: bool,
    reply_id: u16,
    /// The record that is being sent.
    record: u16,
    /// Positions and lengths of the unsent parts of head, topic, mid and rest.
    at: [u16; 4],
    len: [u16; 4],
    /// Number of payload bytes that the application still has to give.
    stream_left: u32,
    scratch: [u8; PublishHeader::OVERHEAD_MAX],
}

impl Outgoing {
    pub(super) const NONE: Outgoing = Outgoing {
        reply: None,
        reply_reason: ReasonCode::Success,
        rest_in_inbox: false,
        reply_id: 0,
        record: 0,
        at: [0; 4],
        len: [0; 4],
        stream_left: 0,
        scratch: [0; PublishHeader::OVERHEAD_MAX],
    };

    /// Sets the state in which no packet is being sent.
    #[inline(never)]
    pub(super) fn begin(&mut self) {
        self.record = NOWHERE;
        self.at = [0; 4];
        self.len = [0; 4];
        self.stream_left = 0;
        self.rest_in_inbox = false;
    }

    pub(super) fn forget(&mut self) {
        self.begin();
        self.reply = None;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.len == [0; 4] && self.stream_left == 0
    }

    pub(super) fn wants_payload(&self) -> bool {
        self.len == [0; 4] && self.stream_left > 0
    }

    pub(super) fn stream_left(&self) -> u32 {
        self.stream_left
    }

    /// Adjusts positions before bytes of the shelf are cut out. Bytes behind the cut move down.
    pub(super) fn moved(&mut self, at: usize, end: usize) {
        if self.record != NOWHERE && usize::from(self.record) > at {
            let by = (end - at) as u16;
            self.record -= by;
            let [_, topic, _, rest] = &mut self.at;
            *topic = topic.wrapping_sub(by);
            *rest = rest.wrapping_sub(by);
        }
    }

    /// Prepares a packet that lies in the inbound buffer.
    pub(super) fn in_inbox(&mut self, place: Range<usize>) {
        self.whole(place);
        self.rest_in_inbox = true;
    }

    /// Prepares a packet that lies whole in one place.
    fn whole(&mut self, place: Range<usize>) {
        self.begin();
        self.at = [0, 0, 0, place.start as u16];
        self.len = [0, 0, 0, place.len() as u16];
    }

    /// Prepares a packet with a header and `len` bytes of `body`.
    fn small(&mut self, packet: PacketType, len: u8, body: [u8; 4]) {
        self.begin();
        if let Some(head) = self.scratch.first_chunk_mut() {
            let [a, b, c, d] = body;
            *head = [(packet as u8) << 4 | packet.flags(), len, a, b, c, d];
        }
        self.len = [2 + u16::from(len), 0, 0, 0];
    }

    pub(super) fn reply(&mut self, packet: PacketType, id: u16, reason: ReasonCode) {
        self.reply = Some(packet);
        self.reply_id = id;
        self.reply_reason = reason;
    }
}

impl Machine<'_> {
    /// Returns the bytes to write next.
    #[inline(never)]
    pub(crate) fn outgoing<'b>(&'b self, io: &'b Buffers<'_>) -> &'b [u8] {
        let out = &self.out;
        for (piece, (at, len)) in out.at.iter().zip(&out.len).enumerate() {
            if *len > 0 {
                let from: &[u8] = match piece {
                    0 | 2 => &out.scratch,
                    3 if out.rest_in_inbox => io.inbox,
                    _ => io.shelf.bytes,
                };
                let at = usize::from(*at);
                return from.get(at..at + usize::from(*len)).unwrap_or(&[]);
            }
        }
        &[]
    }

    /// Notes that `n` bytes of [`outgoing`](Self::outgoing) were written.
    pub(crate) fn wrote(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) {
        let mut n = n;
        for (at, len) in self.out.at.iter_mut().zip(&mut self.out.len) {
            let gone = n.min(usize::from(*len));
            *at += gone as u16;
            *len -= gone as u16;
            n -= gone;
        }
        self.progress(io, now_ms);
    }

    /// Notes that `n` bytes of the wanted payload were written.
    pub(crate) fn streamed(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) {
        self.out.stream_left = self.out.stream_left.saturating_sub(n as u32);
        self.progress(io, now_ms);
    }

    fn progress(&mut self, io: &mut Buffers<'_>, now_ms: u32) {
        self.flush = Flush::Due;
        self.extend_deadline(now_ms);
        if !self.out.is_idle() {
            return;
        }
        self.sent_ms = now_ms;
        let record = io.shelf.record(usize::from(self.out.record));
        if record.of(kind::PUBLISH) && !record.is(flag::QOS) {
            io.shelf.remove(record);
            self.dirty = true;
            if cfg!(feature = "v5") && record.tag() != 0 {
                // The server accepts QoS 0 only: nobody will acknowledge it.
                self.tell = Happened::Delivered(record.tag());
            }
        }
        self.out.record = NOWHERE;
    }

    /// Returns token, offset and remaining length of the wanted payload.
    pub(crate) fn payload_wanted(&self, io: &Buffers<'_>) -> (Token, u32, u32) {
        let record = io.shelf.record(usize::from(self.out.record));
        let left = self.out.stream_left;
        // The length stands in place of the payload.
        let len = io.shelf.u32(io.shelf.parts(record).1);
        (Token(record.tag()), len.saturating_sub(left), left)
    }

    /// Chooses and prepares the next packet if there is one, or returns an event.
    pub(super) fn next_packet(&mut self, io: &mut Buffers<'_>, pulse: Pulse, now_ms: u32) -> Happened {
        let place = if self.phase == Phase::Opening && !self.subscribe {
            self.subscribe = true;
            self.write_connect(io)
        } else if self.phase != Phase::Up {
            return Happened::Nothing;
        } else {
            self.extend_deadline(now_ms);
            if self.next_reply() {
                return Happened::Nothing;
            }
            if pulse == Pulse::Ping {
                self.pinged(now_ms);
                self.out.small(PacketType::PingReq, 0, [0; 4]);
                return Happened::Nothing;
            }
            #[cfg(feature = "birth")]
            if self.birth_due {
                return match self.write_birth(io) {
                    Some(place) => {
                        self.out.in_inbox(place);
                        Happened::Nothing
                    }
                    None => Happened::Failed(Error::ConfigTooLarge),
                };
            }
            if !self.subscribe {
                return self.next_record(io);
            }
            self.subscribe = false;
            self.write_subscribe(io)
        };
        match place {
            Some(place) => {
                self.out.in_inbox(place);
                Happened::Nothing
            }
            None => Happened::Failed(Error::ConfigTooLarge),
        }
    }

    /// Prepares the answer that waits for its turn. Returns false if there is none.
    pub(super) fn next_reply(&mut self) -> bool {
        let Some(packet) = self.out.reply.take() else { return false };
        self.lay_out_reply(packet, self.out.reply_id, self.out.reply_reason);
        true
    }

    fn lay_out_reply(&mut self, packet: PacketType, id: u16, reason: ReasonCode) {
        let [high, low] = id.to_be_bytes();
        let plain = reason == ReasonCode::Success || !self.version().has_properties();
        self.out.small(packet, if plain { 2 } else { 3 }, [high, low, reason as u8, 0]);
    }

    /// Prepares DISCONNECT, if the version has a word for the reason. Then the link is closed.
    pub(super) fn disconnect(&mut self, reason: ReasonCode, now_ms: u32) {
        self.phase = Phase::Closing;
        self.extend_deadline(now_ms);
        let plain = reason == ReasonCode::Success;
        if plain || self.version().has_properties() {
            self.out.small(PacketType::Disconnect, if plain { 0 } else { 1 }, [reason as u8, 0, 0, 0]);
        } else {
            self.out.begin();
        }
    }

    /// Prepares the first record that must be sent. Messages keep their order: one that waits for
    /// quota, or for its identifier, holds up those behind it.
    #[inline(never)]
    fn next_record(&mut self, io: &mut Buffers<'_>) -> Happened {
        let mut held_up = false;
        let mut record = io.shelf.first();
        while record.kind() != 0 {
            let outbound = record.of(kind::OUTBOUND) && !record.is(flag::SENT);
            if outbound && !record.of(kind::PUBLISH) {
                io.shelf.set_flags(record, flag::SENT | flag::COUNTED);
                if record.of(kind::REQUEST) {
                    if record.end() - record.body() > self.packet_bytes_max() as usize {
                        // The server would end the connection each time (`[MQTT-3.2.2-15]`).
                        io.shelf.remove(record);
                        return Happened::Refused(record.tag(), ReasonCode::PacketTooLarge);
                    }
                    self.out.whole(record.body()..record.end());
                    self.out.record = record.at() as u16;
                } else {
                    if !record.is(flag::COUNTED) {
                        // PUBREL counts, but needs no quota (`4.9`).
                        self.quota = self.quota.saturating_sub(1);
                    }
                    self.lay_out_reply(PacketType::PubRel, record.tag(), ReasonCode::Success);
                }
                return Happened::Nothing;
            }
            if outbound {
                match self.lay_out_publish(io, record, held_up) {
                    Sendable::Yes => return Happened::Nothing,
                    Sendable::NotYet => held_up = true,
                    Sendable::Never => {
                        self.discard(io, record);
                        // Ask again at once: there is an event or a packet.
                        self.flush = Flush::Due;
                        return Happened::Nothing;
                    }
                }
            }
            // Its identifier is being released; other records that are sent count.
            held_up |= record.flags() & (flag::TRIED | flag::SENT | flag::COUNTED) == flag::SENT;
            record = io.shelf.after(record);
        }
        Happened::Nothing
    }

    fn lay_out_publish(&mut self, io: &mut Buffers<'_>, record: Record, held_up: bool) -> Sendable {
        let topic_at = record.body() + FIXED;
        let (properties, payload) = io.shelf.parts(record);
        #[cfg(not(feature = "v5"))]
        let flags = record.flags();
        #[cfg(feature = "v5")]
        let mut flags = record.flags();
        #[cfg(feature = "v5")]
        {
            if self.limits.qos << 1 < flags & flag::QOS {
                flags = flags & !(flag::QOS | flag::TRIED) | self.limits.qos << 1;
            }
            if !self.limits.retain {
                flags &= !flag::RETAIN;
            }
        }
        let qos = QoS::from_u8((flags & flag::QOS) >> 1).unwrap_or_default();
        // The identifier may stand for a message of an earlier life at the server, which would take
        // this one for its repetition: it is released first.
        let strange = self.foreign && !record.is(flag::TRIED) && !record.of(kind::UNUSED_ID);
        if strange && qos == QoS::ExactlyOnce {
            io.shelf.set_flags(record, record.flags() | flag::SENT);
            self.lay_out_reply(PacketType::PubRel, record.tag(), ReasonCode::Success);
            return Sendable::Yes;
        }
        if held_up || qos != QoS::AtMostOnce && self.quota == 0 {
            return Sendable::NotYet;
        }
        let topic = io.shelf.slice(topic_at, properties);
        let (mut end, mut streamed) = (record.end(), 0);
        if record.is(flag::STREAM) {
            end = payload;
            streamed = io.shelf.u32(end);
        }
        let expiry_s = io.shelf.u32(record.body());
        #[cfg(feature = "v5")]
        let alias = self.alias(topic);
        #[cfg(not(feature = "v5"))]
        let alias = 0;
        // Named once on this connection, and always without an alias.
        let bit = if alias == 0 { 0 } else { 1 << (alias - 1) };
        let named = self.introduced & bit == 0;
        let header = PublishHeader {
            dup: flags & flag::TRIED != 0 && qos != QoS::AtMostOnce,
            qos,
            retain: flags & flag::RETAIN != 0,
            topic: if named { topic } else { &[] },
            packet_id: if qos == QoS::AtMostOnce { None } else { PacketId::new(record.tag()) },
            forwarded: io.shelf.slice(properties, payload),
            message_expiry_interval_s: if expiry_s == FOR_EVER { None } else { Some(expiry_s) },
            topic_alias: if alias == 0 { None } else { Some(alias) },
            subscription_identifiers: &[],
            payload_len: end - payload + streamed as usize,
        };
        self.out.begin();
        let around = header.encode_around(self.version(), self.packet_bytes_max(), &mut self.out.scratch);
        let Ok((mid_len, head_len)) = around else { return Sendable::Never };
        let topic_len = header.topic.len();
        let (out, version) = (&mut self.out, self.config.version);
        let rest = if cfg!(feature = "v3") && !version.has_properties() { payload } else { properties };
        out.record = record.at() as u16;
        out.at = [mid_len as u16, topic_at as u16, 0, rest as u16];
        out.len = [head_len as u16, topic_len as u16, mid_len as u16, (end - rest) as u16];
        out.stream_left = streamed;
        self.introduced |= bit;
        if qos != QoS::AtMostOnce {
            self.quota -= 1;
        }
        io.shelf.set_flags(record, flags | flag::TRIED | flag::SENT);
        Sendable::Yes
    }

    /// Returns the alias of a topic on this connection; 0 if it has none.
    #[cfg(feature = "v5")]
    fn alias(&self, topic: &[u8]) -> u16 {
        let most = self.limits.aliases.min(32);
        let mut alias = 0;
        for name in self.config.aliased {
            alias += 1;
            if alias <= most && lapwing_protocol::same(name.as_bytes(), topic) {
                return alias;
            }
        }
        0
    }
}

/// Decision about sending a message now.
enum Sendable {
    Yes,
    /// The message, or one before it, waits for quota or for its identifier.
    NotYet,
    /// The message is larger than the server accepts.
    Never,
}
