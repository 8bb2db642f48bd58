//! Progress of the store, and the tasks that wait for it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use crate::message::Durability;
use crate::store::sync::lock;
use crate::store::{Failed, Health, Lsn, Ticket, WakerSlot};

/// Position of the log, health of the store, and the tasks to wake when either changes.
#[derive(Debug)]
pub(super) struct Progress {
    /// Last record that is written.
    pub(super) written: AtomicU64,
    /// Last record that is on disk.
    pub(super) durable: AtomicU64,
    health: AtomicU8,
    waiters: Mutex<Waiters>,
}

#[derive(Debug)]
struct Waiters {
    wakers: Vec<Waker>,
    epoch: u64,
}

impl Progress {
    /// All records up to this one are on disk.
    pub(super) fn from(last: Lsn) -> Progress {
        Progress {
            written: AtomicU64::new(last),
            durable: AtomicU64::new(last),
            health: AtomicU8::new(Health::Good as u8),
            waiters: Mutex::new(Waiters { wakers: Vec::new(), epoch: 1 }),
        }
    }

    pub(super) fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Good,
            1 => Health::Full,
            _ => Health::Failed,
        }
    }

    /// Sets the health; a failure is final. Returns true if it has changed.
    pub(super) fn set_health(&self, health: Health) -> bool {
        let before = self.health.fetch_max(health as u8, Ordering::AcqRel);
        if health == Health::Good && before == Health::Full as u8 {
            let _ = self.health.compare_exchange(before, 0, Ordering::AcqRel, Ordering::Acquire);
        }
        before != health as u8
    }

    /// Wakes all tasks that wait for a ticket or for room.
    pub(super) fn wake(&self) {
        let mut waiters = lock(&self.waiters);
        if waiters.wakers.is_empty() {
            return;
        }
        waiters.epoch += 1;
        let wakers = std::mem::take(&mut waiters.wakers);
        drop(waiters);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Polls `attempt` until it returns a value; registers the task before the last attempt.
    pub(super) fn wait<T>(
        &self,
        slot: &mut WakerSlot,
        cx: &Context<'_>,
        attempt: impl Fn() -> Option<T>,
    ) -> Poll<T> {
        if let Some(found) = attempt() {
            return Poll::Ready(found);
        }
        let mut waiters = lock(&self.waiters);
        if let Some(found) = attempt() {
            return Poll::Ready(found);
        }
        if slot.epoch != waiters.epoch {
            slot.epoch = waiters.epoch;
            waiters.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ready when the ticket's condition is met, or the store has failed.
    pub(super) fn poll(
        &self,
        ticket: Ticket,
        slot: &mut WakerSlot,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let mark = match ticket.durability {
            Durability::None => return Poll::Ready(Ok(())),
            Durability::Interval => &self.written,
            Durability::Always => &self.durable,
        };
        self.wait(slot, cx, || {
            if ticket.lsn <= mark.load(Ordering::Acquire) {
                Some(Ok(()))
            } else {
                (self.health() == Health::Failed).then_some(Err(Failed))
            }
        })
    }
}
