//! Opening listeners, accepting connections, and the handshakes below MQTT.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::proxy::{self, Header};
use super::{Peer, PeerAddress, Stream, Transport, tls, websocket};
use crate::config::{self, Config};

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4_096;

/// Why a listener could not be opened.
#[derive(Debug)]
pub struct BindError(String);

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BindError {}

/// Why a connection did not come as far as MQTT.
#[derive(Debug)]
pub struct EstablishError(String);

impl std::fmt::Display for EstablishError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EstablishError {}

/// Whose connection it is, before a byte of theirs was read.
pub enum Sender {
    /// This client's.
    Client(Accepted),
    /// A proxy's own, like a health check: there is nothing to serve.
    Proxy,
}

/// The TLS of each listener, in the order of the configuration.
pub type Acceptors = Vec<Option<TlsAcceptor>>;

/// What all connections of a listener share.
struct Shared {
    name: Arc<str>,
    config: config::Listener,
    /// Its place in the configuration.
    place: usize,
}

enum Open {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// An open listener.
pub struct Listener {
    socket: Open,
    shared: Arc<Shared>,
}

enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that was accepted and has said nothing yet.
pub struct Accepted {
    raw: Raw,
    address: PeerAddress,
    shared: Arc<Shared>,
}

/// Reads the certificates and keys of all listeners: the TLS of each, in the order of the configuration.
///
/// # Errors
/// The first that is not good.
pub fn prepare(config: &Config) -> Result<Acceptors, BindError> {
    let prepare = |listener: &config::Listener| {
        let acceptor = listener.transport.has_tls().then(|| tls::acceptor(listener)).transpose();
        acceptor.map_err(|error| BindError(format!("listener {}: {error}", listener.name())))
    };
    config.listeners.iter().map(prepare).collect()
}

/// Opens all listeners of a configuration, after all their files were read by [`prepare`].
///
/// # Errors
/// The first that cannot be opened; none stays open then.
pub async fn bind_all(config: &Config) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    for (place, listener) in config.listeners.iter().enumerate() {
        if listener.transport == Transport::Unix {
            listeners.push(bind_unix(listener, place)?);
        } else {
            bind_tcp(listener, place, &mut listeners)?;
        }
    }
    Ok(listeners)
}

fn bind_tcp(config: &config::Listener, place: usize, listeners: &mut Vec<Listener>) -> Result<(), BindError> {
    let fail = |error: io::Error| BindError(format!("listener {}: {}", config.name(), explain(&error)));
    let mut addresses: Vec<SocketAddr> = config.address.to_socket_addrs().map_err(fail)?.collect();
    // `localhost` may be known for one family only; it means both.
    if let Some(port) = config.address.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok()) {
        addresses = vec![([127, 0, 0, 1], port).into(), ([0u16, 0, 0, 0, 0, 0, 0, 1], port).into()];
    }
    addresses.dedup();
    let several = addresses.len() > 1;
    let mut failed = None;
    let mut port = None;
    let before = listeners.len();
    for mut address in addresses {
        if let (0, Some(port)) = (address.port(), port) {
            address.set_port(port);
        }
        match open(address) {
            Ok(socket) => {
                let local = socket.local_addr().map_err(fail)?;
                port = Some(local.port());
                let name = format!("{}://{local}", config.transport.scheme());
                let shared = Shared { name: name.into(), config: config.clone(), place };
                listeners.push(Listener { socket: Open::Tcp(socket), shared: Arc::new(shared) });
            }
            // A machine without IPv6, or without IPv4, has one of the two.
            Err(error) if several && error.kind() == io::ErrorKind::AddrNotAvailable => {
                warn!("listener {}: {address} is not there on this machine", config.name());
                failed = Some(error);
            }
            Err(error) if several && error.raw_os_error() == Some(97) => failed = Some(error),
            Err(error) => {
                return Err(BindError(format!(
                    "listener {} ({address}): {}",
                    config.name(),
                    explain(&error)
                )));
            }
        }
    }
    match failed {
        Some(error) if listeners.len() == before => Err(fail(error)),
        _ => Ok(()),
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{error}: another program (another broker?) listens there; stop it, or choose another port with -p"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{error}: ports below 1024 need a privilege; choose a higher one")
        }
        _ => error.to_string(),
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(config: &config::Listener, place: usize) -> Result<Listener, BindError> {
    let fail = |error: io::Error| BindError(format!("listener {}: {error}", config.name()));
    let path = config.path.clone().unwrap_or_default();
    remove_stale(&path).map_err(fail)?;
    let socket = UnixListener::bind(&path).map_err(fail)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(config.socket_mode)).map_err(fail)?;
    let shared = Shared { name: format!("unix://{}", path.display()).into(), config: config.clone(), place };
    Ok(Listener { socket: Open::Unix(socket, path), shared: Arc::new(shared) })
}

/// A socket that nobody serves any more is in the way; one that is served is not ours to take.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is there and is no socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another program serves this socket")),
        Err(_) => std::fs::remove_file(path),
    }
}

