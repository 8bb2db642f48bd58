//! The brokers of a comparison, each pinned to its cores, with a port on loopback and a folder of
//! its own.

mod known;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use known::{Known, known, lapwing};

use crate::load::{Security, Socket};
use crate::peer::Running;
use crate::scenario::{Kind, Need};
use crate::wire::{self, Stay, Version};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Certificate of the brokers, its key, and clients that trust it.
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client: Security,
}

impl Tls {
    /// Creates a certificate for loopback.
    ///
    /// # Errors
    /// It cannot be created or written.
    pub fn make(folder: &Path) -> Result<Tls, Error> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Tls { certificate, key, client: Security::new(made.cert.der().clone())? })
    }
}

/// A broker that can be started: name, command and configuration.
///
/// `{port}`, `{v5_port}`, `{tls_port}`, `{other_port}`, `{folder}`, `{cert}` and `{key}` are filled
/// in. The configuration is written to `{folder}/config.toml` first.
#[derive(Clone, Debug, Default)]
pub struct Broker {
    pub name: String,
    pub command: String,
    pub config: String,
    /// Configuration for TLS scenarios, if the broker cannot have plain and TLS listeners together.
    pub secure: Option<String>,
    /// Features that the broker lacks, each with the reason.
    pub lacks: &'static [(Need, &'static str)],
    /// Keep-alive of its clients in seconds. 0, if the broker accepts it, is none.
    pub keep_alive_s: u16,
}

/// A running broker and its addresses.
pub struct Started {
    pub running: Running,
    pub plain: SocketAddr,
    /// Address for MQTT 5, which some brokers have on a listener of its own.
    pub v5: SocketAddr,
    pub tls: SocketAddr,
    keep_alive_s: u16,
}

impl Started {
    /// Returns keep-alive and session options of clients.
    pub fn stay(&self, clean: bool) -> Stay {
        Stay { keep_alive_s: self.keep_alive_s, clean }
    }
}

/// Longest time until the first client is accepted.
const START: Duration = Duration::from_secs(20);

fn free_port() -> Result<u16, Error> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Broker {
    /// Returns the reason why the broker cannot run a scenario, if there is one.
    pub fn cannot(&self, kind: Kind) -> Option<&'static str> {
        self.lacks.iter().find(|(need, _)| kind.needs(*need)).map(|(_, why)| *why)
    }

    /// Starts the broker on these cores (in the notation of taskset), and waits until it accepts a
    /// client.
    ///
    /// # Errors
    /// The broker does not start.
    pub fn start(&self, kind: Kind, folder: &Path, tls: &Tls, cores: &str) -> Result<Started, Error> {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder.join("data"))?;
        let (port, v5_port, tls_port, other) = (free_port()?, free_port()?, free_port()?, free_port()?);
        let fill = |text: &str| {
            text.replace("{port}", &port.to_string())
                .replace("{v5_port}", &v5_port.to_string())
                .replace("{tls_port}", &tls_port.to_string())
                .replace("{other_port}", &other.to_string())
                .replace("{folder}", &folder.display().to_string())
                .replace("{cert}", &tls.certificate.display().to_string())
                .replace("{key}", &tls.key.display().to_string())
        };
        let secure = self.secure.as_ref().filter(|_| kind.needs(Need::Tls));
        let config = secure.unwrap_or(&self.config);
        std::fs::write(folder.join("config.toml"), fill(config))?;
        let log = std::fs::File::create(folder.join("log"))?;
        let child: Child = Command::new("taskset")
            .args(["-c", cores])
            .args(fill(&self.command).split_whitespace())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.name))?;
        let mut running = Running::of(child, port);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (plain, tls_address) = (at(port), at(if secure.is_some() { port } else { tls_port }));
        let until = Instant::now() + START;
        let security = Some(&tls.client).filter(|_| secure.is_some());
        while first(plain, self.keep_alive_s, security).is_err() {
            if running.has_ended() || Instant::now() > until {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                let log = without_colours(&log);
                let last: Vec<&str> =
                    log.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
                return Err(format!("{} does not start: {}", self.name, last.join(" / ")).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let v5 = if config.contains("{v5_port}") || self.command.contains("{v5_port}") {
            at(v5_port)
        } else {
            plain
        };
        Ok(Started { running, plain, v5, tls: tls_address, keep_alive_s: self.keep_alive_s })
    }
}

/// Connects a client and disconnects it.
fn first(address: SocketAddr, keep_alive_s: u16, security: Option<&Security>) -> Result<(), Error> {
    let mut socket = Socket::connect(address, security, Duration::from_secs(2))?;
    wire::connect(&mut socket.out, Version::V311, "first", Stay { keep_alive_s, clean: true });
    socket.ask(0x20)?;
    socket.out.extend([0xe0, 0]);
    socket.flush()?;
    // The broker closes once it has handled the session; some never do.
    let _ = socket.fill_once();
    Ok(())
}

/// Removes the terminal colours that some brokers write into their logs.
fn without_colours(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_for_terminals_is_read_without_its_colours() {
        assert_eq!(without_colours("\u{1b}[31mERROR\u{1b}[0m mqtt: 2m"), "ERROR mqtt: 2m");
    }
}
