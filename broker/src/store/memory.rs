//! The store without durability: the state in memory is all there is, so all of it counts as
//! durable at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::{Entry, OpenError};
use crate::clock::Clock;
use crate::message::{Delivery, Message, Seq, SessionNumber};
use crate::store::{
    Failed, Figures, Lsn, PageRequest, Paged, ReadReply, Recovered, Store, Ticket, Unavailable, WakerSlot,
};

/// Store in memory only.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Clock,
    last_number: AtomicU64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore { clock: Clock::after(0), last_number: AtomicU64::new(0) }
    }
}

/// An empty answer, available at once.
fn empty<T: Default>() -> ReadReply<T> {
    let (sender, receiver) = oneshot::channel();
    let _ = sender.send(T::default());
    receiver
}

impl Store for MemoryStore {
    fn is_durable(&self) -> bool {
        false
    }

    fn reserve(&self) -> Result<Lsn, Unavailable> {
        Ok(0)
    }

    fn reserve_always(&self) -> Lsn {
        0
    }

    fn fill(&self, _: &mut dyn Iterator<Item = Entry>) {}

    fn poll(&self, _: Ticket, _: &mut WakerSlot, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn poll_room(&self, _: &mut WakerSlot, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn queued(&self, _: PageRequest) -> ReadReply<Paged> {
        empty()
    }

    fn read_at(&self, _: SessionNumber, _: Vec<Seq>) -> ReadReply<Vec<Delivery>> {
        empty()
    }

    fn retained(&self, _: Vec<Box<str>>) -> ReadReply<Vec<Message>> {
        empty()
    }

    fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }

    fn recover(&self) -> Result<Recovered, OpenError> {
        Ok(Recovered::default())
    }

    fn each_retained(&self, _: &mut dyn FnMut(Message)) -> Result<(), OpenError> {
        Ok(())
    }

    fn close(&self) {}
}
