//! A small blocking client that says exactly what it is told, for tests that end connections and
//! brokers in the middle.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::wire::{self, Fields};

/// One connection.
pub struct Client {
    stream: Box<dyn Wire>,
    input: Vec<u8>,
    version: wire::Version,
    /// Messages that came while something else was waited for.
    aside: VecDeque<Fields>,
}

/// The bytes of a connection.
trait Wire: Read + Write + Send {
    fn patience(&self, patience: Duration) -> std::io::Result<()>;
}

impl Wire for TcpStream {
    fn patience(&self, patience: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(patience))
    }
}

impl Wire for StreamOwned<ClientConnection, TcpStream> {
    fn patience(&self, patience: Duration) -> std::io::Result<()> {
        self.sock.set_read_timeout(Some(patience))
    }
}

impl Wire for UnixStream {
    fn patience(&self, patience: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(patience))
    }
}

/// MQTT over WebSocket, as little of it as a test needs.
struct Framed {
    stream: TcpStream,
    /// Bytes of frames, and the payload of those that were whole.
    raw: Vec<u8>,
    payload: VecDeque<u8>,
}

impl Framed {
    fn open(mut stream: TcpStream, path: &str) -> std::io::Result<Framed> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut one = [0];
            stream.read_exact(&mut one)?;
            head.push(one[0]);
        }
        match head.starts_with(b"HTTP/1.1 101") {
            true => Ok(Framed { stream, raw: Vec::new(), payload: VecDeque::new() }),
            false => Err(Error::other(String::from_utf8_lossy(&head).into_owned())),
        }
    }

    /// The length of the first frame's head and payload, if it is whole.
    fn whole(&self) -> Option<(usize, usize)> {
        let (head, len) = match self.raw.get(1)? & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes([*self.raw.get(2)?, *self.raw.get(3)?]))),
            len => (2, usize::from(len)),
        };
        (self.raw.len() >= head + len).then_some((head, len))
    }
}

impl Read for Framed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.payload.is_empty() {
            if let Some((head, len)) = self.whole() {
                let frame: Vec<u8> = self.raw.drain(..head + len).collect();
                if frame[0] & 0x0f == 8 {
                    return Ok(0);
                }
                self.payload.extend(&frame[head..]);
                continue;
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Ok(0),
                n => self.raw.extend_from_slice(&buffer[..n]),
            }
        }
        self.payload.read(into)
    }
}

impl Write for Framed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = bytes.len().min(60_000);
        let mut frame = vec![0x82];
        match u8::try_from(len).ok().filter(|len| *len < 126) {
            Some(len) => frame.push(0x80 | len),
            None => frame.extend([&[0x80 | 126][..], &(len as u16).to_be_bytes()].concat()),
        }
        // A mask of zeros is one, too.
        frame.extend([0; 4]);
        frame.extend(&bytes[..len]);
        self.stream.write_all(&frame).map(|()| len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl Wire for Framed {
    fn patience(&self, patience: Duration) -> std::io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }
}

/// The reason code of CONNACK, in any version.
pub fn code(connack: &Fields) -> u8 {
    connack.get("reason").or(connack.get("code")).and_then(|code| code.parse().ok()).expect("a reason code")
}

