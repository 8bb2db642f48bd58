//! The wire for the async front end: a server that stops reading for a while.

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use embedded_io::{ErrorKind, ErrorType, Read as _, Write as _};
use lapwing_client::{LinkDown, Timer, blocking};

use super::Net;

/// Returns the result of one poll of a future, which is then dropped.
pub fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// A wire that takes a number of bytes from the client before it has to wait.
pub struct Patient {
    pub net: Net,
    pub takes: usize,
}

impl ErrorType for Patient {
    type Error = ErrorKind;
}

impl embedded_io_async::Read for Patient {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        if self.net.0.borrow().to_client.is_empty() {
            core::future::pending::<()>().await;
        }
        self.net.read(out)
    }
}

impl embedded_io_async::Write for Patient {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        if self.takes == 0 {
            core::future::pending::<()>().await;
        }
        let n = self.net.write(&bytes[..bytes.len().min(self.takes)])?;
        self.takes -= n;
        Ok(n)
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// Clock of the wire; a pause is never over.
#[derive(Clone)]
pub struct Clock(Net);

impl Timer for Clock {
    fn now_ms(&self) -> u32 {
        self.0.0.borrow().now_ms
    }

    async fn sleep_ms(&self, _: u32) {
        core::future::pending().await
    }
}

impl lapwing_client::Dialer for Patient {
    type Link = Patient;
    type Timer = Clock;

    async fn dial(&mut self) -> Result<(), LinkDown> {
        blocking::Dialer::dial(&mut self.net).map(|_| ())
    }

    fn link(&mut self) -> Option<&mut Patient> {
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
