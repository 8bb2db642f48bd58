//! Adapter for links of `embedded-io-async` 0.6. The client uses 0.7.

use embedded_io_async::{ErrorType, Read, Write};
use embedded_io_async_06 as old;

/// A link of `embedded-io-async` 0.6. Errors lose their kind.
pub struct Io06<T>(pub T);

impl<T> ErrorType for Io06<T> {
    type Error = embedded_io_async::ErrorKind;
}

impl<T: old::Read> Read for Io06<T> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
        self.0.read(out).await.map_err(|_| embedded_io_async::ErrorKind::Other)
    }
}

impl<T: old::Write> Write for Io06<T> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        self.0.write(bytes).await.map_err(|_| embedded_io_async::ErrorKind::Other)
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        self.0.flush().await.map_err(|_| embedded_io_async::ErrorKind::Other)
    }
}
