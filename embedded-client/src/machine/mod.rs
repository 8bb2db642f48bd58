//! The client without a socket, a clock or an executor.
//!
//! A front end asks for a step ([`Machine::step`]), does it, and reports with [`Machine::done`].
//! Its future may be dropped anywhere, since everything that is begun is kept here. The machine
//! writes everything before it reads. So the inbound buffer is free when CONNECT and SUBSCRIBE are
//! written in it.
//!
//! Times are milliseconds that may wrap around. A step must be asked for at least every 24 days.

mod connect;
mod liveness;
mod publish;
mod receive;
mod transmit;

use lapwing_protocol::{ReasonCode, Version};

use crate::Error;
use crate::config::Config;
use crate::event::Happened;
use crate::shelf::{Shelf, flag, kind};
use liveness::Pulse;
use receive::Incoming;
use transmit::Outgoing;

/// The next action of the front end.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// Wait until [`Machine::due_in_ms`] is over.
    Wait,
    /// Open the link, or continue to.
    Dial,
    /// Write [`Machine::outgoing`], or some of it.
    Write,
    /// Flush the link.
    Flush,
    /// Read into [`Machine::wanted`], at most until [`Machine::due_in_ms`] is over.
    Read,
    /// Close the link, then ask again.
    HangUp,
    /// Tell the application.
    Tell(Happened),
}

/// Memory of the user: the outbox, and one buffer for the inbound packet.
pub(crate) struct Buffers<'b> {
    pub(crate) shelf: Shelf<'b>,
    pub(crate) inbox: &'b mut [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Closed by the application, or not begun. The next step dials.
    Closed,
    /// No link; dial when the pause is over.
    Down,
    Dialing,
    /// The link is open, CONNACK is missing.
    Opening,
    Up,
    /// DISCONNECT is being sent; then the link is closed.
    Closing,
}

/// Written bytes on their way to the link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Done,
    /// More may be written before they are flushed.
    Due,
    /// A flush has begun. Nothing else is done until it ends, so that its deadline stays.
    Begun,
}

/// Limits of the server on this connection.
#[cfg(feature = "v5")]
#[derive(Clone, Copy)]
struct Limits {
    packet_bytes: u32,
    aliases: u16,
    qos: u8,
    retain: bool,
}

#[cfg(feature = "v5")]
impl Limits {
    const UNKNOWN: Limits = Limits { packet_bytes: 0, aliases: 0, qos: 0, retain: false };
    const NONE: Limits = Limits { packet_bytes: u32::MAX, aliases: 0, qos: 2, retain: true };
}

/// Fields that are read often come first: near offsets make short instructions.
#[repr(C)]
pub(crate) struct Machine<'a> {
    phase: Phase,
    attempts: u8,
    /// The first connection after the start was made.
    connected_once: bool,
    /// SUBACK came for the subscriptions of the configuration, in this session.
    subscribed: bool,
    /// SUBSCRIBE must be sent. Before CONNACK it means that CONNECT was sent.
    subscribe: bool,
    /// The application was told that the connection is up.
    announced: bool,
    flush: Flush,
    /// Saved state has changed since it was saved.
    pub(crate) dirty: bool,
    no_inbound_aliases: bool,
    /// The birth message must be sent.
    #[cfg(feature = "birth")]
    birth_due: bool,
    /// Keeps the fields before `out` free of gaps, which would part them in more pieces.
    even: [u8; 2],
    /// A ping is not answered yet.
    asked: bool,
    /// Number of QoS 1 and 2 messages that the server still accepts on this connection.
    quota: u16,
    /// Event for the next step.
    tell: Happened,
    /// Reason why the connection ended; success if none was given.
    end_reason: ReasonCode,
    /// The server may know packet identifiers of an earlier life of this client.
    ///
    /// It starts with another value than the fields around it. That parts them, and so the rest is
    /// zeroed where it stands instead of being copied: that saves the bytes of `memcpy`.
    foreign: bool,
    out: Outgoing,
    inbound: Incoming,
    /// End of the pause, the dial, the handshake or the stalled write.
    due_ms: u32,
    /// Time when the connection came up, or when messages aged last.
    since_ms: u32,
    aged_ms: u32,
    random: u32,
    introduced: u32,
    #[cfg(feature = "v5")]
    limits: Limits,
    /// Time when a packet was sent last.
    sent_ms: u32,
    /// Time when bytes arrived last; after a ping, the time of the ping.
    heard_ms: u32,
    /// Keep-alive of this connection; 0 for none.
    keep_alive_s: u16,
    last_id: u16,
    /// Packet identifier of the SUBSCRIBE for the configured subscriptions.
    subscribing: u16,
    /// Number of messages that were dropped before they were sent.
    pub(crate) dropped: u16,
    pub(crate) config: Config<'a>,
}

