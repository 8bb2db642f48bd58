//! What leaves: one packet at a time, in up to four pieces that lie where they are.
//!
//! A PUBLISH is `head topic mid rest`: topic and rest (properties and payload) lie on the shelf, head and mid (all that depends on
//! the connection: DUP, QoS, length, packet identifier, expiry, alias) in a scratch of a few bytes. Other packets are a head
//! alone, or lie whole in the inbound buffer or on the shelf.

use lapwing_protocol::flight::OutboundState;
use lapwing_protocol::keepalive::KeepAliveStep;
use lapwing_protocol::packet::{PacketType, PublishHeader};
use lapwing_protocol::{PacketId, QoS, ReasonCode};

use super::{Buffers, Machine, Phase};
use crate::event::Happened;
use crate::shelf::{Record, flag, kind};
use crate::{Error, Token};

/// No record.
const NOWHERE: u16 = u16::MAX;

pub(super) struct Outgoing {
    /// The record that is being sent.
    record: u16,
    topic: u16,
    topic_len: u16,
    /// On the shelf, or from the front of the inbound buffer.
    rest: u16,
    rest_len: u16,
    rest_in_inbox: bool,
    head_len: u8,
    mid_len: u8,
    scratch: [u8; PublishHeader::OVERHEAD_MAX],
    /// What of all pieces has left, and what the application still has to give.
    done: u32,
    stream_left: u32,
    stream_len: u32,
    /// An answer that waits for its turn, or something to tell instead of a packet.
    reply: Option<(PacketType, u16, ReasonCode)>,
    tell: Option<Happened>,
}

impl Outgoing {
    pub(super) const NONE: Outgoing = Outgoing {
        record: NOWHERE,
        topic: 0,
        topic_len: 0,
        rest: 0,
        rest_len: 0,
        rest_in_inbox: false,
        head_len: 0,
        mid_len: 0,
        scratch: [0; PublishHeader::OVERHEAD_MAX],
        done: 0,
        stream_left: 0,
        stream_len: 0,
        reply: None,
        tell: None,
    };

    fn total(&self) -> u32 {
        u32::from(self.head_len)
            + u32::from(self.mid_len)
            + u32::from(self.topic_len)
            + u32::from(self.rest_len)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.done == self.total() && self.stream_left == 0
    }

    pub(super) fn wants_payload(&self) -> bool {
        self.done == self.total() && self.stream_left > 0
    }

    pub(super) fn stream_left(&self) -> u32 {
        self.stream_left
    }

    /// What stands in place of a packet.
    pub(super) fn told(&mut self) -> Happened {
        self.tell.take().unwrap_or(Happened::Dropped(0))
    }

    /// A record is about to be removed: what lies behind it moves down.
    pub(super) fn moved(&mut self, removed: Record) {
        if self.record != NOWHERE && usize::from(self.record) > removed.at {
            let by = (removed.end - removed.at) as u16;
            self.record -= by;
            self.topic -= by;
            if !self.rest_in_inbox {
                self.rest -= by;
            }
        }
    }

    fn begin(&mut self) {
        *self = Outgoing { reply: self.reply, tell: self.tell, ..Outgoing::NONE };
    }

    /// A packet lies at the front of the inbound buffer.
    pub(super) fn in_inbox(&mut self, len: usize) {
        self.begin();
        self.rest_in_inbox = true;
        self.rest_len = len as u16;
    }

    fn small(&mut self, bytes: &[u8]) {
        self.begin();
        for (place, byte) in self.scratch.iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.head_len = bytes.len() as u8;
    }

    pub(super) fn reply(&mut self, packet: PacketType, id: u16, reason: ReasonCode) {
        self.reply = Some((packet, id, reason));
    }
}

