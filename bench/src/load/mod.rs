//! The load generator: many clients on one thread and one epoll, so that it costs few cycles.
//!
//! Closed loop: a publisher has a bounded number of messages in flight. A message is in flight
//! until it is acknowledged and all its subscribers have received it. Open loop: messages are due
//! at fixed times, and their latency counts from then, whether they were sent late or not.

mod socket;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

pub use socket::{Security, Socket};

use crate::wire::{self, Stay, Version};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Longest time for a connect, and for the last message.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Time without deliveries after which a broker with messages in flight has stalled.
const STALLED: Duration = Duration::from_secs(1);
/// Payload bytes of the generator: the publisher (4), then the due time in ns since the start (8).
pub const STAMP: usize = 12;

/// Shape of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Pairs, each of a publisher and a subscriber of its own.
    Pairs(usize),
    /// Publishers to one subscriber.
    FanIn(usize),
    /// Publishers to a shared group of subscribers.
    Shared(usize, usize),
    /// One publisher to several subscribers.
    FanOut(usize),
    /// One pair whose publisher cycles through several topics.
    Topics(usize),
}

impl Layout {
    fn publishers(self) -> usize {
        match self {
            Layout::Pairs(n) | Layout::FanIn(n) | Layout::Shared(n, _) => n,
            Layout::FanOut(_) | Layout::Topics(_) => 1,
        }
    }

    fn subscribers(self) -> usize {
        match self {
            Layout::Pairs(n) | Layout::FanOut(n) | Layout::Shared(_, n) => n,
            Layout::FanIn(_) | Layout::Topics(_) => 1,
        }
    }

    fn filter(self, subscriber: usize) -> String {
        match self {
            Layout::Pairs(_) => format!("bench/{subscriber}"),
            Layout::FanOut(_) => "bench/0".to_owned(),
            Layout::FanIn(_) | Layout::Topics(_) => "bench/#".to_owned(),
            Layout::Shared(..) => "$share/group/bench/#".to_owned(),
        }
    }

    /// Number of subscribers that receive each message.
    fn copies(self) -> u64 {
        if let Layout::FanOut(n) = self { n as u64 } else { 1 }
    }
}

/// Description of a load.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub layout: Layout,
    pub qos: u8,
    /// Length of the payload in bytes; at least [`STAMP`].
    pub payload: usize,
    /// Messages in flight for each publisher.
    pub window: u64,
    pub version: Version,
    pub tls: bool,
    /// Open loop: messages a second, of all publishers together.
    pub rate: Option<u32>,
}

/// Figures of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Messages that subscribers received during the measurement.
    pub delivered: u64,
    /// Duration of the measurement.
    pub time: Duration,
    /// Number of lost messages.
    pub lost: u64,
    /// Latency in ns, from the due time (open loop), or from the hand-over to the socket.
    pub latency: Histogram<u64>,
    /// Set when nothing was delivered towards the end, though messages were in flight.
    pub stall: Option<String>,
}

/// State of a publisher.
struct Publisher {
    packets: Vec<(Vec<u8>, usize, usize)>,
    next: usize,
    last_id: u16,
    unacknowledged: u64,
    /// Number of copies that have not been received.
    outstanding: u64,
}

enum Role {
    Publisher(Publisher),
    Subscriber,
}

struct LoadClient {
    socket: Socket,
    role: Role,
}

/// The connected clients.
pub struct Load {
    spec: Spec,
    poll: Poll,
    clients: Vec<LoadClient>,
    began: Instant,
    delivered: u64,
    latency: Histogram<u64>,
    /// Publishers that may send.
    ready: Vec<usize>,
    /// Clients with bytes to write.
    dirty: Vec<usize>,
    /// Number of copies in flight.
    outstanding: u64,
    /// Time when the last copy was received.
    last_came: Instant,
}

