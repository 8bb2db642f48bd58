//! Clients that do not keep up, or fight each other: the others notice nothing.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lapwing_tests::program::Program;
use lapwing_tests::wire::{self, Fields};

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    fn connect(broker: &Program, id: &str, clean: &str) -> Client {
        let stream = TcpStream::connect(broker.address("mqtt")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Client { stream, input: Vec::new() };
        client.send("connect", &[("id", id), ("clean", clean)]);
        assert_eq!(client.next().unwrap().0, "connack");
        client
    }

    fn send(&mut self, name: &str, fields: &[(&str, &str)]) {
        self.stream.write_all(&packet(name, fields)).unwrap();
    }

    /// The next packet; `None` when the connection has ended.
    fn next(&mut self) -> Option<(&'static str, Fields)> {
        let mut buffer = [0; 65_536];
        loop {
            if let Some(len) = wire::packet_len(&self.input) {
                let packet: Vec<u8> = self.input.drain(..len).collect();
                return Some(wire::decode(&packet, "3.1.1"));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.input.extend(&buffer[..n]),
                // It was stopped and goes on.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn packet(name: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let fields: Fields = fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    wire::encode(name, &fields, "3.1.1")
}

fn resident_mib(broker: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn a_subscriber_that_stops_reading_is_closed_and_the_others_get_everything() {
    let mut broker = Program::start("[limits]\nwrite_stall_timeout_s = 1\n");
    let mut stuck = Client::connect(&broker, "stuck", "1");
    stuck.send("subscribe", &[("filters", "flood")]);
    assert_eq!(stuck.next().unwrap().0, "suback");
    let mut publisher = Client::connect(&broker, "publisher", "1");
    let before = resident_mib(&broker);
    // 100 MiB in messages of 4 KiB, each hundred acknowledged through a QoS 1 message.
    let hundred: Vec<u8> = packet("publish", &[("topic", "flood"), ("payload", "rep:4096")]).repeat(100);
    let barrier = packet("publish", &[("topic", "barrier"), ("qos", "1"), ("id", "1")]);
    for _ in 0..256 {
        publisher.stream.write_all(&hundred).unwrap();
        publisher.stream.write_all(&barrier).unwrap();
        assert_eq!(publisher.next().unwrap().0, "puback", "the publisher is not held up");
    }
    let grown = resident_mib(&broker).saturating_sub(before);
    assert!(grown < 32, "{grown} MiB for one client that does not read");
    broker.wait_for("write_stall_timeout_s");
}

#[test]
fn a_client_that_never_reads_its_acknowledgements_is_paused_and_then_closed() {
    let mut broker = Program::start("[limits]\nwrite_stall_timeout_s = 1\n");
    let mut flood = Client::connect(&broker, "flood", "1");
    flood.stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let pings = packet("pingreq", &[]).repeat(30_000);
    let before = resident_mib(&broker);
    let until = Instant::now() + Duration::from_secs(20);
    // Written until the broker closes; it must not take everything in.
    while flood.stream.write_all(&pings).is_ok() {
        assert!(Instant::now() < until, "it is read from for ever");
    }
    assert!(resident_mib(&broker).saturating_sub(before) < 32);
    broker.wait_for("write_stall_timeout_s");
}

#[test]
fn two_devices_with_one_identifier_lose_no_qos_1_message() {
    const MESSAGES: usize = 300;
    // As fast as they can: that they are slowed down otherwise is another test.
    let broker = Program::start("[limits]\ntakeovers_damped = false\n");
    let mut device = Client::connect(&broker, "twin", "0");
    device.send("subscribe", &[("filters", "t@1")]);
    assert_eq!(device.next().unwrap().0, "suback");
    let mut publisher = Client::connect(&broker, "publisher", "1");
    let mut seen = BTreeSet::new();
    for n in 0..MESSAGES {
        publisher.send("publish", &[("topic", "t"), ("qos", "1"), ("id", "1"), ("payload", &n.to_string())]);
        assert_eq!(publisher.next().unwrap().0, "puback");
        if n % 3 == 0 {
            // The twin takes over while messages are on their way to the first.
            device = Client::connect(&broker, "twin", "0");
        }
    }
    while seen.len() < MESSAGES {
        let (name, fields) = device.next().expect("the last twin stays connected");
        if name == "publish" {
            device.send("puback", &[("id", &fields["id"])]);
            seen.insert(fields["payload"].clone());
        }
    }
}

#[test]
fn an_unsubscribe_ends_a_long_replay_of_retained_messages() {
    let broker = Program::start("");
    let mut publisher = Client::connect(&broker, "publisher", "1");
    let kilobyte = "rep:1000";
    for n in 0..20_000 {
        let topic = format!("r/{n}");
        publisher.send("publish", &[("topic", &topic), ("retain", "1"), ("payload", kilobyte)]);
    }
    publisher.send("pingreq", &[]);
    assert_eq!(publisher.next().unwrap().0, "pingresp");
    let mut reader = Client::connect(&broker, "reader", "1");
    reader.send("subscribe", &[("filters", "r/#")]);
    assert_eq!(reader.next().unwrap().0, "suback");
    assert_eq!(reader.next().unwrap().0, "publish");
    reader.send("unsubscribe", &[("filters", "r/#")]);
    let mut replayed = 1;
    while reader.next().unwrap().0 == "publish" {
        replayed += 1;
    }
    assert!(replayed < 20_000, "20 MB do not fit between the broker and a client that reads one by one");
}

#[test]
fn a_client_that_disconnects_and_reconnects_at_once_leaves_no_will() {
    let broker = Program::start("[limits]\ntakeovers_damped = false\n");
    let mut watcher = Client::connect(&broker, "watcher", "1");
    watcher.send("subscribe", &[("filters", "gone|end")]);
    assert_eq!(watcher.next().unwrap().0, "suback");
    let address = broker.address("mqtt");
    let connect = packet("connect", &[("id", "back"), ("will", "gone")]);
    let mut last: Option<TcpStream> = None;
    for _ in 0..300 {
        // What was said is on its way before the next connection is.
        if let Some(mut last) = last.take() {
            last.write_all(&packet("disconnect", &[])).unwrap();
        }
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(&connect).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        last = Some(stream);
    }
    last.unwrap().write_all(&packet("disconnect", &[])).unwrap();
    watcher.send("publish", &[("topic", "end"), ("payload", "x")]);
    let (_, message) = watcher.next().unwrap();
    assert_eq!(message["topic"], "end", "a will was published though its client said DISCONNECT");
}

/// Each connection is closed before the next begins, only that the broker may not have noticed.
#[test]
fn a_client_that_reconnects_at_once_is_not_damped() {
    let mut broker = Program::start("[store]\nin_memory = true\n");
    let begun = Instant::now();
    for _ in 0..200 {
        drop(Client::connect(&broker, "again", "1"));
    }
    // Five seconds is what a single one waits that is taken for a quarrel's.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    broker.signal("TERM");
    broker.wait_for("stopped");
    let log = broker.log();
    assert!(!log.contains("two clients take one client identifier"), "{log}");
}
