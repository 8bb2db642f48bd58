//! A link that is always there: a UART with the server, or a bridge to it, at its other end.
//!
//! A UART gives no sign of a lost connection: keep-alive finds it. Bytes for the old connection are
//! read and discarded when the next one begins.

use embedded_io::{Read, ReadReady, Write};

use crate::{LinkDown, blocking};

/// A dialer over anything that reads and writes bytes.
pub struct UartDialer<U, T> {
    uart: U,
    clock: T,
}

impl<U, T> UartDialer<U, T> {
    /// Creates a dialer. `clock` returns milliseconds for the blocking front end, and is a
    /// [`Timer`](crate::Timer) for the async one.
    pub const fn new(uart: U, clock: T) -> Self {
        UartDialer { uart, clock }
    }

    /// Returns the UART.
    pub fn into_inner(self) -> U {
        self.uart
    }
}

impl<U: Read + ReadReady + Write, T: FnMut() -> u32> blocking::Dialer for UartDialer<U, T> {
    type Link = U;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        let mut stale = [0; 16];
        while self.uart.read_ready().map_err(|_| LinkDown)? {
            self.uart.read(&mut stale).map_err(|_| LinkDown)?;
        }
        Ok(true)
    }

    fn link(&mut self) -> Option<&mut U> {
        Some(&mut self.uart)
    }

    fn hang_up(&mut self) {}

    fn now_ms(&mut self) -> u32 {
        (self.clock)()
    }
}

#[cfg(feature = "async")]
impl<U, T> crate::Dialer for UartDialer<U, T>
where
    U: embedded_io_async::Read + embedded_io_async::Write,
    T: crate::Timer + Clone,
{
    type Link = U;
    type Timer = T;

    async fn dial(&mut self) -> Result<(), LinkDown> {
        // Until the UART is silent for a moment.
        let mut stale = [0; 16];
        let silence = || self.clock.sleep_ms(20);
        while let Some(read) = crate::asynchronous::race(self.uart.read(&mut stale), silence()).await {
            read.map_err(|_| LinkDown)?;
        }
        Ok(())
    }

    fn link(&mut self) -> Option<&mut U> {
        Some(&mut self.uart)
    }

    fn hang_up(&mut self) {}

    fn timer(&self) -> T {
        self.clock.clone()
    }
}