impl Listener {
    /// Like `mqtt://127.0.0.1:1883`, with the real port.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// Those of the system, such as no file descriptor left.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let (raw, address) = match &self.socket {
            Open::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                self.tune(&stream);
                (Raw::Tcp(stream), PeerAddress::Ip(address))
            }
            Open::Unix(listener, _) => (Raw::Unix(listener.accept().await?.0), PeerAddress::Unix),
        };
        Ok(Accepted { raw, address, shared: self.shared.clone() })
    }

    /// Best effort: a socket that refuses an option still works.
    fn tune(&self, stream: &TcpStream) {
        let config = &self.shared.config;
        let _ = stream.set_nodelay(config.nodelay);
        let socket = SockRef::from(stream);
        if config.tcp_keep_alive_s > 0 {
            let time = Duration::from_secs(u64::from(config.tcp_keep_alive_s));
            let keep_alive =
                TcpKeepalive::new().with_time(time).with_interval(Duration::from_secs(10)).with_retries(3);
            let _ = socket.set_tcp_keepalive(&keep_alive);
        }
        if config.tcp_user_timeout_s > 0 {
            let timeout = Duration::from_secs(u64::from(config.tcp_user_timeout_s));
            let _ = socket.set_tcp_user_timeout(Some(timeout));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Open::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Accepted {
    /// Where it comes from.
    pub fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// Waits until there is something to read, or the connection has ended.
    pub async fn first_byte(&self) {
        // An error shows itself when it is read. That a new socket is readable is only assumed: it has to be tried.
        match &self.raw {
            Raw::Tcp(stream) => drop(stream.peek(&mut [0]).await),
            Raw::Unix(stream) => drop(stream.readable().await),
        }
    }

    /// Whether it comes from a proxy that says whose it is. Its address is not a client's then.
    pub fn is_from_proxy(&self) -> bool {
        let ip = self.address.ip().map(|ip| ip.to_canonical());
        ip.is_some_and(|ip| self.shared.config.proxy_protocol_from.iter().any(|net| net.contains(&ip)))
    }

    /// Reads what a proxy says of it. The caller bounds the time.
    ///
    /// # Errors
    /// That it does not say it as it should.
    pub async fn sender(mut self) -> Result<Sender, EstablishError> {
        if !self.is_from_proxy() {
            return Ok(Sender::Client(self));
        }
        let fail = |text: String| EstablishError(format!("on listener {}: {text}", self.shared.name));
        let Raw::Tcp(stream) = &mut self.raw else { return Ok(Sender::Client(self)) };
        match proxy::receive(stream).await.map_err(fail)? {
            Some(Header::Client(address)) => {
                self.address = PeerAddress::Ip(address);
                Ok(Sender::Client(self))
            }
            Some(Header::Proxy) | None => Ok(Sender::Proxy),
        }
    }

    /// Goes through TLS and WebSocket. The caller bounds the time.
    ///
    /// # Errors
    /// What went wrong, with what it looks like.
    /// `tls` is that of all listeners as it is now.
    pub async fn establish(self, tls: &[Option<TlsAcceptor>]) -> Result<(Stream, Peer), EstablishError> {
        let Accepted { raw, address, shared } = self;
        let peer = |certificates| Peer {
            address,
            listener: shared.name.clone(),
            place: shared.place,
            transport: shared.config.transport,
            certificates,
            durability: shared.config.durability,
        };
        let tcp = match raw {
            Raw::Unix(stream) => return Ok((Stream::Unix(stream), peer(None))),
            Raw::Tcp(stream) => stream,
        };
        let fail = |text: String| EstablishError(format!("on listener {}: {text}", shared.name));
        let acceptor = tls.get(shared.place).and_then(Option::as_ref);
        if acceptor.is_none() && shared.config.transport.has_tls() {
            return Err(fail("its TLS is not there".to_owned()));
        }
        let Some(acceptor) = acceptor else {
            return match shared.config.transport {
                Transport::Ws => {
                    if let Some(looks) = looks_like(&tcp, Transport::Ws).await {
                        return Err(fail(looks));
                    }
                    let stream = websocket::accept(tcp, &shared.config).await.map_err(fail)?;
                    Ok((Stream::Ws(Box::new(stream)), peer(None)))
                }
                _ => Ok((Stream::Tcp(tcp), peer(None))),
            };
        };
        if let Some(looks) = looks_like(&tcp, Transport::Tls).await {
            return Err(fail(looks));
        }
        let tls =
            acceptor.accept(tcp).await.map_err(|error| fail(format!("TLS handshake failed: {error}")))?;
        let certificates = tls.get_ref().1.peer_certificates().map(|chain| {
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect::<Vec<_>>().into()
        });
        match shared.config.transport {
            Transport::Wss => {
                let stream = websocket::accept(tls, &shared.config).await.map_err(fail)?;
                Ok((Stream::Wss(Box::new(stream)), peer(certificates)))
            }
            _ => Ok((Stream::Tls(Box::new(tls)), peer(certificates))),
        }
    }
}

/// The first byte tells who came to the wrong port.
async fn looks_like(stream: &TcpStream, wanted: Transport) -> Option<String> {
    let mut first = [0u8; 1];
    if stream.peek(&mut first).await.ok()? == 0 {
        return Some("closed before a byte came".to_owned());
    }
    match (first[0], wanted) {
        (0x16, Transport::Tls) | (b'A'..=b'Z', Transport::Ws) => None,
        (0x10, Transport::Tls) => Some(
            "this looks like plain MQTT on a TLS listener: use TLS, or the port for plain MQTT".to_owned(),
        ),
        (0x10, _) => {
            Some("this looks like plain MQTT on a WebSocket listener: use the port for plain MQTT".to_owned())
        }
        (0x16, _) => {
            Some("this looks like TLS on a plain WebSocket listener: use ws://, or a wss listener".to_owned())
        }
        (b'A'..=b'Z', _) => Some(
            "this looks like plain HTTP or WebSocket on a TLS listener: use https:// or wss://".to_owned(),
        ),
        (byte, _) => Some(format!("neither TLS nor anything known (first byte 0x{byte:02x})")),
    }
}