/// Fields of a packet.
pub fn fields(all: &[(&str, &str)]) -> Fields {
    all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Client {
    /// Connects with a session that is kept; whether there was one.
    ///
    /// # Errors
    /// An error of the network, or a refusal by the broker.
    pub fn resume(address: &str, id: &str, version: wire::Version) -> std::io::Result<(Client, bool)> {
        let expiry = [("p.session_expiry", "3600")];
        let more: &[_] = if version == "5.0" { &expiry } else { &[] };
        let mut all = vec![("id", id), ("clean", "0")];
        all.extend_from_slice(more);
        Client::connect(address, version, &all)
    }

    /// Connects as the fields of CONNECT say; whether there was a session.
    ///
    /// # Errors
    /// An error of the network, or a refusal by the broker.
    pub fn connect(
        address: &str,
        version: wire::Version,
        all: &[(&str, &str)],
    ) -> std::io::Result<(Client, bool)> {
        let (client, connack) = Client::knock(address, version, all)?;
        match code(&connack) {
            0 => Ok((client, connack["sp"] == "1")),
            _ => Err(Error::other(format!("{connack:?} for CONNACK"))),
        }
    }

    /// As [`connect`](Self::connect); CONNACK whatever it says.
    ///
    /// # Errors
    /// An error of the network, or another packet.
    pub fn knock(
        address: &str,
        version: wire::Version,
        all: &[(&str, &str)],
    ) -> std::io::Result<(Client, Fields)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Client::over(Box::new(stream), version, all)
    }

    /// As [`knock`](Self::knock); the first packet, whatever it is.
    ///
    /// # Errors
    /// An error of the network.
    pub fn dial(
        address: &str,
        version: wire::Version,
        all: &[(&str, &str)],
    ) -> std::io::Result<(Client, &'static str, Fields)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut client =
            Client { stream: Box::new(stream), input: Vec::new(), version, aside: VecDeque::new() };
        client.send("connect", all)?;
        let came = client.next(Duration::from_secs(20))?;
        came.map(|(name, fields)| (client, name, fields)).ok_or_else(|| Error::other("nothing came"))
    }

    /// As [`knock`](Self::knock), over TLS to `localhost`.
    ///
    /// # Errors
    /// An error of TLS, too.
    pub fn knock_tls(
        address: &str,
        version: wire::Version,
        all: &[(&str, &str)],
        tls: &Arc<ClientConfig>,
    ) -> std::io::Result<(Client, Fields)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(tls.clone(), name).map_err(Error::other)?;
        Client::over(Box::new(StreamOwned::new(connection, stream)), version, all)
    }

    /// As [`knock`](Self::knock), over WebSocket.
    ///
    /// # Errors
    /// An error of WebSocket, too.
    pub fn knock_ws(
        address: &str,
        path: &str,
        version: wire::Version,
        all: &[(&str, &str)],
    ) -> std::io::Result<(Client, Fields)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Client::over(Box::new(Framed::open(stream, path)?), version, all)
    }

    /// As [`knock`](Self::knock), over a Unix socket.
    ///
    /// # Errors
    /// An error of the network.
    pub fn knock_unix(
        path: &str,
        version: wire::Version,
        all: &[(&str, &str)],
    ) -> std::io::Result<(Client, Fields)> {
        Client::over(Box::new(UnixStream::connect(path)?), version, all)
    }

    fn over(
        stream: Box<dyn Wire>,
        version: wire::Version,
        all: &[(&str, &str)],
    ) -> std::io::Result<(Client, Fields)> {
        let mut client = Client { stream, input: Vec::new(), version, aside: VecDeque::new() };
        client.send("connect", all)?;
        match client.next(Duration::from_secs(20))? {
            Some(("connack", connack)) => Ok((client, connack)),
            other => Err(Error::other(format!("{other:?} for CONNACK"))),
        }
    }

    /// The next packet, which has to come and be this one.
    pub fn expect(&mut self, name: &str) -> Fields {
        match self.next(Duration::from_secs(20)) {
            Ok(Some((came, fields))) if came == name => fields,
            other => panic!("{other:?} came for {name}"),
        }
    }

    /// Subscribes; the reason codes of SUBACK.
    pub fn subscribe(&mut self, filters: &str) -> String {
        self.send("subscribe", &[("filters", filters)]).expect("SUBSCRIBE is sent");
        self.answer("suback")["codes"].clone()
    }

    /// Publishes with QoS 1; PUBACK.
    pub fn publish(&mut self, topic: &str, payload: &str, more: &[(&str, &str)]) -> Fields {
        let all = [&[("topic", topic), ("payload", payload), ("qos", "1"), ("id", "9")], more].concat();
        self.send("publish", &all).expect("PUBLISH is sent");
        self.answer("puback")
    }

    /// Waits for this packet; messages that come before it are for later.
    fn answer(&mut self, name: &str) -> Fields {
        self.await_answer(name).unwrap_or_else(|error| panic!("{error} came for {name}"))
    }

    /// Sends a packet and waits for its answer; messages that come before that are for later.
    ///
    /// # Errors
    /// An error of the network, or the packet that came in its place.
    pub fn ask(&mut self, name: &str, all: &[(&str, &str)], answer: &str) -> std::io::Result<Fields> {
        self.send(name, all)?;
        self.await_answer(answer)
    }

    fn await_answer(&mut self, name: &str) -> std::io::Result<Fields> {
        loop {
            match self.receive(Duration::from_secs(20))? {
                Some(("publish", message)) => self.aside.push_back(message),
                Some((came, fields)) if came == name => return Ok(fields),
                other => return Err(Error::other(format!("{other:?}"))),
            }
        }
    }

    /// Topic and payload of the messages that come until one has this payload, acknowledged where
    /// that is due.
    pub fn messages_until(&mut self, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let message = self.expect("publish");
            match message["qos"].as_str() {
                "1" => self.send("puback", &[("id", &message["id"])]).expect("PUBACK is sent"),
                "2" => {
                    self.send("pubrec", &[("id", &message["id"])]).expect("PUBREC is sent");
                    self.expect("pubrel");
                    self.send("pubcomp", &[("id", &message["id"])]).expect("PUBCOMP is sent");
                }
                _ => {}
            }
            if message["payload"] == last {
                return all;
            }
            all.push(format!("{} {}", message["topic"], message["payload"]));
        }
    }

    /// Says goodbye and waits for the end of the connection.
    pub fn leave(mut self) {
        self.send("disconnect", &[]).expect("DISCONNECT is sent");
        self.end();
    }

    /// Waits for the end of the connection; the reason code of DISCONNECT, if one came.
    pub fn end(mut self) -> Option<String> {
        let mut reason = None;
        loop {
            match self.next(Duration::from_secs(20)) {
                Ok(Some(("disconnect", fields))) => reason = Some(fields["reason"].clone()),
                Ok(Some(_)) => {}
                Ok(None) => panic!("the connection is still there"),
                Err(_) => return reason,
            }
        }
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// An error of the network.
    pub fn send(&mut self, name: &str, all: &[(&str, &str)]) -> std::io::Result<()> {
        self.stream.write_all(&wire::encode(name, &fields(all), self.version))
    }

    /// The next packet; `None` when none came in time.
    ///
    /// # Errors
    /// An error of the network; the end of the connection is one.
    pub fn next(&mut self, patience: Duration) -> std::io::Result<Option<(&'static str, Fields)>> {
        match self.aside.pop_front() {
            Some(message) => Ok(Some(("publish", message))),
            None => self.receive(patience),
        }
    }

    fn receive(&mut self, patience: Duration) -> std::io::Result<Option<(&'static str, Fields)>> {
        loop {
            if let Some(len) = wire::packet_len(&self.input) {
                let packet: Vec<u8> = self.input.drain(..len).collect();
                return Ok(Some(wire::decode(&packet, self.version)));
            }
            self.stream.patience(patience)?;
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                // Where there is a timeout, a process that was stopped and goes on hears of it so.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
