//! The loop of one connection: bytes → packets → session → effects → bytes.
//!
//! One task owns the stream, the session and all buffers. It wakes for five things and looks at all
//! of them each time: word from the registry, bytes to read, messages in the outbox, room to write,
//! a timer. What one wake produces leaves in one write. Nothing in here waits for another client:
//! pushing to an outbox never blocks, and a client that does not read is not read from either.
//!
//! The components know no role: [`inbound`] reads and decodes, [`publisher`] takes messages in,
//! [`delivery`] sends them, [`commit_queue`] waits for the store, [`pacing`] keeps time, [`stats`]
//! counts. [`handshake`] makes a connection, [`close`] ends it.

mod close;
mod commit_queue;
mod delivery;
pub(crate) mod handshake;
mod inbound;
mod negotiated;
pub(crate) mod output;
mod pacing;
mod publisher;
mod reauth;
mod refusals;
mod reply;
mod settings_change;
mod stats;
mod subscribe;
mod time_slice;
mod traced;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

pub(crate) use close::close;
use lapwing_protocol::ReasonCode;
pub(crate) use reauth::{AUTH_BYTES_MAX, AUTH_ROUNDS_MAX, auth_packet};
use time_slice::TimeSlice;
use tokio::sync::oneshot;

use crate::clients::CloseSignal;
use crate::clients::handle::{ClientHandle, DisconnectCommand};
use crate::clients::owned::{ConnectionNumber, OwnedSession};
use crate::connection::commit_queue::CommitQueue;
use crate::connection::delivery::Outbound;
use crate::connection::inbound::{Inbound, ReadOutcome};
use crate::connection::negotiated::Negotiated;
use crate::connection::pacing::Pacing;
use crate::connection::publisher::Publisher;
use crate::connection::stats::Stats;
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::limits::budget::ConnectionPermit;
use crate::message::Millis;
use crate::net::Stream;
use crate::net::endpoint::Endpoint;

/// Bytes that are gathered before a write, copied and shared ones.
const GATHER_BYTES: usize = 60 * 1024;
const GATHER_SHARED_BYTES: usize = 256 * 1024;
/// Bytes that are taken in before others have a turn: the input is written again while it is in the
/// processor's cache.
const TURN_BYTES: usize = 64 * 1024;
/// The same for large packets. Output leaves in equal parts of up to a segment: of three segments,
/// no part is a half.
const TURN_LARGE_BYTES: usize = 3 * 64 * 1024;
const LARGE_PACKET_BYTES: usize = 4 * 1024;
/// Rounds of one turn at most.
const ROUNDS_MAX: usize = 8;
/// Reason why the loop ended.
#[derive(Debug)]
enum Exit {
    /// The client closed the network connection, or it broke.
    Gone(Option<io::Error>),
    /// DISCONNECT came.
    Disconnected,
    /// The client broke a rule, or a limit was reached: DISCONNECT with this reason where the
    /// version has it.
    Violation(ReasonCode, String),
    /// The registry asked the connection to close.
    Told(CloseSignal),
    /// An operator disconnected the client.
    Expelled(DisconnectCommand),
}

/// A connection whose client was let in. It knows no role: the handshake that made it has one.
pub struct Connection {
    pub(crate) core: Arc<Core>,
    pub(crate) stream: Stream,
    /// Counts the connection in the budget while it lives.
    pub(crate) permit: ConnectionPermit,
    pub(crate) number: ConnectionNumber,
    pub(crate) owned: OwnedSession,
    pub(crate) negotiated: Negotiated,
    /// The registry's request to close.
    pub(crate) close: oneshot::Receiver<CloseSignal>,
    /// The handle by which others reach this connection.
    pub(crate) handle: Arc<ClientHandle>,
    /// Configuration and policy as this connection last saw them.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The listener in that snapshot.
    pub(crate) endpoint: Arc<Endpoint>,
    /// Moment at which the client's credentials end.
    pub(crate) expires_at: Option<Millis>,
    /// An exchange of AUTH packets that is under way.
    pub(crate) reauth: Option<reauth::Reauth>,
    pub(crate) inbound: Inbound,
    pub(crate) publisher: Publisher,
    pub(crate) outbound: Outbound,
    pub(crate) commits: CommitQueue,
    pub(crate) pacing: Pacing,
    pub(crate) stats: Stats,
}

