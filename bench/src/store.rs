//! The cost of durability, beside brokers that do without.
//!
//! `store` measures acknowledged messages per second into offline sessions, and the rate at which a
//! backlog drains. It also measures the bytes written for each message, and the time of a restart
//! with a million messages.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use crate::client::Client;
use crate::peer::Peer;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Length of the payload, in bytes.
const PAYLOAD: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Measures the durable store.
#[derive(Args, Debug)]
pub struct Store {
    /// The Lapwing program
    #[arg(long, default_value = "target/release/lapwing")]
    broker: PathBuf,
    /// Mosquitto; left out if it is missing
    #[arg(long, default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// rumqttd; left out if it is missing
    #[arg(long, default_value = "rumqttd")]
    rumqttd: PathBuf,
    /// Duration of each rate measurement, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Messages in the backlog that is drained
    #[arg(long, default_value_t = 100_000)]
    drain: usize,
    /// Messages queued, and retained, at a restart; 0 skips that
    #[arg(long, default_value_t = 1_000_000)]
    restart: usize,
    /// A folder on the disk to measure
    #[arg(long, default_value = "target/bench-store")]
    folder: PathBuf,
    /// Only the rates into this number of sessions
    #[arg(long)]
    only_sessions: Option<usize>,
    /// Only the rates with this number of messages in flight
    #[arg(long)]
    only_window: Option<usize>,
    /// Only print; do not fail below a floor
    #[arg(long)]
    no_floors: bool,
}

/// Floors of the figures. A missed floor ends the run with an error, after everything was printed.
#[derive(Default)]
struct Floors(Vec<String>);

impl Floors {
    fn check(&mut self, what: &str, value: f64, holds: bool) {
        println!("  floor: {what}: {value:.2} {}", if holds { "(met)" } else { "(MISSED)" });
        if !holds {
            self.0.push(format!("{what}: {value:.2}"));
        }
    }
}

impl Store {
    /// Measures and prints.
    pub fn run(&self) -> Result<(), Error> {
        let mut peers = vec![Peer::Lapwing(self.broker.clone()), Peer::LapwingInMemory(self.broker.clone())];
        for (peer, path) in [
            (Peer::Mosquitto(self.mosquitto.clone()), &self.mosquitto),
            (Peer::Rumqttd(self.rumqttd.clone()), &self.rumqttd),
        ] {
            if path.is_file() {
                peers.push(peer);
            } else {
                println!("left out: {} ({} is missing)", peer.name(), path.display());
            }
        }
        let mut floors = Floors::default();
        self.rates(&peers, &mut floors)?;
        if self.only_sessions.is_some() {
            return Ok(());
        }
        self.drains(&peers)?;
        self.bytes(&peers, &mut floors)?;
        if self.restart > 0 {
            self.restarts(&peers, &mut floors)?;
        }
        if floors.0.is_empty() || self.no_floors {
            return Ok(());
        }
        Err(format!("below the floor: {}", floors.0.join(", ")).into())
    }

