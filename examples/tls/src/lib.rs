//! TLS 1.3 for the async face of the client, by `embedded-tls`: no allocator, the server's
//! certificate checked against an authority and a host name, a certificate of the device's own
//! where the server wants one.
//!
//! A future of the client may be dropped at any await; one of a TLS connection may not, since half
//! a record cannot be taken back. So the TLS connection lives in a future of its own,
//! [`Tunnel::carry`], that nobody drops, and plain bytes go to and from it through two pipes. That
//! also lets each connection borrow the record buffers anew.
//!
//! ```text
//! Client ── TlsDialer ══ pipes ══ Tunnel::carry ── embedded-tls ── TCP
//! ```
//! Both ends run on one executor: in two tasks, or joined in one.
#![no_std]

#[cfg(feature = "host")]
extern crate std;

#[cfg(feature = "host")]
pub mod host;
mod identity;

use core::convert::Infallible;

use embassy_futures::select::{Either, select};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::mutex::Mutex;
use embassy_sync::pipe::Pipe;
use embassy_sync::signal::Signal;
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use embedded_tls::{
    CryptoProvider, TlsCipherSuite, TlsConfig, TlsConnection, TlsContext, TlsReader, TlsWriter,
};
use lapwing_client::{Dialer, LinkDown, Timer};

pub use embedded_tls::{Certificate, TlsClock};
pub use identity::Identity;

/// Opens what TLS runs over.
pub trait Transport {
    /// The half that reads.
    type Reader<'t>: Read
    where
        Self: 't;
    /// The half that writes.
    type Writer<'t>: Write
    where
        Self: 't;

    /// Connects.
    ///
    /// # Errors
    /// It did not; the client will dial again.
    fn connect(&mut self) -> impl Future<Output = Result<(Self::Reader<'_>, Self::Writer<'_>), LinkDown>>;

    /// Closes what was connected, if it was.
    fn close(&mut self);
}

/// Requests of the client to the tunnel.
enum Order {
    Dial,
    HangUp,
}

/// The plain side of a TLS connection: `N` bytes wait in each direction at most.
pub struct Tunnel<const N: usize> {
    to_server: Pipe<NoopRawMutex, N>,
    to_client: Pipe<NoopRawMutex, N>,
    order: Signal<NoopRawMutex, Order>,
    dialed: Signal<NoopRawMutex, Result<(), LinkDown>>,
    /// All that the client wrote has left.
    left: Signal<NoopRawMutex, ()>,
    lost: Signal<NoopRawMutex, ()>,
}

impl<const N: usize> Default for Tunnel<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Tunnel<N> {
    /// A tunnel that leads nowhere yet.
    pub const fn new() -> Self {
        Tunnel {
            to_server: Pipe::new(),
            to_client: Pipe::new(),
            order: Signal::new(),
            dialed: Signal::new(),
            left: Signal::new(),
            lost: Signal::new(),
        }
    }

    /// The end for the client.
    pub fn dialer<T: Timer + Clone>(&self, timer: T) -> TlsDialer<'_, T, N> {
        TlsDialer { link: TlsLink { tunnel: self, broken: true, unflushed: false }, dialing: false, timer }
    }

    /// Carries: connects when the client dials, for ever. `reading` has room for the largest record
    /// of the server, 16,640 bytes if it is not known to send smaller ones; `writing` for 128 bytes
    /// and the device's certificate, at least 512.
    pub async fn carry<T: Transport, P: CryptoProvider>(
        &self,
        transport: &mut T,
        config: &TlsConfig<'_>,
        crypto: &mut P,
        reading: &mut [u8],
        writing: &mut [u8],
    ) -> Infallible
    where
        P::CipherSuite: 'static,
    {
        let mut order = self.order.wait().await;
        loop {
            if let Order::HangUp = order {
                order = self.order.wait().await;
                continue;
            }
            let session = self.session(transport, config, crypto, reading, writing);
            // An order ends the session, whatever it is at.
            order = match select(self.order.wait(), session).await {
                Either::First(order) => order,
                Either::Second(()) => Order::HangUp,
            };
            transport.close();
        }
    }

    /// One connection, from the dial to its end.
    async fn session<T: Transport, P: CryptoProvider>(
        &self,
        transport: &mut T,
        config: &TlsConfig<'_>,
        crypto: &mut P,
        reading: &mut [u8],
        writing: &mut [u8],
    ) where
        P::CipherSuite: 'static,
    {
        let Ok((reader, writer)) = transport.connect().await else {
            return self.dialed.signal(Err(LinkDown));
        };
        let halves = (Mutex::new(reader), Mutex::new(writer));
        let mut tls: TlsConnection<'_, _, P::CipherSuite> =
            TlsConnection::new(Halves(&halves), reading, writing);
        if tls.open(TlsContext::new(config, crypto)).await.is_err() {
            return self.dialed.signal(Err(LinkDown));
        }
        self.dialed.signal(Ok(()));
        let (reader, writer) = tls.split();
        select(self.inbound(reader), self.outbound(writer)).await;
        self.lost.signal(());
    }

    async fn inbound<R: Read, C: TlsCipherSuite>(&self, mut from: TlsReader<'_, R, C>) {
        while let Ok(mut bytes) = from.read_buffered().await {
            self.to_client.write_all(bytes.pop_all()).await;
        }
    }

    async fn outbound<W: Write, C: TlsCipherSuite>(&self, mut to: TlsWriter<'_, W, C>) {
        let mut piece = [0; N];
        loop {
            let n = self.to_server.read(&mut piece).await;
            let piece = piece.get(..n).unwrap_or(&[]);
            if to.write_all(piece).await.is_err() {
                return;
            }
            // What is there goes in one record.
            if !self.to_server.is_empty() {
                continue;
            }
            if to.flush().await.is_err() {
                return;
            }
            if self.to_server.is_empty() {
                self.left.signal(());
            }
        }
    }
}

