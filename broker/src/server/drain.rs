//! Counters of running tasks, so that a stop can wait for the last one.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Number of running tasks of one kind, connections or listeners.
#[derive(Debug, Default)]
pub(crate) struct TaskCounter {
    count: AtomicUsize,
    ended: Notify,
}

impl TaskCounter {
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until no task is left.
    pub(crate) async fn none(&self) {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// Membership of one task in the count.
pub(crate) struct TaskGuard(Arc<TaskCounter>);

impl TaskGuard {
    pub(crate) fn new(counters: &Arc<TaskCounter>) -> TaskGuard {
        counters.count.fetch_add(1, Ordering::AcqRel);
        TaskGuard(counters.clone())
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}
