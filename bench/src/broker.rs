//! The brokers of a comparison: each pinned to its cores, with a port on loopback and a folder of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::peer::Running;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The certificate of the brokers, and its key.
#[derive(Debug)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub der: rustls::pki_types::CertificateDer<'static>,
}

impl Tls {
    /// Makes one for loopback.
    ///
    /// # Errors
    /// That it cannot be written.
    pub fn make(folder: &Path) -> Result<Tls, Error> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Tls { certificate, key, der: made.cert.der().clone() })
    }
}

/// A broker that can be started: its name, and its command with `{port}`, `{tls_port}`, `{folder}`, `{cert}` and `{key}` to be filled in,
/// also in the configuration that is written to `{folder}/config` first.
#[derive(Clone, Debug)]
pub struct Broker {
    pub name: String,
    pub command: String,
    pub config: String,
}

const LAPWING: &str = "[[listener]]\naddress = '127.0.0.1:{port}'\n[[listener]]\naddress = '127.0.0.1:{tls_port}'\ntransport = 'tls'\n\
    certificate_file = '{cert}'\nkey_file = '{key}'\n[mqtt]\nsys_interval_s = 0\n[log]\nlevel = 'warn'\n[store]\ndata_dir = '{folder}/data'\n\
    [limits]\nqueued_messages_max = 1000000\nqueued_bytes_max = '1GiB'\nin_flight_max = 1000\nreceive_maximum = 1000\nhandshakes_max = 10000\n\
    retained_messages_max = 2000000\nsubscriptions_max = 1000000\nconnects_per_address_per_s = 1000000\n";

const MOSQUITTO: &str = "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlistener {tls_port} 127.0.0.1\nallow_anonymous true\n\
    set_tcp_nodelay true\ncertfile {cert}\nkeyfile {key}\nmax_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 1000\n\
    persistence false\nlog_type error\nuser root\nsys_interval 0\n";

const RUMQTTD: &str = "id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\nmax_segment_size = 104857600\n\
    max_segment_count = 10\n[v4.1]\nname = 'plain'\nlisten = '127.0.0.1:{port}'\nnext_connection_delay_ms = 1\n[v4.1.connections]\n\
    connection_timeout_ms = 60000\nmax_payload_size = 2097152\nmax_inflight_count = 1000\ndynamic_filters = true\n\
    [v5.1]\nname = 'five'\nlisten = '127.0.0.1:{other_port}'\nnext_connection_delay_ms = 1\n[v5.1.connections]\nconnection_timeout_ms = 60000\n\
    max_payload_size = 2097152\nmax_inflight_count = 1000\ndynamic_filters = true\n";

const NATS: &str = "port: {other_port}\nhost: 127.0.0.1\nserver_name: bench\njetstream { store_dir: '{folder}/data' }\nmqtt { host: 127.0.0.1, port: {port} }\n";

/// The brokers that are here: the first is ours, the second what the others are measured by, if it is there. `others`: a file with a line
/// for each further broker, its name, `=`, and its command.
///
/// # Errors
/// That the file cannot be read.
pub fn known(lapwing: &Path, others: Option<&Path>) -> Result<Vec<Broker>, Error> {
    let there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        folders.push("/usr/sbin".into());
        folders.iter().map(|folder| folder.join(program)).find(|file| file.is_file())
    };
    let mut brokers = vec![Broker {
        name: "lapwing".to_owned(),
        command: format!("{} -c {{folder}}/config.toml", lapwing.display()),
        config: LAPWING.to_owned(),
    }];
    for (name, program, arguments, config) in [
        ("mosquitto", "mosquitto", "-c {folder}/config.toml", MOSQUITTO),
        ("rumqttd", "rumqttd", "-c {folder}/config.toml", RUMQTTD),
        ("nats-server", "nats-server", "-c {folder}/config.toml", NATS),
    ] {
        match there(program) {
            Some(file) => brokers.push(Broker {
                name: name.to_owned(),
                command: format!("{} {arguments}", file.display()),
                config: config.to_owned(),
            }),
            None => eprintln!("left out: {program} is not there"),
        }
    }
    if let Some(file) = others {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, command) = line
                .split_once('=')
                .ok_or_else(|| format!("{}: '{line}' is not NAME = COMMAND", file.display()))?;
            brokers.push(Broker {
                name: name.trim().to_owned(),
                command: command.trim().to_owned(),
                config: String::new(),
            });
        }
    }
    Ok(brokers)
}

/// A broker that runs, and where.
pub struct Started {
    pub running: Running,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
}

fn free_port() -> Result<u16, Error> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Broker {
    /// Starts it on these cores (as taskset has them) and waits until it lets a client in.
    ///
    /// # Errors
    /// That it does not start.
    pub fn start(&self, folder: &Path, tls: &Tls, cores: &str) -> Result<Started, Error> {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder.join("data"))?;
        let (port, tls_port, other) = (free_port()?, free_port()?, free_port()?);
        let fill = |text: &str| {
            text.replace("{port}", &port.to_string())
                .replace("{tls_port}", &tls_port.to_string())
                .replace("{other_port}", &other.to_string())
                .replace("{folder}", &folder.display().to_string())
                .replace("{cert}", &tls.certificate.display().to_string())
                .replace("{key}", &tls.key.display().to_string())
        };
        std::fs::write(folder.join("config.toml"), fill(&self.config))?;
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
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let tried = Client::connect(port, "first", true, Duration::ZERO);
            if let Ok(client) = tried {
                client.disconnect()?;
                break;
            }
            if running.has_ended() || Instant::now() > until {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("{} does not start: {}", self.name, last.join(" / ")).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Started { running, plain: at(port), tls: at(tls_port) })
    }
}
