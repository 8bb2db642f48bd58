//! The threads that hash passwords: at most half of the cores, at low priority, behind a bounded
//! queue.
//!
//! Hashing is slow on purpose. Threads of its own keep it from delaying others, however many
//! devices reconnect at once. The bounded queue keeps it from filling the memory. Threads start
//! with the first password, and keep the memory of argon2id as long as there are jobs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use argon2::Block;
use tokio::sync::oneshot;
use tracing::warn;

/// Time after which an idle thread frees its memory.
const KEEP_MEMORY: Duration = Duration::from_secs(10);
/// Niceness of the hashing threads.
const NICE: i32 = 10;

/// One job: it hashes with the thread's memory, and sends its own answer.
type Job = Box<dyn FnOnce(&mut Vec<Block>) + Send>;

/// Error of a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashQueueFull;

/// Threads that hash passwords, with their queue.
#[derive(Debug)]
pub struct HashPool {
    threads_max: usize,
    queue_max: usize,
    queue: OnceLock<SyncSender<Job>>,
    started: AtomicUsize,
}

impl HashPool {
    /// Creates the pool; `threads_max` 0 stands for half of the cores, at least one.
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

    /// Runs a job on a thread. `None`: the thread failed.
    ///
    /// # Errors
    /// Returns [`HashQueueFull`] when too many jobs wait.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    ) -> Result<Option<T>, HashQueueFull> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |memory| {
            // The caller may have given up meanwhile.
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
    // Best effort: without it hashing competes with the other threads. On Linux this concerns only
    // the calling thread.
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
