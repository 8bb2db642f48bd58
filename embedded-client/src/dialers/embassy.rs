//! TCP of embassy-net and the clock of embassy, for the async front end.

#[cfg(feature = "embassy-net")]
pub use tcp::TcpDialer;

use embassy_time::{Duration, Instant, Timer as EmbassyTime};

use crate::Timer;

/// Clock of embassy.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbassyTimer;

impl Timer for EmbassyTimer {
    fn now_ms(&self) -> u32 {
        Instant::now().as_millis() as u32
    }

    async fn sleep_ms(&self, ms: u32) {
        EmbassyTime::after(Duration::from_millis(u64::from(ms))).await;
    }
}

#[cfg(feature = "embassy-net")]
mod tcp {
    use embassy_net::dns::DnsQueryType;
    use embassy_net::tcp::{State, TcpSocket};
    use embassy_net::{IpAddress, IpEndpoint, Stack};

    use super::EmbassyTimer;
    use crate::{Dialer, LinkDown};

    /// Connects to a host by name or address.
    pub struct TcpDialer<'a> {
        stack: Stack<'a>,
        socket: TcpSocket<'a>,
        host: &'a str,
        port: u16,
    }

    impl<'a> TcpDialer<'a> {
        /// Creates a dialer with the buffers of its socket.
        ///
        /// 512 bytes each are enough for a sensor; more make large payloads faster.
        pub fn new(
            stack: Stack<'a>,
            receive: &'a mut [u8],
            transmit: &'a mut [u8],
            host: &'a str,
            port: u16,
        ) -> Self {
            TcpDialer { stack, socket: TcpSocket::new(stack, receive, transmit), host, port }
        }
    }

    impl<'a> Dialer for TcpDialer<'a> {
        type Link = TcpSocket<'a>;
        type Timer = EmbassyTimer;

        async fn dial(&mut self) -> Result<(), LinkDown> {
            // Continue a dial whose future was dropped.
            if self.socket.state() == State::SynSent {
                self.socket.wait_write_ready().await;
                return Ok(());
            }
            self.socket.abort();
            self.stack.wait_config_up().await;
            let addresses = self.stack.dns_query(self.host, DnsQueryType::A).await.map_err(|_| LinkDown)?;
            let address: IpAddress = *addresses.first().ok_or(LinkDown)?;
            self.socket.connect(IpEndpoint::new(address, self.port)).await.map_err(|_| LinkDown)
        }

        fn link(&mut self) -> Option<&mut TcpSocket<'a>> {
            Some(&mut self.socket)
        }

        fn hang_up(&mut self) {
            self.socket.close();
        }

        fn timer(&self) -> EmbassyTimer {
            EmbassyTimer
        }
    }
}
