//! TCP of smoltcp, for the blocking front end. The interface is polled whenever the client is.

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant;
use smoltcp::wire::IpEndpoint;

use crate::LinkDown;
use crate::blocking::Dialer;

/// Longest time for a stalled write.
const RESPONSE_TIMEOUT_MS: u32 = 10_000;

/// Connects one socket to one endpoint, again and again.
pub struct SmoltcpDialer<'s, D: Device> {
    link: SmoltcpLink<'s, D>,
    server: IpEndpoint,
    port: u16,
    dialing: bool,
}

/// The socket, and everything that moves its bytes.
pub struct SmoltcpLink<'s, D: Device> {
    /// The interface, for addresses and routes.
    pub interface: Interface,
    /// The device below it.
    pub device: D,
    /// The sockets of the program; others may be among them.
    pub sockets: SocketSet<'s>,
    handle: SocketHandle,
    now_ms: fn() -> u32,
}

impl<'s, D: Device> SmoltcpDialer<'s, D> {
    /// Creates a dialer to `server`.
    ///
    /// `first_port` is the local port of the first connection, 49,152 or above. Choose it at
    /// random, so that a server does not take a restart for an old connection.
    pub const fn new(link: SmoltcpLink<'s, D>, server: IpEndpoint, first_port: u16) -> Self {
        SmoltcpDialer { link, server, port: first_port, dialing: false }
    }

    /// Returns interface, device and sockets.
    pub const fn network(&mut self) -> &mut SmoltcpLink<'s, D> {
        &mut self.link
    }
}

impl<'s, D: Device> SmoltcpLink<'s, D> {
    /// Creates a link. `handle` is a TCP socket in `sockets`; `now_ms` returns milliseconds.
    pub const fn new(
        interface: Interface,
        device: D,
        sockets: SocketSet<'s>,
        handle: SocketHandle,
        now_ms: fn() -> u32,
    ) -> Self {
        SmoltcpLink { interface, device, sockets, handle, now_ms }
    }

    /// Moves packets between the device and the sockets.
    pub fn poll(&mut self) {
        let now = Instant::from_millis(i64::from((self.now_ms)()));
        self.interface.poll(now, &mut self.device, &mut self.sockets);
    }

    fn socket(&mut self) -> &mut Socket<'s> {
        self.sockets.get_mut(self.handle)
    }
}

impl<'s, D: Device> Dialer for SmoltcpDialer<'s, D> {
    type Link = SmoltcpLink<'s, D>;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        self.link.poll();
        if self.dialing {
            let open = self.link.socket().may_send();
            self.dialing = !open && self.link.socket().state() != State::Closed;
            return if open || self.dialing { Ok(open) } else { Err(LinkDown) };
        }
        self.link.socket().abort();
        self.link.poll();
        self.port = self.port.checked_add(1).unwrap_or(49_152);
        let (server, port) = (self.server, self.port);
        let context = self.link.interface.context();
        let socket = self.link.sockets.get_mut::<Socket<'s>>(self.link.handle);
        socket.connect(context, server, port).map_err(|_| LinkDown)?;
        self.dialing = true;
        self.link.poll();
        Ok(false)
    }

    fn link(&mut self) -> Option<&mut SmoltcpLink<'s, D>> {
        Some(&mut self.link)
    }

    fn hang_up(&mut self) {
        // Flushed bytes, such as DISCONNECT, leave with the FIN. The next dial cuts the rest.
        self.link.socket().close();
        self.link.poll();
        self.dialing = false;
    }

    fn now_ms(&mut self) -> u32 {
        (self.link.now_ms)()
    }

    fn idle(&mut self, _: u32) {
        self.link.poll();
    }
}

impl<D: Device> ErrorType for SmoltcpLink<'_, D> {
    type Error = ErrorKind;
}

impl<D: Device> ReadReady for SmoltcpLink<'_, D> {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        self.poll();
        let socket = self.socket();
        // The end of the stream is read, too.
        Ok(socket.can_recv() || !socket.may_recv())
    }
}

impl<D: Device> Read for SmoltcpLink<'_, D> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        loop {
            self.poll();
            let socket = self.socket();
            if socket.can_recv() {
                return socket.recv_slice(out).map_err(|_| ErrorKind::ConnectionReset);
            }
            if !socket.may_recv() {
                return Ok(0);
            }
        }
    }
}

impl<D: Device> Write for SmoltcpLink<'_, D> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let start_ms = (self.now_ms)();
        loop {
            match self.socket().send_slice(bytes) {
                Err(_) => return Err(ErrorKind::ConnectionReset),
                Ok(0) if (self.now_ms)().wrapping_sub(start_ms) > RESPONSE_TIMEOUT_MS => {
                    return Err(ErrorKind::TimedOut);
                }
                Ok(0) => self.poll(),
                Ok(n) => return Ok(n),
            }
        }
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.poll();
        Ok(())
    }
}
