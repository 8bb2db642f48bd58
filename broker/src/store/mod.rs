//! The durability seam: it records the broker's state, so that an acknowledgement can mean "kept".
//!
//! The broker hands records over and gets an LSN at once. It sends an acknowledgement when the
//! [`Ticket`] for that LSN is good. Nothing here assumes that a store is local or answers at once:
//! records become durable in batches, at any later time, and waiting tasks are woken. In memory
//! everything is durable immediately.
//!
//! `FORMAT.md` beside this file describes the files of [`DurableStore`], `docs/PROMISES.md` its
//! guarantees.

mod api;
mod append;
mod backup;
mod checkpoint;
mod codec;
mod counters;
mod durable;
mod error;
mod location;
mod log_records;
mod memory;
mod memtable;
mod options;
mod pins;
mod progress;
pub mod publish_record;
mod read_request;
mod reader;
mod record;
mod record_batch;
mod shared;
mod supply;
mod sync;
#[cfg(feature = "internals")]
pub mod tools;
mod wal;

pub use api::{
    Failed, Figures, Health, Lsn, PageRequest, Paged, ReadReply, Recovered, Store, Ticket, Unavailable,
    WakerSlot,
};
#[cfg(feature = "internals")]
pub use checkpoint::meta::StateIdentity;
pub use durable::DurableStore;
pub use error::OpenError;
#[cfg(feature = "internals")]
pub use error::Problem;
pub use memory::MemoryStore;
pub use options::Options;
pub use record::{
    Entry, Extras, FlightStep, KeptSession, KeptSubscription, PreviousSlot, QueueSlot, QueueSlots, Record,
    SessionKind, SessionTerms,
};
#[cfg(feature = "internals")]
pub use record::{KeptFlight, Waiting};
pub use record_batch::RecordBatch;
#[cfg(feature = "internals")]
pub use wal::disk::{Disk, DiskFile, Folder};

use crate::message::Durability;

impl Ticket {
    /// Combines two tickets. A ticket that is good already adds nothing: no sync may ever come for
    /// its record.
    #[must_use]
    pub fn and(self, other: Ticket) -> Ticket {
        match (self.is_free(), other.is_free()) {
            (true, _) => other,
            (_, true) => self,
            _ => Ticket { lsn: self.lsn.max(other.lsn), durability: self.durability.max(other.durability) },
        }
    }

    /// True when there is nothing to wait for.
    pub fn is_free(&self) -> bool {
        self.lsn == 0 || self.durability == Durability::None
    }
}

impl Figures {
    /// Bytes written for each byte of records; 0 before the first.
    pub fn write_amplification(&self) -> f64 {
        if self.record_bytes == 0 {
            return 0.0;
        }
        (self.log_bytes + self.checkpoint_bytes) as f64 / self.record_bytes as f64
    }
}
