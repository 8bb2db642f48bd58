//! The loop of one connection: bytes → packets → session → effects → bytes.
//!
//! One task owns the stream, the session and all buffers. It wakes for five things and looks at all of them each time: word
//! from the registry, bytes to read, messages in the outbox, room to write, a timer. What one wake produces leaves in one
//! write. Nothing in here waits for another client: pushing to an outbox never blocks, and a client that does not read is not
//! read from either.
//!
//! What a packet means is in [`packets`] and [`subscribe`], how messages leave in [`delivery`], how the connection ends in
//! [`farewell`].

mod delivery;
mod farewell;
pub(crate) mod handshake;
pub(crate) mod output;
mod packets;
mod reauth;
mod rights;
mod subscribe;
mod traced;
mod turn;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(crate) use farewell::close;
use lapwing_protocol::alias::{OutboundAliases, TopicPlace};
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::keepalive::ServerKeepAlive;
use lapwing_protocol::{ReasonCode, Version};
pub(crate) use packets::user_properties_fit;
pub(crate) use reauth::{AUTH_BYTES_MAX, AUTH_ROUNDS_MAX, auth_packet};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use turn::TimeSlice;

use crate::clients::CloseSignal;
use crate::clients::handle::{ClientHandle, DisconnectCommand};
use crate::clients::owned::{ConnectionNumber, OwnedSession};
use crate::connection::output::Output;
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::limits::budget::{ConnectionPermit, Pressure};
use crate::limits::rate::RateLimits;
use crate::message::{Message, Millis};
use crate::net::Stream;
use crate::net::endpoint::Endpoint;
use crate::router::{Batch, Fetched, RouteCache};
use crate::store::{Failed, RecordBatch, Ticket, WakerSlot};
use crate::telemetry::metrics::{LocalCounters, RateWindow};

/// How much one read takes at most.
const READ_BYTES: usize = 64 * 1024;
/// How much is gathered before it is written.
const GATHER_BYTES: usize = 60 * 1024;
const GATHER_SHARED_BYTES: usize = 256 * 1024;
/// How much is taken in before others have a turn: what came is written again while it is in the cache of the processor.
const TURN_BYTES: usize = 64 * 1024;
/// The same of large packets. What is written of them leaves in equal parts of up to a segment: of three times as much, none is a half.
const TURN_LARGE_BYTES: usize = 3 * 64 * 1024;
const LARGE_PACKET_BYTES: usize = 4 * 1024;
/// How often the loop goes round before it lets others have a turn.
const ROUNDS_MAX: usize = 8;
/// Acknowledgements that wait for the store before no more packets are read.
const HELD_ACKS_MAX: usize = 4_096;
/// How often a connection looks whether memory is no longer short.
const PAUSE_MS: Millis = 100;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A topic name that an alias stands for.
#[derive(Debug, Default)]
pub struct AliasedTopic(Vec<u8>);

impl TopicPlace for AliasedTopic {
    fn topic(&self) -> &[u8] {
        &self.0
    }

    fn set(&mut self, topic: &[u8]) -> bool {
        self.0.clear();
        self.0.extend_from_slice(topic);
        true
    }
}

/// What was agreed with the client at CONNECT.
#[derive(Debug)]
pub struct Negotiated {
    /// Its protocol version.
    pub version: Version,
    /// The largest packet it takes, in bytes.
    pub packet_bytes_max: u32,
    /// Whether reason strings and user properties may go with more than PUBLISH, CONNACK and DISCONNECT.
    pub problem_information: bool,
    /// The highest topic alias it takes, capped by our own limit.
    pub topic_alias_max: u16,
    /// Seconds; 0 is none.
    pub keep_alive_s: u16,
    /// The enhanced authentication method.
    pub auth_method: Option<Box<str>>,
    /// What the client was told.
    pub told: AnnouncedLimits,
}

/// What CONNACK says of the broker: it stands for the connection, whatever a reload brings.
#[derive(Clone, Copy, Debug)]
pub struct AnnouncedLimits {
    /// The largest packet that the broker takes, in bytes.
    pub packet_bytes_max: u32,
    /// The topic aliases that the client may use.
    pub topic_aliases_max: u16,
    /// The highest QoS.
    pub qos_max: u8,
    /// Whether messages can be retained.
    pub retain_available: bool,
}

