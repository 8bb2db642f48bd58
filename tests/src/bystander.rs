//! An honest pair of clients beside an attack: a publisher of 200 QoS 1 messages a second and its
//! subscriber. What they notice is what the attack costs others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;

const EVERY: Duration = Duration::from_millis(5);
/// Longest time that the last message may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pair at work.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    publisher: JoinHandle<std::io::Result<()>>,
    subscriber: JoinHandle<std::io::Result<Vec<Duration>>>,
}

/// Observations of the pair.
#[derive(Clone, Copy, Debug)]
pub struct Noticed {
    /// Messages that were acknowledged to the publisher and never came.
    pub lost: u64,
    /// 99 of 100 messages took at most this long, from publisher to subscriber.
    pub p99: Duration,
}

impl Bystander {
    /// Begins.
    ///
    /// # Errors
    /// An error of the network, or a refusal by the broker.
    pub fn start(address: SocketAddr) -> std::io::Result<Bystander> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let address = address.to_string();
        let (mut subscriber, _) =
            Client::connect(&address, "3.1.1", &[("id", "honest-subscriber"), ("keep_alive", "0")])?;
        subscriber.subscribe("bystander@1");
        let (mut publisher, _) =
            Client::connect(&address, "3.1.1", &[("id", "honest-publisher"), ("keep_alive", "0")])?;
        let begun = Instant::now();
        let (stopped, count) = (stop.clone(), sent.clone());
        let publisher = std::thread::spawn(move || {
            let mut next = Instant::now();
            let (mut open, mut n) = (0u32, 0u64);
            while !stopped.load(Ordering::Relaxed) || open > 0 {
                if next <= Instant::now() && !stopped.load(Ordering::Relaxed) && open < 1_000 {
                    n += 1;
                    let (id, payload) =
                        ((n % 60_000 + 1).to_string(), begun.elapsed().as_micros().to_string());
                    publisher.send(
                        "publish",
                        &[("topic", "bystander"), ("qos", "1"), ("id", &id), ("payload", &payload)],
                    )?;
                    open += 1;
                    next += EVERY;
                }
                let wait = next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                if let Some(("puback", _)) = publisher.next(wait)? {
                    open -= 1;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        let (stopped, count) = (stop.clone(), sent.clone());
        let subscriber = std::thread::spawn(move || {
            let mut latencies = Vec::new();
            let mut since_stop: Option<Instant> = None;
            loop {
                if stopped.load(Ordering::Relaxed) {
                    let since = *since_stop.get_or_insert_with(Instant::now);
                    let all = latencies.len() as u64 >= count.load(Ordering::Relaxed);
                    if all && since.elapsed() > 4 * EVERY || since.elapsed() > PATIENCE {
                        return Ok(latencies);
                    }
                }
                if let Some(("publish", message)) = subscriber.next(EVERY)? {
                    let at: u64 = message["payload"].parse().unwrap_or(0);
                    latencies.push(begun.elapsed().saturating_sub(Duration::from_micros(at)));
                    subscriber.send("puback", &[("id", &message["id"])])?;
                }
            }
        });
        Ok(Bystander { stop, sent, publisher, subscriber })
    }

    /// Ends, once everything that was acknowledged has come or should have.
    ///
    /// # Errors
    /// That the broker ended one of the two.
    pub fn finish(self) -> std::io::Result<Noticed> {
        self.stop.store(true, Ordering::Relaxed);
        let published =
            self.publisher.join().unwrap_or_else(|_| Err(std::io::Error::other("the publisher panicked")));
        let received =
            self.subscriber.join().unwrap_or_else(|_| Err(std::io::Error::other("the subscriber panicked")));
        published?;
        let mut latencies = received?;
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100).or(latencies.last()).copied().unwrap_or_default();
        Ok(Noticed { lost: self.sent.load(Ordering::Relaxed).saturating_sub(latencies.len() as u64), p99 })
    }
}
