//! Opening listeners and accepting connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::entering::{Accepted, RawStream};
use super::{Transport, tls};
use crate::config;
use crate::net::endpoint::{Endpoint, EndpointId};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4_096;

/// Reason why a listener could not be opened.
#[derive(Debug)]
pub struct BindError(String);

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BindError {}

enum OpenSocket {
    Tcp(AsyncFd<TcpListener>),
    Unix(AsyncFd<UnixListener>, PathBuf),
}

/// An open listener.
pub struct ListeningSocket {
    socket: OpenSocket,
    name: Arc<str>,
    number: EndpointId,
    /// Options that accepted connections inherit from the listening socket.
    inherited: Option<Tuning>,
}

/// TCP options of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuning {
    nodelay: bool,
    keep_alive_s: u32,
    user_timeout_s: u32,
}

/// Reads the certificates and keys of a listener; `None` without TLS.
///
/// # Errors
/// The file, and the reason.
pub fn prepare(listener: &config::Listener) -> Result<Option<TlsAcceptor>, BindError> {
    let acceptor = listener.transport.has_tls().then(|| tls::acceptor(listener)).transpose();
    acceptor.map_err(|error| BindError(format!("listener {}: {error}", listener.title())))
}

/// Opens a listener whose files [`prepare`] has read: one socket for each of its addresses.
///
/// # Errors
/// The reason; no socket stays open then.
pub fn bind(listener: &config::Listener, number: EndpointId) -> Result<Vec<ListeningSocket>, BindError> {
    match listener.transport {
        Transport::Unix => bind_unix(listener, number).map(|listener| vec![listener]),
        _ => bind_tcp(listener, number),
    }
}

fn bind_tcp(config: &config::Listener, number: EndpointId) -> Result<Vec<ListeningSocket>, BindError> {
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
                let name = format!("{}://{local}", config.transport.scheme()).into();
                let inherited = Tuning::of(config).bequeath(SockRef::from(&socket));
                let socket = OpenSocket::Tcp(watch(socket).map_err(fail)?);
                listeners.push(ListeningSocket { socket, name, number, inherited });
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
    Ok(socket.into())
}

/// Opens the socket of `[admin]`; `None` if none is configured.
///
/// # Errors
/// The reason why it cannot be opened.
pub fn bind_admin(admin: &config::Admin) -> Result<Option<tokio::net::TcpListener>, BindError> {
    let Some(address) = &admin.address else { return Ok(None) };
    let fail = |error: io::Error| {
        BindError(format!("admin.address = \"{address}\": {error}; choose another address or port"))
    };
    let site = config::Listener { address: address.clone(), ..config::Listener::default() };
    let addresses = site.addresses().map_err(fail)?;
    let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "there is no such address");
    // `localhost` has two addresses: the first that can be bound is enough.
    for address in addresses {
        match open(address, None) {
            Ok(socket) => return tokio::net::TcpListener::from_std(socket).map(Some).map_err(fail),
            Err(error) => failed = error,
        }
    }
    Err(fail(failed))
}

/// Control socket of `lapwing ctl`; dropping it removes its file.
pub struct ControlSocket {
    socket: tokio::net::UnixListener,
    path: PathBuf,
}

/// Opens the control socket. Only the owner can connect, even before the mode is set: until then
/// the socket does not listen.
///
/// # Errors
/// The reason why it cannot be opened.
pub fn bind_control(path: &Path) -> Result<ControlSocket, BindError> {
    let open = || {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        tokio::net::UnixListener::from_std(socket.into())
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
    /// Errors of the system.
    pub async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind_unix(config: &config::Listener, number: EndpointId) -> Result<ListeningSocket, BindError> {
    let fail = |error: io::Error| BindError(format!("listener {}: {error}", config.title()));
    let path = config.path.clone().unwrap_or_default();
    remove_stale(&path).map_err(fail)?;
    let socket = UnixListener::bind(&path).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    permit_one(config).map_err(fail)?;
    let socket = watch(socket).map_err(fail)?;
    let name = format!("unix://{}", path.display()).into();
    Ok(ListeningSocket { socket: OpenSocket::Unix(socket, path), name, number, inherited: None })
}

/// Sets the configured permissions of all Unix sockets among the listeners.
pub fn permit(listeners: &[config::Listener]) {
    for listener in listeners.iter().filter(|listener| listener.transport == Transport::Unix) {
        let _ = permit_one(listener).inspect_err(|error| warn!("listener {}: {error}", listener.title()));
    }
}

fn permit_one(listener: &config::Listener) -> io::Result<()> {
    let path = listener.path.clone().unwrap_or_default();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listener.socket_mode.0))
}

/// Removes a socket that no process serves any more; one that is served is not ours to take.
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

