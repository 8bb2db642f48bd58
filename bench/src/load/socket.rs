//! A connection, plain or with TLS, as two buffers.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::{Interest, Poll, Token};
use rustls::ClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::wire;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Number of bytes that one read takes at most.
const READ: usize = 256 << 10;

/// TLS settings of the clients.
#[derive(Clone)]
pub struct Security(Arc<rustls::ClientConfig>);

impl Security {
    /// Trusts this certificate, and resumes no session: each connection is a full handshake.
    ///
    /// # Errors
    /// The certificate is not valid.
    pub fn new(certificate: CertificateDer<'static>) -> Result<Security, Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Security(Arc::new(config)))
    }
}

/// A connection with its buffers.
pub struct Socket {
    stream: mio::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Bytes to write.
    pub out: Vec<u8>,
    /// Bytes that were received and not taken.
    pub input: Vec<u8>,
}

impl Socket {
    /// Connects, blocking, and does the TLS handshake if `security` is given.
    ///
    /// # Errors
    /// The network fails.
    pub fn connect(
        address: SocketAddr,
        security: Option<&Security>,
        patience: Duration,
    ) -> Result<Socket, Error> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        let mut tls = None;
        if let Some(Security(config)) = security {
            let mut connection = ClientConnection::new(config.clone(), ServerName::from(address.ip()))?;
            while connection.is_handshaking() {
                uninterrupted(|| connection.complete_io(&mut stream))?;
            }
            tls = Some(Box::new(connection));
        }
        let stream = mio::net::TcpStream::from_std(stream);
        Ok(Socket { stream, tls, out: Vec::new(), input: Vec::new() })
    }

    /// Switches to non-blocking mode and registers the socket.
    ///
    /// # Errors
    /// The system refuses.
    pub fn register(&mut self, poll: &Poll, token: Token) -> Result<(), Error> {
        let stream = std::os::fd::AsFd::as_fd(&self.stream).try_clone_to_owned()?;
        std::net::TcpStream::from(stream).set_nonblocking(true)?;
        poll.registry().register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(())
    }

    /// Writes pending bytes until the socket is full.
    ///
    /// # Errors
    /// The network fails.
    pub fn flush(&mut self) -> Result<(), Error> {
        if let Some(tls) = &mut self.tls {
            if !self.out.is_empty() {
                // The TLS buffer has no bound here: bytes that do not go are kept there.
                tls.writer().write_all(&self.out)?;
                self.out.clear();
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(());
        }
        let mut at = 0;
        while at < self.out.len() {
            match self.stream.write(&self.out[at..]) {
                Ok(n) => at += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.out.drain(..at);
        Ok(())
    }

    /// Reads everything that has arrived; one read on a blocking socket.
    ///
    /// # Errors
    /// The network fails, or the broker has closed the connection.
    pub fn fill(&mut self) -> Result<(), Error> {
        thread_local!(static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ]));
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                let read = match &mut self.tls {
                    None => self.stream.read(scratch),
                    Some(tls) => match tls.read_tls(&mut self.stream) {
                        Ok(0) => Ok(0),
                        Ok(_) => {
                            tls.process_new_packets()?;
                            loop {
                                match tls.reader().read(scratch) {
                                    Ok(0) => break,
                                    Ok(n) => self.input.extend_from_slice(&scratch[..n]),
                                    Err(_) => break,
                                }
                            }
                            if tls.wants_write() {
                                let _ = tls.write_tls(&mut self.stream);
                            }
                            continue;
                        }
                        Err(error) => Err(error),
                    },
                };
                match read {
                    Ok(0) => return Err("the broker closed the connection".into()),
                    Ok(n) => {
                        self.input.extend_from_slice(&scratch[..n]);
                        if n < scratch.len() {
                            return Ok(());
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    /// Writes as many bytes as possible, without TLS; 0 when the socket is full.
    ///
    /// # Errors
    /// The network fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            written => Ok(written?),
        }
    }

    /// Reads everything that has arrived, without TLS, and returns only its length.
    ///
    /// # Errors
    /// The network fails, or the broker has closed the connection.
    pub fn skip(&mut self, scratch: &mut [u8]) -> Result<u64, Error> {
        let mut bytes = 0;
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err("the broker closed the connection".into()),
                Ok(n) => {
                    bytes += n as u64;
                    if n < scratch.len() {
                        return Ok(bytes);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(bytes),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the input back, of which `used` bytes were taken.
    pub fn keep(&mut self, mut input: Vec<u8>, used: usize) {
        if used == input.len() {
            input.clear();
        } else {
            input.drain(..used);
        }
        self.input = input;
    }

    /// Writes pending bytes, and returns the body of the next packet, which must be of this kind.
    /// For sockets that are not registered.
    ///
    /// # Errors
    /// The network fails, or another packet is received.
    pub fn ask(&mut self, kind: u8) -> Result<Vec<u8>, Error> {
        self.flush()?;
        self.await_packet(kind)
    }

    /// Returns the body of the next packet, which must be of this kind; blocks.
    ///
    /// # Errors
    /// The network fails, or another packet is received.
    pub fn await_packet(&mut self, kind: u8) -> Result<Vec<u8>, Error> {
        loop {
            if let Some((first, start, end)) = wire::frame(&self.input) {
                let body = self.input[start..end].to_vec();
                self.input.drain(..end);
                if first & 0xf0 != kind & 0xf0 {
                    return Err(format!("expected packet {kind:#x}, received {first:#x}").into());
                }
                return Ok(body);
            }
            self.fill_once()?;
        }
    }

    /// Does one blocking read.
    ///
    /// # Errors
    /// The network fails, or the broker has closed the connection.
    pub fn fill_once(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 65_536];
        let n = match &mut self.tls {
            None => uninterrupted(|| self.stream.read(&mut buffer))?,
            Some(tls) => loop {
                match tls.reader().read(&mut buffer) {
                    Ok(n) => break n,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if uninterrupted(|| tls.read_tls(&mut self.stream))? == 0 {
                            break 0;
                        }
                        tls.process_new_packets()?;
                    }
                    Err(error) => return Err(error.into()),
                }
            },
        };
        if n == 0 {
            return Err("the broker closed the connection".into());
        }
        self.input.extend_from_slice(&buffer[..n]);
        Ok(())
    }
}

/// Repeats a blocking call that a signal interrupted. A timeout means that the broker has stalled.
fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> Result<T, Error> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err("stalled: the broker sends nothing more".into());
            }
            result => return Ok(result?),
        }
    }
}
