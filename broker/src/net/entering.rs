//! A connection between accept and MQTT: PROXY header, TLS and WebSocket handshakes.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};
use zeroize::{Zeroize, Zeroizing};

use super::proxy::{self, Header};
use super::{Peer, PeerAddress, Stream, Transport, websocket};
use crate::net::endpoint::Endpoint;

/// Bytes that are read at once when a connection is accepted.
const FIRST_BYTES: usize = 256;

/// Reason why a connection did not reach MQTT.
#[derive(Debug)]
pub struct EstablishError(String);

impl std::fmt::Display for EstablishError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EstablishError {}

/// A connection as the system returned it, not yet registered with a runtime.
#[derive(Debug)]
#[allow(missing_docs)] // Named as their transports.
pub enum RawStream {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// Endpoint of a connection, and its remote address.
pub struct AcceptedFrom {
    address: PeerAddress,
    /// Name of the listener, with its port.
    listener: Arc<str>,
    endpoint: Arc<Endpoint>,
}

/// An accepted connection.
pub struct Accepted {
    raw: RawStream,
    origin: AcceptedFrom,
}

enum SocketStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection registered with the runtime that will serve it.
pub struct Incoming {
    stream: SocketStream,
    /// Bytes that had come by then.
    prefix: Zeroizing<Vec<u8>>,
    origin: AcceptedFrom,
}

/// Result of the PROXY header: a client's connection, or a health check of the proxy itself.
pub enum ProxyVerdict {
    /// Connection of a client.
    Client(Incoming),
    /// The proxy's own connection, like a health check: there is nothing to serve.
    Proxy,
}

impl AcceptedFrom {
    /// Remote address.
    pub fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// Endpoint that serves the connection.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// True when the connection comes from a proxy that must send a PROXY header. The address is
    /// then not the client's.
    pub fn is_proxy(&self) -> bool {
        let ip = self.address.ip().map(|ip| ip.to_canonical());
        ip.is_some_and(|ip: IpAddr| {
            self.endpoint.listener.proxy_protocol_from.iter().any(|net| net.contains(&ip))
        })
    }
}

impl Accepted {
    /// Creates a connection accepted by the listener of this name, to be served by this endpoint.
    pub fn new(raw: RawStream, listener: Arc<str>, endpoint: Arc<Endpoint>) -> Accepted {
        let address = match &raw {
            RawStream::Tcp(_, address) => PeerAddress::Ip(*address),
            RawStream::Unix(_) => PeerAddress::Unix,
        };
        Accepted { raw, origin: AcceptedFrom { address, listener, endpoint } }
    }

    /// The system's socket.
    #[cfg(feature = "internals")]
    pub fn raw(&self) -> &RawStream {
        &self.raw
    }

    /// Endpoint and remote address.
    pub fn origin(&self) -> &AcceptedFrom {
        &self.origin
    }

    /// Registers the connection with the current runtime. A plain MQTT client has mostly sent its
    /// whole CONNECT by now: then the broker does not have to wait for it.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn enter(self) -> io::Result<Incoming> {
        let Accepted { raw, origin } = self;
        let plain = origin.endpoint.listener.transport == Transport::Tcp && !origin.is_proxy();
        let (carrier, begun) = match raw {
            RawStream::Tcp(stream, _) => {
                let begun = if plain { first_bytes(&stream) } else { Zeroizing::default() };
                (SocketStream::Tcp(TcpStream::from_std(stream)?), begun)
            }
            RawStream::Unix(stream) => {
                (SocketStream::Unix(UnixStream::from_std(stream)?), Zeroizing::default())
            }
        };
        Ok(Incoming { stream: carrier, prefix: begun, origin })
    }
}

/// Reads the bytes that are there already. An error, or the end, is reported again by the next
/// read.
fn first_bytes(mut stream: &std::net::TcpStream) -> Zeroizing<Vec<u8>> {
    let mut buffer = [0; FIRST_BYTES];
    let n = stream.read(&mut buffer).unwrap_or(0);
    let came = buffer.get_mut(..n).unwrap_or(&mut []);
    let bytes = Zeroizing::new(came.to_vec());
    // They may contain a password.
    came.zeroize();
    bytes
}

