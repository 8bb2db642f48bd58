//! The durability seam: the trait `Store` and its types.

use std::iter;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::message::{Delivery, Durability, Message, Millis, Seq, SessionNumber};
use crate::store::{Entry, KeptSession, OpenError, Record};
use crate::telemetry::metrics::HistogramSnapshot;

/// Log sequence number. Records are durable in its order; 0 is durable from the start.
pub type Lsn = u64;

/// Condition of an acknowledgement: a record, and how durable it must be. The default is always
/// met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// LSN of the record; 0: none.
    pub lsn: Lsn,
    /// Required durability.
    pub durability: Durability,
}

/// The store accepts no new messages: the disk is full, or it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// The store has failed for good: nothing more becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// Registration of a task that waits: at most one waker, however often it polls.
#[derive(Clone, Copy, Debug, Default)]
pub struct WakerSlot {
    pub(crate) epoch: u64,
}

/// Health of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// The store works.
    #[default]
    Good = 0,
    /// The disk is full: new messages are refused, acknowledgements of old ones are still recorded.
    Full = 1,
    /// A write or a sync failed: nothing is acknowledged any more.
    Failed = 2,
}

impl Health {
    /// Text of `$SYS/broker/store/health`.
    pub const fn text(self) -> &'static str {
        match self {
            Health::Good => "good",
            Health::Full => "full",
            Health::Failed => "failed",
        }
    }
}

/// Figures since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Health.
    pub health: Health,
    /// Bytes of records, before framing.
    pub record_bytes: u64,
    /// Bytes written to the log, including padding.
    pub log_bytes: u64,
    /// Bytes written to the checkpoint.
    pub checkpoint_bytes: u64,
    /// Number of syncs.
    pub syncs: u64,
    /// Duration of the syncs of the log.
    pub sync_time: HistogramSnapshot,
    /// Number of checkpoints.
    pub checkpoints: u64,
    /// Log segments that are kept because they hold queued messages.
    pub segments_kept: u64,
    /// Messages that were moved out of mostly empty segments.
    pub moved: u64,
    /// Corrupt rows and frames that were found.
    pub corrupt: u64,
}

/// Request for one page of a session queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Session of the queue.
    pub session: SessionNumber,
    /// First slot.
    pub from: Seq,
    /// End of the slots, exclusive.
    pub until: Seq,
    /// Maximum number of messages.
    pub messages_max: usize,
    /// Size in bytes after which the page ends.
    pub bytes_max: usize,
}

/// One page of a session queue.
#[derive(Debug, Default, PartialEq)]
pub struct Paged {
    /// Messages in order; empty slots were skipped.
    pub deliveries: Vec<Delivery>,
    /// First slot of the next page.
    pub next: Seq,
}

/// A later answer; the sender is dropped when the store fails.
pub type ReadReply<T> = oneshot::Receiver<T>;

/// A place to record changes of the broker's state.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Returns `false` when appending has no effect, so that records need not be made.
    fn is_durable(&self) -> bool;

    /// Reserves the next LSN for a message. It must be filled soon: later records wait for it.
    ///
    /// # Errors
    /// [`Unavailable`]: the message must be refused.
    fn reserve(&self) -> Result<Lsn, Unavailable>;

    /// As [`reserve`](Self::reserve), for a record that cannot be refused: it concerns state that
    /// the store already has.
    fn reserve_always(&self) -> Lsn;

    /// Fills reserved LSNs. Never blocks.
    fn fill(&self, entries: &mut dyn Iterator<Item = Entry>);

    /// Appends a record that cannot be refused. Never blocks.
    fn append(&self, record: Record, durability: Durability) -> Ticket {
        let lsn = self.reserve_always();
        self.fill(&mut iter::once(Entry::new(lsn, record, durability)));
        Ticket { lsn, durability }
    }

    /// Ready when the ticket's condition is met, or the store has failed. Until then the task of
    /// `cx` is woken when that may have changed.
    fn poll(&self, ticket: Ticket, slot: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<Result<(), Failed>>;

    /// Ready when there is room for more records. Until then connections read no more messages.
    fn poll_room(&self, slot: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<()>;

    /// Reads one page of a session queue.
    fn queued(&self, page: PageRequest) -> ReadReply<Paged>;

    /// Reads the messages in these slots, in any order; empty slots are omitted.
    fn read_at(&self, session: SessionNumber, slots: Vec<Seq>) -> ReadReply<Vec<Delivery>>;

    /// Reads the retained messages of these topics; topics without one are omitted.
    fn retained(&self, topics: Vec<Box<str>>) -> ReadReply<Vec<Message>>;

    /// Returns a unique number for a session or a connection.
    fn next_number(&self) -> u64;

    /// Clock of the store's times.
    fn clock(&self) -> Clock;

    /// Figures since the start.
    fn figures(&self) -> Figures;

    /// State of the previous run; called once, at the start.
    ///
    /// # Errors
    /// The state cannot be read.
    fn recover(&self) -> Result<Recovered, OpenError>;

    /// Passes on every retained message of the previous run, in any order; called once, at the
    /// start.
    ///
    /// # Errors
    /// The messages cannot be read.
    fn each_retained(&self, give: &mut dyn FnMut(Message)) -> Result<(), OpenError>;

    /// Writes and syncs all records, and accepts no more. May block for as long as the disk needs.
    fn close(&self);
}

/// State of the previous run.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Its sessions.
    pub sessions: Vec<KeptSession>,
    /// Highest number of a shared group.
    pub last_group: u32,
    /// Latest time that the previous run is known to have reached.
    pub last_clock: Millis,
}
