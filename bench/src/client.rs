//! A minimal MQTT 3.1.1 client for load: packets as bytes, acknowledgements as counts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::wire::{self, Stay, Version, frame, packet, text};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// One connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    /// Read buffer. It is kept: filling it with zeros for each read was 5 % of both cores.
    buffer: Box<[u8]>,
    output: Vec<u8>,
    last_id: u16,
}

/// A received packet: its first byte, and the bytes after its length.
type Packet = (u8, Vec<u8>);

impl Client {
    /// Connects; tries again until `patience` has passed.
    pub fn connect(port: u16, id: &str, clean: bool, patience: Duration) -> Result<Client, Error> {
        let until = Instant::now() + patience;
        loop {
            match Client::try_connect(port, id, clean) {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn try_connect(port: u16, id: &str, clean: bool) -> Result<Client, Error> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut client = Client {
            stream,
            input: Vec::new(),
            buffer: vec![0; 65_536].into(),
            output: Vec::new(),
            last_id: 0,
        };
        wire::connect(&mut client.output, Version::V311, id, Stay { keep_alive_s: 0, clean });
        client.flush()?;
        let (first, body) = client.next()?;
        if first != 0x20 || body.get(1) != Some(&0) {
            return Err("no CONNACK with success".into());
        }
        Ok(client)
    }

    pub fn subscribe(&mut self, filter: &str) -> Result<(), Error> {
        wire::subscribe(&mut self.output, Version::V311, [filter].into_iter(), 1);
        self.flush()?;
        while self.next()?.0 != 0x90 {}
        Ok(())
    }

    /// Adds a QoS 1 PUBLISH to what [`flush`](Self::flush) writes.
    pub fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) {
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        text(&mut body, topic);
        self.last_id = self.last_id % 65_000 + 1;
        body.extend(self.last_id.to_be_bytes());
        body.extend(payload);
        packet(&mut self.output, if retain { 0x33 } else { 0x32 }, &body);
    }

    pub fn flush(&mut self) -> Result<(), Error> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    pub fn disconnect(mut self) -> Result<(), Error> {
        packet(&mut self.output, 0xe0, &[]);
        self.flush()?;
        // The broker closes once it has handled the session; some never do.
        self.stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        let _ = self.stream.read_to_end(&mut self.input);
        Ok(())
    }

    fn next(&mut self) -> Result<Packet, Error> {
        loop {
            if let Some(packet) = self.take() {
                return Ok(packet);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), Error> {
        match self.stream.read(&mut self.buffer)? {
            0 => Err("the broker closed the connection".into()),
            n => {
                self.input.extend_from_slice(&self.buffer[..n]);
                Ok(())
            }
        }
    }

    fn take(&mut self) -> Option<Packet> {
        let (first, start, end) = frame(&self.input)?;
        let body = self.input[start..end].to_vec();
        self.input.drain(..end);
        Some((first, body))
    }

    /// Waits for at least one PUBACK, and returns the number of all that have arrived.
    pub fn pubacks(&mut self) -> Result<usize, Error> {
        let mut count = 0;
        loop {
            let mut at = 0;
            while let Some((first, _, end)) = frame(&self.input[at..]) {
                count += usize::from(first == 0x40);
                at += end;
            }
            self.input.drain(..at);
            if count > 0 {
                return Ok(count);
            }
            self.fill()?;
        }
    }

    /// Receives and acknowledges messages until `over` is set.
    pub fn receive_until(&mut self, over: &AtomicBool) -> Result<(), Error> {
        self.stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        while !over.load(Ordering::Relaxed) {
            // Silence for a while is no error.
            let _ = self.receive(1);
        }
        Ok(())
    }

    /// Receives and acknowledges `count` QoS 1 messages.
    pub fn receive(&mut self, count: usize) -> Result<usize, Error> {
        let mut received = 0;
        while received < count {
            let mut at = 0;
            while let Some((first, start, end)) = frame(&self.input[at..]) {
                let body = &self.input[at + start..at + end];
                if first & 0xf0 == 0x30 && first & 0x06 != 0 {
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    let id = [body[2 + topic], body[3 + topic]];
                    self.output.extend([0x40, 2, id[0], id[1]]);
                    received += 1;
                }
                at += end;
            }
            self.input.drain(..at);
            self.flush()?;
            if received < count {
                self.fill()?;
            }
        }
        Ok(received)
    }
}