impl Load {
    /// Connects all clients, subscribers first.
    ///
    /// # Errors
    /// The network fails, or the broker refuses a client.
    pub fn connect(
        spec: Spec,
        address: SocketAddr,
        stay: Stay,
        security: Option<&Security>,
    ) -> Result<Load, Error> {
        let poll = Poll::new()?;
        let (publishers, subscribers) = (spec.layout.publishers(), spec.layout.subscribers());
        let mut clients = Vec::with_capacity(publishers + subscribers);
        let join = |id: &str, role: Role| -> Result<LoadClient, Error> {
            let socket = Socket::connect(address, security.filter(|_| spec.tls), TIMEOUT)?;
            let mut client = LoadClient { socket, role };
            wire::connect(&mut client.socket.out, spec.version, id, stay);
            client.await_packet(0x20)?;
            Ok(client)
        };
        for n in 0..publishers {
            let payload = vec![b'x'; spec.payload.max(STAMP)];
            let topics = if let Layout::Topics(count) = spec.layout { n..count } else { n..n + 1 };
            let packet = |n| wire::publish(spec.version, &format!("bench/{n}"), spec.qos, false, &payload);
            let publisher = Publisher {
                packets: topics.map(packet).collect(),
                next: 0,
                last_id: 0,
                unacknowledged: 0,
                outstanding: 0,
            };
            clients.push(join(&format!("publisher-{n}"), Role::Publisher(publisher))?);
        }
        for n in 0..subscribers {
            let mut client = join(&format!("subscriber-{n}"), Role::Subscriber)?;
            let filter = spec.layout.filter(n);
            wire::subscribe(&mut client.socket.out, spec.version, [&*filter].into_iter(), spec.qos);
            client.await_packet(0x90)?;
            clients.push(client);
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.socket.register(&poll, Token(n))?;
        }
        Ok(Load {
            spec,
            poll,
            clients,
            began: Instant::now(),
            delivered: 0,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            ready: Vec::new(),
            dirty: Vec::new(),
            outstanding: 0,
            last_came: Instant::now(),
        })
    }

    /// Runs `warm`, then the measured `time`, with a call of `mark` at both ends. Then waits for
    /// messages in flight.
    ///
    /// # Errors
    /// A connection ended.
    pub fn run<T>(
        &mut self,
        warm: Duration,
        time: Duration,
        mut mark: impl FnMut() -> Result<T, Error>,
    ) -> Result<(Outcome, T, T), Error> {
        self.began = Instant::now();
        self.ready = (0..self.spec.layout.publishers()).collect();
        self.work_until(self.began + warm)?;
        let (before, from) = (self.delivered, Instant::now());
        let first = mark()?;
        self.latency.reset();
        self.work_until(from + time)?;
        let (delivered, time) = (self.delivered - before, from.elapsed());
        let second = mark()?;
        let silence = self.last_came.max(from).elapsed();
        let stalled = self.outstanding > 0 && silence >= STALLED.min(time / 2);
        let stall = stalled.then(|| {
            format!(
                "stalled: {} messages were delivered, then for {:.1} s none of the {} in flight",
                self.delivered,
                silence.as_secs_f64(),
                self.outstanding
            )
        });
        let latency = self.latency.clone();
        let until = Instant::now() + TIMEOUT;
        let mut events = Events::with_capacity(1024);
        self.ready.clear();
        let mut last = (Instant::now(), self.outstanding);
        while self.outstanding > 0 && Instant::now() < until {
            self.turn(&mut events, Duration::from_millis(100), false)?;
            if self.outstanding != last.1 {
                last = (Instant::now(), self.outstanding);
            } else if last.0.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
        Ok((Outcome { delivered, time, lost: self.outstanding, latency, stall }, first, second))
    }

    fn work_until(&mut self, until: Instant) -> Result<(), Error> {
        let mut events = Events::with_capacity(1024);
        let interval = self.spec.rate.map(|rate| Duration::from_secs(1) / rate);
        let mut due = Instant::now();
        let mut turn = 0;
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            let mut wait = until - now;
            if let Some(interval) = interval {
                while due <= now {
                    let publisher = turn % self.spec.layout.publishers();
                    turn += 1;
                    self.publish(publisher, due);
                    due += interval;
                }
                wait = wait.min(due - now);
            }
            self.turn(&mut events, wait, interval.is_none())?;
        }
    }

    /// Fills the windows, writes, waits and reads, once.
    fn turn(&mut self, events: &mut Events, wait: Duration, closed: bool) -> Result<(), Error> {
        if closed {
            self.top_up();
        }
        self.flush()?;
        // epoll waits in whole milliseconds, which is too coarse for due messages: the last one is
        // spun.
        let wait = if closed { wait } else { wait.saturating_sub(Duration::from_millis(1)) };
        self.poll.poll(events, Some(wait))?;
        for event in events.iter() {
            let n = event.token().0;
            if event.is_writable() {
                self.dirty.push(n);
            }
            if event.is_readable() || event.is_read_closed() {
                self.read(n)?;
            }
        }
        self.flush()
    }

    fn top_up(&mut self) {
        let now = Instant::now();
        let most = self.spec.window * self.spec.layout.copies();
        for n in std::mem::take(&mut self.ready) {
            while let Role::Publisher(publisher) = &self.clients[n].role {
                let has_room = publisher.outstanding + self.spec.layout.copies() <= most
                    && (self.spec.qos == 0 || publisher.unacknowledged < self.spec.window);
                if !has_room {
                    break;
                }
                self.publish(n, now);
            }
        }
    }

