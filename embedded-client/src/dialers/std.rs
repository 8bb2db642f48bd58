//! TCP of the standard library, for the blocking front end on a host.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::string::String;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::vec::Vec;

use embedded_io::{ErrorType, Read, ReadReady, Write};

use crate::LinkDown;
use crate::blocking::Dialer;

/// Longest time for a connect and for a stalled write.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of gathered bytes that forces a write.
const GATHERED_MAX: usize = 4_096;

/// Connects to `host:port`.
pub struct TcpDialer {
    address: String,
    link: Option<TcpLink>,
    start: Instant,
}

/// A connection that gathers written bytes until they are flushed.
pub struct TcpLink {
    stream: TcpStream,
    gathered: Vec<u8>,
}

impl TcpDialer {
    /// Creates a dialer to `host:port`.
    pub fn new(address: impl Into<String>) -> Self {
        TcpDialer { address: address.into(), link: None, start: Instant::now() }
    }

    /// Takes the open link, so that the caller can wrap it.
    pub const fn take_link(&mut self) -> Option<TcpLink> {
        self.link.take()
    }

    fn connect(&self) -> std::io::Result<TcpLink> {
        let mut last = std::io::Error::from(ErrorKind::NotFound);
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, RESPONSE_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    return Ok(TcpLink { stream, gathered: Vec::new() });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Dialer for TcpDialer {
    type Link = TcpLink;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        self.link = Some(self.connect().map_err(|_| LinkDown)?);
        Ok(true)
    }

    fn link(&mut self) -> Option<&mut TcpLink> {
        self.link.as_mut()
    }

    fn hang_up(&mut self) {
        self.link = None;
    }

    fn now_ms(&mut self) -> u32 {
        self.start.elapsed().as_millis() as u32
    }

    /// Sleeps until bytes arrive or the time is over.
    fn idle(&mut self, ms: u32) {
        let pause = Duration::from_millis(u64::from(ms.clamp(1, 1_000)));
        let waited = self.link.as_ref().map(|link| {
            link.stream.set_nonblocking(false)?;
            link.stream.set_read_timeout(Some(pause))?;
            let _ = link.stream.peek(&mut [0]);
            link.stream.set_nonblocking(true)
        });
        if !matches!(waited, Some(Ok(()))) {
            sleep(pause);
        }
    }
}

impl ErrorType for TcpLink {
    type Error = embedded_io::ErrorKind;
}

fn kind(error: &std::io::Error) -> embedded_io::ErrorKind {
    match error.kind() {
        ErrorKind::ConnectionReset => embedded_io::ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe => embedded_io::ErrorKind::BrokenPipe,
        ErrorKind::TimedOut => embedded_io::ErrorKind::TimedOut,
        _ => embedded_io::ErrorKind::Other,
    }
}

impl ReadReady for TcpLink {
    fn read_ready(&mut self) -> Result<bool, Self::Error> {
        match self.stream.peek(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            // The end of the stream and errors are read.
            _ => Ok(true),
        }
    }
}

impl Read for TcpLink {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
        loop {
            match self.stream.read(out) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(1)),
                done => return done.map_err(|error| kind(&error)),
            }
        }
    }
}

impl Write for TcpLink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        if self.gathered.len() >= GATHERED_MAX {
            self.flush()?;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        let until = Instant::now() + RESPONSE_TIMEOUT;
        while !self.gathered.is_empty() {
            match self.stream.write(&self.gathered) {
                Ok(n) => drop(self.gathered.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                    sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(kind(&error)),
            }
        }
        Ok(())
    }
}
