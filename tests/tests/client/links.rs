//! The microcontroller's client against the broker in this process: every QoS, both versions, links
//! that break everywhere.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use lapwing_client::blocking::Dialer;
use lapwing_client::dialers::std::{TcpDialer, TcpLink};
use lapwing_client::{Client, Config, Event, LinkDown, QoS, Token, Version};
use lapwing_tests::client;
use lapwing_tests::inside::Inside;

const PATIENCE: Duration = Duration::from_secs(30);

/// Another client, that hears all that matches until nobody listens.
fn witness(broker: &Inside, filter: &str) -> Receiver<(String, String)> {
    let (mut witness, _) =
        client::Client::connect(&broker.mqtt, "3.1.1", &[("id", "witness"), ("clean", "1")]).unwrap();
    witness.send("subscribe", &[("id", "1"), ("filters", &format!("{filter}@2"))]).unwrap();
    assert_eq!(witness.next(PATIENCE).unwrap().unwrap().0, "suback");
    let (heard, all) = channel();
    thread::spawn(move || {
        while let Ok(Some((name, fields))) = witness.next(PATIENCE) {
            match name {
                "publish" => {
                    match fields["qos"].as_str() {
                        "1" => witness.send("puback", &[("id", &fields["id"])]).unwrap(),
                        "2" => witness.send("pubrec", &[("id", &fields["id"])]).unwrap(),
                        _ => {}
                    }
                    if heard.send((fields["topic"].clone(), fields["payload"].clone())).is_err() {
                        return;
                    }
                }
                "pubrel" => witness.send("pubcomp", &[("id", &fields["id"])]).unwrap(),
                _ => {}
            }
        }
    });
    all
}

/// A link that moves a few bytes at a time and breaks after so many.
struct Fragile {
    inner: TcpDialer,
    /// Lifetime of the next links, in bytes of both directions together.
    lives: Box<dyn FnMut() -> usize>,
    link: FragileLink,
}

#[derive(Default)]
struct FragileLink {
    left: usize,
    piece: usize,
    link: Option<TcpLink>,
}

impl FragileLink {
    fn pass(&mut self, wanted: usize) -> Result<usize, ErrorKind> {
        if self.left == 0 {
            return Err(ErrorKind::ConnectionReset);
        }
        Ok(wanted.min(self.piece).min(self.left))
    }

    fn inner(&mut self) -> Result<&mut TcpLink, ErrorKind> {
        self.link.as_mut().ok_or(ErrorKind::NotConnected)
    }
}

impl ErrorType for FragileLink {
    type Error = ErrorKind;
}

impl ReadReady for FragileLink {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        if self.left == 0 { Ok(true) } else { self.inner()?.read_ready() }
    }
}

impl Read for FragileLink {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        let n = self.pass(out.len())?;
        let n = self.inner()?.read(&mut out[..n])?;
        self.left -= n;
        Ok(n)
    }
}

impl Write for FragileLink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let n = self.pass(bytes.len())?;
        let n = self.inner()?.write(&bytes[..n])?;
        // What was written has left when the link breaks, as it may be in life.
        self.inner()?.flush()?;
        self.left -= n;
        Ok(n)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.inner()?.flush()
    }
}

impl Dialer for Fragile {
    type Link = FragileLink;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        self.inner.dial()?;
        self.link.link = self.inner.take_link();
        self.link.left = (self.lives)();
        Ok(true)
    }

    fn link(&mut self) -> Option<&mut FragileLink> {
        Some(&mut self.link)
    }

    fn hang_up(&mut self) {
        self.link.link = None;
    }

    fn now_ms(&mut self) -> u32 {
        self.inner.now_ms()
    }

    fn idle(&mut self, _: u32) {
        thread::sleep(Duration::from_millis(1));
    }
}

fn fragile(broker: &Inside, piece: usize, lives: impl FnMut() -> usize + 'static) -> Fragile {
    let link = FragileLink { piece, ..FragileLink::default() };
    Fragile { inner: TcpDialer::new(broker.mqtt.clone()), lives: Box::new(lives), link }
}

/// Events that a client saw.
#[derive(Default)]
struct Seen {
    came: Vec<(String, String)>,
    delivered: Vec<Token>,
    connections: usize,
}

