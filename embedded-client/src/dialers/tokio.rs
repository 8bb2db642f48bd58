//! TCP of tokio, for the async front end on a host.

use core::future::Future;
use core::pin::Pin;
use std::boxed::Box;
use std::string::String;
use std::time::{Duration, Instant};
use std::vec::Vec;

use embedded_io_async::{ErrorType, Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Dialer, LinkDown, Timer};

/// Number of gathered bytes that forces a write.
const GATHERED_MAX: usize = 4_096;

/// Clock of tokio.
#[derive(Clone, Copy, Debug)]
pub struct TokioTimer(Instant);

impl Default for TokioTimer {
    fn default() -> Self {
        TokioTimer(Instant::now())
    }
}

impl Timer for TokioTimer {
    fn now_ms(&self) -> u32 {
        self.0.elapsed().as_millis() as u32
    }

    async fn sleep_ms(&self, ms: u32) {
        tokio::time::sleep(Duration::from_millis(u64::from(ms))).await;
    }
}

/// Connects to `host:port`.
pub struct TcpDialer {
    address: String,
    link: Option<TcpLink>,
    timer: TokioTimer,
    /// Continues a dial whose future was dropped.
    dialing: Option<Pin<Box<dyn Future<Output = std::io::Result<TcpStream>> + Send>>>,
}

/// A connection that gathers written bytes until they are flushed.
pub struct TcpLink {
    stream: TcpStream,
    gathered: Vec<u8>,
}

impl TcpDialer {
    /// Creates a dialer to `host:port`.
    pub fn new(address: impl Into<String>) -> Self {
        TcpDialer { address: address.into(), link: None, timer: TokioTimer::default(), dialing: None }
    }
}

impl Dialer for TcpDialer {
    type Link = TcpLink;
    type Timer = TokioTimer;

    async fn dial(&mut self) -> Result<(), LinkDown> {
        let address = self.address.clone();
        let dialing = self.dialing.get_or_insert_with(|| Box::pin(TcpStream::connect(address)));
        let dialed = dialing.await;
        self.dialing = None;
        let stream = dialed.map_err(|_| LinkDown)?;
        stream.set_nodelay(true).map_err(|_| LinkDown)?;
        self.link = Some(TcpLink { stream, gathered: Vec::new() });
        Ok(())
    }

    fn link(&mut self) -> Option<&mut TcpLink> {
        self.link.as_mut()
    }

    fn hang_up(&mut self) {
        self.link = None;
        self.dialing = None;
    }

    fn timer(&self) -> TokioTimer {
        self.timer
    }
}

impl ErrorType for TcpLink {
    type Error = embedded_io_async::ErrorKind;
}

const OTHER: embedded_io_async::ErrorKind = embedded_io_async::ErrorKind::Other;

impl TcpLink {
    /// Writes some of the gathered bytes. A dropped future has written nothing.
    async fn drain(&mut self) -> Result<(), embedded_io_async::ErrorKind> {
        let n = self.stream.write(&self.gathered).await.map_err(|_| OTHER)?;
        self.gathered.drain(..n);
        Ok(())
    }
}

impl Read for TcpLink {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
        self.stream.read(out).await.map_err(|_| OTHER)
    }
}

impl Write for TcpLink {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        while self.gathered.len() >= GATHERED_MAX {
            self.drain().await?;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        while !self.gathered.is_empty() {
            self.drain().await?;
        }
        Ok(())
    }
}
