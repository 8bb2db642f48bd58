//! Helpers for the programs of other clients, which are async.
#![no_std]

use core::convert::Infallible;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use embedded_io::{Read as _, ReadReady, Write as _};
use lapwing_qemu::Uart;

/// Polls the future until it is ready.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}

/// The UART for async clients.
pub struct AsyncUart(pub Uart);

impl embedded_io_async::ErrorType for AsyncUart {
    type Error = Infallible;
}

impl embedded_io_async::Read for AsyncUart {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        core::future::poll_fn(|_| match self.0.read_ready() {
            Ok(false) => Poll::Pending,
            _ => Poll::Ready(self.0.read(out)),
        })
        .await
    }
}

impl embedded_io_async::Write for AsyncUart {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.0.write(bytes)
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(feature = "minimq")]
mod time {
    struct Driver;

    impl embassy_time_driver::Driver for Driver {
        fn now(&self) -> u64 {
            u64::from(lapwing_qemu::now_ms()) * (embassy_time_driver::TICK_HZ / 1_000)
        }

        // The loop polls everything all the time.
        fn schedule_wake(&self, _: u64, _: &core::task::Waker) {}
    }

    embassy_time_driver::time_driver_impl!(static DRIVER: Driver = Driver);
}
