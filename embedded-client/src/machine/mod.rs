//! The client without a socket, a clock or an executor.
//!
//! A front end asks for a step ([`Machine::step`]), does it, and reports with `dialed`, `wrote`,
//! `flushed`, `received` or `lost`. Its future may be dropped anywhere, since everything that is
//! begun is kept here. The machine writes everything before it reads. So the inbound buffer is free
//! when CONNECT and SUBSCRIBE are written in it.
//!
//! Times are milliseconds that may wrap around. A step must be asked for at least every 24 days.

mod connect;
mod publish;
mod receive;
mod transmit;

use lapwing_protocol::keepalive::{ClientKeepAlive, KeepAliveStep};
use lapwing_protocol::{ReasonCode, Version};

use crate::Error;
use crate::config::Config;
use crate::event::Happened;
use crate::shelf::{Shelf, flag, kind};
use receive::Incoming;
use transmit::Outgoing;

/// The next action of the front end.
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
    unflushed: bool,
    /// Saved state has changed since it was saved.
    pub(crate) dirty: bool,
    no_inbound_aliases: bool,
    /// The application wants to close the connection.
    close_requested: bool,
    close_reason: ReasonCode,
    /// Event for the next step.
    tell: Happened,
    /// Reason reason the connection ended; success if none was given.
    end_reason: ReasonCode,
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
    keep_alive: ClientKeepAlive,
    /// Number of QoS 1 and 2 messages that the server still accepts on this connection.
    quota: u16,
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
            subscribed: false,
            subscribe: false,
            announced: false,
            unflushed: false,
            dirty: false,
            no_inbound_aliases: false,
            close_requested: false,
            close_reason: ReasonCode::Success,
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
            keep_alive: ClientKeepAlive::new(0, 0, 0),
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

    /// Returns true if there may be a link.
    #[cfg(feature = "async")]
    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Down | Phase::Closed)
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
            if void.of(kind::DROPPED) {
                return Step::Tell(Happened::Dropped(void.tag()));
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
        let keep_alive = self.keep_alive.step(now_ms);
        if self.out.is_idle() {
            match self.next_packet(io, keep_alive, now_ms) {
                Happened::Nothing => {}
                happened => return Step::Tell(happened),
            }
        } else if overdue {
            return Step::HangUp;
        }
        if !self.out.is_idle() {
            return if self.out.wants_payload() { Step::Tell(Happened::PayloadWanted) } else { Step::Write };
        }
        if self.unflushed {
            return Step::Flush;
        }
        let dead = self.phase == Phase::Up && keep_alive == KeepAliveStep::Dead;
        if dead || self.phase == Phase::Closing || self.phase == Phase::Opening && overdue {
            return Step::HangUp;
        }
        Step::Read
    }

    /// Milliseconds until the current step must be given up for another one.
    pub(crate) fn due_in_ms(&self, now_ms: u32) -> u32 {
        if self.phase == Phase::Up && self.out.is_idle() {
            return match self.keep_alive.step(now_ms) {
                KeepAliveStep::Wait(ms) => ms,
                KeepAliveStep::Off => u32::MAX / 2,
                KeepAliveStep::Ping | KeepAliveStep::Dead => 0,
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

    /// Notes that the link is open.
    pub(crate) fn dialed(&mut self, now_ms: u32) {
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
        let was = self.phase;
        self.abort_long_message(io);
        self.out.forget();
        self.inbound.left = 0;
        self.unflushed = false;
        self.close_requested = false;
        // A FRESH message begins to age, which changes little.
        io.shelf.forget(kind::ALIAS, flag::SENT | flag::COUNTED);
        // A connection that lasted resets the pauses. A server that accepts and closes does not.
        if was == Phase::Up && now_ms.wrapping_sub(self.since_ms) > 10_000 {
            self.attempts = 0;
        }
        let (shortest, longest) = (u32::from(self.config.backoff_min_ms), self.config.backoff_max_ms);
        let pause = longest.min(shortest << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.due_ms = now_ms.wrapping_add(pause - self.random % (pause / 2 + 1));
        self.phase = if self.phase == Phase::Closing && self.end_reason == ReasonCode::Success {
            Phase::Closed
        } else {
            Phase::Down
        };
        let reason = core::mem::replace(&mut self.end_reason, ReasonCode::Success);
        if core::mem::take(&mut self.announced) {
            self.tell = Happened::Disconnected(reason);
        }
    }

    /// Notes that the application closed the link.
    pub(crate) fn closed(&mut self, io: &mut Buffers<'_>, now_ms: u32) {
        self.lost(io, now_ms);
        self.tell = Happened::Nothing;
        self.phase = Phase::Closed;
    }

    /// Sends DISCONNECT after the packet that is being sent.
    pub(crate) fn close(&mut self, reason: ReasonCode, now_ms: u32) {
        self.end_reason = ReasonCode::Success;
        if self.phase == Phase::Up {
            self.close_requested = true;
            self.close_reason = reason;
        } else {
            self.phase = Phase::Closing;
        }
        self.extend_deadline(now_ms);
    }

    /// Handles a broken rule of the peer, or a failure here. Sends DISCONNECT if there is a reason
    /// code for it, and closes.
    fn fail(&mut self, reason: ReasonCode, now_ms: u32) {
        self.disconnect(reason, now_ms);
        self.end_reason = reason;
    }
}
