//! A reconnect storm: many devices with passwords connect at once, and an honest pair beside them.
//!
//! The first storm meets a broker that has just started and has verified no password. The second
//! follows a cut. The latency of the pair is measured before and during the storms.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use lapwing::internals::auth::password::{Cost, Hash, PasswordEntry, cost, line};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::client::Client;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Messages of the honest pair in a second.
const BYSTANDER_RATE: u32 = 200;
/// Time for which the pair's latency is measured before the storm.
const CALM: Duration = Duration::from_secs(5);

/// Measures a reconnect storm.
#[derive(Args, Debug)]
pub struct Storm {
    /// Number of devices
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Number of devices that try at the same time; the others queue up, as in the backlog of a
    /// kernel
    #[arg(long, default_value_t = 2_000)]
    at_once: usize,
    /// The Lapwing program
    #[arg(long, default_value = "target/release/lapwing")]
    broker: PathBuf,
    /// Longest time of the first storm, in seconds
    #[arg(long, default_value_t = 60.0)]
    seconds_max: f64,
    /// Memory of argon2id in KiB, if not the default
    #[arg(long)]
    memory_kib: Option<u32>,
    /// Passes of argon2id, if not the default
    #[arg(long)]
    passes: Option<u32>,
}

/// The broker's process and its folder; dropping it ends both.
struct BrokerProcess(Child, PathBuf, u16);

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn password(n: usize) -> String {
    format!("password-of-device-{n}")
}

/// Makes a password file with all devices, on all cores.
fn users(devices: usize, cost: Cost) -> Result<String, Error> {
    let workers = std::thread::available_parallelism()?.get();
    let parts: Vec<String> = std::thread::scope(|scope| {
        let work = |worker: usize| {
            move || {
                let mut memory = Vec::new();
                let hash = |n: usize| Hash::make(password(n).as_bytes(), cost, &mut memory);
                (worker..devices).step_by(workers).map(hash).collect::<Result<Vec<_>, _>>().map(|hashes| {
                    let lines = (worker..devices).step_by(workers).zip(hashes);
                    let entry =
                        |(n, hash)| line(&format!("device-{n}"), &PasswordEntry { hash, scram: None }) + "\n";
                    lines.map(entry).collect::<String>()
                })
            }
        };
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(work(worker))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a thread failed".to_owned())?)
            .collect::<Result<_, String>>()
    })?;
    Ok(parts.concat())
}

fn start(path: &Path, folder: PathBuf, users: &str) -> Result<BrokerProcess, Error> {
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("users"), users)?;
    let at = folder.display();
    // The pair is anonymous: it has nothing to do with passwords.
    let config = format!(
        "[auth]\npassword_file = '{at}/users'\nallow_anonymous = true\n[store]\ndata_dir = '{at}/data'\n\
         [log]\nlevel = 'warn'\n[[listener]]\naddress = '127.0.0.1:0'\n"
    );
    std::fs::write(folder.join("lapwing.toml"), config)?;
    let mut child = Command::new(path)
        .arg("-c")
        .arg(folder.join("lapwing.toml"))
        .env("LAPWING_LOG__LEVEL", "info,audit=warn,lapwing::connection::handshake=warn")
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}; build it with cargo build --release", path.display()))?;
    let log = child.stderr.take().ok_or("no log")?;
    let mut broker = BrokerProcess(child, folder, 0);
    let mut lines = BufReader::new(log).lines();
    while broker.2 == 0 {
        let line = lines.next().ok_or("the broker ended")??;
        if let Some((_, port)) = line.split_once("listening on mqtt://127.0.0.1:") {
            broker.2 = port.trim().parse()?;
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
    Ok(broker)
}

/// Measures the latencies of an honest pair until `over`, in µs.
fn bystander(port: u16, over: &AtomicBool) -> Result<Vec<u64>, Error> {
    let patience = Duration::from_secs(10);
    let mut subscriber = Client::connect(port, "bystander-sub", true, patience)?;
    subscriber.subscribe("bystander")?;
    let mut publisher = Client::connect(port, "bystander-pub", true, patience)?;
    let mut latencies = Vec::new();
    let (period, mut next) = (Duration::from_secs(1) / BYSTANDER_RATE, Instant::now());
    while !over.load(Ordering::Relaxed) {
        next += period;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        publisher.publish("bystander", &[0; 64], false);
        publisher.flush()?;
        subscriber.receive(1)?;
        latencies.push(sent.elapsed().as_micros() as u64);
        publisher.pubacks()?;
        // A late message is one sample, not many.
        next = next.max(Instant::now());
    }
    Ok(latencies)
}

fn measured<T>(port: u16, work: impl FnOnce() -> Result<T, Error>) -> Result<(T, Vec<u64>), Error> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pair = scope.spawn(|| bystander(port, &over));
        let result = work();
        over.store(true, Ordering::Relaxed);
        let mut latencies = pair.join().map_err(|_| "the pair failed")??;
        latencies.sort_unstable();
        Ok((result?, latencies))
    })
}

