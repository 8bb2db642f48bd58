//! The client without a socket, a clock or an executor: [`Machine::step`] says what to do next, the faces do it and tell.
//!
//! The contract: a face asks for a step, does what it says, and reports with `dialed`, `wrote`, `flushed`, `received` or `lost`. Dropping
//! a face's future anywhere is harmless, since everything that is begun is remembered here. All that is to be written is written before
//! anything is read; so the inbound buffer is free when CONNECT and SUBSCRIBE are written in it.
//!
//! Time is a count of milliseconds that may wrap around; a step is to be asked at least every 24 days.

mod connect;
mod receive;
mod transmit;

use lapwing_protocol::keepalive::{ClientKeepAlive, KeepAliveStep};
use lapwing_protocol::{ReasonCode, Version};

use crate::config::{Config, Policy};
use crate::event::Happened;
use crate::publication::{self, Publication};
use crate::shelf::{HEADER, Record, Shelf, flag, kind};
use crate::{Error, PublishError, Token};
use receive::Incoming;
use transmit::Outgoing;

/// What the face does next.
pub(crate) enum Step {
    /// Wait until [`Machine::due_in_ms`] is over.
    Wait,
    /// Open the link, or go on opening it.
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

/// The memory of the user: one buffer that keeps, one for the packet that comes.
pub(crate) struct Buffers<'b> {
    pub(crate) shelf: Shelf<'b>,
    pub(crate) inbox: &'b mut [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Closed by the application, or not begun: the next step dials.
    Closed,
    /// No link; dial when the pause is over.
    Down,
    Dialing,
    /// The link is there, CONNACK is not.
    Opening,
    Up,
    /// A DISCONNECT leaves, then the link is closed.
    Closing,
}

/// What the server allows on this connection.
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

/// So many words of dropped messages may keep their room from messages.
const WORDS: usize = 8;

/// What is looked at often comes first: near offsets make short instructions.
#[repr(C)]
pub(crate) struct Machine<'a> {
    phase: Phase,
    attempts: u8,
    /// The first connection after the start was made.
    met: bool,
    /// SUBACK came for the subscriptions of the configuration, in this session.
    subscribed: bool,
    /// SUBSCRIBE is to be sent; before CONNACK: CONNECT was sent.
    subscribe: bool,
    /// The application was told that the connection is up.
    announced: bool,
    unflushed: bool,
    /// Something that is kept changed since it was saved.
    pub(crate) dirty: bool,
    no_inbound_aliases: bool,
    /// The application wants to close, with this reason.
    goodbye: bool,
    goodbye_reason: ReasonCode,
    /// What the next step tells.
    tell: Happened,
    /// Why the connection ended; success where nobody said it.
    why: ReasonCode,
    out: Outgoing,
    inbound: Incoming,
    /// When the pause, the dial, the handshake or the stalled write is over.
    due_ms: u32,
    /// When the connection came up; when messages aged last.
    since_ms: u32,
    aged_ms: u32,
    random: u32,
    introduced: u32,
    #[cfg(feature = "v5")]
    limits: Limits,
    keep_alive: ClientKeepAlive,
    /// How many more QoS 1 and 2 messages the server takes on this connection.
    quota: u16,
    last_id: u16,
    /// The packet identifier of the SUBSCRIBE for the subscriptions of the configuration.
    subscribing: u16,
    /// Messages that were forgotten before they were sent.
    pub(crate) dropped: u16,
    pub(crate) config: Config<'a>,
}