impl ListeningSocket {
    /// Name with the real port, like `mqtt://127.0.0.1:1883`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Number of the endpoint that serves the connections.
    pub fn number(&self) -> EndpointId {
        self.number
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// Errors of the system, such as no file descriptor left.
    pub async fn accept(&self) -> io::Result<RawStream> {
        match &self.socket {
            OpenSocket::Tcp(listener) => {
                let (stream, address) = next(listener, TcpListener::accept).await?;
                stream.set_nonblocking(true).map(|()| RawStream::Tcp(stream, address))
            }
            OpenSocket::Unix(listener, _) => {
                let (stream, _) = next(listener, UnixListener::accept).await?;
                stream.set_nonblocking(true).map(|()| RawStream::Unix(stream))
            }
        }
    }

    /// Pairs the connection with the endpoint in force.
    pub fn admit(&self, raw: RawStream, endpoint: Arc<Endpoint>) -> Accepted {
        if let RawStream::Tcp(stream, _) = &raw {
            let tuning = Tuning::of(&endpoint.listener);
            if self.inherited != Some(tuning) {
                tuning.apply(SockRef::from(stream));
            }
        }
        Accepted::new(raw, self.name.clone(), endpoint)
    }
}

/// Registers a listening socket with the runtime.
fn watch<L: AsFd + AsRawFd>(listener: L) -> io::Result<AsyncFd<L>> {
    #[expect(
        deprecated,
        reason = "it is unsound for types that lie about their descriptor; those of the standard library do not"
    )]
    AsyncFd::with_interest(listener, Interest::READABLE)
}

/// Waits for a connection and accepts it.
async fn next<L: AsFd + AsRawFd, C>(
    listener: &AsyncFd<L>,
    accept: impl Fn(&L) -> io::Result<C>,
) -> io::Result<C> {
    loop {
        let mut ready = listener.readable().await?;
        let accepted = accept(listener.get_ref());
        let none = matches!(&accepted, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        // A poll for another connection costs less than a failed accept.
        if none || (accepted.is_ok() && !has_more(listener.get_ref())) {
            ready.clear_ready();
        }
        if !none {
            return accepted;
        }
    }
}

/// True when a connection waits to be accepted.
fn has_more(listener: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&Timespec::default())) != Ok(0)
}

impl Tuning {
    fn of(config: &config::Listener) -> Tuning {
        Tuning {
            nodelay: config.nodelay,
            keep_alive_s: config.tcp_keep_alive_s,
            user_timeout_s: config.tcp_user_timeout_s,
        }
    }

    /// Best effort: a socket that refuses an option still works.
    fn apply(self, socket: SockRef<'_>) {
        let _ = socket.set_tcp_nodelay(self.nodelay);
        let time = Some(Duration::from_secs(u64::from(self.keep_alive_s))).filter(|time| !time.is_zero());
        let _ = match time {
            Some(time) => {
                let often = TcpKeepalive::new().with_interval(Duration::from_secs(10)).with_retries(3);
                socket.set_tcp_keepalive(&often.with_time(time))
            }
            None => socket.set_keepalive(false),
        };
        let timeout = Duration::from_secs(u64::from(self.user_timeout_s));
        let _ = socket.set_tcp_user_timeout(Some(timeout).filter(|timeout| !timeout.is_zero()));
    }

    /// Sets the options on the listening socket, so that its connections inherit them. This saves
    /// six system calls for each connection. Only Linux is known to pass all of them on.
    fn bequeath(self, socket: SockRef<'_>) -> Option<Tuning> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        self.apply(socket);
        Some(self)
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        if let OpenSocket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_has_the_current_options_of_its_listener() {
        let config = config::Listener {
            address: "127.0.0.1:0".to_owned(),
            tcp_keep_alive_s: 77,
            tcp_user_timeout_s: 33,
            ..config::Listener::default()
        };
        let later =
            config::Listener { nodelay: false, tcp_keep_alive_s: 0, tcp_user_timeout_s: 0, ..config.clone() };
        let [listener] = &bind(&config, 1).unwrap()[..] else { panic!("one address, one socket") };
        let address = listener.name().strip_prefix("mqtt://").unwrap().to_owned();
        for config in [config, later] {
            let _client = std::net::TcpStream::connect(&address).unwrap();
            let endpoint = Endpoint::new(1, &config::Config::default(), &config, None, None);
            let accepted = listener.admit(listener.accept().await.unwrap(), Arc::new(endpoint));
            let RawStream::Tcp(stream, _) = accepted.raw() else { panic!("not TCP") };
            let socket = SockRef::from(stream);
            assert_eq!(socket.tcp_nodelay().unwrap(), config.nodelay);
            assert_eq!(socket.keepalive().unwrap(), config.tcp_keep_alive_s > 0);
            if config.tcp_keep_alive_s > 0 {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
            }
            let timeout = Some(Duration::from_secs(config.tcp_user_timeout_s.into()));
            assert_eq!(socket.tcp_user_timeout().unwrap(), timeout.filter(|timeout| !timeout.is_zero()));
        }
    }
}
