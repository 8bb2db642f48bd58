//! A line for the async front end, on a clock that moves when everybody waits.

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::cell::Cell;
use std::rc::Rc;

use embedded_io::{ErrorKind, ErrorType, Read as _, Write as _};
use lapwing_client::{Dialer, LinkDown, Timer, blocking};

use super::Net;

/// A wire that can stall, and counts its awaits.
#[derive(Clone)]
pub struct Line {
    pub net: Net,
    /// Writes do not end.
    pub write_stalls: bool,
    /// Flushes do not end.
    pub flush_stalls: bool,
    /// Each operation is pending once before it moves bytes.
    pub hesitates: bool,
    /// Number of polls that were pending.
    pub pending: Rc<Cell<usize>>,
}

impl Line {
    pub fn new(net: &Net) -> Self {
        let pending = Rc::new(Cell::new(0));
        Line { net: net.clone(), write_stalls: false, flush_stalls: false, hesitates: false, pending }
    }

    /// Waits once if the line hesitates, and for ever if it stalls.
    async fn ready(&self, stalls: impl Fn() -> bool) {
        let mut first = self.hesitates;
        poll_fn(|_| {
            if core::mem::take(&mut first) || stalls() {
                self.pending.set(self.pending.get() + 1);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl ErrorType for Line {
    type Error = ErrorKind;
}

impl embedded_io_async::Read for Line {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        self.ready(|| {
            let wire = self.net.0.borrow();
            wire.up && wire.to_client.is_empty()
        })
        .await;
        self.net.read(out)
    }
}

impl embedded_io_async::Write for Line {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.ready(|| self.write_stalls).await;
        self.net.write(bytes)
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        self.ready(|| self.flush_stalls).await;
        Ok(())
    }
}

/// Clock of the wire.
#[derive(Clone)]
pub struct Clock(pub Net);

impl Timer for Clock {
    fn now_ms(&self) -> u32 {
        self.0.0.borrow().now_ms
    }

    async fn sleep_ms(&self, ms: u32) {
        let start = self.now_ms();
        poll_fn(|_| if self.now_ms().wrapping_sub(start) < ms { Poll::Pending } else { Poll::Ready(()) })
            .await;
    }
}

impl Dialer for Line {
    type Link = Line;
    type Timer = Clock;

    async fn dial(&mut self) -> Result<(), LinkDown> {
        self.ready(|| false).await;
        blocking::Dialer::dial(&mut self.net).map(|_| ())
    }

    fn link(&mut self) -> Option<&mut Line> {
        let up = self.net.0.borrow().up;
        up.then_some(self)
    }

    fn hang_up(&mut self) {
        blocking::Dialer::hang_up(&mut self.net);
    }

    fn timer(&self) -> Clock {
        Clock(self.net.clone())
    }
}

/// Polls once.
pub fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Runs a future for at most `ms` on the clock of the wire, which moves when the future is pending.
/// Returns `None` when it is not done then.
pub fn run_for<T>(net: &Net, ms: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..=ms {
        if let Some(done) = poll(future.as_mut()) {
            return Some(done);
        }
        let mut wire = net.0.borrow_mut();
        wire.now_ms = wire.now_ms.wrapping_add(1);
    }
    None
}