impl Machine<'_> {
    /// The bytes to be written next.
    pub(crate) fn outgoing<'b>(&'b self, io: &'b Buffers<'_>) -> &'b [u8] {
        let out = &self.out;
        let (head, mid) = (usize::from(out.head_len), usize::from(out.mid_len));
        let mut skip = out.done as usize;
        for piece in 0..4u8 {
            let (from, at, len): (&[u8], usize, usize) = match piece {
                0 => (&out.scratch, 0, head),
                1 => (io.shelf.bytes, usize::from(out.topic), usize::from(out.topic_len)),
                2 => (&out.scratch, head, mid),
                _ if out.rest_in_inbox => (io.inbox, 0, usize::from(out.rest_len)),
                _ => (io.shelf.bytes, usize::from(out.rest), usize::from(out.rest_len)),
            };
            if skip < len {
                return from.get(at + skip..at + len).unwrap_or(&[]);
            }
            skip -= len;
        }
        &[]
    }

    /// So many bytes of [`outgoing`](Self::outgoing) have left.
    pub(crate) fn wrote(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) {
        self.out.done = self.out.total().min(self.out.done + n as u32);
        self.progress(io, now_ms);
    }

    /// So many bytes of the payload that was wanted have left.
    pub(crate) fn streamed(&mut self, io: &mut Buffers<'_>, n: usize, now_ms: u32) {
        self.out.stream_left = self.out.stream_left.saturating_sub(n as u32);
        self.progress(io, now_ms);
    }

    pub(crate) fn flushed(&mut self) {
        self.unflushed = false;
    }

    fn progress(&mut self, io: &mut Buffers<'_>, now_ms: u32) {
        self.unflushed = true;
        if self.phase == Phase::Up {
            self.patience(now_ms);
        }
        if !self.out.is_idle() {
            return;
        }
        self.keep_alive.sent(now_ms);
        if let Some(record) = io.shelf.record(usize::from(self.out.record))
            && record.kind == kind::PUBLISH
            && record.flags & flag::QOS == 0
        {
            io.shelf.cut(record.at, record.end);
            self.dirty = true;
        }
        self.out.record = NOWHERE;
    }

    /// The payload that is wanted: whose, from where on, how much.
    pub(crate) fn payload_wanted(&self, io: &Buffers<'_>) -> (Token, u32, u32) {
        let tag = io.shelf.record(usize::from(self.out.record)).map_or(0, |record| record.tag);
        (Token(tag), self.out.stream_len - self.out.stream_left, self.out.stream_left)
    }

    /// Chooses and lays out the next packet; `false` when there is nothing to send. When there is something to tell instead,
    /// the answer is `true` and the outgoing packet stays idle.
    pub(super) fn next_packet(&mut self, io: &mut Buffers<'_>, now_ms: u32) -> bool {
        if self.out.tell.is_some() {
            return true;
        }
        match self.phase {
            Phase::Opening if !self.subscribe => {
                // CONNECT is sent once; the flag is free until CONNACK.
                self.subscribe = true;
                let len = self.write_connect(io);
                return self.lay_in_inbox(len);
            }
            Phase::Up => {}
            _ => return false,
        }
        if let Some((packet, id, reason)) = self.out.reply.take() {
            self.lay_out_reply(packet, id, reason);
        } else if let Some(reason) = self.goodbye.take() {
            self.farewell(reason, now_ms);
        } else if self.keep_alive.step(now_ms) == KeepAliveStep::Ping {
            self.keep_alive.pinged(now_ms);
            self.out.small(&[(PacketType::PingReq as u8) << 4, 0]);
        } else if self.subscribe {
            self.subscribe = false;
            let len = self.write_subscribe(io);
            self.lay_in_inbox(len);
        } else if !self.next_record(io) {
            return false;
        }
        self.patience(now_ms);
        true
    }

    fn lay_in_inbox(&mut self, len: Option<usize>) -> bool {
        match len {
            Some(len) => self.out.in_inbox(len),
            None => self.out.tell = Some(Happened::Failed(Error::ConfigTooLarge)),
        }
        true
    }

    fn lay_out_reply(&mut self, packet: PacketType, id: u16, reason: ReasonCode) {
        let [high, low] = id.to_be_bytes();
        let first = (packet as u8) << 4 | packet.flags();
        if packet == PacketType::PubAck {
            self.flights_in.puback_sent();
        }
        if reason == ReasonCode::Success || !self.version().has_properties() {
            self.out.small(&[first, 2, high, low]);
        } else {
            self.out.small(&[first, 3, high, low, reason as u8]);
        }
    }

    /// DISCONNECT where the version has a word for the reason; then the link is closed.
    pub(super) fn farewell(&mut self, reason: ReasonCode, now_ms: u32) {
        self.phase = Phase::Closing;
        self.patience(now_ms);
        let first = (PacketType::Disconnect as u8) << 4;
        if reason == ReasonCode::Success {
            self.out.small(&[first, 0]);
        } else if self.version().has_properties() {
            self.out.small(&[first, 1, reason as u8]);
        } else {
            self.out.begin();
        }
    }

    /// The first record that is to be sent. Messages keep their order: one that waits for quota holds up those behind it.
    fn next_record(&mut self, io: &mut Buffers<'_>) -> bool {
        let (mut at, mut held_up) = (0, false);
        while let Some(record) = io.shelf.record(at) {
            at = record.end;
            match record.kind {
                kind::PUBLISH if !record.is(flag::SENT) && !held_up => {
                    match self.lay_out_publish(io, record) {
                        Sendable::Yes => return true,
                        Sendable::NoQuota => held_up = true,
                        Sendable::Never => {
                            self.discard(io, record);
                            if record.tag != 0 {
                                self.out.tell = Some(Happened::Dropped(record.tag));
                                return true;
                            }
                            at = record.at;
                        }
                    }
                }
                kind::RELEASE if record.is(flag::PENDING) => {
                    if !record.is(flag::SENT) {
                        self.outbound.resend(OutboundState::AwaitPubComp);
                    }
                    io.shelf.set_flags(record, flag::SENT);
                    self.lay_out_reply(PacketType::PubRel, record.tag, ReasonCode::Success);
                    return true;
                }
                kind::REQUEST if !record.is(flag::SENT) => {
                    io.shelf.set_flags(record, flag::SENT);
                    self.out.begin();
                    self.out.record = record.at as u16;
                    self.out.rest = record.body() as u16;
                    self.out.rest_len = (record.end - record.body()) as u16;
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    fn lay_out_publish(&mut self, io: &mut Buffers<'_>, record: Record) -> Sendable {
        let parts = io.shelf.parts(record);
        #[cfg(not(feature = "v5"))]
        let flags = record.flags;
        #[cfg(feature = "v5")]
        let mut flags = record.flags;
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
        if qos != QoS::AtMostOnce && !self.outbound.has_quota() {
            return Sendable::NoQuota;
        }
        let topic = io.shelf.slice(parts.topic, parts.topic_end);
        #[cfg(feature = "v5")]
        let (topic_alias, named) = self.alias(topic);
        #[cfg(not(feature = "v5"))]
        let (topic_alias, named) = (None, true);
        let header = PublishHeader {
            dup: flags & flag::TRIED != 0 && qos != QoS::AtMostOnce,
            qos,
            retain: flags & flag::RETAIN != 0,
            topic: if named { topic } else { &[] },
            packet_id: if qos == QoS::AtMostOnce { None } else { PacketId::new(record.tag) },
            forwarded: io.shelf.slice(parts.properties, parts.payload),
            message_expiry_interval_s: parts.expiry_s,
            topic_alias,
            subscription_identifiers: &[],
            payload_len: parts.end - parts.payload + parts.streamed.unwrap_or(0) as usize,
        };
        self.out.begin();
        let around = header.encode_around(self.version(), self.limits.packet_bytes, &mut self.out.scratch);
        let Ok((head_len, mid_len)) = around else { return Sendable::Never };
        let topic_len = header.topic.len();
        let (out, version) = (&mut self.out, self.config.version);
        let rest =
            if cfg!(feature = "v3") && !version.has_properties() { parts.payload } else { parts.properties };
        out.record = record.at as u16;
        out.topic = parts.topic as u16;
        out.topic_len = topic_len as u16;
        out.rest = rest as u16;
        out.rest_len = (parts.end - rest) as u16;
        out.head_len = head_len as u8;
        out.mid_len = mid_len as u8;
        out.stream_len = parts.streamed.unwrap_or(0);
        out.stream_left = out.stream_len;
        #[cfg(feature = "v5")]
        self.introduce(topic_alias);
        if qos != QoS::AtMostOnce {
            self.outbound.resend(OutboundState::AwaitPubAck);
        }
        io.shelf.set_flags(record, flags | flag::TRIED | flag::SENT);
        Sendable::Yes
    }

    /// The alias of a topic, if it has one here, and whether the topic is to be named with it.
    #[cfg(feature = "v5")]
    fn alias(&self, topic: &[u8]) -> (Option<u16>, bool) {
        let most = usize::from(self.limits.aliases.min(32));
        let topics = self.config.aliased.iter().take(most);
        match (1u16..).zip(topics).find(|(_, name)| name.as_bytes() == topic) {
            Some((alias, _)) => (Some(alias), self.introduced & 1 << (alias - 1) == 0),
            None => (None, true),
        }
    }

    #[cfg(feature = "v5")]
    fn introduce(&mut self, alias: Option<u16>) {
        if let Some(alias) = alias {
            self.introduced |= 1 << (alias - 1);
        }
    }
}

/// Whether a message can be sent now.
enum Sendable {
    Yes,
    NoQuota,
    /// It is larger than the server takes.
    Never,
}
