//! A connection on its way from the accept to MQTT: whose it is, and the handshakes below MQTT.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};
use zeroize::{Zeroize, Zeroizing};

use super::proxy::{self, Header};
use super::{Peer, PeerAddress, Stream, Transport, websocket};
use crate::net::endpoint::Endpoint;

/// How much of what a client has said is read when it is accepted.
const FIRST_BYTES: usize = 256;

/// Why a connection did not come as far as MQTT.
#[derive(Debug)]
pub struct EstablishError(String);

impl std::fmt::Display for EstablishError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EstablishError {}

/// A connection as the system hands it over. No runtime knows of it yet.
#[derive(Debug)]
#[allow(missing_docs)] // Named as their transports.
pub enum RawStream {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// What a connection is served by, and where it comes from.
pub struct AcceptedFrom {
    address: PeerAddress,
    /// The name of the listener, with the port.
    listener: Arc<str>,
    endpoint: Arc<Endpoint>,
}

/// A connection that was accepted.
pub struct Accepted {
    raw: RawStream,
    origin: AcceptedFrom,
}

enum SocketStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that belongs to the runtime that will serve it.
pub struct Incoming {
    stream: SocketStream,
    /// What had come already by then.
    prefix: Zeroizing<Vec<u8>>,
    origin: AcceptedFrom,
}

/// Whose connection it is, before a byte of theirs was judged.
pub enum ProxyVerdict {
    /// This client's.
    Client(Incoming),
    /// A proxy's own, like a health check: there is nothing to serve.
    Proxy,
}

impl AcceptedFrom {
    /// Where it comes from.
    pub fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// What it is served by.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether it comes from a proxy that says whose it is. Its address is not a client's then.
    pub fn is_proxy(&self) -> bool {
        let ip = self.address.ip().map(|ip| ip.to_canonical());
        ip.is_some_and(|ip: IpAddr| {
            self.endpoint.listener.proxy_protocol_from.iter().any(|net| net.contains(&ip))
        })
    }
}

impl Accepted {
    /// By the listener of this name, to be served as this says.
    pub fn new(raw: RawStream, listener: Arc<str>, gate: Arc<Endpoint>) -> Accepted {
        let address = match &raw {
            RawStream::Tcp(_, address) => PeerAddress::Ip(*address),
            RawStream::Unix(_) => PeerAddress::Unix,
        };
        Accepted { raw, origin: AcceptedFrom { address, listener, endpoint: gate } }
    }

    /// As the system handed it over.
    #[cfg(feature = "internals")]
    pub fn raw(&self) -> &RawStream {
        &self.raw
    }

    /// Where it comes from, and what it is served by.
    pub fn origin(&self) -> &AcceptedFrom {
        &self.origin
    }

    /// Makes it one of the runtime that this is called in. A client of plain MQTT has mostly said
    /// all of its CONNECT by now: then nobody has to wait for it.
    ///
    /// # Errors
    /// Those of the system.
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

/// What there is to read. An error, or the end, comes again when it is read for good.
fn first_bytes(mut stream: &std::net::TcpStream) -> Zeroizing<Vec<u8>> {
    let mut buffer = [0; FIRST_BYTES];
    let n = stream.read(&mut buffer).unwrap_or(0);
    let came = buffer.get_mut(..n).unwrap_or(&mut []);
    let bytes = Zeroizing::new(came.to_vec());
    // There may be a password in it.
    came.zeroize();
    bytes
}

impl Incoming {
    /// Where it comes from, and what it is served by.
    pub fn origin(&self) -> &AcceptedFrom {
        &self.origin
    }

    /// Waits until there is something to read, or the connection has ended.
    pub async fn first_byte(&self) {
        if !self.prefix.is_empty() {
            return;
        }
        // An error shows itself when it is read.
        let _ = match &self.stream {
            SocketStream::Tcp(stream) => stream.readable().await,
            SocketStream::Unix(stream) => stream.readable().await,
        };
    }

    /// Reads what a proxy says of it. The caller bounds the time.
    ///
    /// # Errors
    /// That it does not say it as it should.
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

    /// Goes through TLS and WebSocket; with the stream comes what was read of it already. The
    /// caller bounds the time.
    ///
    /// # Errors
    /// What went wrong, with what it looks like.
    pub async fn establish(mut self) -> Result<(Stream, Vec<u8>, Peer), EstablishError> {
        let begun = std::mem::take(&mut *self.prefix);
        let (stream, peer) = self.open().await?;
        Ok((stream, begun, peer))
    }

    async fn open(self) -> Result<(Stream, Peer), EstablishError> {
        let Incoming {
            stream: carrier,
            origin: AcceptedFrom { address, listener: name, endpoint: gate },
            ..
        } = self;
        let config = &gate.listener;
        let peer = |certificates| Peer {
            address,
            listener: name.clone(),
            place: gate.number,
            transport: config.transport,
            certificates,
        };
        let tcp = match carrier {
            SocketStream::Unix(stream) => return Ok((Stream::Unix(stream), peer(None))),
            SocketStream::Tcp(stream) => stream,
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