impl Connection {
    /// Serves the client until the connection ends, and hands its session over then.
    pub async fn run(mut self: Box<Self>) {
        let exit = poll_fn(|cx| self.poll(cx)).await;
        // Boxed: otherwise each connection would hold the memory of its end from the beginning.
        Box::pin(self.finish(exit)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        // Under load, publishers that are ready now go first, once. Their messages for this client
        // then leave in one write.
        if self.pacing.sent_many && !self.pacing.yielded && !self.owned.outbox.is_empty() {
            self.pacing.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pacing.yielded = false;
        let result = self.turn(cx);
        // Also after an error: records of other connections wait for these LSNs to be filled.
        self.commits.records.flush();
        if self.stats.counters.has_news() {
            self.stats.counters.add_to(&self.endpoint.traffic, &self.core.outcomes.drops);
        }
        result
    }

    /// One turn of the loop. Its phases, in an order that is a contract:
    ///
    /// 1. control: commands of operators and new settings, so that nothing is done by old rights;
    /// 2. read: packets are handled and their messages routed, also after the last packet, since
    ///    others wait for them;
    /// 3. close: only behind what has come, so that a client that says DISCONNECT and is back at
    ///    once leaves no will;
    /// 4. gather: messages for the client are taken from the session and the outbox;
    /// 5. commit: the records of both go to the log, then what the store has made true is released.
    ///    It stands behind read and gather, which may both add to the commit queue: this call
    ///    registers the waker;
    /// 6. write: one write of all that came together.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        self.handle.waker.register(cx.waker());
        if self.handle.has_commands()
            && let Err(exit) = self.answer()
        {
            return Poll::Ready(exit);
        }
        self.pacing.slice = TimeSlice::default();
        let mut taken = Taken::default();
        for _ in 0..ROUNDS_MAX {
            match self.round(&mut taken, cx) {
                Ok(Round::Again) => {}
                Ok(Round::Others) => break,
                Ok(Round::Idle) => return Poll::Pending,
                Err(exit) => return Poll::Ready(exit),
            }
        }
        // `yield_now` wakes this task behind the next look of the runtime at its sockets.
        // `wake_by_ref` would wake it before: the runtime looks only when no task is ready, or
        // after 61 turns.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    // The phases are inlined: each has one caller, and to move a `Result<_, Exit>` through all of
    // them takes a hundred instructions a round.
    #[inline(always)]
    fn round(&mut self, taken: &mut Taken, cx: &mut Context<'_>) -> Result<Round, Exit> {
        self.apply_settings()?;
        let now = self.core.now();
        let read = self.read(now, taken, cx)?;
        if self.is_asked_to_close(cx)? {
            return Ok(Round::Others);
        }
        let others_first = self.pacing.slice.is_over();
        if others_first {
            self.pacing.slice = TimeSlice::default();
        }
        let more = self.gather(now, cx);
        if self.owned.outbox.has_overrun() {
            let text =
                "the client does not keep up: its queue is full, and limits.queue_policy is disconnect";
            return Err(Exit::Violation(ReasonCode::QuotaExceeded, text.to_owned()));
        }
        self.commit(now, cx)?;
        let written = self.write(now, cx)?;
        let again = match read {
            ReadOutcome::Some(_) => true,
            ReadOutcome::None => more && written,
            ReadOutcome::Paused => (more && written) || self.may_read(now),
        };
        if !again {
            return self.poll_timer(now, cx).map_or(Ok(Round::Idle), Err);
        }
        let over = taken.is_enough() || others_first || self.pacing.slice.is_over();
        Ok(if over { Round::Others } else { Round::Again })
    }

    /// Reads once, and routes the messages that came.
    #[inline(always)]
    fn read(&mut self, now: Millis, taken: &mut Taken, cx: &mut Context<'_>) -> Result<ReadOutcome, Exit> {
        let slot = &mut self.commits.slot;
        self.commits.store_full = self.core.store.poll_room(slot, cx).is_pending();
        let read = self.poll_read(now, cx);
        taken.packets += self.stats.counters.packets_received as usize;
        self.flush();
        self.publisher.wakers.drain(..).for_each(Waker::wake);
        if let Ok(ReadOutcome::Some(bytes)) = read {
            taken.bytes += bytes;
        }
        read
    }

    /// Returns `true` when a request to close has just come: the socket is read once more before it
    /// counts.
    ///
    /// # Errors
    /// The request, once everything that had come is handled.
    #[inline(always)]
    fn is_asked_to_close(&mut self, cx: &mut Context<'_>) -> Result<bool, Exit> {
        if let Some(signal) = self.pacing.close_requested.take() {
            if !(self.inbound.has_buffered_packets && self.pacing.slice.is_over()) {
                return Err(Exit::Told(signal));
            }
            self.pacing.close_requested = Some(signal);
            return Ok(false);
        }
        // The request may overtake bytes of the client: another thread may see its next connection
        // before this runtime sees its DISCONNECT. So the socket is read once more first.
        match Pin::new(&mut self.close).poll(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(signal) => {
                let gone = CloseSignal::Closed(ReasonCode::ServerShuttingDown);
                self.pacing.close_requested = Some(signal.unwrap_or(gone));
                Ok(true)
            }
        }
    }

    /// Puts the records of this round into the log, and releases the packets whose tickets are
    /// good.
    #[inline(always)]
    fn commit(&mut self, now: Millis, cx: &mut Context<'_>) -> Result<(), Exit> {
        self.commits.records.flush();
        let (store, session) = (&*self.core.store, &mut self.owned.session);
        if self.commits.release(store, session, &mut self.outbound.output, cx).is_err() {
            let text = "the store has failed: what was sent is not acknowledged".to_owned();
            return Err(Exit::Violation(ReasonCode::ServerUnavailable, text));
        }
        self.pacing.sent_many = self.stats.counters.publish_sent > 1;
        if self.stats.counters.has_news() {
            self.stats.window.pass(now, &self.stats.counters);
            // Counted before the write: a client that reads the answer finds it in the metrics.
            self.stats.counters.add_to(&self.endpoint.traffic, &self.core.outcomes.drops);
        }
        Ok(())
    }

    /// Writes once. Returns `true` when nothing is left.
    #[inline(always)]
    fn write(&mut self, now: Millis, cx: &mut Context<'_>) -> Result<bool, Exit> {
        let output = &mut self.outbound.output;
        let before = output.len();
        let written = match output.poll_write(&mut self.stream, cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => return Err(Exit::Gone(Some(error))),
            Poll::Pending => false,
        };
        if output.len() < before {
            self.stats.counters.wrote((before - output.len()) as u64, &self.endpoint.traffic);
        }
        if written || output.len() < before {
            self.pacing.blocked_since = None;
        }
        if !written {
            self.pacing.blocked_since.get_or_insert(now);
        }
        Ok(written)
    }
}

/// Next step after a round.
enum Round {
    /// There may be more to do at once.
    Again,
    /// There may be more, but other tasks have their turn first.
    Others,
    /// There is nothing to do until this task is woken.
    Idle,
}

/// Input of one turn.
#[derive(Default)]
struct Taken {
    bytes: usize,
    packets: usize,
}

impl Taken {
    /// Returns `true` when others are to have a turn: the input is written again while it is in the
    /// processor's cache.
    fn is_enough(&self) -> bool {
        let large = self.bytes >= self.packets * LARGE_PACKET_BYTES;
        self.bytes >= if large { TURN_LARGE_BYTES } else { TURN_BYTES }
    }
}
