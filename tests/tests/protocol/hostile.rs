//! Hostile clients that take more than a dialogue: nonsense on TLS ports, broken WebSocket frames,
//! and brokers short of file descriptors, memory or time. The names begin with the row of the table
//! of abuse.
//!
//! A prefix of a name, such as `b06_`, is a row of `docs/ABUSE.md`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use lapwing_tests::client::Client;
use lapwing_tests::program::Program;

const PATIENCE: Duration = Duration::from_secs(20);

fn open(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything that comes until the connection is closed.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("still open: {error}"),
    }
}

fn connect(address: &str, id: &str) -> Client {
    Client::connect(address, "5.0", &[("id", id)]).expect("it may come in").0
}

#[test]
fn b06_silence_and_nonsense_on_a_tls_port_end_at_the_connect_timeout() {
    let mut broker = Program::with("[limits]\nconnect_timeout_s = 2").all_transports().start();
    let address = broker.address("mqtts");
    // The beginning of a ClientHello, and nothing more.
    let begun = Instant::now();
    let mut silent = open(&address);
    silent.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    let mut nonsense = open(&address);
    nonsense.write_all(&[0x16, 3, 1, 0, 5, 9, 9, 9, 9, 9]).unwrap();
    rest(&mut nonsense);
    assert!(begun.elapsed() < Duration::from_millis(1_500), "nonsense is found out at once");
    rest(&mut silent);
    let took = begun.elapsed();
    assert!((Duration::from_millis(1_500)..Duration::from_secs(4)).contains(&took), "closed after {took:?}");
    broker.wait_for("TLS handshake failed");
    broker.wait_for("limits.connect_timeout_s");
}

/// An open WebSocket, its handshake done by hand.
fn websocket(address: &str) -> TcpStream {
    let mut stream = open(address);
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("sec-websocket-protocol: mqtt"), "{head}");
    assert!(!head.contains("permessage-deflate"), "compression was agreed to: {head}");
    stream
}

/// A frame as clients send it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    bytes.extend(payload);
    bytes
}

#[test]
fn b10_malformed_websocket_frames_close_the_connection_with_their_code() {
    let broker = Program::with("").all_transports().start();
    let address = broker.address("ws");
    let unmasked = [0x82, 2, 0xc0, 0].to_vec();
    let mut endless = vec![0x82, 0xff];
    endless.extend(((1u64 << 63) - 1).to_be_bytes());
    endless.extend([0; 4]);
    for (what, bytes, code) in [
        ("a frame without a mask", unmasked, 1002),
        ("a frame of 2^63 bytes", endless, 1009),
        ("a compressed frame, which was not agreed to", frame(0xc2, &[0xc0, 0]), 1002),
        ("a frame of an unknown kind", frame(0x83, &[]), 1002),
        ("a fragmented ping", frame(0x09, &[]), 1002),
        ("the continuation of nothing", frame(0x80, &[0xc0]), 1002),
        ("text", frame(0x81, b"hello"), 1003),
    ] {
        let mut stream = websocket(&address);
        stream.write_all(&bytes).unwrap();
        let answer = rest(&mut stream);
        let close = answer.windows(4).find(|window| window[0] == 0x88 && window[1] >= 2);
        let told = close.map(|close| u16::from_be_bytes([close[2], close[3]]));
        assert_eq!(told, Some(code), "{what}: {answer:?}");
    }
    // Pings are answered, and a flood of them holds nobody else up.
    let mut flood = websocket(&address);
    let mut honest = connect(&broker.address("mqtt"), "honest");
    let pings = frame(0x89, b"ping").repeat(1_000);
    for _ in 0..50 {
        flood.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        if flood.write_all(&pings).is_err() {
            break;
        }
        honest.publish("still", "here", &[]);
    }
}

#[test]
fn e10_a_stop_with_a_thousand_clients_and_stuck_readers_takes_seconds() {
    let mut broker = Program::start("[limits]\nshutdown_timeout_s = 5\n");
    let address = broker.address("mqtt");
    let mut clients: Vec<Client> = (0..1_000).map(|n| connect(&address, &format!("c{n}"))).collect();
    let mut deaf: Vec<Client> = (0..5).map(|n| connect(&address, &format!("deaf{n}"))).collect();
    deaf.iter_mut().for_each(|client| drop(client.subscribe("flood")));
    let mut publisher = connect(&address, "publisher");
    for _ in 0..1_000 {
        publisher.send("publish", &[("topic", "flood"), ("payload", "rep:8192")]).unwrap();
    }
    publisher.publish("barrier", "x", &[]);
    let begun = Instant::now();
    broker.signal("TERM");
    let told = clients.drain(..).map(Client::end).filter(|reason| reason.as_deref() == Some("139")).count();
    assert_eq!(told, 1_000, "0x8B");
    assert!(broker.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
}

#[test]
fn h06_without_file_descriptors_accepting_pauses_and_no_client_is_dropped() {
    let mut broker = Program::start("");
    let address = broker.address("mqtt");
    let mut honest = connect(&address, "honest");
    let id = broker.id().to_string();
    let used = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    let limit = |n: usize| {
        let set = Command::new("prlimit").args(["--pid", &id, &format!("--nofile={n}:4096")]).status();
        assert!(set.is_ok_and(|status| status.success()), "prlimit of util-linux");
    };
    limit(used + 4);
    let crowd: Vec<TcpStream> = (0..20).map(|_| open(&address)).collect();
    broker.wait_for("raise the limit of open files");
    honest.publish("still", "here", &[]);
    drop(crowd);
    limit(1_024);
    connect(&address, "later").publish("still", "here", &[]);
    honest.publish("still", "here", &[]);
    let log = broker.log.lock().unwrap().clone();
    assert!(log.matches("raise the limit of open files").count() <= 10, "the log is flooded: {log}");
}

#[test]
fn h07_above_the_memory_limit_publishers_wait_and_subscribers_are_served() {
    let mut broker = Program::start(
        "[limits]\nmemory_budget_bytes = '120MiB'\nqueued_bytes_max = '1GiB'\n[store]\nin_memory = true\n\
         [[listener]]\naddress = '127.0.0.1:0'\n",
    );
    let address = broker.address("mqtt");
    // What waits for a session is memory until the session ends.
    let sleeper = [("id", "sleeper"), ("clean", "0"), ("p.session_expiry", "600")];
    let (mut sleeper, _) = Client::connect(&address, "5.0", &sleeper).unwrap();
    sleeper.subscribe("fill@1");
    drop(sleeper);
    let mut honest = connect(&address, "honest");
    let mut filler = connect(&address, "filler");
    let message = [("topic", "fill"), ("payload", "rep:1000000"), ("qos", "1"), ("id", "1")];
    let mut sent = 0;
    loop {
        filler.send("publish", &message).unwrap();
        sent += 1;
        if filler.next(Duration::from_secs(2)).unwrap().is_none() {
            break;
        }
        assert!(sent < 120, "nothing pauses the filler");
    }
    assert!(sent > 40, "paused after {sent} MB already");
    broker.wait_for("memory is short (limits.memory_budget_bytes)");
    // Who is there goes on being served but for PUBLISH, and new clients come in: it is not above
    // the budget itself.
    honest.send("pingreq", &[]).unwrap();
    honest.expect("pingresp");
    connect(&address, "new");
    // The session ends, and with it what waited for it.
    Client::connect(&address, "5.0", &[("id", "sleeper"), ("clean", "1")]).unwrap();
    filler.expect("puback");
    broker.wait_for("memory is below limits.memory_pause_percent again");
    honest.publish("still", "here", &[]);
}
