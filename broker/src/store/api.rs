//! The durability seam: the trait `Store`, and what goes through it.

use std::iter;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::message::{Delivery, Durability, Message, Millis, Seq, SessionNumber};
use crate::store::{Entry, KeptSession, OpenError, Record};
use crate::telemetry::metrics::HistogramSnapshot;

/// A log sequence number: all records up to it are one prefix of the log. 0 is durable from the
/// start.
pub type Lsn = u64;

/// What an acknowledgement waits for. The default waits for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// The place in the log; 0: none.
    pub lsn: Lsn,
    /// What has to become of it.
    pub durability: Durability,
}

/// The store takes nothing new now: the disk is full, or it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// The store has failed for good: nothing more becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// Where a task is registered to be woken: at most once, however often it asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct WakerSlot {
    pub(crate) epoch: u64,
}

/// How the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Well.
    #[default]
    Good = 0,
    /// There is no space for new messages; acknowledgements of old ones still go through.
    Full = 1,
    /// A write or a sync failed: nothing is acknowledged any more.
    Failed = 2,
}

impl Health {
    /// As `$SYS/broker/store/health` has it.
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
    /// How it is.
    pub health: Health,
    /// Bytes of records that were handed over, before framing.
    pub record_bytes: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes: u64,
    /// Bytes written to the checkpoint.
    pub checkpoint_bytes: u64,
    /// Times that the disk was asked to keep what was written.
    pub syncs: u64,
    /// How long those of the log took.
    pub sync_time: HistogramSnapshot,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Segments of the log that are kept since messages of queues stand in them.
    pub segments_kept: u64,
    /// Messages that were moved out of such segments, since little else was left in them.
    pub moved: u64,
    /// Rows and frames found corrupt.
    pub corrupt: u64,
}

/// What to read of a session's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Whose.
    pub session: SessionNumber,
    /// From here on.
    pub from: Seq,
    /// Up to here, exclusive.
    pub until: Seq,
    /// At most so many messages.
    pub messages_max: usize,
    /// And no further one once they have so many bytes.
    pub bytes_max: usize,
}

/// A part of a queue.
#[derive(Debug, Default, PartialEq)]
pub struct Paged {
    /// Messages in order; places that are empty were passed over.
    pub deliveries: Vec<Delivery>,
    /// Where the next page begins.
    pub next: Seq,
}

/// An answer that comes later; none comes where the store has failed.
pub type ReadReply<T> = oneshot::Receiver<T>;

/// A place for records.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Whether records are worth making: `false` when appending is free of any effect.
    fn is_durable(&self) -> bool;

    /// Reserves the next place in the log for a message. It must be filled soon: what comes behind
    /// it waits.
    ///
    /// # Errors
    /// [`Unavailable`]: the message is not to be taken.
    fn reserve(&self) -> Result<Lsn, Unavailable>;

    /// As [`reserve`](Self::reserve), for a record that must not be refused: it is about what the
    /// store has already.
    fn reserve_always(&self) -> Lsn;

    /// Fills reserved places. Never waits.
    fn fill(&self, entries: &mut dyn Iterator<Item = Entry>);

    /// Takes a record that must not be refused. Never waits.
    fn append(&self, record: Record, durability: Durability) -> Ticket {
        let lsn = self.reserve_always();
        self.fill(&mut iter::once(Entry::new(lsn, record, durability)));
        Ticket { lsn, durability }
    }

    /// Ready once the ticket is good, or never will be; until then the task of `cx` is woken when
    /// it may be.
    fn poll(&self, ticket: Ticket, slot: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<Result<(), Failed>>;

    /// Ready when there is room for more records; messages are not read from clients until then.
    fn poll_room(&self, slot: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<()>;

    /// Messages of a queue.
    fn queued(&self, page: PageRequest) -> ReadReply<Paged>;

    /// Messages in these places, in any order; those that are not there are missing.
    fn read_at(&self, session: SessionNumber, places: Vec<Seq>) -> ReadReply<Vec<Delivery>>;

    /// The retained messages of these topics; those that have none are missing.
    fn retained(&self, topics: Vec<Box<str>>) -> ReadReply<Vec<Message>>;

    /// A number for a session or a connection, never given before.
    fn next_number(&self) -> u64;

    /// The clock that the store's moments are of.
    fn clock(&self) -> Clock;

    /// Figures since the start.
    fn figures(&self) -> Figures;

    /// What an earlier run left; asked once, at the start.
    ///
    /// # Errors
    /// That it cannot be read.
    fn recover(&self) -> Result<Recovered, OpenError>;

    /// Every retained message that an earlier run left, in any order; asked once, at the start.
    ///
    /// # Errors
    /// That they cannot be read.
    fn each_retained(&self, give: &mut dyn FnMut(Message)) -> Result<(), OpenError>;

    /// Writes and syncs all there is, and takes nothing more. May block for as long as the disk
    /// needs.
    fn close(&self);
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The sessions.
    pub sessions: Vec<KeptSession>,
    /// The highest number of a shared group.
    pub last_group: u32,
    /// The last moment that the earlier run is known to have seen.
    pub last_clock: Millis,
}
