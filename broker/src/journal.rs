//! What one message writes to the log: its place there is reserved before anybody gets it, so that whatever becomes of it
//! later stands behind it; one record says where it was queued.

use lapwing_protocol::PacketId;

use crate::message::{Message, SessionNumber};
use crate::outbox::Delivery;
use crate::store::{Beside, Durability, Lsn, Origin, Places, Queued, Record, Store, Ticket, Unavailable};

/// See the module. Dropped without [`write`](Journal::write), it leaves nothing.
#[derive(Debug)]
pub struct Journal<'s> {
    store: Option<&'s dyn Store>,
    durability: Durability,
    reserved: Option<Lsn>,
    queued: Places,
}

impl<'s> Journal<'s> {
    /// Of a message that is to be as durable as this.
    pub fn new(store: &'s dyn Store, durability: Durability) -> Journal<'s> {
        Journal { store: store.keeps().then_some(store), durability, reserved: None, queued: Places::None }
    }

    /// Of a message that is never stored.
    pub fn off() -> Journal<'s> {
        Journal { store: None, durability: Durability::None, reserved: None, queued: Places::None }
    }

    /// Whether nothing is stored.
    pub fn is_off(&self) -> bool {
        self.store.is_none()
    }

    /// Reserves the place, once.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub fn reserve(&mut self) -> Result<(), Unavailable> {
        if let (Some(store), None) = (self.store, self.reserved) {
            self.reserved = Some(store.reserve()?);
        }
        Ok(())
    }

    /// A stored queue has it now, at the delivery's place.
    pub fn queued(&mut self, session: SessionNumber, delivery: &Delivery) {
        self.queued.push(Queued::of(session, delivery));
    }

    /// Another message, dropped for this one, is over.
    pub fn done(&self, origin: Origin) {
        if let Some(store) = self.store {
            store.append(Record::Done(origin), Durability::None);
        }
    }

    /// Writes the record; what its acknowledgement waits for. Nothing is written, and nothing waited for, where nobody kept the
    /// message after all.
    pub fn write(
        mut self,
        message: &Message,
        retained: bool,
        received: Option<(SessionNumber, PacketId)>,
        origin: Option<Origin>,
    ) -> Ticket {
        let queued = std::mem::take(&mut self.queued);
        let kept = retained || received.is_some() || !queued.as_slice().is_empty();
        let (Some(store), Some(lsn), true) = (self.store, self.reserved, kept) else {
            if let Some(origin) = origin {
                self.done(origin);
            }
            return Ticket::default();
        };
        self.reserved = None;
        let beside = Beside::of(received, origin);
        let record = Record::Published { message: message.clone(), retained, queued, beside };
        store.fill(lsn, record, self.durability);
        Ticket { lsn, durability: self.durability }
    }
}

impl Drop for Journal<'_> {
    fn drop(&mut self) {
        if let (Some(store), Some(lsn)) = (self.store, self.reserved) {
            store.fill(lsn, Record::Nothing, Durability::None);
        }
    }
}
