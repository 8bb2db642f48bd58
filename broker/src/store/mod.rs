//! The durability seam: where the broker's state goes so that an acknowledgement can mean "kept".
//!
//! The rest of the broker hands records over and gets a log sequence number ([`Lsn`]) at once; it lets an acknowledgement go
//! when that number is durable. Nothing here assumes that a store is local or answers at once: numbers become durable in
//! batches, at any later time, and whoever waits is woken. In memory everything is durable immediately.

mod memory;

pub use memory::MemoryStore;

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::message::{Message, SessionNumber};
use crate::session::Held;
use lapwing_protocol::PacketId;

/// A log sequence number: all records up to it are one prefix of the log. 0 is durable from the start.
pub type Lsn = u64;

/// One change of what the broker keeps.
#[derive(Clone, Debug)]
pub enum Record {
    /// A session began or changed its terms.
    Session {
        /// Which.
        session: SessionNumber,
        /// Its client identifier.
        client_id: Arc<str>,
        /// Session Expiry Interval, in seconds.
        expiry_s: u32,
    },
    /// A session ended with all it had.
    SessionEnded {
        /// Which.
        session: SessionNumber,
    },
    /// A subscription was made or replaced.
    Subscribed {
        /// Whose.
        session: SessionNumber,
        /// The topic filter, `$share/…` included.
        filter: Box<str>,
        /// Its options.
        held: Held,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// Whose.
        session: SessionNumber,
        /// The topic filter.
        filter: Box<str>,
    },
    /// A message was routed: kept for its topic if it is retained, queued where a session that outlives its connection took it.
    Published {
        /// The message.
        message: Message,
        /// The outboxes that took it.
        queued: usize,
    },
    /// A QoS 2 message came in (`true`) or was released (`false`).
    Received {
        /// From whom.
        session: SessionNumber,
        /// Its packet identifier.
        packet_id: PacketId,
        /// Whether the identifier is in use now.
        open: bool,
    },
}

/// A place for records.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Takes a record; never waits. When it is durable, [`poll_durable`](Self::poll_durable) tells.
    fn append(&self, record: Record) -> Lsn;

    /// Ready once this number is durable; until then the waker of `cx` is kept and woken when it may be.
    fn poll_durable(&self, lsn: Lsn, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether records are worth making: `false` when appending is free of any effect.
    fn keeps(&self) -> bool;
}
