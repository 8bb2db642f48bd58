//! The limit: copies the bytes of pairs of connections unparsed, with one read and one write for each burst. What a broker takes more
//! than that is its own work; what it takes less than that is not possible on this kernel.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What is read and written at once, in bytes: a little below what one segment takes on loopback. With more the receiver's kernel shrinks its window,
/// and the same bytes take two to three times as much.
const AT_ONCE: usize = 60 << 10;

/// See the module.
#[derive(Args, Debug)]
pub struct Relay {
    /// How many pairs
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Messages on their way for each pair
    #[arg(long, default_value_t = 100)]
    window: usize,
    /// The bytes of a message with its topic
    #[arg(long, default_value_t = 75)]
    bytes: usize,
    /// How long, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

impl Relay {
    /// Measures and prints.
    ///
    /// # Errors
    /// Of the system.
    pub fn run(&self) -> Result<(), Error> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let time = Duration::from_secs_f64(self.seconds);
        let (pairs, window, message) = (self.pairs, self.window, self.bytes);
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let relay = std::thread::spawn(move || relay(listener, pairs, &until));
        // Open until the relay has ended: what is unread would reset its connections.
        let (delivered, _open) = load(address, (pairs, window, message), time)?;
        over.store(true, Ordering::Relaxed);
        let cpu = relay.join().map_err(|_| "the relay panicked")??;
        println!(
            "relay: {:.3} us of CPU for each message of {message} B, {:.0} messages/s ({pairs} pairs, window {window})",
            cpu.as_secs_f64() * 1e6 / delivered.max(1) as f64,
            delivered as f64 / self.seconds
        );
        Ok(())
    }
}

/// The CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn pin(core: usize) -> Result<(), Error> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Writes all of it, spinning where the socket is full, for as long as that is wanted.
fn write_while(stream: &mut TcpStream, bytes: &[u8], wanted: impl Fn() -> bool) -> Result<(), Error> {
    let mut at = 0;
    while at < bytes.len() && wanted() {
        match stream.write(&bytes[at..]) {
            Ok(written) => at += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Connections come in pairs: from the first to the second.
fn relay(listener: std::net::TcpListener, pairs: usize, over: &AtomicBool) -> Result<Duration, Error> {
    pin(0)?;
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    for n in 0..2 * pairs {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(n), Interest::READABLE)?;
        streams.push(stream);
    }
    drop(TcpListener::from_std(listener));
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; AT_ONCE]);
    let began = cpu();
    while !over.load(Ordering::Relaxed) {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in events.iter().filter(|event| event.token().0 % 2 == 0) {
            let n = event.token().0;
            loop {
                match streams[n].read(&mut buffer) {
                    // The load is over.
                    Ok(0) => return Ok(cpu() - began),
                    Ok(got) => {
                        write_while(&mut streams[n + 1], &buffer[..got], || !over.load(Ordering::Relaxed))?;
                        if got < buffer.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(cpu() - began)
}

/// How many messages came, and the connections.
fn load(
    address: SocketAddr,
    (pairs, window, message): (usize, usize, usize),
    time: Duration,
) -> Result<(u64, Vec<TcpStream>), Error> {
    pin(1)?;
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    for n in 0..2 * pairs {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(n), Interest::READABLE)?;
        streams.push(stream);
    }
    let burst = vec![b'x'; message * window];
    // What does not fit into the sockets is left out: they are full then, which is what a window is for.
    for pair in 0..pairs {
        let _ = streams[2 * pair].write(&burst)?;
    }
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; AT_ONCE]);
    let (until, mut bytes) = (Instant::now() + time, 0u64);
    while Instant::now() < until {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in events.iter().filter(|event| event.token().0 % 2 == 1) {
            let n = event.token().0;
            loop {
                match streams[n].read(&mut buffer) {
                    Ok(0) => return Err("the relay is gone".into()),
                    Ok(got) => {
                        bytes += got as u64;
                        write_while(&mut streams[n - 1], &buffer[..got], || Instant::now() < until)?;
                        if got < buffer.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok((bytes / message as u64, streams))
}
