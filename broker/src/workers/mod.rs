//! The threads that serve connections, each with a runtime of its own: its tasks, its epoll, its
//! timers.
//!
//! A connection stays with its thread. One runtime whose threads take tasks from each other spreads
//! work more evenly, but it wakes the others for every task that becomes ready: with two threads, a
//! message of fan-in took half as much CPU time again (docs/PERFORMANCE.md). What is fair to others
//! on the same thread is seen to by the bound of a connection's turn. All that is no connection
//! runs on the runtime of the caller.

mod wakeups;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::{io, thread};

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::watch;
use wakeups::WakeQueue;
pub use wakeups::this_thread;

/// See the module. Its threads end once it is dropped, and what they serve then with them.
#[derive(Debug)]
pub struct WorkerPool {
    workers: Vec<Worker>,
    _over: watch::Sender<()>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Of its thread, if it is one.
    wakes: Option<Arc<WakeQueue>>,
}

/// A connection that a member serves.
struct ConnectionCount(Arc<AtomicUsize>);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WorkerPool {
    /// So many threads: the runtime that this is called in, whose thread accepts connections and
    /// does all the rest, and others.
    ///
    /// # Errors
    /// Those of the system.
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
        for member in &self.workers {
            let _ = member.runtime.spawn(async {}).await;
        }
    }

    /// Lets the member that has the fewest connections serve one.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = self.workers.iter().min_by_key(|member| member.connections.load(Ordering::Relaxed));
        let Some(Worker { runtime, connections, wakes: mailbox }) = fewest else { return };
        connections.fetch_add(1, Ordering::Relaxed);
        let served = ConnectionCount(connections.clone());
        let connection = async move {
            connection.await;
            drop(served);
        };
        match mailbox {
            Some(mailbox) => runtime.spawn(mailbox.clone().run(connection)),
            None => runtime.spawn(connection),
        };
    }
}

impl Worker {
    fn new(runtime: Handle, mailbox: Option<Arc<WakeQueue>>) -> Worker {
        Worker { runtime, connections: Arc::default(), wakes: mailbox }
    }

    /// The runtime of the caller.
    fn here() -> Worker {
        let runtime = Handle::current();
        // Where it has several threads, none of them is that of its tasks.
        let mailbox = (runtime.runtime_flavor() == RuntimeFlavor::CurrentThread).then(|| {
            let (mailbox, drainer) = WakeQueue::here();
            runtime.spawn(drainer);
            mailbox
        });
        Worker::new(runtime, mailbox)
    }

    /// A thread of its own, until the crew is over.
    fn start(n: usize, mut over: watch::Receiver<()>) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let serve = move || {
            let (mailbox, drainer) = WakeQueue::here();
            runtime.spawn(drainer);
            let _ = ready.send(mailbox);
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

    /// A connection: who serves it, and what ends it.
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
    async fn each_thread_gets_as_many_connections_as_the_others() {
        let workers = WorkerPool::start(3).unwrap();
        let mut all = Vec::new();
        for _ in 0..6 {
            all.push(connect(&workers).await);
        }
        let of = |thread| all.iter().filter(|(of, _)| *of == thread).count();
        assert!(all.iter().all(|(thread, _)| of(*thread) == 2));
        // The place of one that has ended is taken first.
        let (left, end) = all.remove(3);
        end.send(()).unwrap();
        while workers.workers.iter().map(|member| member.connections.load(Ordering::Relaxed)).sum::<usize>()
            > 5
        {
            workers.heartbeat().await;
        }
        assert_eq!(connect(&workers).await.0, left);
    }
}
