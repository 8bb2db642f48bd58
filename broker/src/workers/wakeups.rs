//! Wake-ups between threads: another thread leaves wakers here, and one task of this thread wakes
//! them all.
//!
//! A runtime learns of each task that another thread wakes by a system call. Here only the first of
//! many makes one. So a message for a hundred subscribers, or a sync that a hundred publishers wait
//! for, costs one for each thread.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

thread_local! {
    static THREAD: u64 = {
        static LAST: AtomicU64 = AtomicU64::new(1);
        LAST.fetch_add(1, Ordering::Relaxed)
    };
}

/// Number of this thread, from 1 on.
#[inline]
pub fn this_thread() -> u64 {
    THREAD.with(|thread| *thread)
}

/// Wakers that other threads left, and the task that wakes them. There is at most one for each
/// connection and the things that it waits for.
#[derive(Debug)]
pub struct WakeQueue {
    thread: u64,
    wakers: Mutex<Vec<Waker>>,
    drainer: AtomicWaker,
}

/// Waker of a task, as other threads see it.
struct RemoteWaker {
    task: Waker,
    queue: Arc<WakeQueue>,
}

impl Wake for RemoteWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if this_thread() == self.queue.thread {
            self.task.wake_by_ref();
        } else {
            self.queue.push(self.task.clone());
        }
    }
}

impl Drop for WakeQueue {
    fn drop(&mut self) {
        self.drainer.wake();
    }
}

impl WakeQueue {
    /// Creates an empty queue for this thread, and the task that must run on it.
    pub fn here() -> (Arc<WakeQueue>, impl Future<Output = ()> + Send + 'static) {
        let thread = this_thread();
        let queue = Arc::new(WakeQueue { thread, wakers: Mutex::default(), drainer: AtomicWaker::new() });
        let (weak, mut last, mut batch) = (Arc::downgrade(&queue), false, Vec::new());
        let drain_task = poll_fn(move |cx| {
            let Some(queue) = weak.upgrade() else { return Poll::Ready(()) };
            // Tasks that are ready go first: then more wake-ups gather for each.
            last = !last;
            if last {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            queue.drainer.register(cx.waker());
            std::mem::swap(&mut *queue.wakers.lock().unwrap_or_else(PoisonError::into_inner), &mut batch);
            batch.drain(..).for_each(Waker::wake);
            Poll::Pending
        });
        (queue, drain_task)
    }

    fn push(&self, waker: Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = wakers.is_empty();
        wakers.push(waker);
        drop(wakers);
        if first {
            self.drainer.wake();
        }
    }

    /// Runs a task of this thread that other threads wake through the queue.
    pub async fn run<T>(self: Arc<Self>, task: impl Future<Output = T>) -> T {
        let mut task = pin!(task);
        let mut known: Option<(Waker, Waker)> = None;
        poll_fn(|cx| {
            let known = match &mut known {
                Some(known) if known.0.will_wake(cx.waker()) => known,
                known => {
                    let addressed = RemoteWaker { task: cx.waker().clone(), queue: self.clone() };
                    known.insert((cx.waker().clone(), Waker::from(Arc::new(addressed))))
                }
            };
            task.as_mut().poll(&mut Context::from_waker(&known.1))
        })
        .await
    }
}
