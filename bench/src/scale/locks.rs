//! Shared resources: the time of one core alone, and of two cores that do nothing else.
//!
//! Router and listener are the broker's own. Registry and counters cannot be reached from here, so
//! stand-ins of the same shape are measured.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lapwing::QoS;
use lapwing::internals::config::{self, QueuePolicy};
use lapwing::internals::message::PendingQueue;
use lapwing::internals::message::{Message, MessageParts};
use lapwing::internals::net::{RawStream, bind};
use lapwing::internals::outbox::{Outbox, QueueLimits};
use lapwing::internals::router::{Retained, RetainedLimits, RouteCache, Router, Subscriber};
use lapwing::internals::store::publish_record::PublishRecord;
use rustix::thread::{CpuSet, sched_setaffinity};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Duration of each measurement.
const TIME: Duration = Duration::from_millis(300);
/// Number of subscriptions and clients that exist before.
const KNOWN: usize = 100_000;

/// A resource that cores share.
#[derive(Clone, Debug)]
pub struct Lock {
    pub name: &'static str,
    /// Time that one core takes alone, in µs.
    pub alone_us: f64,
    /// Time from one use to the next when two cores do nothing else, in µs. None: only one core
    /// uses it.
    pub contended_us: Option<f64>,
}

impl Lock {
    /// The part that only one core can execute at a time, in µs.
    ///
    /// Two cores that share nothing take half the time of one from one use to the next. Two that
    /// share everything take as long as one, or longer, since the data move between them. In
    /// between, it is the part with which [`Work`](super::model::Work) gives the measured time.
    pub fn shared_us(&self) -> f64 {
        let (one, Some(two)) = (self.alone_us, self.contended_us) else { return self.alone_us };
        if two >= one { two } else { (one * (2.0 * two - one).max(0.0)).sqrt() }
    }
}

/// Pins this thread to a core, if the core exists.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

/// Returns the time from one `act` to the next, in µs, on `threads` threads that each repeat it.
fn each_us(threads: usize, act: &(impl Fn(usize, usize) + Sync)) -> f64 {
    let (over, begin, count) = (AtomicBool::new(false), Barrier::new(threads + 1), AtomicU64::new(0));
    let elapsed = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (over, begin, count) = (&over, &begin, &count);
            scope.spawn(move || {
                pin(thread);
                (0..1_000).for_each(|n| act(thread, n));
                begin.wait();
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    (0..100).for_each(|n| act(thread, done + n));
                    done += 100;
                }
                count.fetch_add(done as u64, Ordering::Relaxed);
            });
        }
        begin.wait();
        let began = Instant::now();
        std::thread::sleep(TIME);
        over.store(true, Ordering::Relaxed);
        began.elapsed()
    });
    elapsed.as_secs_f64() * 1e6 / count.load(Ordering::Relaxed).max(1) as f64
}

/// Measures a lock. `takes` is how often `act` takes it.
fn lock(name: &'static str, takes: f64, act: impl Fn(usize, usize) + Sync) -> Lock {
    Lock { name, alone_us: each_us(1, &act) / takes, contended_us: Some(each_us(2, &act) / takes) }
}

/// Returns an index spread over all, in an order that caches cannot foresee and that differs
/// between threads.
fn scattered(thread: usize, n: usize) -> usize {
    (n.wrapping_mul(0x9e37_79b1) + thread * KNOWN / 2) % KNOWN
}

/// Measures all shared resources, in this order.
///
/// # Errors
/// The system fails.
pub fn all() -> Result<[Lock; 6], Error> {
    let (subscribe, miss) = tree();
    Ok([accept()?, registry(), subscribe, miss, counters(), queue()])
}

/// The listener's loop: accept, spawn. All clients have connected before.
fn accept() -> Result<Lock, Error> {
    const COUNT: usize = 2_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    pin(0);
    let site = config::Listener { address: "127.0.0.1:0".to_owned(), ..config::Listener::default() };
    let _context = runtime.enter();
    let listener = bind(&site, 1)?.pop().ok_or("no listener")?;
    let address = listener.name().trim_start_matches("mqtt://").to_owned();
    let clients: Vec<_> =
        (0..COUNT).map(|_| std::net::TcpStream::connect(&address)).collect::<Result<_, _>>()?;
    let took = runtime.block_on(async {
        let began = Instant::now();
        let mut accepted = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let RawStream::Tcp(stream, _) = listener.accept().await? else { continue };
            stream.set_nodelay(true)?;
            accepted.push(tokio::spawn(async move {
                black_box(&stream);
                std::future::pending::<()>().await;
            }));
        }
        Ok::<_, Error>(began.elapsed())
    })?;
    drop(clients);
    Ok(Lock { name: "accept", alone_us: took.as_secs_f64() * 1e6 / COUNT as f64, contended_us: None })
}

