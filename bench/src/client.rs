//! The least of an MQTT 3.1.1 client that loads a broker: packets as bytes, acknowledgements as counts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// One connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    last_id: u16,
}

/// What came: the first byte of the packet and what stands behind its length.
type Packet = (u8, Vec<u8>);

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    let mut len = body.len();
    loop {
        let byte = (len % 128) as u8;
        len /= 128;
        out.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
}

impl Client {
    /// Connects; tries again until `patience` is over.
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
        let mut client = Client { stream, input: Vec::new(), output: Vec::new(), last_id: 0 };
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        // Ten minutes without a ping: longer than anything here.
        body.extend([4, if clean { 2 } else { 0 }, 2, 88]);
        text(&mut body, id);
        packet(&mut client.output, 0x10, &body);
        client.flush()?;
        let (first, body) = client.next()?;
        if first != 0x20 || body.get(1) != Some(&0) {
            return Err("no CONNACK with success".into());
        }
        Ok(client)
    }

    pub fn subscribe(&mut self, filter: &str) -> Result<(), Error> {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(1);
        packet(&mut self.output, 0x82, &body);
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
        // The broker closes once it has seen to the session; some never do.
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
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer)? {
            0 => Err("the broker closed the connection".into()),
            n => {
                self.input.extend_from_slice(&buffer[..n]);
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

    /// Waits for one PUBACK at least, and takes all that came: how many.
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

    /// Takes messages and acknowledges them until all is over.
    pub fn receive_until(&mut self, over: &AtomicBool) -> Result<(), Error> {
        self.stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        while !over.load(Ordering::Relaxed) {
            // Nothing for a while is no error.
            let _ = self.receive(1);
        }
        Ok(())
    }

    /// Takes QoS 1 messages until there were so many, and acknowledges each.
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

/// First byte, start and end of the body of a whole packet.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (mut len, mut at) = (0usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (bytes.len() >= at + len).then_some((bytes[0], at, at + len))
}
