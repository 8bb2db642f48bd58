//! Builds the log record of one published message. The LSN is reserved before routing, so every
//! later record about the message has a higher LSN. One record names all queues that took the
//! message.

use std::iter;

use lapwing_protocol::PacketId;

use crate::message::{Delivery, Durability, Message, SessionNumber};
use crate::store::{
    Entry, Extras, FlightStep, Lsn, PreviousSlot, QueueSlot, QueueSlots, Record, RecordBatch, Store, Ticket,
    Unavailable,
};

/// Destination of the record.
#[derive(Debug)]
enum To<'s> {
    /// Nothing is stored.
    Nowhere,
    /// The log, at once.
    Store(&'s dyn Store),
    /// The batch of a connection's turn.
    Records(&'s mut RecordBatch),
}

/// Record of one published message. Dropped without [`commit`](PublishRecord::commit), it leaves
/// nothing.
#[derive(Debug)]
pub struct PublishRecord<'s> {
    to: To<'s>,
    durability: Durability,
    reserved: Option<Lsn>,
    queued: QueueSlots,
}

impl<'s> PublishRecord<'s> {
    /// Record of a message with this durability.
    pub fn new(store: &'s dyn Store, durability: Durability) -> PublishRecord<'s> {
        let to = if store.is_durable() { To::Store(store) } else { To::Nowhere };
        PublishRecord { to, durability, reserved: None, queued: QueueSlots::None }
    }

    /// Record of a message with this durability, written with others of the batch.
    pub fn in_batch(records: &'s mut RecordBatch, durability: Durability) -> PublishRecord<'s> {
        let to = if records.store().is_some() { To::Records(records) } else { To::Nowhere };
        PublishRecord { to, durability, reserved: None, queued: QueueSlots::None }
    }

    /// Record of a message that is never stored.
    pub fn disabled() -> PublishRecord<'s> {
        PublishRecord {
            to: To::Nowhere,
            durability: Durability::None,
            reserved: None,
            queued: QueueSlots::None,
        }
    }

    /// True when nothing is stored.
    pub fn is_off(&self) -> bool {
        matches!(self.to, To::Nowhere)
    }

    /// Reserves the LSN, once.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub fn reserve(&mut self) -> Result<(), Unavailable> {
        if self.reserved.is_none() {
            self.reserved = match &self.to {
                To::Nowhere => None,
                To::Store(store) => Some(store.reserve()?),
                To::Records(records) => Some(records.reserve()?),
            };
        }
        Ok(())
    }

    /// Adds a queue that has the message now, in the delivery's slot.
    pub fn queued(&mut self, session: SessionNumber, delivery: &Delivery) {
        self.queued.push(QueueSlot::of(session, delivery));
    }

    /// Adds that another message, dropped for this one, is finished.
    pub fn acknowledged(&self, origin: PreviousSlot) {
        let store = match &self.to {
            To::Nowhere => None,
            To::Store(store) => Some(*store),
            To::Records(records) => records.store(),
        };
        if let Some(store) = store {
            store.append(FlightStep::Acknowledged(origin).into(), Durability::None);
        }
    }

    /// Writes the record; returns the ticket of its acknowledgement. If no queue took the message,
    /// nothing is written, and the ticket is free.
    pub fn commit(
        mut self,
        message: &Message,
        retained: bool,
        received: Option<(SessionNumber, PacketId)>,
        origin: Option<PreviousSlot>,
    ) -> Ticket {
        let queued = std::mem::take(&mut self.queued);
        let kept = retained || received.is_some() || !queued.as_slice().is_empty();
        let (Some(lsn), true) = (self.reserved, kept) else {
            if let Some(origin) = origin {
                self.acknowledged(origin);
            }
            return Ticket::default();
        };
        self.reserved = None;
        let beside = Extras::of(received, origin);
        let durability = self.durability;
        self.fill(lsn, Record::Published { message: message.clone(), retained, queued, beside }, durability);
        Ticket { lsn, durability }
    }

    fn fill(&mut self, lsn: Lsn, record: Record, durability: Durability) {
        match &mut self.to {
            To::Nowhere => {}
            To::Store(store) => store.fill(&mut iter::once(Entry::new(lsn, record, durability))),
            To::Records(records) => records.fill(lsn, record, durability),
        }
    }
}

impl Drop for PublishRecord<'_> {
    fn drop(&mut self) {
        if let Some(lsn) = self.reserved {
            self.fill(lsn, Record::Nothing, Durability::None);
        }
    }
}