/// An acknowledgement that waits for the store.
#[derive(Debug)]
struct HeldAck {
    ticket: Ticket,
    /// How many of the held bytes are its.
    len: usize,
    is_puback: bool,
}

/// A PUBLISH that waits until the store knows that it was sent, or stands behind one that does; or a PUBREL that is sent again.
#[derive(Debug)]
struct HeldPublish {
    ticket: Ticket,
    header: Vec<u8>,
    message: Option<Message>,
}

impl HeldPublish {
    fn len(&self) -> usize {
        self.header.len() + self.message.as_ref().map_or(0, Message::size)
    }
}

/// What a look at the stream brought.
enum ReadOutcome {
    /// So many bytes.
    Some(usize),
    None,
    /// Nothing is read for now.
    Barred,
}

/// Why the loop ended.
#[derive(Debug)]
enum Exit {
    /// The client closed the network connection, or it broke.
    Gone(Option<io::Error>),
    /// DISCONNECT came.
    Disconnected,
    /// The client broke a rule, or a limit was reached: DISCONNECT with this reason where the version has it.
    Violation(ReasonCode, String),
    /// The registry said so.
    Told(CloseSignal),
    /// An operator said so.
    Expelled(DisconnectCommand),
}

/// A connection that was let in.
pub struct Connection {
    pub(crate) core: Arc<Core>,
    pub(crate) stream: Stream,
    pub(crate) place: ConnectionPermit,
    pub(crate) number: ConnectionNumber,
    pub(crate) owned: OwnedSession,
    pub(crate) negotiated: Negotiated,
    pub(crate) end: oneshot::Receiver<CloseSignal>,
    /// How others reach it.
    pub(crate) handle: Arc<ClientHandle>,
    /// What says who may do what, and what is configured, as this connection last saw it.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Its listener in that.
    pub(crate) endpoint: Arc<Endpoint>,
    /// When the client's credentials end.
    pub(crate) expires_at: Option<Millis>,
    /// Bytes of a packet that is not whole, or that wait because reading has stopped.
    pub(crate) input: Vec<u8>,
    pub(crate) output: Output,
    /// What this turn puts into the log.
    pub(crate) records: RecordBatch,
    pub(crate) keep_alive: ServerKeepAlive,
    pub(crate) state: State,
}

/// What a connection keeps for itself while it lives; begins empty.
#[derive(Default)]
pub(crate) struct State {
    /// `input` may hold whole packets.
    has_buffered_packets: bool,
    paused_until: Option<Millis>,
    /// What the client and its user may publish.
    rates: RateLimits,
    aliases_in: Vec<AliasedTopic>,
    aliases_out: Vec<(AliasedTopic, u64)>,
    alias_book: OutboundAliases,
    cache: RouteCache,
    batch: Batch,
    wakers: Vec<Waker>,
    turn: TimeSlice,
    counters: LocalCounters,
    pace: RateWindow,
    /// More than one message left in the last turn.
    sent_many: bool,
    /// This task let the others go first, once since it was woken.
    yielded: bool,
    scratch: Vec<u8>,
    held_acks: VecDeque<HeldAck>,
    held_bytes: VecDeque<u8>,
    held_publishes: VecDeque<HeldPublish>,
    held_publish_bytes: usize,
    slot: WakerSlot,
    /// The store has no room: no PUBLISH is taken in.
    store_full: bool,
    /// What an earlier connection has sent is on record from here on.
    resumed: Ticket,
    fetch: Option<delivery::Fetch>,
    /// It was told to end, and looks a last time whether something has come.
    close_requested: Option<Option<CloseSignal>>,
    /// Retained messages that were fetched.
    fetched: Fetched,
    /// The store could not be read: nothing more is fetched over this connection.
    unreadable: bool,
    timer: Option<Pin<Box<Sleep>>>,
    timer_at: Millis,
    blocked_since: Option<Millis>,
    reauth: Option<reauth::Reauth>,
    last_refusal_log: Option<Millis>,
    suppressed: u64,
    /// What the outbox was last told that the session holds.
    last_reported_pending: usize,
    /// What it was last told to be on its way.
    reported_in_flight: usize,
}

