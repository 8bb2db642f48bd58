//! Record batch: the records of one connection's turn go to the log together, under one lock, with
//! consecutive encoding.

use std::cell::Cell;
use std::sync::Arc;

use super::{Entry, FlightStep, PreviousSlot, Record};
use crate::message::Durability;
use crate::session::{Outcome, Session};
use crate::store::{Lsn, Store, Ticket, Unavailable};

/// Maximum number of records, and of their memory in bytes, before the batch is flushed: later
/// records in the log wait for its first one.
const ENTRIES_MAX: usize = 128;
const BYTES_MAX: usize = 64 << 10;

thread_local! {
    static SPARE: Cell<Vec<Entry>> = const { Cell::new(Vec::new()) };
}

/// Records of one turn. An empty batch holds no memory: a thread reuses one list. Dropping it
/// flushes the rest, so that no LSN stays unfilled.
#[derive(Debug)]
pub struct RecordBatch {
    /// `None`: nothing is stored.
    store: Option<Arc<dyn Store>>,
    entries: Vec<Entry>,
    bytes: usize,
}

impl RecordBatch {
    /// Creates a batch for this store.
    pub fn of(store: &Arc<dyn Store>) -> RecordBatch {
        RecordBatch { store: store.is_durable().then(|| store.clone()), entries: Vec::new(), bytes: 0 }
    }

    /// The store, if it is durable.
    pub fn store(&self) -> Option<&dyn Store> {
        self.store.as_deref()
    }

    /// Reserves the next LSN, as [`Store::reserve`].
    ///
    /// # Errors
    /// [`Unavailable`]
    pub fn reserve(&self) -> Result<Lsn, Unavailable> {
        self.store.as_ref().map_or(Ok(0), |store| store.reserve())
    }

    /// Fills an LSN.
    #[inline]
    pub fn fill(&mut self, lsn: Lsn, record: Record, durability: Durability) {
        if self.entries.capacity() == 0 {
            self.entries = SPARE.take();
        }
        let entry = Entry::new(lsn, record, durability);
        self.bytes += entry.estimated_bytes;
        self.entries.push(entry);
        if self.entries.len() >= ENTRIES_MAX || self.bytes >= BYTES_MAX {
            self.flush();
        }
    }

    /// Appends a record that cannot be refused, as [`Store::append`].
    pub fn append(&mut self, record: Record, durability: Durability) -> Ticket {
        let Some(store) = &self.store else { return Ticket::default() };
        let lsn = store.reserve_always();
        self.fill(lsn, record, durability);
        Ticket { lsn, durability }
    }

    /// Appends the outcomes of a session's messages; returns the ticket for the answer to the
    /// client.
    pub fn append_outcomes(&mut self, session: &mut Session, durability: Durability) -> Ticket {
        let number = session.number;
        let origin = |seq, size, packet_id| PreviousSlot::new(number, seq, size, packet_id);
        let mut ticket = Ticket::default();
        for outcome in session.outgoing.outcomes.drain(..) {
            ticket = ticket.and(match outcome {
                // QoS 1 allows duplicates: a lost record is harmless, so it needs no sync.
                Outcome::Done { seq, size, packet_id } => self
                    .append(FlightStep::Acknowledged(origin(seq, size, packet_id)).into(), Durability::None),
                Outcome::HandedOver { seq, size, packet_id } => self.append(
                    FlightStep::PubRecReceived(origin(seq, size, Some(packet_id))).into(),
                    durability,
                ),
                Outcome::Completed { packet_id } => {
                    self.append(FlightStep::Completed { session: number, packet_id }.into(), Durability::None)
                }
            });
        }
        ticket
    }

    /// Writes the batch into the log.
    #[inline]
    pub fn flush(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let mut entries = std::mem::take(&mut self.entries);
        self.bytes = 0;
        if let Some(store) = &self.store {
            store.fill(&mut entries.drain(..));
        }
        SPARE.set(entries);
    }
}

impl Drop for RecordBatch {
    fn drop(&mut self) {
        self.flush();
    }
}
