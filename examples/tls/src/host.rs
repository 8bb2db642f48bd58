//! A computer in place of the microcontroller.

use std::string::String;
use std::time::{SystemTime, UNIX_EPOCH};

use embedded_io_adapters::tokio_1::FromTokio;
use embedded_tls::TlsClock;
use lapwing_client::LinkDown;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::Transport;

pub use rand_core::OsRng;

/// TCP to `HOST:PORT`. Both halves are the session's own: when it ends, so does the connection.
pub struct Tcp(pub String);

impl Transport for Tcp {
    type Reader<'t> = FromTokio<OwnedReadHalf>;
    type Writer<'t> = FromTokio<OwnedWriteHalf>;

    async fn connect(&mut self) -> Result<(Self::Reader<'_>, Self::Writer<'_>), LinkDown> {
        let stream = TcpStream::connect(&self.0).await.map_err(|_| LinkDown)?;
        stream.set_nodelay(true).map_err(|_| LinkDown)?;
        let (reader, writer) = stream.into_split();
        Ok((FromTokio::new(reader), FromTokio::new(writer)))
    }

    fn close(&mut self) {}
}

/// The clock of the system. On a board: the time that SNTP told, counted on in an atomic;
/// `embedded_tls::NoClock` before that.
pub struct WallClock;

impl TlsClock for WallClock {
    fn now() -> Option<u64> {
        SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }
}
