//! The lower bound: copies the bytes of connection pairs unparsed, with one read and one write for
//! each burst.
//!
//! CPU time above this is the broker's own work. Less is not possible on this kernel.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Number of bytes of one read and write, a little below one segment of loopback.
///
/// With more, the receiver's kernel shrinks its window, and the same bytes take two to three times
/// as long.
const BURST_BYTES: usize = 60 << 10;

/// Measures the cost of copying the bytes.
#[derive(Args, Debug)]
pub struct Relay {
    /// Number of pairs
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Messages in flight for each pair
    #[arg(long, default_value_t = 100)]
    window: usize,
    /// Length of a message with its topic, in bytes
    #[arg(long, default_value_t = 75)]
    bytes: usize,
    /// Duration, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

impl Relay {
    /// Measures and prints.
    ///
    /// # Errors
    /// The system fails.
    pub fn run(&self) -> Result<(), Error> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let time = Duration::from_secs_f64(self.seconds);
        let (pairs, window, message) = (self.pairs, self.window, self.bytes);
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let relay = std::thread::spawn(move || relay(listener, pairs, &until));
        // Open until the relay has ended: unread bytes would reset its connections.
        let (delivered, _open) = load(address, pairs, window, message, time)?;
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

/// Returns the CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn pin(core: usize) -> Result<(), Error> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Writes all bytes, spinning while the socket is full, as long as `wanted` is set.
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

/// Copies from the first to the second connection of each pair.
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
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; BURST_BYTES]);
    let began = cpu();
    while !over.load(Ordering::Relaxed) {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in events.iter().filter(|event| event.token().0 % 2 == 0) {
            let n = event.token().0;
            loop {
                match streams[n].read(&mut buffer) {
                    // The load has ended.
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

/// Generates load. Returns the number of received messages, and the connections.
fn load(
    address: SocketAddr,
    pairs: usize,
    window: usize,
    message: usize,
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
    // Bytes that do not fit into the sockets are left out: a full socket is a full window.
    for pair in 0..pairs {
        let _ = streams[2 * pair].write(&burst)?;
    }
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; BURST_BYTES]);
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
