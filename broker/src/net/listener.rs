//! Opening listeners, accepting connections, and the handshakes below MQTT.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::proxy::{self, Header};
use super::{Peer, PeerAddress, Stream, Transport, tls, websocket};
use crate::config;
use crate::live::{Gate, GateNumber};

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

enum Open {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// An open listener.
pub struct Listener {
    socket: Open,
    name: Arc<str>,
    number: GateNumber,
}

/// A connection as the system hands it over.
#[allow(missing_docs)] // Named as their transports.
pub enum Raw {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// A connection that was accepted and has said nothing yet.
pub struct Accepted {
    raw: Raw,
    address: PeerAddress,
    /// The name of the listener, with the port.
    listener: Arc<str>,
    gate: Arc<Gate>,
}

/// Reads the certificates and keys of a listener; `None`: it has no TLS.
///
/// # Errors
/// What is not good.
pub fn prepare(listener: &config::Listener) -> Result<Option<TlsAcceptor>, BindError> {
    let acceptor = listener.transport.has_tls().then(|| tls::acceptor(listener)).transpose();
    acceptor.map_err(|error| BindError(format!("listener {}: {error}", listener.title())))
}

/// Opens a listener, after its files were read by [`prepare`]: one socket, or one for each of its addresses.
///
/// # Errors
/// Why it cannot be opened; nothing stays open then.
pub fn bind(listener: &config::Listener, number: GateNumber) -> Result<Vec<Listener>, BindError> {
    match listener.transport {
        Transport::Unix => bind_unix(listener, number).map(|listener| vec![listener]),
        _ => bind_tcp(listener, number),
    }
}

fn bind_tcp(config: &config::Listener, number: GateNumber) -> Result<Vec<Listener>, BindError> {
    let fail = |error: io::Error| BindError(format!("listener {}: {}", config.title(), explain(&error)));
    let addresses = config.addresses().map_err(fail)?;
    let several = addresses.len() > 1;
    let mut failed =
        Some(io::Error::new(io::ErrorKind::AddrNotAvailable, "there is no address of its family"));
    let mut port = None;
    let mut listeners = Vec::new();
    for mut address in addresses {
        if let (0, Some(port)) = (address.port(), port) {
            address.set_port(port);
        }
        match open(address, config.interface.as_deref()) {
            Ok(socket) => {
                let local = socket.local_addr().map_err(fail)?;
                port = Some(local.port());
                let name = format!("{}://{local}", config.transport.scheme());
                listeners.push(Listener { socket: Open::Tcp(socket), name: name.into(), number });
            }
            // A machine without IPv6, or without IPv4, has one of the two.
            Err(error) if several && error.kind() == io::ErrorKind::AddrNotAvailable => {
                warn!("listener {}: {address} is not there on this machine", config.title());
                failed = Some(error);
            }
            Err(error) if several && error.raw_os_error() == Some(97) => failed = Some(error),
            Err(error) => {
                return Err(BindError(format!(
                    "listener {} ({address}): {}",
                    config.title(),
                    explain(&error)
                )));
            }
        }
    }
    match failed {
        Some(error) if listeners.is_empty() => Err(fail(error)),
        _ => Ok(listeners),
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

fn open(address: SocketAddr, interface: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind_device(interface.map(str::as_bytes))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Opens the socket of `[admin]`; `None` where there is to be none.
///
/// # Errors
/// Why it cannot be opened.
pub fn bind_admin(admin: &config::Admin) -> Result<Option<TcpListener>, BindError> {
    let Some(address) = &admin.address else { return Ok(None) };
    let fail = |error: io::Error| {
        BindError(format!("admin.address = \"{address}\": {error}; choose another address or port"))
    };
    let site = config::Listener { address: address.clone(), ..config::Listener::default() };
    let addresses = site.addresses().map_err(fail)?;
    let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "there is no such address");
    // `localhost` is two: the first that can be had will do.
    for address in addresses {
        match open(address, None) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) => failed = error,
        }
    }
    Err(fail(failed))
}

/// The socket of `lapwing ctl`; its file is gone when it is dropped.
pub struct ControlSocket {
    socket: UnixListener,
    path: PathBuf,
}

/// Opens it. Nobody but the owner can connect, not even before its mode is set: until then nobody listens.
///
/// # Errors
/// Why it cannot be opened.
pub fn bind_control(path: &Path) -> Result<ControlSocket, BindError> {
    let open = || {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        UnixListener::from_std(socket.into())
    };
    let fail = |error: io::Error| {
        BindError(format!("admin.socket {}: {error}; choose another path, or \"off\"", path.display()))
    };
    open().map(|socket| ControlSocket { socket, path: path.to_owned() }).map_err(fail)
}

impl ControlSocket {
    /// Waits for a connection.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind_unix(config: &config::Listener, number: GateNumber) -> Result<Listener, BindError> {
    let fail = |error: io::Error| BindError(format!("listener {}: {error}", config.title()));
    let path = config.path.clone().unwrap_or_default();
    remove_stale(&path).map_err(fail)?;
    let socket = UnixListener::bind(&path).map_err(fail)?;
    permit_one(config).map_err(fail)?;
    let name = format!("unix://{}", path.display()).into();
    Ok(Listener { socket: Open::Unix(socket, path), name, number })
}

/// Gives the Unix sockets among listeners the permissions that they are to have now.
pub fn permit(listeners: &[config::Listener]) {
    for listener in listeners.iter().filter(|listener| listener.transport == Transport::Unix) {
        let _ = permit_one(listener).inspect_err(|error| warn!("listener {}: {error}", listener.title()));
    }
}

fn permit_one(listener: &config::Listener) -> io::Result<()> {
    let path = listener.path.clone().unwrap_or_default();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listener.socket_mode.0))
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
        &self.name
    }

    /// What its connections are served by.
    pub fn number(&self) -> GateNumber {
        self.number
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// Those of the system, such as no file descriptor left.
    pub async fn accept(&self) -> io::Result<Raw> {
        Ok(match &self.socket {
            Open::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Raw::Tcp(stream, address)
            }
            Open::Unix(listener, _) => Raw::Unix(listener.accept().await?.0),
        })
    }

    /// The connection, served as the listener is now.
    pub fn admit(&self, raw: Raw, gate: Arc<Gate>) -> Accepted {
        let address = match &raw {
            Raw::Tcp(stream, address) => {
                tune(stream, &gate.listener);
                PeerAddress::Ip(*address)
            }
            Raw::Unix(_) => PeerAddress::Unix,
        };
        Accepted { raw, address, listener: self.name.clone(), gate }
    }
}

