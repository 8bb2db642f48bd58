//! The threads that hash passwords: at most half of the cores, at low priority, and a bounded queue
//! before them.
//!
//! Hashing is slow on purpose. In threads of its own it keeps nobody else waiting, however many
//! devices come back at once; in a bounded queue it cannot be used to fill the memory. Threads
//! begin with the first password, and keep the memory that argon2id works in as long as there is
//! something to do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use argon2::Block;
use tokio::sync::oneshot;
use tracing::warn;

/// How long a thread without work keeps its memory.
const KEEP_MEMORY: Duration = Duration::from_secs(10);
/// How much less urgent than the rest of the broker hashing is.
const NICE: i32 = 10;

/// One thing to hash: does it with the thread's memory, and answers by itself.
type Job = Box<dyn FnOnce(&mut Vec<Block>) + Send>;

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashQueueFull;

/// See the module.
#[derive(Debug)]
pub struct HashPool {
    threads_max: usize,
    queue_max: usize,
    queue: OnceLock<SyncSender<Job>>,
    started: AtomicUsize,
}

impl HashPool {
    /// `threads_max` 0: half of the cores, at least one.
    pub fn new(threads_max: usize, queue_max: usize) -> HashPool {
        let half = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        let threads_max = if threads_max == 0 { half } else { threads_max };
        HashPool { threads_max, queue_max, queue: OnceLock::new(), started: AtomicUsize::new(0) }
    }

    fn start(&self) -> SyncSender<Job> {
        let (send, receive) = sync_channel(self.queue_max);
        let receive = Arc::new(Mutex::new(receive));
        for n in 0..self.threads_max {
            let receive = receive.clone();
            let thread = std::thread::Builder::new().name(format!("hashing-{n}"));
            match thread.spawn(move || serve(&receive)) {
                Ok(_) => drop(self.started.fetch_add(1, Ordering::Relaxed)),
                Err(error) => warn!(%error, "a thread to hash passwords could not be started"),
            }
        }
        send
    }

    /// Lets a thread do this. `None`: the thread failed.
    ///
    /// # Errors
    /// [`Full`]
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    ) -> Result<Option<T>, HashQueueFull> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |memory| {
            // Whoever asked may have gone meanwhile.
            if !answer.is_closed() {
                let _ = answer.send(work(memory));
            }
        });
        match self.queue.get_or_init(|| self.start()).try_send(job) {
            Ok(()) => Ok(result.await.ok()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(HashQueueFull),
        }
    }
}

fn serve(queue: &Mutex<Receiver<Job>>) {
    // Best effort: without it hashing competes like everybody else. On Linux this is about the
    // thread
    // alone.
    let _ = rustix::process::nice(NICE);
    let mut memory = Vec::new();
    loop {
        let next = {
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            if memory.is_empty() {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(KEEP_MEMORY)
            }
        };
        match next {
            Ok(job) => job(&mut memory),
            Err(RecvTimeoutError::Timeout) => memory = Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