/// Both halves of a connection as what `embedded-tls` wants: one value that can be copied. Its
/// reader uses the one, its writer the other.
struct Halves<'h, R, W>(&'h (Mutex<NoopRawMutex, R>, Mutex<NoopRawMutex, W>));

impl<R, W> Clone for Halves<'_, R, W> {
    fn clone(&self) -> Self {
        Halves(self.0)
    }
}

impl<R, W> ErrorType for Halves<'_, R, W> {
    type Error = ErrorKind;
}

impl<R: Read, W> Read for Halves<'_, R, W> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        self.0.0.lock().await.read(out).await.map_err(|error| embedded_io_async::Error::kind(&error))
    }
}

impl<R, W: Write> Write for Halves<'_, R, W> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.1.lock().await.write(bytes).await.map_err(|error| embedded_io_async::Error::kind(&error))
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        self.0.1.lock().await.flush().await.map_err(|error| embedded_io_async::Error::kind(&error))
    }
}

/// The dialer of the client.
pub struct TlsDialer<'t, T, const N: usize> {
    link: TlsLink<'t, N>,
    dialing: bool,
    timer: T,
}

/// The link of the client: the plain ends of the pipes.
pub struct TlsLink<'t, const N: usize> {
    tunnel: &'t Tunnel<N>,
    broken: bool,
    unflushed: bool,
}

impl<'t, T: Timer + Clone, const N: usize> Dialer for TlsDialer<'t, T, N> {
    type Link = TlsLink<'t, N>;
    type Timer = T;

    async fn dial(&mut self) -> Result<(), LinkDown> {
        let tunnel = self.link.tunnel;
        if !self.dialing {
            tunnel.to_server.clear();
            tunnel.to_client.clear();
            tunnel.dialed.reset();
            tunnel.lost.reset();
            tunnel.order.signal(Order::Dial);
            self.dialing = true;
        }
        let dialed = tunnel.dialed.wait().await;
        self.dialing = false;
        self.link.broken = dialed.is_err();
        self.link.unflushed = false;
        dialed
    }

    fn link(&mut self) -> Option<&mut TlsLink<'t, N>> {
        (!self.link.broken).then_some(&mut self.link)
    }

    fn hang_up(&mut self) {
        self.dialing = false;
        self.link.broken = true;
        self.link.tunnel.order.signal(Order::HangUp);
    }

    fn timer(&self) -> T {
        self.timer.clone()
    }
}

impl<const N: usize> TlsLink<'_, N> {
    /// A future of the pipes, unless the connection is lost; what came before that is still read.
    async fn unless_lost<R>(&mut self, moves: impl Future<Output = R>) -> Result<R, ErrorKind> {
        if self.broken {
            return Err(ErrorKind::NotConnected);
        }
        match select(moves, self.tunnel.lost.wait()).await {
            Either::First(moved) => Ok(moved),
            Either::Second(()) => {
                self.broken = true;
                Err(ErrorKind::ConnectionReset)
            }
        }
    }
}

impl<const N: usize> ErrorType for TlsLink<'_, N> {
    type Error = ErrorKind;
}

impl<const N: usize> Read for TlsLink<'_, N> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        let tunnel = self.tunnel;
        self.unless_lost(tunnel.to_client.read(out)).await
    }
}

impl<const N: usize> Write for TlsLink<'_, N> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let tunnel = self.tunnel;
        tunnel.left.reset();
        self.unflushed = true;
        self.unless_lost(tunnel.to_server.write(bytes)).await
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        let tunnel = self.tunnel;
        if self.unflushed {
            self.unless_lost(tunnel.left.wait()).await?;
            self.unflushed = false;
        }
        Ok(())
    }
}
