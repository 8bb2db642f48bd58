//! Brokers to measure, each with its state in a folder of its own and a port on loopback.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A broker that can be started.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Lapwing, durable.
    Lapwing(PathBuf),
    /// Lapwing, in memory.
    LapwingInMemory(PathBuf),
    /// Mosquitto with persistence.
    Mosquitto(PathBuf),
    /// rumqttd, which keeps everything in memory.
    Rumqttd(PathBuf),
}

impl Peer {
    /// Name in the tables.
    pub fn name(&self) -> &'static str {
        match self {
            Peer::Lapwing(_) => "lapwing",
            Peer::LapwingInMemory(_) => "lapwing --in-memory",
            Peer::Mosquitto(_) => "mosquitto (persistence)",
            Peer::Rumqttd(_) => "rumqttd (in memory)",
        }
    }

    /// Returns true if the broker is Lapwing, which must not fail.
    pub fn is_ours(&self) -> bool {
        matches!(self, Peer::Lapwing(_) | Peer::LapwingInMemory(_))
    }

    /// Returns true if the broker's state outlives its process.
    pub fn keeps(&self) -> bool {
        matches!(self, Peer::Lapwing(_) | Peer::Mosquitto(_))
    }

    fn config(&self, folder: &Path, port: u16) -> String {
        let data = folder.join("data");
        let data = data.display();
        match self {
            Peer::Lapwing(_) | Peer::LapwingInMemory(_) => format!(
                "[[listener]]\naddress = \"127.0.0.1:{port}\"\n[mqtt]\nsys_interval_s = 0\n[log]\nlevel = \"warn\"\n\
                 [store]\ndata_dir = \"{data}\"\nin_memory = {}\nqueue_bytes_max = \"8GiB\"\nqueues_bytes_max = \"8GiB\"\n\
                 [limits]\nretained_messages_max = 2000000\n{}",
                matches!(self, Peer::LapwingInMemory(_)),
                match self {
                    Peer::LapwingInMemory(_) =>
                        "queued_messages_max = 100000000\nqueued_bytes_max = \"8GiB\"\n",
                    _ => "",
                },
            ),
            Peer::Mosquitto(_) => format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {data}/\n\
                 max_queued_messages 0\nmax_inflight_messages 0\nlog_type error\nuser root\n"
            ),
            Peer::Rumqttd(_) => format!(
                "id = 0\n[router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 200\n\
                 max_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = \"v4-1\"\n\
                 listen = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 1\n[v4.1.connections]\n\
                 connection_timeout_ms = 60000\nmax_payload_size = 20480\nmax_inflight_count = 500\n\
                 dynamic_filters = true\n"
            ),
        }
    }

    /// Starts the broker, and waits until it accepts a client. Returns the broker and the time that
    /// took.
    pub fn start(&self, folder: &Path) -> Result<(Running, Duration), Error> {
        std::fs::create_dir_all(folder.join("data"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("broker.toml");
        std::fs::write(&config, self.config(folder, port))?;
        let (Peer::Lapwing(path) | Peer::LapwingInMemory(path) | Peer::Mosquitto(path) | Peer::Rumqttd(path)) =
            self;
        let begun = Instant::now();
        let child = Command::new(path)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let running = Running { child, port };
        Client::connect(port, "first", true, Duration::from_secs(120))?.disconnect()?;
        Ok((running, begun.elapsed()))
    }
}

/// A running broker; dropping it kills it.
pub struct Running {
    child: Child,
    pub port: u16,
}

impl Running {
    /// Wraps a process that was started.
    pub fn of(child: Child, port: u16) -> Running {
        Running { child, port }
    }

    /// Returns true if the process has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn of_proc(&self, file: &str, key: &str) -> Result<u64, Error> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = text.lines().find(|line| line.starts_with(key)).ok_or("a figure is missing")?;
        Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
    }

    /// CPU time of all threads so far, ended ones included, in user and kernel mode. It is read
    /// from the clock of the process: `/proc` has steps of 10 ms.
    pub fn cpu(&self) -> Result<Duration, Error> {
        let process = nix::unistd::Pid::from_raw(self.child.id().try_into()?);
        Ok(nix::time::clock_gettime(nix::time::clock_getcpuclockid(process)?)?.into())
    }

    /// Number of bytes that the broker caused to be written to the disk so far.
    pub fn bytes_written(&self) -> Result<u64, Error> {
        self.of_proc("io", "write_bytes:")
    }

    /// Resident memory, and its peak, in MiB.
    pub fn resident_mib(&self) -> Result<(f64, f64), Error> {
        let mib = |kib: u64| kib as f64 / 1024.0;
        Ok((mib(self.of_proc("status", "VmRSS:")?), mib(self.of_proc("status", "VmHWM:")?)))
    }

    /// Number of open file descriptors.
    pub fn descriptors(&self) -> Result<usize, Error> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Stops the broker cleanly, with its state saved.
    pub fn stop(mut self) -> Result<(), Error> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let until = Instant::now() + Duration::from_secs(120);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                return Err("the broker does not end".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Starts a deadline for the next action. Drop it before the broker.
    pub fn deadline(&self, time: Duration) -> Deadline {
        let (called_off, calls) = channel::<()>();
        let process = rustix::process::Pid::from_child(&self.child);
        let watch = std::thread::spawn(move || {
            let passed = calls.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            if passed {
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
            passed
        });
        Deadline { called_off: Some(called_off), watch: Some(watch) }
    }

    /// Kills the broker with SIGKILL.
    pub fn kill(mut self) -> Result<(), Error> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Kills a broker that misses its deadline, so that the waiting client gets an error. Dropping it
/// cancels that.
pub struct Deadline {
    called_off: Option<Sender<()>>,
    watch: Option<JoinHandle<bool>>,
}

impl Deadline {
    /// Cancels the deadline. Returns true if it had passed.
    pub fn has_passed(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        drop(self.called_off.take());
        self.watch.take().is_some_and(|watch| watch.join().unwrap_or(false))
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