impl<'a> Machine<'a> {
    pub(crate) const fn new(config: Config<'a>) -> Self {
        Machine {
            phase: Phase::Closed,
            attempts: 0,
            met: false,
            subscribed: false,
            subscribe: false,
            announced: false,
            unflushed: false,
            dirty: false,
            no_inbound_aliases: false,
            goodbye: false,
            goodbye_reason: ReasonCode::Success,
            tell: Happened::Nothing,
            why: ReasonCode::Success,
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

    /// The version of this client; known when it is compiled if only one was chosen.
    pub(crate) const fn version(&self) -> Version {
        if cfg!(not(feature = "v5")) {
            Version::V311
        } else if cfg!(not(feature = "v3")) {
            Version::V5
        } else {
            self.config.version
        }
    }

    /// The largest packet that the server takes.
    const fn packet_bytes_max(&self) -> u32 {
        #[cfg(feature = "v5")]
        return self.limits.packet_bytes;
        #[cfg(not(feature = "v5"))]
        u32::MAX
    }

    /// Whether there may be a link.
    #[cfg(feature = "async")]
    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Down | Phase::Closed)
    }

    /// The link failed outside a step: the next one closes it.
    pub(crate) fn give_up(&mut self) {
        self.phase = Phase::Closing;
        self.why = ReasonCode::UnspecifiedError;
        self.out.forget();
    }