/// Lets the client work until `done`, or fails.
fn work<const O: usize, const I: usize>(
    client: &mut Client<'_, O, I>,
    net: &mut impl Dialer,
    seen: &mut Seen,
    done: impl Fn(&Seen) -> bool,
) {
    let until = Instant::now() + PATIENCE;
    while !done(seen) {
        assert!(Instant::now() < until, "came {:?}, delivered {:?}", seen.came, seen.delivered);
        match client.poll(net) {
            Some(Ok(Event::Message(message))) => {
                let payload = String::from_utf8_lossy(message.payload()).into_owned();
                seen.came.push((message.topic().to_owned(), payload));
            }
            Some(Ok(Event::Delivered(token))) => seen.delivered.push(token),
            Some(Ok(Event::Connected { .. })) => seen.connections += 1,
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("{error}"),
            None => {
                let now_ms = net.now_ms();
                net.idle(now_ms);
            }
        }
    }
}

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn every_qos_goes_to_the_broker_and_comes_back_in_both_versions() {
    let broker = Inside::start("");
    for (name, version) in [("v3", Version::V311), ("v5", Version::V5)] {
        let topic = format!("{name}/echo");
        let config = Config::new(name).version(version).subscribe(&topic, QoS::ExactlyOnce);
        let mut client = Client::<1024, 256>::new(config);
        let mut net = TcpDialer::new(broker.mqtt.clone());
        let mut seen = Seen::default();
        for (n, qos) in QOS.into_iter().enumerate() {
            let _ = client.publish(&topic, n.to_string().as_bytes(), qos).unwrap();
        }
        work(&mut client, &mut net, &mut seen, |seen| seen.came.len() == 3 && seen.delivered.len() == 2);
        assert_eq!(seen.came.iter().map(|(_, payload)| &payload[..]).collect::<Vec<_>>(), ["0", "1", "2"]);
        // The last message that came is released.
        let until = Instant::now() + PATIENCE;
        while client.outbox_used() > 0 {
            assert!(Instant::now() < until);
            client.poll(&mut net);
        }
    }
}

#[test]
fn a_link_that_breaks_after_any_byte_loses_nothing_and_doubles_no_qos_2_message() {
    let broker = Inside::start("");
    for (name, version) in [("v3", Version::V311), ("v5", Version::V5)] {
        let heard = witness(&broker, &format!("{name}/#"));
        // The whole dialogue without a break tells how many bytes there are.
        let mut whole = 0;
        let mut cut = usize::MAX;
        for run in 0.. {
            let id = format!("{name}-{run}");
            let (one, two) = (format!("{name}/{run}/1"), format!("{name}/{run}/2"));
            let filter = format!("{name}/{run}/+");
            let config =
                Config::new(&id).version(version).backoff_ms(1, 2).subscribe(&filter, QoS::ExactlyOnce);
            let mut client = Client::<1024, 256>::new(config);
            let mut lives = vec![usize::MAX, cut / 2 + 1, cut];
            let mut net = fragile(&broker, 64, move || lives.pop().unwrap_or(usize::MAX));
            let mut seen = Seen::default();
            let tokens = [
                client.publish(&one, b"1", QoS::AtLeastOnce).unwrap(),
                client.publish(&two, b"2", QoS::ExactlyOnce).unwrap(),
            ];
            work(&mut client, &mut net, &mut seen, |seen| {
                tokens.iter().all(|token| seen.delivered.contains(token))
                    && [&one, &two].iter().all(|topic| seen.came.iter().any(|(came, _)| came == *topic))
            });
            if cut == usize::MAX {
                whole = usize::MAX - net.link.left;
                cut = 1;
            } else {
                cut += 1;
            }
            let count = |all: &[(String, String)], topic: &String| {
                all.iter().filter(|(came, _)| came == topic).count()
            };
            assert_eq!(count(&seen.came, &two), 1, "cut at {cut}");
            // What the witness heard up to the last message of this run.
            let _ = client.publish(&format!("{name}/{run}/end"), b"", QoS::AtLeastOnce).unwrap();
            let mut all = Vec::new();
            let until = Instant::now() + PATIENCE;
            while all
                .last()
                .is_none_or(|(topic, _): &(String, String)| !topic.ends_with(&format!("/{run}/end")))
            {
                assert!(Instant::now() < until, "{all:?}");
                client.poll(&mut net);
                all.extend(heard.try_iter());
            }
            assert_eq!(count(&all, &two), 1, "cut at {cut}: {all:?}");
            assert!(count(&all, &one) >= 1, "cut at {cut}: {all:?}");
            if cut > whole {
                break;
            }
        }
        assert!(whole > 100, "{whole} bytes are no dialogue");
    }
}

/// Numbers that look random and are the same each time.
fn dice(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % sides
    }
}

#[test]
fn over_failing_links_qos_1_keeps_its_order_and_qos_2_arrives_exactly_once() {
    let broker = Inside::start("");
    for (seed, (name, version)) in [(1, ("v3", Version::V311)), (2, ("v5", Version::V5))] {
        let heard = witness(&broker, &format!("{name}/#"));
        let mut roll = dice(seed);
        let mut net = fragile(&broker, 7, move || 150 + roll(1_500) as usize);
        let (one, two) = (format!("{name}/1"), format!("{name}/2"));
        let mut client = Client::<1024, 256>::new(Config::new(name).version(version).backoff_ms(1, 2));
        let mut seen = Seen::default();
        const ALL: usize = 200;
        let mut next = 0;
        while next < ALL {
            let (topic, qos) =
                if next % 2 == 0 { (&one, QoS::AtLeastOnce) } else { (&two, QoS::ExactlyOnce) };
            if client.publish(topic, next.to_string().as_bytes(), qos).is_ok() {
                next += 1;
            } else {
                // The outbox is full: let it send.
                let before = seen.delivered.len();
                work(&mut client, &mut net, &mut seen, |seen| seen.delivered.len() > before);
            }
        }
        work(&mut client, &mut net, &mut seen, |seen| seen.delivered.len() == ALL);
        assert!(seen.connections > 5, "{} connections", seen.connections);
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        let (mut last, mut heard_1) = (0, 0);
        while counts.len() < ALL {
            let (topic, payload) = heard.recv_timeout(PATIENCE).expect("all messages");
            let n: usize = payload.parse().unwrap();
            *counts.entry(n).or_default() += 1;
            if topic == one && counts[&n] == 1 {
                assert!(heard_1 == 0 || n > last, "{n} after {last}");
                (last, heard_1) = (n, heard_1 + 1);
            }
        }
        let doubled: Vec<_> = counts.iter().filter(|(n, count)| *n % 2 == 1 && **count != 1).collect();
        assert!(doubled.is_empty(), "{doubled:?}");
    }
}