/// Best effort: a socket that refuses an option still works.
fn tune(stream: &TcpStream, config: &config::Listener) {
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
            Raw::Tcp(stream, _) => drop(stream.peek(&mut [0]).await),
            Raw::Unix(stream) => drop(stream.readable().await),
        }
    }

    /// Whether it comes from a proxy that says whose it is. Its address is not a client's then.
    pub fn is_from_proxy(&self) -> bool {
        let ip = self.address.ip().map(|ip| ip.to_canonical());
        ip.is_some_and(|ip| self.gate.listener.proxy_protocol_from.iter().any(|net| net.contains(&ip)))
    }

    /// Reads what a proxy says of it. The caller bounds the time.
    ///
    /// # Errors
    /// That it does not say it as it should.
    pub async fn sender(mut self) -> Result<Sender, EstablishError> {
        if !self.is_from_proxy() {
            return Ok(Sender::Client(self));
        }
        let fail = |text: String| EstablishError(format!("on listener {}: {text}", self.listener));
        let Raw::Tcp(stream, _) = &mut self.raw else { return Ok(Sender::Client(self)) };
        match proxy::receive(stream).await.map_err(fail)? {
            Some(Header::Client(address)) => {
                self.address = PeerAddress::Ip(address);
                Ok(Sender::Client(self))
            }
            Some(Header::Proxy) | None => Ok(Sender::Proxy),
        }
    }

    /// What it is served by.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Goes through TLS and WebSocket. The caller bounds the time.
    ///
    /// # Errors
    /// What went wrong, with what it looks like.
    pub async fn establish(self) -> Result<(Stream, Peer), EstablishError> {
        let Accepted { raw, address, listener: name, gate } = self;
        let config = &gate.listener;
        let peer = |certificates| Peer {
            address,
            listener: name.clone(),
            place: gate.number,
            transport: config.transport,
            certificates,
        };
        let tcp = match raw {
            Raw::Unix(stream) => return Ok((Stream::Unix(stream), peer(None))),
            Raw::Tcp(stream, _) => stream,
        };
        let fail = |text: String| EstablishError(format!("on listener {name}: {text}"));
        let Some(acceptor) = &gate.tls else {
            return match config.transport {
                Transport::Ws => {
                    if let Some(looks) = looks_like(&tcp, Transport::Ws).await {
                        return Err(fail(looks));
                    }
                    let stream = websocket::accept(tcp, config).await.map_err(fail)?;
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
        match config.transport {
            Transport::Wss => {
                let stream = websocket::accept(tls, config).await.map_err(fail)?;
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
