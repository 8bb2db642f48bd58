//! Memory of the broker: before many silent clients connect, while they are connected, and
//! afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

type Error = Box<dyn std::error::Error>;

/// Measures memory and wake-ups without load.
#[derive(Args, Debug)]
pub struct Idle {
    /// Number of connections
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// The Lapwing program
    #[arg(long, default_value = "target/release/lapwing")]
    broker: PathBuf,
    /// Maximum resident memory without clients, in MiB
    #[arg(long, default_value_t = 12.0)]
    idle_mib_max: f64,
    /// Maximum for each connection, in KiB
    #[arg(long, default_value_t = 8.0)]
    connection_kib_max: f64,
    /// Maximum wake-ups in a second without clients
    #[arg(long, default_value_t = 2.0)]
    wakes_max: f64,
}

/// The broker's process and its folder; dropping it ends both.
struct BrokerProcess(Child, PathBuf);

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

impl BrokerProcess {
    /// Returns resident memory in KiB, once it has not changed for a while.
    fn resident_kib(&self) -> Result<f64, Error> {
        let read = || -> Result<f64, Error> {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
            Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
        };
        let (mut last, until) = (read()?, Instant::now() + Duration::from_secs(20));
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = read()?;
            if now == last || Instant::now() > until {
                return Ok(now);
            }
            last = now;
        }
    }
}

/// Time during which wake-ups are counted.
const WATCHED: Duration = Duration::from_secs(20);

impl BrokerProcess {
    /// Returns how often threads of the broker went to sleep in a second.
    fn wakes(&self) -> Result<f64, Error> {
        let count = || -> Result<u64, Error> {
            let mut sum = 0;
            for task in std::fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                sum += line.ok_or("no count of switches")?.trim().parse::<u64>()?;
            }
            Ok(sum)
        };
        let before = count()?;
        std::thread::sleep(WATCHED);
        Ok((count()? - before) as f64 / WATCHED.as_secs_f64())
    }
}

impl Idle {
    /// Measures and prints.
    ///
    /// # Errors
    /// A figure cannot be measured, or is above its bound.
    pub fn run(&self) -> Result<(), Error> {
        // With the durable store, as in the default configuration.
        let folder = std::env::temp_dir().join(format!("lapwing-idle-{}", std::process::id()));
        let child = Command::new(&self.broker)
            .args(["-p", "0", "--data-dir"])
            .arg(&folder)
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| {
            format!("{}: {error}; build it with cargo build --release", self.broker.display())
        })?;
        let log = child.stderr.take().ok_or("no log")?;
        let broker = BrokerProcess(child, folder);
        let mut lines = BufReader::new(log).lines();
        let address: SocketAddr = loop {
            let line = lines.next().ok_or("the broker ended")??;
            if let Some((_, address)) = line.split_once("listening on mqtt://127.0.0.1:") {
                break (Ipv4Addr::LOCALHOST, address.trim().parse()?).into();
            }
        };
        // The pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        let before = broker.resident_kib()?;
        println!("without clients: {:.1} MiB resident", before / 1024.0);
        let wakes = broker.wakes()?;
        println!("without clients: {wakes:.1} wake-ups a second");
        let mut clients = Vec::with_capacity(self.connections);
        for n in 0..self.connections {
            clients.push(connect(address, n).map_err(|error| {
                format!(
                    "connection {n}: {error} (ulimit -n {} or more is needed)",
                    2 * self.connections + 100
                )
            })?);
        }
        let meanwhile = broker.resident_kib()?;
        let each = (meanwhile - before) / self.connections as f64;
        println!(
            "{} idle connections: {:.1} MiB resident, {each:.2} KiB for each",
            self.connections,
            meanwhile / 1024.0
        );
        drop(clients);
        let after = broker.resident_kib()?;
        println!("after they left: {:.1} MiB resident", after / 1024.0);
        if before / 1024.0 > self.idle_mib_max {
            return Err(format!("above {} MiB without clients", self.idle_mib_max).into());
        }
        if wakes > self.wakes_max {
            return Err(format!("above {} wake-ups a second without clients", self.wakes_max).into());
        }
        if each > self.connection_kib_max {
            return Err(format!("above {} KiB for each connection", self.connection_kib_max).into());
        }
        Ok(())
    }
}

/// Connects a silent MQTT 3.1.1 client without keep-alive.
fn connect(address: SocketAddr, n: usize) -> Result<TcpStream, Error> {
    let mut stream = TcpStream::connect(address)?;
    let id = format!("idle-{n}");
    let mut packet =
        vec![0x10, 12 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, id.len() as u8];
    packet.extend(id.as_bytes());
    stream.write_all(&packet)?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    if connack != [0x20, 2, 0, 0] { Err(format!("CONNACK {connack:02x?}").into()) } else { Ok(stream) }
}
