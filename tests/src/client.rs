//! A small blocking client that says exactly what it is told, for tests that end connections and brokers in the middle.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
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
    /// Of the network, or that the broker said no.
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
    /// Of the network, or that the broker said no.
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
    /// Of the network, or that something else came.
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
    /// Of the network.
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
    /// Of TLS, too.
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
        loop {
            match self.receive(Duration::from_secs(20)) {
                Ok(Some(("publish", message))) => self.aside.push_back(message),
                Ok(Some((came, fields))) if came == name => return fields,
                other => panic!("{other:?} came for {name}"),
            }
        }
    }

    /// Topic and payload of the messages that come until one has this payload, acknowledged where that is due.
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
    /// Of the network.
    pub fn send(&mut self, name: &str, all: &[(&str, &str)]) -> std::io::Result<()> {
        self.stream.write_all(&wire::encode(name, &fields(all), self.version))
    }

    /// The next packet; `None` when none came in time.
    ///
    /// # Errors
    /// Of the network; the end of the connection is one.
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
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
