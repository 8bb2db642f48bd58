//! A small blocking client that says exactly what it is told, for tests that end connections and brokers in the middle.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::wire::{self, Fields};

/// One connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    version: wire::Version,
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
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut client = Client { stream, input: Vec::new(), version };
        client.send("connect", all)?;
        match client.next(Duration::from_secs(20))? {
            Some(("connack", connack))
                if connack.get("reason").or(connack.get("code")).is_some_and(|code| code == "0") =>
            {
                Ok((client, connack["sp"] == "1"))
            }
            other => Err(Error::other(format!("{other:?} for CONNACK"))),
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
        loop {
            if let Some(len) = wire::packet_len(&self.input) {
                let packet: Vec<u8> = self.input.drain(..len).collect();
                return Ok(Some(wire::decode(&packet, self.version)));
            }
            self.stream.set_read_timeout(Some(patience))?;
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