impl<'a> Machine<'a> {
    pub(crate) const fn new(config: Config<'a>) -> Self {
        Machine {
            phase: Phase::Closed,
            attempts: 0,
            connected_once: false,
            foreign: true,
            asked: false,
            subscribed: false,
            subscribe: false,
            announced: false,
            flush: Flush::Done,
            dirty: false,
            no_inbound_aliases: false,
            #[cfg(feature = "birth")]
            birth_due: false,
            even: [0; 2],
            tell: Happened::Nothing,
            end_reason: ReasonCode::Success,
            out: Outgoing::NONE,
            inbound: Incoming::NONE,
            due_ms: 0,
            since_ms: 0,
            aged_ms: 0,
            random: 0,
            introduced: 0,
            #[cfg(feature = "v5")]
            limits: Limits::UNKNOWN,
            sent_ms: 0,
            heard_ms: 0,
            keep_alive_s: 0,
            quota: 0,
            last_id: 0,
            subscribing: 0,
            dropped: 0,
            config,
        }
    }

    /// Returns the version of this client. With one version compiled in, it is a constant.
    pub(crate) const fn version(&self) -> Version {
        if cfg!(not(feature = "v5")) {
            Version::V311
        } else if cfg!(not(feature = "v3")) {
            Version::V5
        } else {
            self.config.version
        }
    }

    /// Returns the largest packet that the server accepts, in bytes.
    const fn packet_bytes_max(&self) -> u32 {
        #[cfg(feature = "v5")]
        return self.limits.packet_bytes;
        #[cfg(not(feature = "v5"))]
        u32::MAX
    }

    /// Notes that the link failed outside a step. The next step closes it.
    pub(crate) fn give_up(&mut self) {
        self.phase = Phase::Closing;
        self.end_reason = ReasonCode::UnspecifiedError;
        self.out.forget();
    }

