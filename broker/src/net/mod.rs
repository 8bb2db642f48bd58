//! Transports: TCP, TLS, WebSocket, WebSocket over TLS, Unix socket. All end as one byte stream
//! type, [`Stream`].
//!
//! Listeners open in two steps: first the files of all listeners are read, then the ports are
//! opened. So a bad certificate is reported before any client finds an open port.

pub mod endpoint;
mod entering;
mod listener;
pub mod proxy;
pub(crate) mod tls;
pub mod websocket;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

pub use entering::{Accepted, AcceptedFrom, Incoming, ProxyVerdict};
#[cfg(feature = "internals")]
pub use entering::{EstablishError, RawStream};
pub use listener::{
    BindError, ControlSocket, ListeningSocket, bind, bind_admin, bind_control, permit, prepare,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use websocket::WebSocket;

use crate::config::Transport;

/// Byte stream of a connection, over any transport.
#[allow(missing_docs)] // Named as their transports.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    Ws(Box<WebSocket<TcpStream>>),
    Wss(Box<WebSocket<TlsStream<TcpStream>>>),
}

/// The remote side of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Remote address.
    pub address: PeerAddress,
    /// Name of its listener, like `mqtt://127.0.0.1:1883`.
    pub listener: Arc<str>,
    /// Number of that listener, unique as long as the broker runs.
    pub endpoint: u64,
    /// Transport of the connection.
    pub transport: Transport,
    /// Verified client certificates, the client's own first.
    pub certificates: Option<Arc<[CertificateDer<'static>]>>,
}

/// Address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// Address and port.
    Ip(SocketAddr),
    /// A process on this machine.
    Unix,
}

impl PeerAddress {
    /// Address without the port.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            PeerAddress::Ip(address) => Some(address.ip()),
            PeerAddress::Unix => None,
        }
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeerAddress::Ip(address) => address.fmt(f),
            PeerAddress::Unix => f.write_str("unix"),
        }
    }
}

impl Stream {
    /// True for a plain socket: no layer above it has an end of its own.
    pub fn is_bare(&self) -> bool {
        matches!(self, Stream::Tcp(_) | Stream::Unix(_))
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Ws($stream) => $call,
            Stream::Wss($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