/// A claim or a release: an ordered map of client identifiers behind a mutex, with entries of the
/// same size.
fn registry() -> Lock {
    let ids: Vec<Arc<str>> = (0..KNOWN).map(|n| format!("device-{n:07}").into()).collect();
    let entries: BTreeMap<Arc<str>, [usize; 5]> = ids.iter().map(|id| (id.clone(), [0; 5])).collect();
    let clients = Mutex::new(entries);
    lock("registry", 2.0, |thread, n| {
        let id = &ids[scattered(thread, n)];
        let mut inner = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.get(id).is_some();
        black_box(known);
        inner.remove(id);
        drop(inner);
        let mut inner = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.get(id).is_some();
        black_box(known);
        inner.insert(id.clone(), [n; 5]);
    })
}

fn outbox(session: u64) -> Arc<Outbox> {
    let bounds = QueueLimits {
        messages_max: 1_000_000,
        bytes_max: 1 << 30,
        policy: QueuePolicy::DropNewest,
        keeps_qos0: false,
        stored_bytes_max: 0,
        stored_messages_max: 0,
    };
    let outbox = Arc::new(Outbox::new(session, bounds));
    outbox.connect(&Arc::default());
    outbox
}

fn subscriber(outbox: &Arc<Outbox>) -> Subscriber {
    Subscriber {
        outbox: outbox.clone(),
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        id: None,
    }
}

fn router() -> Router {
    let retained = Retained::new(RetainedLimits { messages_max: 1, bytes_max: 1, cache_bytes_max: u64::MAX });
    Router::new(retained, Arc::default())
}

fn message(topic: &str) -> Message {
    Message::new(&MessageParts::new(topic, &[b'x'; 64]))
}

/// A subscription added or removed among many, and an uncached topic looked up there.
fn tree() -> (Lock, Lock) {
    let router = router();
    let sessions: Vec<Arc<Outbox>> = (0..1_000).map(|n| outbox(n + 1)).collect();
    for n in 0..KNOWN {
        router.subscribe(&format!("site/{}/+/v{n}", n % 100), subscriber(&sessions[n % 1_000]));
    }
    let subscribe = lock("topic tree, write", 2.0, |thread, n| {
        let n = scattered(thread, n);
        let session = &sessions[thread];
        let filter = format!("site/{}/{thread}/w{n}", n % 100);
        router.subscribe(&filter, subscriber(session));
        router.unsubscribe(&filter, session.session());
    });
    let miss = lock("topic tree, read", 1.0, |thread, n| {
        let n = scattered(thread, n);
        black_box(router.count(&format!("site/{}/d/v{n}", n % 100)));
    });
    (subscribe, miss)
}

/// The shared counters of one turn of a connection: four of its listener's, and the received bytes.
fn counters() -> Lock {
    let shared: [AtomicU64; 10] = Default::default();
    lock("counters of a turn", 1.0, |_, n| {
        for counter in &shared[..5] {
            counter.fetch_add(n as u64, Ordering::Relaxed);
        }
    })
}

/// The queue of one subscriber: a message made, routed by a cached topic, and taken.
fn queue() -> Lock {
    let router = router();
    let outbox = outbox(1);
    router.subscribe("fan/in", subscriber(&outbox));
    thread_local!(static CACHE: std::cell::RefCell<RouteCache> = std::cell::RefCell::default());
    let message = message("fan/in");
    lock("queue of one subscriber", 1.0, |thread, n| {
        let mut wakers = Vec::new();
        CACHE.with_borrow_mut(|cache| {
            router.route(&message, cache, &mut wakers, &mut PublishRecord::disabled())
        });
        if thread == 0 && n % 50 == 0 {
            let mut taken = PendingQueue::default();
            outbox.take(&mut taken, std::task::Waker::noop());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::Work;
    use super::*;

    fn shared(alone_us: f64, contended_us: f64) -> f64 {
        Lock { name: "", alone_us, contended_us: Some(contended_us) }.shared_us()
    }

    #[test]
    fn what_two_cores_do_as_fast_as_two_is_not_shared_and_what_they_do_as_fast_as_one_is() {
        assert_eq!(shared(1.0, 0.5), 0.0);
        assert_eq!(shared(1.0, 1.0), 1.0);
        assert_eq!(shared(1.0, 1.7), 1.7);
    }

    #[test]
    fn the_model_comes_to_what_two_cores_were_measured_to_do() {
        let part = shared(1.0, 0.6);
        let work = Work { own_us: 1.0 - part, resources_us: vec![part] };
        assert!((1e6 / work.on(2).per_s - 0.6).abs() < 1e-9);
    }
}