impl Incoming {
    /// Endpoint and remote address.
    pub fn origin(&self) -> &AcceptedFrom {
        &self.origin
    }

    /// Waits until there is something to read, or the connection has ended.
    pub async fn first_byte(&self) {
        if !self.prefix.is_empty() {
            return;
        }
        // The next read reports the error.
        let _ = match &self.stream {
            SocketStream::Tcp(stream) => stream.readable().await,
            SocketStream::Unix(stream) => stream.readable().await,
        };
    }

    /// Reads the PROXY header of a connection from a proxy. The caller bounds the time.
    ///
    /// # Errors
    /// A missing or malformed header.
    pub async fn read_proxy_header(mut self) -> Result<ProxyVerdict, EstablishError> {
        if !self.origin.is_proxy() {
            return Ok(ProxyVerdict::Client(self));
        }
        let fail = |text: String| EstablishError(format!("on listener {}: {text}", self.origin.listener));
        let SocketStream::Tcp(stream) = &mut self.stream else { return Ok(ProxyVerdict::Client(self)) };
        match proxy::receive(stream).await.map_err(fail)? {
            Some(Header::Client(address)) => {
                self.origin.address = PeerAddress::Ip(address);
                Ok(ProxyVerdict::Client(self))
            }
            Some(Header::Proxy) | None => Ok(ProxyVerdict::Proxy),
        }
    }

    /// Performs the TLS and WebSocket handshakes. Returns the stream and the bytes that were read
    /// of it already. The caller bounds the time.
    ///
    /// # Errors
    /// The failure, and a hint at the protocol that the client seems to speak.
    pub async fn establish(mut self) -> Result<(Stream, Vec<u8>, Peer), EstablishError> {
        let begun = std::mem::take(&mut *self.prefix);
        let (stream, peer) = self.open().await?;
        Ok((stream, begun, peer))
    }

    async fn open(self) -> Result<(Stream, Peer), EstablishError> {
        let Incoming { stream: carrier, origin: AcceptedFrom { address, listener: name, endpoint }, .. } =
            self;
        let config = &endpoint.listener;
        let peer = |certificates| Peer {
            address,
            listener: name.clone(),
            endpoint: endpoint.number,
            transport: config.transport,
            certificates,
        };
        let tcp = match carrier {
            SocketStream::Unix(stream) => return Ok((Stream::Unix(stream), peer(None))),
            SocketStream::Tcp(stream) => stream,
        };
        let fail = |text: String| EstablishError(format!("on listener {name}: {text}"));
        let Some(acceptor) = &endpoint.tls else {
            return match config.transport {
                Transport::Ws => {
                    if let Some(hint) = looks_like(&tcp, Transport::Ws).await {
                        return Err(fail(hint));
                    }
                    let stream = websocket::accept(tcp, &endpoint).await.map_err(fail)?;
                    Ok((Stream::Ws(Box::new(stream)), peer(None)))
                }
                _ => Ok((Stream::Tcp(tcp), peer(None))),
            };
        };
        if let Some(hint) = looks_like(&tcp, Transport::Tls).await {
            return Err(fail(hint));
        }
        let tls =
            acceptor.accept(tcp).await.map_err(|error| fail(format!("TLS handshake failed: {error}")))?;
        let certificates = tls.get_ref().1.peer_certificates().map(|chain| {
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect::<Vec<_>>().into()
        });
        match config.transport {
            Transport::Wss => {
                let stream = websocket::accept(tls, &endpoint).await.map_err(fail)?;
                Ok((Stream::Wss(Box::new(stream)), peer(certificates)))
            }
            _ => Ok((Stream::Tls(Box::new(tls)), peer(certificates))),
        }
    }
}

/// Guesses from the first byte which protocol a client speaks that came to the wrong port.
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
