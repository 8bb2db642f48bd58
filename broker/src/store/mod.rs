//! The durability seam: where the broker's state goes so that an acknowledgement can mean "kept".
//!
//! The rest of the broker hands records over and gets a place in the log at once; it lets an
//! acknowledgement go when the [`Ticket`] for that place says so. Nothing here assumes that a store
//! is local or answers at once: places become durable in batches, at any later time, and whoever
//! waits is woken. In memory everything is durable immediately.
//!
//! `FORMAT.md` beside this file draws what [`DurableStore`] writes, `docs/PROMISES.md` says what it
//! is worth.

mod api;
mod backup;
mod checkpoint;
mod codec;
mod counters;
mod durable;
mod error;
mod location;
mod memory;
mod memtable;
mod options;
mod pins;
pub mod publish_record;
mod read_request;
mod reader;
mod record;
mod record_batch;
mod shared;
mod sync;
#[cfg(feature = "internals")]
pub mod tools;
mod wal;

pub use api::{
    Failed, Figures, Health, Lsn, PageRequest, Paged, ReadReply, Recovered, Store, Ticket, Unavailable,
    WakerSlot,
};
pub use durable::DurableStore;
pub use error::OpenError;
#[cfg(feature = "internals")]
pub use error::Problem;
pub use memory::MemoryStore;
pub use options::Options;
pub use record::{
    Entry, Extras, FlightStep, KeptSession, KeptSubscription, PreviousSlot, QueueSlot, QueueSlots, Record,
    SessionTerms,
};
#[cfg(feature = "internals")]
pub use record::{KeptFlight, Waiting};
pub use record_batch::RecordBatch;
#[cfg(feature = "internals")]
pub use wal::disk::{Disk, DiskFile, Folder};

use crate::message::Durability;

impl Ticket {
    /// Waits for both. One that waits for nothing adds nothing: no sync may ever come for its
    /// record.
    #[must_use]
    pub fn and(self, other: Ticket) -> Ticket {
        match (self.is_free(), other.is_free()) {
            (true, _) => other,
            (_, true) => self,
            _ => Ticket { lsn: self.lsn.max(other.lsn), durability: self.durability.max(other.durability) },
        }
    }

    /// Whether there is nothing to wait for.
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