#[test]
fn futures_that_are_dropped_anywhere_lose_nothing() {
    use lapwing_client::dialers::tokio::TcpDialer;
    let broker = Inside::start("");
    for (name, version) in [("v3", Version::V311), ("v5", Version::V5)] {
        let topic = format!("{name}/echo");
        broker.runtime.block_on(async {
            let config = Config::new(name).version(version).subscribe(&topic, QoS::ExactlyOnce);
            let mut client = Client::<512, 256>::new(config);
            let mut net = TcpDialer::new(broker.mqtt.clone());
            let (mut published, mut came) = (0, Vec::new());
            let until = Instant::now() + PATIENCE;
            while came.len() < 100 {
                assert!(Instant::now() < until, "{came:?}");
                // Polled once or a few times, then dropped wherever it is.
                let event = tokio::select! {
                    biased;
                    event = client.next(&mut net) => Some(event),
                    () = polls(came.len() % 3) => None,
                };
                if let Some(message) = event {
                    let payload = message.unwrap().payload().to_vec();
                    came.push(String::from_utf8(payload).unwrap().parse::<usize>().unwrap());
                }
                let qos = if published % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                if published < 100 && client.publish(&topic, published.to_string().as_bytes(), qos).is_ok() {
                    published += 1;
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(came, (0..100).collect::<Vec<_>>());
            client.close(&mut net, lapwing_client::ReasonCode::Success).await;
        });
    }
}

/// Ready after being polled so many times more.
async fn polls(mut times: usize) {
    std::future::poll_fn(|context| {
        if times == 0 {
            return std::task::Poll::Ready(());
        }
        times -= 1;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[test]
fn the_broker_gets_a_disconnect_or_publishes_the_will() {
    let broker = Inside::start("");
    let heard = witness(&broker, "will/#");
    for version in [Version::V311, Version::V5] {
        let config = |id| Config::new(id).version(version).will("will/w", b"gone");
        let mut net = TcpDialer::new(broker.mqtt.clone());
        let mut seen = Seen::default();
        let mut polite = Client::<256, 256>::new(config("polite"));
        work(&mut polite, &mut net, &mut seen, |seen| seen.connections == 1);
        polite.hang_up(&mut net, lapwing_client::ReasonCode::Success);
        let mut rude = Client::<256, 256>::new(config("rude"));
        work(&mut rude, &mut net, &mut seen, |seen| seen.connections == 2);
        let _ = rude.publish("will/still-here", b"", QoS::AtMostOnce).unwrap();
        rude.poll(&mut net);
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap().0, "will/still-here");
        drop(net);
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), ("will/w".to_owned(), "gone".to_owned()));
    }
}

#[test]
fn a_payload_many_times_larger_than_the_buffers_goes_out_and_comes_back_in_pieces() {
    let broker = Inside::start("");
    let payload: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    for (name, version) in [("v3", Version::V311), ("v5", Version::V5)] {
        let topic = format!("{name}/large");
        let config = Config::new(name).version(version).chunks(true).subscribe(&topic, QoS::ExactlyOnce);
        let mut client = Client::<256, 128>::new(config);
        let mut net = TcpDialer::new(broker.mqtt.clone());
        let head = lapwing_client::Publication::new(&topic, b"").qos(QoS::ExactlyOnce);
        let token = client.publish_in_pieces(&head, payload.len() as u32).unwrap();
        let (mut came, mut delivered, until) = (Vec::new(), false, Instant::now() + PATIENCE);
        while came.len() < payload.len() || !delivered {
            assert!(Instant::now() < until, "{} bytes came", came.len());
            let wanted = match client.poll(&mut net) {
                Some(Ok(Event::Message(message))) => {
                    came.extend_from_slice(message.payload());
                    None
                }
                Some(Ok(Event::Chunk { payload, .. })) => {
                    came.extend_from_slice(payload);
                    None
                }
                Some(Ok(Event::Delivered(done))) => {
                    delivered = done == token;
                    None
                }
                Some(Ok(Event::PayloadWanted { offset, .. })) => Some(offset as usize),
                _ => None,
            };
            if let Some(offset) = wanted {
                let piece = &payload[offset..payload.len().min(offset + 500)];
                client.give_payload(&mut net, piece).unwrap();
            }
        }
        assert!(came == payload);
    }
}