fn part(sorted: &[u64], of_1000: usize) -> f64 {
    let at = (sorted.len() * of_1000 / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default() as f64 / 1000.0
}

/// Connects one device, which stays connected.
async fn device(port: u16, n: usize) -> Result<TcpStream, Error> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (id, secret) = (format!("device-{n}"), password(n));
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0xc2, 0, 0];
    for text in [&id, &id, &secret] {
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
    }
    let packet = [&[0x10, body.len() as u8][..], &body].concat();
    stream.write_all(&packet).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    if connack == [0x20, 2, 0, 0] { Ok(stream) } else { Err(format!("CONNACK {connack:02x?}").into()) }
}

/// Result of a storm.
struct StormResult {
    seconds: f64,
    retries: usize,
    waits_us: Vec<u64>,
    connections: Vec<TcpStream>,
}

/// Connects all devices, each trying until it is accepted.
fn storm(
    runtime: &tokio::runtime::Runtime,
    port: u16,
    devices: usize,
    at_once: usize,
) -> Result<StormResult, Error> {
    let (began, retries) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let places = Arc::new(Semaphore::new(at_once));
    let all = runtime.block_on(async {
        let each = (0..devices).map(|n| {
            let (places, retries) = (places.clone(), retries.clone());
            tokio::spawn(async move {
                let _place = places.acquire().await;
                let started = Instant::now();
                loop {
                    match device(port, n).await {
                        Ok(stream) => return Ok((stream, started.elapsed().as_micros() as u64)),
                        Err(error) if started.elapsed() > Duration::from_secs(120) => return Err(error),
                        Err(_) => {
                            retries.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(500 + (n as u64 % 500))).await;
                        }
                    }
                }
            })
        });
        let mut all = Vec::with_capacity(devices);
        for task in each.collect::<Vec<_>>() {
            all.push(task.await??);
        }
        Ok::<_, Error>(all)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let (connections, mut waits_us): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    waits_us.sort_unstable();
    Ok(StormResult { seconds, retries: retries.load(Ordering::Relaxed), waits_us, connections })
}

impl Storm {
    /// Measures and prints.
    ///
    /// # Errors
    /// A figure cannot be measured, or is above its bound.
    pub fn run(&self) -> Result<(), Error> {
        let default = cost(&lapwing::internals::config::Config::default().auth);
        let cost = Cost {
            memory_kib: self.memory_kib.unwrap_or(default.memory_kib),
            passes: self.passes.unwrap_or(default.passes),
        };
        let began = Instant::now();
        let users = users(self.devices, cost)?;
        println!(
            "made {} argon2id hashes of {} KiB and {} passes in {:.1} s",
            self.devices,
            cost.memory_kib,
            cost.passes,
            began.elapsed().as_secs_f64()
        );
        let folder = std::env::temp_dir().join(format!("lapwing-storm-{}", std::process::id()));
        let broker = start(&self.broker, folder, &users)?;
        let port = broker.2;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ((), calm) = measured(port, || {
            std::thread::sleep(CALM);
            Ok(())
        })?;
        println!("calm: the pair's latency p50 {:.2} ms, p99 {:.2} ms", part(&calm, 500), part(&calm, 990));
        let bound = (2.0 * part(&calm, 990)).max(10.0);
        let mut wrong = Vec::new();
        for (name, seconds_max) in
            [("first storm", self.seconds_max), ("second storm, after a cut", self.seconds_max)]
        {
            // A storm may end before the pair has enough samples for a p99: then the time after it
            // counts, too.
            let (outcome, pair) = measured(port, || {
                let outcome = storm(&runtime, port, self.devices, self.at_once)?;
                std::thread::sleep(CALM.saturating_sub(Duration::from_secs_f64(outcome.seconds)));
                Ok(outcome)
            })?;
            println!(
                "{name}: {} devices in {:.1} s, {} tries more; a device waits p50 {:.0} ms, p99 {:.0} ms; the pair's latency \
                 p50 {:.2} ms, p99 {:.2} ms ({} messages)",
                self.devices,
                outcome.seconds,
                outcome.retries,
                part(&outcome.waits_us, 500),
                part(&outcome.waits_us, 990),
                part(&pair, 500),
                part(&pair, 990),
                pair.len()
            );
            if outcome.seconds > seconds_max {
                wrong.push(format!("{name}: above {seconds_max} s"));
            }
            if part(&pair, 990) > bound {
                wrong.push(format!("{name}: the pair's p99 is above {bound:.1} ms"));
            }
            runtime.block_on(async { drop(outcome.connections) });
            std::thread::sleep(Duration::from_secs(2));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ").into()) }
    }
}
