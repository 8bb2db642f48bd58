//! Steps of dialogues that abuse a broker: floods, crowds, drips. `tests/cases/abuse/README.md`
//! tells them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::script::Stage;
use crate::wire;

/// Longest time that a flood may be held up before it is over.
const HELD_UP: Duration = Duration::from_secs(5);
/// Longest time for the answers to all of a pump.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of packets that are written at once.
const BATCH: usize = 200;

/// Many clients at once.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicUsize>,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Words with `%n` for the number of the packet, and `%bN` for that as a filter of N levels, `+`
/// and `a`.
fn numbered(words: &[&str], n: usize) -> Vec<String> {
    let bits = |levels: usize| -> String {
        let level = |bit: usize| if n >> bit & 1 == 1 { "a" } else { "+" };
        (0..levels).map(level).collect::<Vec<_>>().join("/")
    };
    let one = |word: &&str| match word.split_once("%b") {
        Some((before, levels)) => format!("{before}{}", bits(wire::number(levels) as usize)),
        None => word.replace("%n", &n.to_string()),
    };
    words.iter().map(one).collect()
}

impl Stage {
    /// A step of this module; `false`: it is none.
    pub(crate) fn siege(&mut self, words: &[&str]) -> bool {
        match words {
            // Everything that is written, until nothing goes any more or the connection is closed.
            [who, "flood", count, name, fields @ ..] => {
                self.flood(who, wire::number(count) as usize, name, fields)
            }
            // So many packets, and so many answers of this kind; other packets are skipped.
            [who, "pump", count, name, fields @ .., "<", answer] => {
                self.pump(who, wire::number(count) as usize, (name, fields), answer);
            }
            // One byte each so many milliseconds, until the broker closes.
            [who, "drip", ms, name, fields @ ..] => self.drip(who, wire::number(ms), name, fields),
            // The connection is over; what comes before does not matter.
            [who, "<", "gone"] => while self.client(who).receive().is_some() {},
            // What comes before this packet does not matter.
            [who, "<", "until", rest @ ..] => {
                while !matches!(self.peek(who), Some(name) if name == rest[0]) {
                    assert!(
                        self.client(who).receive().is_some(),
                        "{} was to come, but the broker closed",
                        rest[0]
                    );
                }
                self.step(&format!("{who} < {}", rest.join(" ")));
            }
            // This packet cut in two at each of its bytes, each time over a connection of its own,
            // gets this answer.
            ["everywhere", "cut", name, fields @ .., "<", answer] => self.cut(name, fields, answer),
            ["crowd", count, "silent", low, high] => {
                self.silent(wire::number(count) as usize, wire::number(low), wire::number(high));
            }
            ["crowd", count, "subscribed", filter] => self.subscribed(wire::number(count) as usize, filter),
            // All of the crowd together got so many PUBLISH.
            ["crowd", "got", count] => {
                let wanted = wire::number(count) as usize;
                let received = &self.crowds.last().expect("a crowd").received;
                let until = Instant::now() + PATIENCE;
                while received.load(Ordering::Relaxed) < wanted {
                    assert!(Instant::now() < until, "{} of {wanted} came", received.load(Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            // So many clients that come and leave a session each; the next one is refused.
            ["farm", count, fields @ ..] => {
                for n in 0..wire::number(count) as usize {
                    let fields = numbered(fields, n).join(" ");
                    self.step(&format!("farmer > connect {fields}"));
                    self.step("farmer < connack reason=0 code=0");
                }
            }
            _ => return false,
        }
        true
    }

    fn packets(&self, who: &str, name: &str, fields: &[&str], from: usize, count: usize) -> Vec<u8> {
        let version = self.clients[who].version().to_owned();
        let one = |n: usize| {
            let words = numbered(fields, n);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            wire::encode(name, &self.fields(&words), &version)
        };
        match fields.iter().any(|word| word.contains("%n") || word.contains("%b")) {
            true => (from..from + count).flat_map(one).collect(),
            false => one(from).repeat(count),
        }
    }

    fn flood(&mut self, who: &str, count: usize, name: &str, fields: &[&str]) {
        let mut from = 0;
        let batch = self.packets(who, name, fields, 1, BATCH);
        let fixed = !fields.iter().any(|word| word.contains('%'));
        let stream = self.client(who).stream.try_clone().expect("a socket");
        stream.set_write_timeout(Some(HELD_UP)).expect("a socket");
        while from < count {
            let some = BATCH.min(count - from);
            let bytes = if fixed && some == BATCH {
                batch.clone()
            } else {
                self.packets(who, name, fields, from + 1, some)
            };
            if (&stream).write_all(&bytes).is_err() {
                return;
            }
            from += some;
        }
    }

    fn pump(&mut self, who: &str, count: usize, (name, fields): (&str, &[&str]), answer: &str) {
        let (mut sent, mut got) = (0, 0);
        let until = Instant::now() + PATIENCE;
        while got < count {
            assert!(Instant::now() < until, "{got} of {count} answers came");
            // An MQTT 5 client keeps to the Receive Maximum.
            let most = if answer != "suback" && self.clients[who].version() == "5.0" { 25 } else { BATCH };
            if sent < count && sent - got <= most {
                let some = most.min(count - sent);
                let bytes = self.packets(who, name, fields, sent + 1, some);
                self.send(who, &bytes);
                sent += some;
            }
            let (came, fields) = self.client(who).receive().expect("an answer, but the broker closed");
            got += usize::from(came == answer);
            let good = fields.get("reason").is_none_or(|reason| wire::number(reason) < 0x80)
                && fields.get("codes").is_none_or(|codes| wire::number(codes) < 0x80);
            assert!(good, "answer {got} is {came} {fields:?}");
        }
    }

    fn drip(&mut self, who: &str, ms: u64, name: &str, fields: &[&str]) {
        let bytes = self.packets(who, name, fields, 0, 1);
        self.client(who).since = Instant::now();
        let stream = self.client(who).stream.try_clone().expect("a socket");
        stream.set_read_timeout(Some(Duration::from_millis(ms))).expect("a socket");
        for byte in bytes {
            if (&stream).write_all(&[byte]).is_err() {
                return;
            }
            // The end of the connection is noticed at once; nothing else is to come.
            match (&stream).read(&mut [0; 16]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                _ => return,
            }
        }
    }

    fn peek(&mut self, who: &str) -> Option<&'static str> {
        let version = self.clients[who].version().to_owned();
        let client = self.client(who);
        loop {
            if let Some(len) = wire::packet_len(&client.input) {
                return Some(wire::decode(&client.input[..len], &version).0);
            }
            let mut buffer = [0; 65_536];
            match client.stream.read(&mut buffer) {
                Ok(n) if n > 0 => client.input.extend(&buffer[..n]),
                _ => return None,
            }
        }
    }

    fn cut(&mut self, name: &str, fields: &[&str], answer: &str) {
        let bytes = wire::encode(name, &self.fields(fields), &self.version);
        for at in 1..bytes.len() {
            self.step("cut open");
            self.send("cut", &bytes[..at]);
            // A later segment, most likely; the same answer in any case.
            std::thread::sleep(Duration::from_millis(2));
            self.send("cut", &bytes[at..]);
            let came = self.client("cut").receive().map(|(name, _)| name);
            assert!(came == Some(answer), "{came:?} came for {answer}, cut at byte {at}");
        }
    }

    fn silent(&mut self, count: usize, low: u64, high: u64) {
        let streams: Vec<TcpStream> = (0..count)
            .map(|n| TcpStream::connect(self.address).unwrap_or_else(|e| panic!("{n}: {e}")))
            .collect();
        let last = Instant::now();
        for stream in &streams {
            stream.set_read_timeout(Some(Duration::from_millis(high + 10_000))).expect("a socket");
            let came = (&*stream).read(&mut [0; 16]);
            assert!(!matches!(came, Ok(1..)), "the broker says something to who says nothing");
        }
        let took = last.elapsed().as_millis() as u64;
        assert!((low..=high).contains(&took), "the last was closed after {took} ms");
    }

    fn subscribed(&mut self, count: usize, filter: &str) {
        let mut streams = Vec::new();
        for n in 0..count {
            self.step(&format!("member join crowd-{n}"));
            self.step(&format!("member > subscribe id=1 filters={filter}"));
            self.step("member < suback");
            streams.push(self.clients.remove("member").expect("a client").stream);
        }
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (stop.clone(), received.clone());
        let reader = std::thread::spawn(move || {
            let mut inputs: Vec<(TcpStream, Vec<u8>)> =
                streams.into_iter().map(|stream| (stream, Vec::new())).collect();
            inputs.iter().for_each(|(stream, _)| stream.set_nonblocking(true).expect("a socket"));
            let mut buffer = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let mut idle = true;
                for (stream, input) in &mut inputs {
                    while let Ok(n @ 1..) = stream.read(&mut buffer) {
                        idle = false;
                        input.extend(&buffer[..n]);
                    }
                    while let Some(len) = wire::packet_len(input) {
                        counted.fetch_add(usize::from(input[0] >> 4 == 3), Ordering::Relaxed);
                        input.drain(..len);
                    }
                }
                // Hundreds of sockets looked at each millisecond would be an attack of its own on
                // the honest pair.
                if idle {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        self.crowds.push(Crowd { stop, received, reader: Some(reader) });
    }
}
