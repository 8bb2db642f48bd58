//! How another thread wakes the tasks of one: it leaves their wakers there, and one task of that
//! thread wakes them all.
//!
//! A runtime is told of each task that another thread wakes by a system call of its own. Here only
//! the first of many makes one: a message for a hundred subscribers, or a sync that as many
//! publishers wait for, is one for each thread.

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

/// The number of this thread, from 1 on.
#[inline]
pub fn this_thread() -> u64 {
    THREAD.with(|thread| *thread)
}

/// The wakers that others have left, and who wakes them. There is one for each connection at most,
/// and those of what it waits for.
#[derive(Debug)]
pub struct WakeQueue {
    thread: u64,
    wakers: Mutex<Vec<Waker>>,
    drainer: AtomicWaker,
}

/// The waker of a task, as others see it.
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
    /// An empty one for this thread, and the task that is to run on it.
    pub fn here() -> (Arc<WakeQueue>, impl Future<Output = ()> + Send + 'static) {
        let thread = this_thread();
        let mailbox = Arc::new(WakeQueue { thread, wakers: Mutex::default(), drainer: AtomicWaker::new() });
        let (weak, mut last, mut spare) = (Arc::downgrade(&mailbox), false, Vec::new());
        let postman = poll_fn(move |cx| {
            let Some(mailbox) = weak.upgrade() else { return Poll::Ready(()) };
            // Whoever is ready goes first: then more comes together for each.
            last = !last;
            if last {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            mailbox.drainer.register(cx.waker());
            std::mem::swap(&mut *mailbox.wakers.lock().unwrap_or_else(PoisonError::into_inner), &mut spare);
            spare.drain(..).for_each(Waker::wake);
            Poll::Pending
        });
        (mailbox, postman)
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

    /// A task of this thread whom others wake through the mailbox.
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
