//! Requests of sessions to the reader, and the state that it reads.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::oneshot::Sender;

use crate::message::{Delivery, Message, Seq, SessionNumber};
use crate::store::checkpoint::Checkpoint;
use crate::store::checkpoint::meta::Meta;
use crate::store::memtable::MemTable;
use crate::store::sync::lock;
use crate::store::{Lsn, PageRequest, Paged};

/// A request to the reader, to be answered once records up to `after` can be read.
#[derive(Debug)]
pub(super) struct ReadRequest {
    pub(super) after: Lsn,
    pub(super) wanted: Wanted,
}

#[derive(Debug)]
pub(super) enum Wanted {
    Queued(PageRequest, Sender<Paged>),
    Placed(SessionNumber, Vec<Seq>, Sender<Vec<Delivery>>),
    Retained(Vec<Box<str>>, Sender<Vec<Message>>),
}

/// Latest readable state: two tables over the checkpoint.
#[derive(Debug)]
pub(super) struct ReadView {
    pub(super) active: MemTable,
    pub(super) frozen: Option<Arc<MemTable>>,
    pub(super) frozen_meta: Meta,
    pub(super) checkpoint: Checkpoint,
    /// Last record in the tables.
    pub(super) applied: Lsn,
}

/// The readable state, and the requests to read it.
#[derive(Debug)]
pub(super) struct Reads {
    view: Mutex<ReadView>,
    requests: Mutex<Vec<ReadRequest>>,
    requests_changed: Condvar,
    /// Held for reading while a thread reads the checkpoint.
    checkpoint: RwLock<()>,
}

impl Reads {
    pub(super) fn of(view: ReadView) -> Reads {
        Reads {
            view: Mutex::new(view),
            requests: Mutex::default(),
            requests_changed: Condvar::new(),
            checkpoint: RwLock::new(()),
        }
    }

    /// Locks the readable state.
    pub(super) fn view(&self) -> MutexGuard<'_, ReadView> {
        lock(&self.view)
    }

    /// Adds a request.
    pub(super) fn ask(&self, request: ReadRequest) {
        lock(&self.requests).push(request);
        self.requests_changed.notify_all();
    }

    /// Locks the requests.
    pub(super) fn requests(&self) -> MutexGuard<'_, Vec<ReadRequest>> {
        lock(&self.requests)
    }

    /// Waits until the requests have changed or may be ready, for this long at most.
    pub(super) fn wait(&self, requests: MutexGuard<'_, Vec<ReadRequest>>, at_most: Option<Duration>) {
        match at_most {
            Some(time) => drop(self.requests_changed.wait_timeout(requests, time)),
            None => drop(self.requests_changed.wait(requests)),
        }
    }

    /// Wakes the reader if there are requests: more records can be read.
    pub(super) fn notify_waiting(&self) {
        if !lock(&self.requests).is_empty() {
            self.requests_changed.notify_all();
        }
    }

    /// Wakes the reader.
    pub(super) fn notify(&self) {
        // Under its lock, so that the reader does not miss this between its check and its wait.
        drop(lock(&self.requests));
        self.requests_changed.notify_all();
    }

    /// Held while a thread reads the checkpoint.
    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.checkpoint.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while nobody may read the checkpoint.
    pub(super) fn nobody_reads(&self) -> RwLockWriteGuard<'_, ()> {
        self.checkpoint.write().unwrap_or_else(PoisonError::into_inner)
    }
}