    fn folder(&self, peer: &Peer, what: &str) -> Result<PathBuf, Error> {
        let name: String = peer.name().chars().filter(|c| c.is_alphanumeric()).collect();
        let folder = std::path::absolute(self.folder.join(format!("{name}-{what}")))?;
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Measures acknowledged messages per second by 10 publishers, into offline sessions and into
    /// acknowledging clients, with CPU time for each.
    fn rates(&self, peers: &[Peer], floors: &mut Floors) -> Result<(), Error> {
        for live in [false, true] {
            let whose = if live { "sessions with acknowledging clients" } else { "offline sessions" };
            println!(
                "\nacknowledged QoS 1 messages/s of {PAYLOAD} B, 10 publishers, into {whose} (ratio to lapwing)"
            );
            for sessions in
                [1, 100, 1_000].into_iter().filter(|n| self.only_sessions.is_none_or(|only| only == *n))
            {
                // A thread for each client: a thousand of them would measure the threads.
                if live && sessions > 100 {
                    continue;
                }
                for window in [1, 100].into_iter().filter(|n| self.only_window.is_none_or(|only| only == *n))
                {
                    self.rates_of(peers, sessions, window, live, floors)?;
                }
            }
        }
        Ok(())
    }

    fn rates_of(
        &self,
        peers: &[Peer],
        sessions: usize,
        window: usize,
        live: bool,
        floors: &mut Floors,
    ) -> Result<(), Error> {
        let mut ours = 0.0;
        for peer in peers {
            let (rate, cpu_us) = match self.one_rate(peer, sessions, window, live) {
                Ok(measured) => measured,
                Err(error) if !peer.is_ours() => {
                    println!(
                        "  {sessions:>5} sessions, window {window:>3}: {:<24} failed: {error}",
                        peer.name()
                    );
                    continue;
                }
                Err(error) => return Err(error),
            };
            if *peer == peers[0] {
                ours = rate;
            }
            println!(
                "  {sessions:>5} sessions, window {window:>3}: {:<24} {rate:>9.0}   x{:.2}   {cpu_us:.2} us of CPU",
                peer.name(),
                rate / ours
            );
            // The floor applies to offline sessions, and to flows through many. A single client
            // that cannot keep up reads its backlog from the disk while it is written: the figure
            // shows that cost.
            let counts = window == 100 && (!live || sessions > 1);
            if matches!(peer, Peer::LapwingInMemory(_)) && counts {
                let part = ours / rate;
                floors.check("durable is at least half of in-memory", part, part >= 0.5);
            }
        }
        Ok(())
    }

    fn one_rate(&self, peer: &Peer, sessions: usize, window: usize, live: bool) -> Result<(f64, f64), Error> {
        let folder = self.folder(peer, "rate")?;
        let (running, _) = peer.start(&folder)?;
        make_sessions(running.port, sessions)?;
        let over = AtomicBool::new(false);
        let port = running.port;
        let rate = std::thread::scope(|scope| {
            for n in 0..if live { sessions } else { 0 } {
                let over = &over;
                scope.spawn(move || {
                    let client = Client::connect(port, &format!("session-{n}"), false, TIMEOUT);
                    client.and_then(|mut client| client.receive_until(over))
                });
            }
            let before = running.cpu();
            let acknowledged = rate(port, sessions, window, Duration::from_secs(self.seconds));
            let cpu = running.cpu();
            over.store(true, Ordering::Relaxed);
            let (count, rate) = acknowledged?;
            Ok::<_, Error>((rate, (cpu? - before?).as_secs_f64() * 1e6 / count.max(1) as f64))
        })?;
        drop(running);
        std::fs::remove_dir_all(&folder)?;
        Ok(rate)
    }

    /// Measures the rate at which a backlog drains.
    fn drains(&self, peers: &[Peer]) -> Result<(), Error> {
        println!("\n{} queued messages drained, messages/s", self.drain);
        for peer in peers {
            match self.drain(peer) {
                Ok(rate) => println!("  {:<24} {rate:>9.0}", peer.name()),
                Err(error) if !peer.is_ours() => println!("  {:<24} failed: {error}", peer.name()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn drain(&self, peer: &Peer) -> Result<f64, Error> {
        let folder = self.folder(peer, "drain")?;
        let (running, _) = peer.start(&folder)?;
        make_sessions(running.port, 1)?;
        fill(running.port, self.drain, |_| "s/0".to_owned(), false)?;
        let begun = Instant::now();
        let mut client = Client::connect(running.port, "session-0", false, TIMEOUT)?;
        client.receive(self.drain)?;
        let rate = self.drain as f64 / begun.elapsed().as_secs_f64();
        drop(running);
        std::fs::remove_dir_all(&folder)?;
        Ok(rate)
    }

    /// Measures bytes to the disk for each queued and acknowledged message.
    fn bytes(&self, peers: &[Peer], floors: &mut Floors) -> Result<(), Error> {
        println!(
            "\nbytes written to the disk for each message of {PAYLOAD} B, queued, delivered and acknowledged"
        );
        for (window, before, count) in [(1, 9_000, 3_000), (100, 100_000, 100_000)] {
            for peer in peers.iter().filter(|peer| peer.keeps()) {
                let folder = self.folder(peer, "bytes")?;
                let (running, _) = peer.start(&folder)?;
                make_sessions(running.port, 1)?;
                // The one-time cost of the log's files does not count: they are used again after
                // two windows.
                through(running.port, window, before)?;
                let written = running.bytes_written()?;
                through(running.port, window, count)?;
                let each = (running.bytes_written()? - written) as f64 / count as f64;
                let factor = each / PAYLOAD as f64;
                println!("  window {window:>3}: {:<24} {each:>9.0}   x{factor:.2}", peer.name());
                if let Peer::Lapwing(_) = peer {
                    let most = if window == 1 { 33.0 } else { 5.0 };
                    floors.check(&format!("write amplification at most {most}"), factor, factor <= most);
                }
                drop(running);
                std::fs::remove_dir_all(&folder)?;
            }
        }
        Ok(())
    }

    /// Measures the time until a client is accepted with a million messages.
    fn restarts(&self, peers: &[Peer], floors: &mut Floors) -> Result<(), Error> {
        let count = self.restart;
        println!(
            "\nrestart with {count} messages: time to the first CONNACK, after a clean stop and after kill -9"
        );
        for retained in [false, true] {
            let what = if retained { "retained, 64 B" } else { "queued, 256 B" };
            for peer in peers.iter().filter(|peer| peer.keeps()) {
                let folder = self.folder(peer, "restart")?;
                let (running, _) = peer.start(&folder)?;
                make_sessions(running.port, 1)?;
                let (empty, _) = running.resident_mib()?;
                let begun = Instant::now();
                let topic = move |n: usize| match retained {
                    true => format!("retained/site{}/device{:06}/value", n % 100, n),
                    false => "s/0".to_owned(),
                };
                fill(running.port, count, topic, retained)?;
                let filled = count as f64 / begun.elapsed().as_secs_f64();
                let (_, peak) = running.resident_mib()?;
                running.stop()?;
                let disk = size_of(&folder.join("data"))? as f64 / 1e6;
                let (running, clean) = peer.start(&folder)?;
                // SIGKILL before the broker can have saved anything.
                running.kill()?;
                let (running, killed) = peer.start(&folder)?;
                let (resident, _) = running.resident_mib()?;
                println!(
                    "  {what:<15} {:<24} {:>6.2} s, {:>6.2} s;  filled at {filled:.0}/s (peak {peak:.0} MiB), \
                     {resident:.0} MiB after, {disk:.0} MB on disk",
                    peer.name(),
                    clean.as_secs_f64(),
                    killed.as_secs_f64()
                );
                if let (Peer::Lapwing(_), false) = (peer, retained) {
                    let s = clean.max(killed).as_secs_f64();
                    floors.check("restart at most 1 s", s, s <= 1.0);
                    let cost = peak - empty;
                    floors.check("at most 64 MiB more while a million queue up", cost, cost <= 64.0);
                }
                drop(running);
                std::fs::remove_dir_all(&folder)?;
            }
        }
        Ok(())
    }
}

/// Makes offline sessions with one subscription each.
fn make_sessions(port: u16, count: usize) -> Result<(), Error> {
    for n in 0..count {
        let mut client = Client::connect(port, &format!("session-{n}"), false, TIMEOUT)?;
        client.subscribe(&format!("s/{n}"))?;
        client.disconnect()?;
    }
    Ok(())
}

/// Publishes for a time by 10 publishers with `window` messages in flight each. Returns the number
/// of acknowledged messages, and their rate.
fn rate(port: u16, sessions: usize, window: usize, time: Duration) -> Result<(u64, f64), Error> {
    let (total, ready) = (AtomicU64::new(0), Barrier::new(11));
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..10)
            .map(|k| {
                let (total, ready) = (&total, &ready);
                scope.spawn(move || -> Result<(), Error> {
                    let client = Client::connect(port, &format!("publisher-{k}"), true, TIMEOUT);
                    ready.wait();
                    let mut client = client?;
                    let until = Instant::now() + time;
                    let (mut n, mut open) = (k * 7_919, 0);
                    while Instant::now() < until {
                        while open < window {
                            client.publish(&format!("s/{}", n % sessions), &[b'x'; PAYLOAD], false);
                            n += 1;
                            open += 1;
                        }
                        client.flush()?;
                        let acknowledged = client.pubacks()?;
                        open -= acknowledged;
                        total.fetch_add(acknowledged as u64, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        ready.wait();
        let begun = Instant::now();
        for publisher in publishers {
            publisher.join().map_err(|_| "a publisher panicked")??;
        }
        let count = total.load(Ordering::Relaxed);
        Ok((count, count as f64 / begun.elapsed().as_secs_f64()))
    })
}

/// Publishes `count` messages by 10 publishers, and waits for all acknowledgements.
fn fill(port: u16, count: usize, topic: impl Fn(usize) -> String + Sync, retain: bool) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..10)
            .map(|k| {
                let topic = &topic;
                scope.spawn(move || -> Result<(), Error> {
                    let mut client = Client::connect(port, &format!("filler-{k}"), true, TIMEOUT)?;
                    let payload = vec![b'x'; if retain { 64 } else { PAYLOAD }];
                    let (mut n, mut open) = (k, 0);
                    while n < count || open > 0 {
                        while open < 100 && n < count {
                            client.publish(&topic(n), &payload, retain);
                            n += 10;
                            open += 1;
                        }
                        client.flush()?;
                        open -= client.pubacks()?;
                    }
                    Ok(())
                })
            })
            .collect();
        for publisher in publishers {
            publisher.join().map_err(|_| "a publisher panicked")??;
        }
        Ok(())
    })
}

/// Sends `count` messages from one publisher through a session with a connected client.
fn through(port: u16, window: usize, count: usize) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let mut subscriber = Client::connect(port, "session-0", false, TIMEOUT)?;
        let receiving = scope.spawn(move || subscriber.receive(count).map(|_| subscriber));
        let mut client = Client::connect(port, "publisher", true, TIMEOUT)?;
        let (mut sent, mut open) = (0, 0);
        while sent < count || open > 0 {
            // A whole window at a time: batches of this size.
            while open < window && sent < count {
                client.publish("s/0", &[b'x'; PAYLOAD], false);
                (sent, open) = (sent + 1, open + 1);
            }
            client.flush()?;
            while open > 0 {
                open -= client.pubacks()?;
            }
        }
        let subscriber = receiving.join().map_err(|_| "the subscriber panicked")??;
        subscriber.disconnect()
    })
}

fn size_of(folder: &Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
