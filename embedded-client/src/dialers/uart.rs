//! A link that is always there: a UART with the server, or a bridge to it, at its other end.
//!
//! A UART gives no sign of a lost connection: keep-alive finds it. Bytes for the old connection are
//! read and discarded when the next one begins.

#[cfg(feature = "async")]
use core::pin::pin;

use embedded_io::{Read, ReadReady, Write};

#[cfg(feature = "async")]
use crate::asynchronous::race;
use crate::{LinkDown, blocking};

/// Time without a byte after which the line counts as silent.
#[cfg(feature = "async")]
const SILENCE_MS: u32 = 20;
/// Number of old bytes that one blocking call discards.
const STALE_BYTES_MAX: usize = 1_024;

/// A dialer over anything that reads and writes bytes.
pub struct UartDialer<U, T> {
    uart: U,
    clock: T,
    /// Time of the last old byte, while a dial waits for silence. A dropped dial continues from it.
    #[cfg(feature = "async")]
    heard_ms: Option<u32>,
}

impl<U, T> UartDialer<U, T> {
    /// Creates a dialer. `clock` returns milliseconds for the blocking front end, and is a
    /// [`Timer`](crate::Timer) for the async one.
    pub const fn new(uart: U, clock: T) -> Self {
        UartDialer {
            uart,
            clock,
            #[cfg(feature = "async")]
            heard_ms: None,
        }
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
        let mut discarded = 0;
        while self.uart.read_ready().map_err(|_| LinkDown)? {
            // A peer that never stops must not keep this call.
            if discarded >= STALE_BYTES_MAX {
                return Ok(false);
            }
            discarded += self.uart.read(&mut stale).map_err(|_| LinkDown)?.max(1);
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
        let mut stale = [0; 16];
        loop {
            let now_ms = self.clock.now_ms();
            let heard_ms = *self.heard_ms.get_or_insert(now_ms);
            let silence_ms = now_ms.wrapping_sub(heard_ms);
            let left_ms = SILENCE_MS.saturating_sub(silence_ms);
            let read = race(pin!(self.uart.read(&mut stale)), pin!(self.clock.sleep_ms(left_ms))).await;
            match read {
                Some(read) => {
                    read.map_err(|_| LinkDown)?;
                    self.heard_ms = Some(self.clock.now_ms());
                }
                None => {
                    self.heard_ms = None;
                    return Ok(());
                }
            }
        }
    }

    fn link(&mut self) -> Option<&mut U> {
        Some(&mut self.uart)
    }

    fn hang_up(&mut self) {
        self.heard_ms = None;
    }

    fn timer(&self) -> T {
        self.clock.clone()
    }
}
