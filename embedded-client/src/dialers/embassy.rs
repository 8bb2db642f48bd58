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
    use core::future::poll_fn;
    use core::net::Ipv4Addr;
    use core::pin::pin;
    use core::task::Poll;

    use embassy_net::dns::DnsQueryType;
    use embassy_net::tcp::{State, TcpSocket};
    use embassy_net::udp::{PacketMetadata, UdpSocket};
    use embassy_net::{IpAddress, IpEndpoint, Stack};

    use super::EmbassyTimer;
    use crate::asynchronous::race;
    use crate::dialers::name;
    use crate::{Dialer, LinkDown, Timer};

    /// Pause after which a question is repeated.
    const REPEAT_MS: u32 = 1_000;
    const DNS_PORT: u16 = 53;

    /// Connects to a host by name or address.
    ///
    /// The future of a dial may be dropped at any time: the next one continues. The stack forgets a
    /// look-up whose future is dropped. After that the dialer asks the name server itself, and
    /// keeps the question. It does so before its TCP socket exists, so that it never takes two
    /// sockets of the stack at once. Later it falls back on the address that it had last.
    pub struct TcpDialer<'a> {
        stack: Stack<'a>,
        /// The buffers of the socket until it exists.
        buffers: Option<(&'a mut [u8], &'a mut [u8])>,
        socket: Option<TcpSocket<'a>>,
        host: &'a str,
        port: u16,
        /// The address that the host had last.
        address: Option<IpAddress>,
        /// A look-up has begun and not ended.
        looking_up: bool,
        question: Question,
        /// The socket is being connected.
        connecting: bool,
    }

    /// A question to the name server.
    #[derive(Clone, Copy, Default)]
    struct Question {
        /// Local port; 0 when nothing was asked.
        port: u16,
        id: u16,
        asked_ms: u32,
        /// Number of times that it was asked.
        times: usize,
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
            TcpDialer {
                stack,
                buffers: Some((receive, transmit)),
                socket: None,
                host,
                port,
                address: None,
                looking_up: false,
                question: Question::default(),
                connecting: false,
            }
        }

        /// Returns the address of the host.
        async fn look_up(&mut self) -> Result<IpAddress, LinkDown> {
            if let Ok(address) = self.host.parse::<Ipv4Addr>() {
                return Ok(address.into());
            }
            if core::mem::replace(&mut self.looking_up, true) {
                // The future of a look-up was dropped.
                let address = match self.address {
                    Some(address) => Some(address),
                    None => self.ask().await.map(IpAddress::from),
                };
                self.looking_up = false;
                self.address = address;
                return address.ok_or(LinkDown);
            }
            let found = self.stack.dns_query(self.host, DnsQueryType::A).await;
            self.looking_up = false;
            let address = *found.map_err(|_| LinkDown)?.first().ok_or(LinkDown)?;
            self.address = Some(address);
            Ok(address)
        }

        /// Asks the name server, or waits for its answer to the question of an earlier future.
        async fn ask(&mut self) -> Option<Ipv4Addr> {
            let (mut heard, mut said) = ([PacketMetadata::EMPTY; 1], [PacketMetadata::EMPTY; 1]);
            let (mut inbound, mut outbound) = ([0; name::ANSWER_BYTES_MAX], [0; name::QUESTION_BYTES_MAX]);
            let mut socket = UdpSocket::new(self.stack, &mut heard, &mut inbound, &mut said, &mut outbound);
            socket.bind(self.question.port).ok()?;
            let clock = EmbassyTimer;
            if self.question.port == 0 {
                let port = socket.endpoint().port;
                // The time and the port differ from question to question.
                self.question = Question { port, id: clock.now_ms() as u16 ^ port, asked_ms: 0, times: 0 };
            }
            loop {
                let waited_ms = clock.now_ms().wrapping_sub(self.question.asked_ms);
                if self.question.times == 0 || waited_ms >= REPEAT_MS {
                    let servers = self.stack.config_v4()?.dns_servers;
                    let server = *servers.get(self.question.times % servers.len().max(1))?;
                    let mut bytes = [0; name::QUESTION_BYTES_MAX];
                    let len = name::question(self.host, self.question.id, &mut bytes)?;
                    socket.send_to(bytes.get(..len)?, (IpAddress::from(server), DNS_PORT)).await.ok()?;
                    // A question that has not left when the future is dropped was not asked.
                    socket.flush().await;
                    self.question.asked_ms = clock.now_ms();
                    self.question.times += 1;
                    continue;
                }
                let mut bytes = [0; name::ANSWER_BYTES_MAX];
                let pause = pin!(clock.sleep_ms(REPEAT_MS - waited_ms));
                let heard = race(pin!(socket.recv_from(&mut bytes)), pause).await;
                if let Some(Ok((len, from))) = heard
                    && from.endpoint.port == DNS_PORT
                    && let Some(address) = name::answer(bytes.get(..len)?, self.question.id)
                {
                    self.question = Question::default();
                    return address;
                }
            }
        }

        /// Waits until the socket is connected.
        async fn connected(&mut self) -> Result<(), LinkDown> {
            let Some(socket) = &self.socket else { return Err(LinkDown) };
            let open = poll_fn(|context| match socket.state() {
                State::Closed | State::TimeWait => Poll::Ready(false),
                State::SynSent | State::SynReceived => {
                    // It is ready when the state changes; until then, this wakes the task.
                    let _ = pin!(socket.wait_write_ready()).poll(context);
                    Poll::Pending
                }
                _ => Poll::Ready(true),
            });
            let open = open.await;
            self.connecting = false;
            if open { Ok(()) } else { Err(LinkDown) }
        }
    }

    impl<'a> Dialer for TcpDialer<'a> {
        type Link = TcpSocket<'a>;
        type Timer = EmbassyTimer;

        async fn dial(&mut self) -> Result<(), LinkDown> {
            if self.connecting {
                return self.connected().await;
            }
            if let Some(socket) = &mut self.socket {
                socket.abort();
            }
            self.stack.wait_config_up().await;
            let address = self.look_up().await?;
            if let Some((receive, transmit)) = self.buffers.take() {
                self.socket = Some(TcpSocket::new(self.stack, receive, transmit));
            }
            let Some(socket) = &mut self.socket else { return Err(LinkDown) };
            self.connecting = true;
            let connecting = socket.connect(IpEndpoint::new(address, self.port)).await;
            self.connecting = false;
            connecting.map_err(|_| LinkDown)
        }

        fn link(&mut self) -> Option<&mut TcpSocket<'a>> {
            self.socket.as_mut()
        }

        fn hang_up(&mut self) {
            self.connecting = false;
            self.looking_up = false;
            self.question = Question::default();
            if let Some(socket) = &mut self.socket {
                socket.close();
            }
        }

        fn timer(&self) -> EmbassyTimer {
            EmbassyTimer
        }
    }
}
