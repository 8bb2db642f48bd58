//! The threads that serve connections. Each has a runtime of its own, with its tasks, epoll and
//! timers.
//!
//! A connection stays on its thread. A work-stealing runtime spreads work more evenly, but wakes
//! other threads for every task that becomes ready. With two threads, a message of fan-in took half
//! as much CPU time again (docs/PERFORMANCE.md). The time slice of a connection keeps it fair to
//! others on the same thread. Everything but connections runs on the runtime of the caller.

mod wakeups;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::{io, thread};

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::watch;
use wakeups::WakeQueue;
pub use wakeups::this_thread;

/// The workers. Their threads, and the connections on them, end when it is dropped.
#[derive(Debug)]
pub struct WorkerPool {
    workers: Vec<Worker>,
    _over: watch::Sender<()>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Wake queue of the worker's thread, if it has one.
    wakes: Option<Arc<WakeQueue>>,
}

/// Membership of a connection in its worker's count.
struct ConnectionCount(Arc<AtomicUsize>);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WorkerPool {
    /// Starts this number of workers: the current runtime, whose thread also accepts connections
    /// and does everything else, and others.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn start(threads: usize) -> io::Result<WorkerPool> {
        let (over, watched) = watch::channel(());
        let mut members = vec![Worker::here()];
        for n in 1..threads {
            members.push(Worker::start(n, watched.clone())?);
        }
        Ok(WorkerPool { workers: members, _over: over })
    }

    /// Waits until every thread has had a turn for this.
    pub async fn heartbeat(&self) {
        for worker in &self.workers {
            let _ = worker.runtime.spawn(async {}).await;
        }
    }

    /// Spawns a connection on the worker with the fewest connections.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let Some(Worker { runtime, connections, wakes }) = fewest else { return };
        connections.fetch_add(1, Ordering::Relaxed);
        let served = ConnectionCount(connections.clone());
        let connection = async move {
            connection.await;
            drop(served);
        };
        match wakes {
            Some(wakes) => runtime.spawn(wakes.clone().run(connection)),
            None => runtime.spawn(connection),
        };
    }
}

impl Worker {
    fn new(runtime: Handle, wakes: Option<Arc<WakeQueue>>) -> Worker {
        Worker { runtime, connections: Arc::default(), wakes }
    }

    /// Worker on the runtime of the caller.
    fn here() -> Worker {
        let runtime = Handle::current();
        // Tasks of a multi-thread runtime do not stay on one thread: no wake queue.
        let wakes = (runtime.runtime_flavor() == RuntimeFlavor::CurrentThread).then(|| {
            let (wakes, drainer) = WakeQueue::here();
            runtime.spawn(drainer);
            wakes
        });
        Worker::new(runtime, wakes)
    }

    /// Starts a worker with its own thread, until the pool is dropped.
    fn start(n: usize, mut over: watch::Receiver<()>) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let serve = move || {
            let (wakes, drainer) = WakeQueue::here();
            runtime.spawn(drainer);
            let _ = ready.send(wakes);
            let _ = runtime.block_on(over.changed());
        };
        thread::Builder::new().name(format!("connections-{n}")).spawn(serve)?;
        Ok(Worker::new(handle, is_ready.recv().ok()))
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// A connection: the thread that serves it, and the sender that ends it.
    async fn connect(workers: &WorkerPool) -> (ThreadId, oneshot::Sender<()>) {
        let (said, mut says) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        workers.spawn(async move {
            let _ = said.send(thread::current().id()).await;
            let _ = ended.await;
        });
        (says.recv().await.unwrap(), end)
    }

    #[tokio::test]
    async fn connections_spread_evenly_over_the_threads() {
        let workers = WorkerPool::start(3).unwrap();
        let mut all = Vec::new();
        for _ in 0..6 {
            all.push(connect(&workers).await);
        }
        let of = |thread| all.iter().filter(|(of, _)| *of == thread).count();
        assert!(all.iter().all(|(thread, _)| of(*thread) == 2));
        // The worker whose connection has ended is chosen first.
        let (left, end) = all.remove(3);
        end.send(()).unwrap();
        while workers.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).sum::<usize>()
            > 5
        {
            workers.heartbeat().await;
        }
        assert_eq!(connect(&workers).await.0, left);
    }
}
