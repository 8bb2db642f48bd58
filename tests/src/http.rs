//! A small client of HTTP that says exactly what it is told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// An answer: status, head (in lower case) and body.
#[derive(Debug)]
pub struct Answer {
    /// Like 200.
    pub status: u16,
    /// In lower case.
    pub head: String,
    /// As it came.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks with more lines of the head, each with its end.
pub fn ask(address: &str, method: &str, path: &str, more: &str) -> Answer {
    send(address, method, path, more, "")
}

/// Asks with a body, too.
pub fn send(address: &str, method: &str, path: &str, more: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    // One that is answered early may be closed early: what came is read all the same.
    let _ = write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{length}{more}\r\n{body}");
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let all = String::from_utf8_lossy(&all);
    let (head, body) = all.split_once("\r\n\r\n").expect("an answer of HTTP");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Asks for what can be read.
pub fn get(address: &str, path: &str) -> Answer {
    ask(address, "GET", path, "")
}

/// The samples of a page of figures by name with labels.
pub fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}