impl State {
    /// With bytes that came behind CONNECT, perhaps, and with what a session brings from earlier connections.
    pub(crate) fn new(any_input: bool, resumed: Ticket, rates: RateLimits, now: Millis) -> State {
        State {
            has_buffered_packets: any_input,
            resumed,
            rates,
            pace: RateWindow::new(now),
            ..State::default()
        }
    }

    /// A message that has to wait for the store, or for one that has to.
    fn hold_publish(&mut self, publish: HeldPublish) {
        self.held_publish_bytes += publish.len();
        self.held_publishes.push_back(publish);
    }

    /// An acknowledgement that has to wait for the store.
    pub(crate) fn hold(&mut self, bytes: &[u8], ticket: Ticket, is_puback: bool) {
        self.held_bytes.extend(bytes);
        self.held_acks.push_back(HeldAck { ticket, len: bytes.len(), is_puback });
    }
}

impl Connection {
    /// Serves the client until the connection ends, and sees to its session then.
    pub async fn run(mut self: Box<Self>) {
        let exit = poll_fn(|cx| self.poll(cx)).await;
        // In a box of its own: what the goodbye needs is not kept ready for as long as the connection lives.
        Box::pin(self.hand_over_session(exit)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        // Where much comes, the publishers that are ready now go first, once: what they have for this client then leaves in one write.
        if self.state.sent_many && !self.state.yielded && self.owned.outbox.has_news() {
            self.state.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.state.yielded = false;
        let result = self.turn(cx);
        // However it ended: others wait for their places behind these.
        self.records.flush();
        if self.state.counters.has_news() {
            self.state.counters.add_to(&self.endpoint.traffic, &self.core.outcomes.drops);
        }
        result
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        self.handle.waker.register(cx.waker());
        if self.handle.has_commands()
            && let Err(exit) = self.answer()
        {
            return Poll::Ready(exit);
        }
        self.state.turn = TimeSlice::default();
        let (mut taken_in, mut packets) = (0, 0);
        for _ in 0..ROUNDS_MAX {
            if let Err(exit) = self.apply_settings() {
                return Poll::Ready(exit);
            }
            let now = self.core.now();
            let slot = &mut self.state.slot;
            self.state.store_full = self.core.store.poll_room(slot, cx).is_pending();
            let read = self.poll_read(now, cx);
            packets += self.state.counters.packets_received as usize;
            // Also after the last packet of a connection: others wait for what came before it.
            self.pass_on_batch();
            self.state.wakers.drain(..).for_each(Waker::wake);
            let read = match read {
                Ok(read) => read,
                Err(exit) => return Poll::Ready(exit),
            };
            // Behind what has come: a client that says DISCONNECT and is back at once leaves no will, and what it has acknowledged is not
            // sent to it again.
            if let Some(end) = &mut self.state.close_requested
                && !(self.state.has_buffered_packets && self.state.turn.is_over())
            {
                let closed = CloseSignal::Closed(ReasonCode::ServerShuttingDown);
                return Poll::Ready(Exit::Told(end.take().unwrap_or(closed)));
            }
            // Who says so may be another thread, which may know of the client's next connection before this one has heard that there is
            // something to read: so the runtime looks at its sockets once more.
            if self.state.close_requested.is_none()
                && let Poll::Ready(end) = Pin::new(&mut self.end).poll(cx)
            {
                self.state.close_requested = Some(end.ok());
                break;
            }
            let others_first = self.state.turn.is_over();
            if others_first {
                self.state.turn = TimeSlice::default();
            }
            let more = self.gather(now, cx);
            if self.owned.outbox.has_overrun() {
                let text =
                    "the client does not keep up: its queue is full, and limits.queue_policy is disconnect";
                return Poll::Ready(Exit::Violation(ReasonCode::QuotaExceeded, text.to_owned()));
            }
            self.records.flush();
            // Behind both that make things wait, so that this task is woken for all of them.
            if self.release(cx).is_err() {
                let text = "the store has failed: what was sent is not acknowledged".to_owned();
                return Poll::Ready(Exit::Violation(ReasonCode::ServerUnavailable, text));
            }
            self.state.sent_many = self.state.counters.publish_sent > 1;
            if self.state.counters.has_news() {
                self.state.pace.pass(now, &self.state.counters);
                // Who reads an answer finds it counted.
                self.state.counters.add_to(&self.endpoint.traffic, &self.core.outcomes.drops);
            }
            let before = self.output.len();
            let written = match self.output.poll_write(&mut self.stream, cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Exit::Gone(Some(error))),
                Poll::Pending => false,
            };
            if self.output.len() < before {
                self.state.counters.wrote((before - self.output.len()) as u64, &self.endpoint.traffic);
            }
            if written || self.output.len() < before {
                self.state.blocked_since = None;
            }
            if !written {
                self.state.blocked_since.get_or_insert(now);
            }
            let again = match read {
                ReadOutcome::Some(bytes) => {
                    taken_in += bytes;
                    true
                }
                ReadOutcome::None => more && written,
                ReadOutcome::Barred => (more && written) || self.may_read(now),
            };
            if !again {
                return match self.poll_timer(now, cx) {
                    Some(exit) => Poll::Ready(exit),
                    None => Poll::Pending,
                };
            }
            let large = taken_in >= packets * LARGE_PACKET_BYTES;
            let most = if large { TURN_LARGE_BYTES } else { TURN_BYTES };
            if taken_in >= most || others_first || self.state.turn.is_over() {
                break;
            }
        }
        // Others first: those that are ready, and those that the runtime finds ready as it looks at its sockets next. Woken the usual way, this
        // would go on before the runtime looks: it does so only when nobody is ready, or after 61 turns.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Whether packets are taken in now. A client whose answers pile up is not read from.
    fn may_read(&self, now: Millis) -> bool {
        self.output.len() < self.endpoint.limits.write_buffer_bytes_max as usize
            && self.state.held_acks.len() < HELD_ACKS_MAX
            && self.state.paused_until.is_none_or(|until| until <= now)
            && !(self.state.store_full && self.state.has_buffered_packets)
    }

    /// Reads once and handles what came.
    fn poll_read(&mut self, now: Millis, cx: &mut Context<'_>) -> Result<ReadOutcome, Exit> {
        // What has come of a large packet counts as memory, too.
        if !self.may_read(now) || (self.input.len() > READ_BYTES && self.pauses(now)) {
            // A client that is not listened to cannot be blamed for its silence; one that does not read is found by the stall.
            self.keep_alive.heard(now as u32);
            return Ok(ReadOutcome::Barred);
        }
        self.state.paused_until = None;
        if std::mem::take(&mut self.state.has_buffered_packets) {
            let input = std::mem::take(&mut self.input);
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
                self.state.counters.bytes_received += bytes as u64;
                self.core.budget.took_in(bytes);
                self.take_in(buffer.filled(), now).map(|()| ReadOutcome::Some(bytes))
            }
        };
        SCRATCH.set(scratch);
        result
    }

    /// Handles what came, and keeps what is left. To a packet that is not whole yet, only what belongs to it is added: the others are
    /// handled where they are.
    fn take_in(&mut self, mut fresh: &[u8], now: Millis) -> Result<(), Exit> {
        while !self.input.is_empty() && !fresh.is_empty() {
            let packet_bytes_max = self.negotiated.told.packet_bytes_max;
            let need = match frame::split(&self.input, self.negotiated.version, packet_bytes_max) {
                Ok(Split::Incomplete { need }) => need.saturating_sub(self.input.len()).max(1),
                // What is wrong with it is found out below.
                _ => fresh.len(),
            };
            let (more, rest) = fresh.split_at_checked(need).unwrap_or((fresh, &[]));
            self.input.extend_from_slice(more);
            fresh = rest;
            let input = std::mem::take(&mut self.input);
            self.consume(input, now)?;
            if self.state.has_buffered_packets {
                self.input.extend_from_slice(fresh);
                return Ok(());
            }
        }
        let used = self.packets(fresh, now)?;
        self.input.extend_from_slice(fresh.get(used..).unwrap_or(&[]));
        Ok(())
    }

    /// Handles the packets in bytes that were kept, and keeps what is left of them.
    fn consume(&mut self, mut input: Vec<u8>, now: Millis) -> Result<(), Exit> {
        let used = self.packets(&input, now)?;
        if used < input.len() {
            input.drain(..used);
            self.input = input;
        }
        Ok(())
    }

    /// Sends what the store has made true: acknowledgements in their order, messages in theirs.
    fn release(&mut self, cx: &mut Context<'_>) -> Result<(), Failed> {
        let store = self.core.store.clone();
        let state = &mut self.state;
        let mut ready = 0;
        while let Some(ack) = state.held_acks.front() {
            match store.poll(ack.ticket, &mut state.slot, cx) {
                Poll::Pending => break,
                Poll::Ready(kept) => kept?,
            }
            if ack.is_puback {
                self.owned.session.puback_sent();
            }
            ready += ack.len;
            state.held_acks.pop_front();
        }
        if ready > 0 {
            let (front, back) = state.held_bytes.as_slices();
            let split = ready.min(front.len());
            self.output.extend(front.get(..split).unwrap_or(&[]));
            self.output.extend(back.get(..ready - split).unwrap_or(&[]));
            state.held_bytes.drain(..ready);
            if state.held_bytes.is_empty() {
                state.held_bytes = VecDeque::new();
            }
        }
        while let Some(publish) = state.held_publishes.front() {
            match store.poll(publish.ticket, &mut state.slot, cx) {
                Poll::Pending => break,
                Poll::Ready(kept) => kept?,
            }
            self.output.extend(&publish.header);
            if let Some(message) = &publish.message {
                self.output.payload(message);
            }
            state.held_publish_bytes -= publish.len();
            state.held_publishes.pop_front();
        }
        Ok(())
    }

    /// Sets the timer for what is due next, or says that it is due.
    fn poll_timer(&mut self, now: Millis, cx: &mut Context<'_>) -> Option<Exit> {
        let keep_alive = self.keep_alive.remaining_ms(now as u32).map(|left| now + u64::from(left));
        if keep_alive.is_some_and(|at| at <= now) {
            let text = "nothing came for one and a half times the keep-alive".to_owned();
            return Some(Exit::Violation(ReasonCode::KeepAliveTimeout, text));
        }
        let stall_ms = u64::from(self.endpoint.limits.write_stall_timeout_s) * 1000;
        let stalled = self.state.blocked_since.map(|since| since + stall_ms);
        if stalled.is_some_and(|at| at <= now) {
            let text = "the client did not read for limits.write_stall_timeout_s".to_owned();
            return Some(Exit::Violation(ReasonCode::ImplementationSpecificError, text));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            let text = "the credentials have ended: come again with new ones".to_owned();
            return Some(Exit::Violation(ReasonCode::MaximumConnectTime, text));
        }
        let others = self.state.paused_until.into_iter().chain(self.expires_at);
        let due = keep_alive.into_iter().chain(stalled).chain(others).min()?;
        let wait = Duration::from_millis(due.saturating_sub(now) + 1);
        // A deadline that has moved on is found out when the old one fires: no timer is touched for each packet.
        if self.state.timer.is_none() || self.state.timer_at > due {
            self.state.timer_at = due;
            self.state.timer = Some(Box::pin(tokio::time::sleep(wait)));
        }
        if let Some(timer) = &mut self.state.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.state.timer = None;
            cx.waker().wake_by_ref();
        }
        None
    }

    /// Memory is short: PUBLISH packets wait, acknowledgements before them were handled.
    fn pauses(&mut self, now: Millis) -> bool {
        let pauses = self.core.budget.pressure() >= Pressure::Pause;
        if pauses {
            self.state.paused_until = Some(now + PAUSE_MS);
        }
        pauses
    }
}