    /// As much of a payload as is wanted.
    pub(crate) fn piece<'p>(&self, payload: &'p [u8]) -> &'p [u8] {
        let most = if self.out.wants_payload() { self.out.stream_left() } else { 0 };
        payload.get(..payload.len().min(most as usize)).unwrap_or(&[])
    }

    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up)
    }

    /// What to do now.
    #[inline(never)]
    pub(crate) fn step(&mut self, io: &mut Buffers<'_>, now_ms: u32) -> Step {
        match core::mem::replace(&mut self.tell, Happened::Nothing) {
            Happened::Nothing => {}
            happened => return Step::Tell(happened),
        }
        let seconds = now_ms.wrapping_sub(self.aged_ms) / 1_000;
        self.aged_ms = self.aged_ms.wrapping_add(seconds * 1_000);
        // Until the first step, the clock is not known.
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

    /// Milliseconds until the step that was asked for is to be given up for another one.
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

    fn patience(&mut self, now_ms: u32) {
        self.due_ms = now_ms.wrapping_add(u32::from(self.config.response_ms));
    }

    fn start(&mut self, now_ms: u32) {
        // Clients that start at the same moment are told apart by their identifiers, and by when they started.
        let mut random = now_ms ^ 0x9e37_79b9;
        for byte in self.config.client_id.as_bytes() {
            random = (random ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
        self.random = random | 1;
        self.out.begin();
    }

    fn dial(&mut self, now_ms: u32) -> Step {
        self.phase = Phase::Dialing;
        self.patience(now_ms);
        Step::Dial
    }

    /// The link is open.
    pub(crate) fn dialed(&mut self, now_ms: u32) {
        self.phase = Phase::Opening;
        #[cfg(feature = "v5")]
        {
            self.limits = Limits::NONE;
        }
        self.inbound.next();
        self.subscribe = false;
        self.patience(now_ms);
    }

    /// There is no link (any more): what was begun to be sent is to be sent again.
    #[inline(never)]
    pub(crate) fn lost(&mut self, io: &mut Buffers<'_>, now_ms: u32) {
        let was = self.phase;
        self.abort_long_message(io);
        self.out.forget();
        self.inbound.left = 0;
        self.unflushed = false;
        self.goodbye = false;
        // A FRESH message begins to age, which changes little.
        io.shelf.forget(kind::ALIAS, flag::SENT | flag::COUNTED);
        // A connection that lasted starts the pauses anew; a server that accepts and closes does not.
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
        self.phase = if self.phase == Phase::Closing && self.why == ReasonCode::Success {
            Phase::Closed
        } else {
            Phase::Down
        };
        let why = core::mem::replace(&mut self.why, ReasonCode::Success);
        if core::mem::take(&mut self.announced) {
            self.tell = Happened::Disconnected(why);
        }
    }

    /// The application closed the link.
    pub(crate) fn closed(&mut self, io: &mut Buffers<'_>, now_ms: u32) {
        self.lost(io, now_ms);
        self.tell = Happened::Nothing;
        self.phase = Phase::Closed;
    }

    /// Says goodbye when the packet that is on its way out has left.
    pub(crate) fn close(&mut self, reason: ReasonCode, now_ms: u32) {
        self.why = ReasonCode::Success;
        if self.phase == Phase::Up {
            self.goodbye = true;
            self.goodbye_reason = reason;
        } else {
            self.phase = Phase::Closing;
        }
        self.patience(now_ms);
    }

    /// The peer broke a rule, or something here failed: say so where there is a word for it, and close.
    fn fail(&mut self, reason: ReasonCode, now_ms: u32) {
        self.farewell(reason, now_ms);
        self.why = reason;
    }

    /// Forgets a message that was not sent, while another one may be on its way out: its token stays behind, and the next step tells
    /// it. Or forgets the token.
    #[inline(never)]
    fn discard(&mut self, io: &mut Buffers<'_>, record: Record) {
        let mut from = record.at();
        if record.of(kind::PUBLISH) {
            self.dropped = self.dropped.wrapping_add(1);
            if record.tag() != 0 {
                io.shelf.put_u32(from, u32::from_be_bytes([0, HEADER as u8, kind::DROPPED, 0]));
                from = record.body();
            }
        }
        self.out.moved(from, record.end());
        io.shelf.cut(from, record.end());
        self.dirty = true;
    }

    /// A packet identifier that is not in use (`[MQTT-2.2.1-4]`). There is one: the shelf has no room for so many.
    pub(crate) fn allocate(&mut self, shelf: &Shelf<'_>) -> u16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = self.last_id;
            if id != 0 && id != self.subscribing && shelf.find(kind::OUTBOUND | kind::DROPPED, id).kind() == 0
            {
                return id;
            }
        }
    }

    /// Goes on after the packet identifiers of a session that was saved.
    pub(crate) fn resume_ids(&mut self, shelf: &Shelf<'_>) {
        let (mut record, mut last) = (shelf.first(), 0);
        while record.kind() != 0 {
            if record.of(kind::OUTBOUND) {
                last = record.tag();
            }
            record = shelf.after(record);
        }
        self.last_id = last;
    }

    /// What stays free for inbound QoS 2 identifiers.
    pub(crate) fn kept(&self) -> usize {
        HEADER * usize::from(self.config.receive_maximum)
    }

    #[inline(never)]
    pub(crate) fn publish(
        &mut self,
        io: &mut Buffers<'_>,
        message: &Publication<'_>,
    ) -> Result<Token, PublishError> {
        publication::check(message)?;
        // What never fits must not drive out what does.
        if message.topic.len() + message.payload.len() + 2 * HEADER + self.kept() > io.shelf.bytes.len() {
            return Err(PublishError::Full);
        }
        let policy = message.policy.unwrap_or(self.config.policy);
        let same_topic = if policy == Policy::LatestPerTopic { Some(message.topic) } else { None };
        let tag = if message.flags & flag::QOS == 0 { 0 } else { self.allocate(&io.shelf) };
        while let Err(error) = io.shelf.enqueue(message, tag, self.kept()) {
            let may_drop = error == PublishError::Full && policy != Policy::Reject;
            let mut victim = io.shelf.oldest_unsent(same_topic);
            let gone = io.shelf.age(0);
            // The word of a dropped message stands in its place. When some of them wait, or nothing else is left, they are in the way.
            if gone.kind() != 0 && victim.at().wrapping_sub(gone.end()) >= WORDS * HEADER {
                victim = gone;
            }
            if !may_drop || victim.kind() == 0 {
                return Err(error);
            }
            self.discard(io, victim);
        }
        if same_topic.is_some() {
            let older = io.shelf.oldest_unsent(same_topic);
            if older.end() < io.shelf.used() {
                self.discard(io, older);
            }
        }
        self.dirty = true;
        Ok(Token(tag))
    }
}