    /// Returns as much of a payload as is wanted.
    pub(crate) fn piece<'p>(&self, payload: &'p [u8]) -> &'p [u8] {
        let most = if self.out.wants_payload() { self.out.stream_left() } else { 0 };
        payload.get(..payload.len().min(most as usize)).unwrap_or(&[])
    }

    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up)
    }

    /// Returns the next action.
    #[inline(never)]
    pub(crate) fn step(&mut self, io: &mut Buffers<'_>, now_ms: u32) -> Step {
        match core::mem::replace(&mut self.tell, Happened::Nothing) {
            Happened::Nothing => {}
            happened => return Step::Tell(happened),
        }
        let seconds = now_ms.wrapping_sub(self.aged_ms) / 1_000;
        self.aged_ms = self.aged_ms.wrapping_add(seconds * 1_000);
        // The clock is not known until the first step.
        let mut seconds = if self.phase == Phase::Closed { 0 } else { seconds };
        loop {
            let void = io.shelf.age(seconds);
            if void.kind() == 0 {
                break;
            }
            seconds = 0;
            self.discard(io, void);
            if void.of(kind::NOTICE) {
                let tag = void.tag();
                let dropped = void.is(flag::DROPPED);
                return Step::Tell(if dropped { Happened::Dropped(tag) } else { Happened::Delivered(tag) });
            }
        }
        if self.config.too_many {
            self.config.too_many = false;
            return Step::Tell(Happened::Failed(Error::TooManySubscriptions));
        }
        let overdue = self.left_ms(now_ms) == 0;
        match self.phase {
            Phase::Closed => {
                self.start(now_ms);
                self.dial(now_ms)
            }
            Phase::Down if overdue => self.dial(now_ms),
            Phase::Down => Step::Wait,
            Phase::Dialing if overdue => Step::HangUp,
            Phase::Dialing => Step::Dial,
            Phase::Opening | Phase::Up | Phase::Closing => self.linked(io, now_ms, overdue),
        }
    }

    fn linked(&mut self, io: &mut Buffers<'_>, now_ms: u32, overdue: bool) -> Step {
        if self.flush == Flush::Begun {
            return if overdue { Step::HangUp } else { Step::Flush };
        }
        let pulse = self.pulse(now_ms);
        if self.out.is_idle() {
            match self.next_packet(io, pulse, now_ms) {
                Happened::Nothing => {}
                happened => return Step::Tell(happened),
            }
        } else if overdue {
            return Step::HangUp;
        }
        if !self.out.is_idle() {
            let wanted = Happened::Failed(Error::PayloadWanted);
            return if self.out.wants_payload() { Step::Tell(wanted) } else { Step::Write };
        }
        if self.flush == Flush::Due {
            self.flush = Flush::Begun;
            return Step::Flush;
        }
        let dead = self.phase == Phase::Up && pulse == Pulse::Dead;
        if dead || self.phase == Phase::Closing || self.phase == Phase::Opening && overdue {
            return Step::HangUp;
        }
        Step::Read
    }

    /// Notes the outcome of a step: the number of bytes that it moved, 1 for a dial or a flush, or
    /// 0 when there is no link any more. Returns false then.
    #[inline(never)]
    pub(crate) fn done(&mut self, io: &mut Buffers<'_>, step: Step, moved: usize, now_ms: u32) -> bool {
        if moved == 0 {
            self.lost(io, now_ms);
            return false;
        }
        match step {
            Step::Dial => self.dialed(now_ms),
            Step::Write => self.wrote(io, moved, now_ms),
            Step::Flush => self.flush = Flush::Done,
            _ => self.received(io, moved, now_ms),
        }
        true
    }

    /// Milliseconds until the current step must be given up for another one.
    pub(crate) fn due_in_ms(&self, now_ms: u32) -> u32 {
        if self.phase == Phase::Up && self.out.is_idle() && self.flush == Flush::Done {
            return match self.pulse(now_ms) {
                Pulse::Wait(ms) => ms,
                Pulse::Ping | Pulse::Dead => 0,
            };
        }
        self.left_ms(now_ms)
    }

    fn left_ms(&self, now_ms: u32) -> u32 {
        let left = self.due_ms.wrapping_sub(now_ms);
        if left > u32::MAX / 2 { 0 } else { left }
    }

    fn extend_deadline(&mut self, now_ms: u32) {
        self.due_ms = now_ms.wrapping_add(u32::from(self.config.response_ms));
    }

    fn start(&mut self, now_ms: u32) {
        // The identifier and the time of the start tell apart clients that start together.
        let mut random = now_ms ^ 0x9e37_79b9;
        for byte in self.config.client_id.as_bytes() {
            random = (random ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
        self.random = random | 1;
        self.out.begin();
    }

    fn dial(&mut self, now_ms: u32) -> Step {
        self.phase = Phase::Dialing;
        self.extend_deadline(now_ms);
        Step::Dial
    }

    fn dialed(&mut self, now_ms: u32) {
        self.phase = Phase::Opening;
        #[cfg(feature = "v5")]
        {
            self.limits = Limits::NONE;
        }
        self.inbound.next();
        self.subscribe = false;
        self.extend_deadline(now_ms);
    }

    /// Notes that there is no link. Messages whose sending had begun are sent again.
    #[inline(never)]
    pub(crate) fn lost(&mut self, io: &mut Buffers<'_>, now_ms: u32) {
        self.abort_long_message(io);
        self.out.forget();
        self.inbound.left = 0;
        self.flush = Flush::Done;
        io.shelf.forget(kind::ALIAS, flag::SENT | flag::COUNTED);
        // A connection that lasted resets the pauses. A server that accepts and closes does not.
        if self.announced && now_ms.wrapping_sub(self.since_ms) > 10_000 {
            self.attempts = 0;
        }
        let (shortest, longest) = (u32::from(self.config.backoff_min_ms), self.config.backoff_max_ms);
        let pause = longest.min(shortest << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.due_ms = now_ms.wrapping_add(pause - self.random % (pause / 2 + 1));
        let reason = core::mem::replace(&mut self.end_reason, ReasonCode::Success);
        if core::mem::take(&mut self.announced) {
            self.tell = Happened::Disconnected(reason);
        }
        self.phase = Phase::Down;
    }

    /// Returns the next action of a goodbye: to write, to flush, or to close the link. Without a
    /// connection there is nothing to say.
    pub(crate) fn last_step(&mut self, io: &mut Buffers<'_>, reason: ReasonCode, now_ms: u32) -> Step {
        match self.phase {
            // After the packet that is being sent, and the answer that waits behind it.
            Phase::Up if self.out.is_idle() && self.flush != Flush::Begun => {
                self.extend_deadline(now_ms);
                if !self.next_reply() {
                    self.disconnect(reason, now_ms);
                }
            }
            Phase::Up | Phase::Closing => {}
            _ => return Step::HangUp,
        }
        let overdue = self.left_ms(now_ms) == 0;
        self.linked(io, now_ms, overdue)
    }

    /// Notes that the application closed the link. It was no failure, so that the pauses stay.
    pub(crate) fn closed(&mut self, io: &mut Buffers<'_>, now_ms: u32) {
        let attempts = self.attempts;
        self.lost(io, now_ms);
        self.attempts = attempts;
        self.tell = Happened::Nothing;
        self.phase = Phase::Closed;
    }

    /// Number of failures to connect in a row.
    pub(crate) const fn failures(&self) -> u8 {
        if self.is_up() { 0 } else { self.attempts }
    }

    /// Handles a broken rule of the peer, or a failure here. Sends DISCONNECT if there is a reason
    /// code for it, and closes.
    fn fail(&mut self, reason: ReasonCode, now_ms: u32) {
        self.disconnect(reason, now_ms);
        self.end_reason = reason;
    }
}