    fn publish(&mut self, n: usize, due: Instant) {
        let stamp = (due - self.began).as_nanos() as u64;
        let copies = self.spec.layout.copies();
        let LoadClient { socket, role } = &mut self.clients[n];
        let Role::Publisher(publisher) = role else { return };
        if socket.out.is_empty() {
            self.dirty.push(n);
        }
        let topics = publisher.packets.len();
        let (packet, id, payload) = &mut publisher.packets[publisher.next];
        publisher.next = if publisher.next + 1 == topics { 0 } else { publisher.next + 1 };
        if self.spec.qos > 0 {
            publisher.last_id = publisher.last_id % 60_000 + 1;
            packet[*id..*id + 2].copy_from_slice(&publisher.last_id.to_be_bytes());
            publisher.unacknowledged += 1;
        }
        packet[*payload..*payload + 4].copy_from_slice(&(n as u32).to_be_bytes());
        packet[*payload + 4..*payload + 12].copy_from_slice(&stamp.to_be_bytes());
        socket.out.extend_from_slice(packet);
        publisher.outstanding += copies;
        self.outstanding += copies;
    }

    fn flush(&mut self) -> Result<(), Error> {
        for n in std::mem::take(&mut self.dirty) {
            self.clients[n].socket.flush()?;
        }
        Ok(())
    }

    fn read(&mut self, n: usize) -> Result<(), Error> {
        let version = self.spec.version;
        self.clients[n].socket.fill()?;
        let (came_before, arrived) = (self.delivered, Instant::now());
        let now = (arrived - self.began).as_nanos() as u64;
        let input = std::mem::take(&mut self.clients[n].socket.input);
        let mut at = 0;
        let had_output = !self.clients[n].socket.out.is_empty();
        let mut acknowledged = 0;
        while let Some((first, start, end)) = wire::frame(&input[at..]) {
            let body = &input[at + start..at + end];
            let out = &mut self.clients[n].socket.out;
            match first >> 4 {
                3 => {
                    let (id, payload) = wire::published(first, body, version).ok_or("a broken PUBLISH")?;
                    let id = id.to_be_bytes();
                    match first >> 1 & 3 {
                        1 => out.extend([0x40, 2, id[0], id[1]]),
                        2 => out.extend([0x50, 2, id[0], id[1]]),
                        _ => {}
                    }
                    let stamp = payload.get(..STAMP).ok_or("a short payload")?;
                    let publisher = u32::from_be_bytes([stamp[0], stamp[1], stamp[2], stamp[3]]) as usize;
                    let at = u64::from_be_bytes(stamp[4..12].try_into()?);
                    self.latency.saturating_record(now.saturating_sub(at));
                    self.came(publisher);
                }
                4 | 7 => acknowledged += 1,
                5 => out.extend([0x62, 2, body[0], body[1]]),
                6 => out.extend([0x70, 2, body[0], body[1]]),
                14 => return Err(format!("the broker sent DISCONNECT {body:02x?}").into()),
                _ => {}
            }
            at += end;
        }
        if self.delivered > came_before {
            self.last_came = arrived;
        }
        let LoadClient { socket, role } = &mut self.clients[n];
        socket.keep(input, at);
        if !had_output && !socket.out.is_empty() {
            self.dirty.push(n);
        }
        if let (Role::Publisher(publisher), 1..) = (role, acknowledged) {
            publisher.unacknowledged = publisher.unacknowledged.saturating_sub(acknowledged);
            self.ready.push(n);
        }
        Ok(())
    }

    /// Counts a received copy of a message of this publisher.
    fn came(&mut self, publisher: usize) {
        self.delivered += 1;
        self.outstanding = self.outstanding.saturating_sub(1);
        let Some(LoadClient { role: Role::Publisher(books), .. }) = self.clients.get_mut(publisher) else {
            return;
        };
        books.outstanding = books.outstanding.saturating_sub(1);
        if self.ready.last() != Some(&publisher) {
            self.ready.push(publisher);
        }
    }
}

impl LoadClient {
    /// Writes pending bytes, and waits for a packet of this kind.
    fn await_packet(&mut self, kind: u8) -> Result<(), Error> {
        let body = self.socket.ask(kind)?;
        let refused = match kind {
            0x20 => body.get(1).is_none_or(|code| *code != 0),
            _ => body.last().is_none_or(|code| *code > 2),
        };
        if refused { Err(format!("refused: {body:02x?}").into()) } else { Ok(()) }
    }
}
