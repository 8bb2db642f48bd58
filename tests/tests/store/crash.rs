//! kill -9 at random moments under mixed load, black box: publishers write down what was
//! acknowledged, subscribers what they got, and the two are compared. Each is a real client that
//! keeps its own side of the session over all the crashes.
//!
//! `LAPWING_CRASHES=200` for more cycles; `LAPWING_SEED` repeats the moments of one run.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapwing_tests::client::Client;
use lapwing_tests::program::{Folder, Program};
use lapwing_tests::random::{Random, seed};

/// State that all actors share.
#[derive(Default)]
struct World {
    address: Mutex<Option<String>>,
    cycle: AtomicUsize,
    /// Publishers stop and settle.
    ending: AtomicBool,
    /// Everybody stops.
    over: AtomicBool,
    /// Acknowledged payloads by topic.
    acknowledged: Mutex<BTreeMap<String, BTreeSet<u64>>>,
    /// The last value acknowledged and the last one sent, by retained topic.
    retained: Mutex<BTreeMap<String, (u64, u64)>>,
    /// Filters whose SUBACK came.
    subscribed: Mutex<Vec<String>>,
    faults: Mutex<Vec<String>>,
    /// Messages sent, and those that each of the first two subscribers got.
    sent: AtomicUsize,
    arrived: [AtomicUsize; 2],
    seed: u64,
}

impl World {
    fn address(&self) -> Option<String> {
        self.address.lock().unwrap().clone()
    }

    /// True when subscribers are so far behind that more messages would only make the end longer.
    fn lags(&self) -> bool {
        let arrived = self.arrived.iter().map(|arrived| arrived.load(Ordering::Relaxed)).min().unwrap_or(0);
        self.sent.load(Ordering::Relaxed) > arrived + LAG_MAX
    }

    fn fault(&self, text: String) {
        self.faults.lock().unwrap().push(text);
    }

    /// Runs `serve` over one connection after the other until all is over.
    fn connections(
        &self,
        id: &str,
        version: impl Fn(usize) -> &'static str,
        mut serve: impl FnMut(&mut Client) -> std::io::Result<bool>,
    ) {
        let mut known = false;
        let mut n = 0;
        while !self.over.load(Ordering::Relaxed) {
            n += 1;
            let connected = self.address().map(|address| Client::resume(&address, id, version(n)));
            match connected {
                Some(Ok((mut client, present))) => {
                    if known && !present {
                        self.fault(format!("{id}: the session is lost"));
                    }
                    match serve(&mut client) {
                        Ok(true) => return,
                        // What the broker has of the session, it has on disk.
                        Ok(false) | Err(_) => known |= known_after(id),
                    }
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// Sessions of subscribers are known once their SUBACK came, and that comes before anything else
/// starts.
fn known_after(id: &str) -> bool {
    id.starts_with("sub")
}

const TICK: Duration = Duration::from_millis(1);
const WINDOW: usize = 24;
const LAG_MAX: usize = 2_000;

/// A message of a publisher that is not finished.
#[derive(Clone, Debug)]
struct Open {
    id: u16,
    qos: u8,
    n: u64,
    topic: String,
    released: bool,
}

fn publisher(world: &World, k: usize) {
    let name = format!("pub{k}");
    let mut random = Random(world.seed + k as u64 * 7919 + 1);
    let mut open: VecDeque<Open> = VecDeque::new();
    let (mut n, mut last_id) = (0, 0u16);
    world.connections(
        &name,
        |n| if n % 2 == 0 { "5.0" } else { "3.1.1" },
        |client| {
            for message in &open {
                if message.released {
                    client.send("pubrel", &[("id", &message.id.to_string())])?;
                } else {
                    send(client, message, true)?;
                }
            }
            loop {
                let ending = world.ending.load(Ordering::Relaxed);
                if ending && open.is_empty() {
                    return Ok(true);
                }
                while !ending && open.len() < WINDOW && !world.lags() {
                    n += 1;
                    last_id = last_id % 60_000 + 1;
                    // One QoS for each topic: a QoS 1 message that is sent again may overtake a QoS
                    // 2 message, which is not.
                    let qos = 1 + random.below(2) as u8;
                    let topic = match random.below(8) {
                        0 => format!("retained/{k}/{qos}/{}", random.below(5)),
                        _ => format!("load/{k}/{qos}"),
                    };
                    if topic.starts_with("load") {
                        world.sent.fetch_add(1, Ordering::Relaxed);
                    }
                    if topic.starts_with("retained") {
                        world.retained.lock().unwrap().entry(topic.clone()).or_default().1 = n;
                    }
                    open.push_back(Open { id: last_id, qos, n, topic, released: false });
                    send(client, open.back().unwrap(), false)?;
                }
                let Some((packet, fields)) = client.next(TICK)? else { continue };
                let id: u16 = fields.get("id").map_or(0, |id| id.parse().unwrap());
                let found = open.iter().position(|message| message.id == id);
                match (packet, found) {
                    ("puback" | "pubrec", Some(at)) => {
                        let message = open[at].clone();
                        if message.topic.starts_with("retained") {
                            world.retained.lock().unwrap().entry(message.topic.clone()).or_default().0 =
                                message.n;
                        } else if !message.released {
                            world
                                .acknowledged
                                .lock()
                                .unwrap()
                                .entry(message.topic.clone())
                                .or_default()
                                .insert(message.n);
                        }
                        if packet == "puback" {
                            open.remove(at);
                        } else {
                            open[at].released = true;
                            client.send("pubrel", &[("id", &id.to_string())])?;
                        }
                    }
                    ("pubrec", None) => client.send("pubrel", &[("id", &id.to_string())])?,
                    ("pubcomp", Some(at)) => drop(open.remove(at)),
                    ("disconnect", _) => return Ok(false),
                    _ => {}
                }
            }
        },
    );
}

fn send(client: &mut Client, message: &Open, dup: bool) -> std::io::Result<()> {
    let Open { id, qos, n, topic, .. } = message;
    let retain = if topic.starts_with("retained") { "1" } else { "0" };
    client.send(
        "publish",
        &[
            ("topic", topic),
            ("id", &id.to_string()),
            ("qos", &qos.to_string()),
            ("payload", &n.to_string()),
            ("dup", if dup { "1" } else { "0" }),
            ("retain", retain),
        ],
    )
}

/// Messages that a subscriber got.
#[derive(Default)]
struct Got {
    /// By topic, in the order of arrival; QoS 2 as the protocol tells repeats.
    arrivals: BTreeMap<String, Vec<u64>>,
    known: HashSet<(String, u64)>,
}

/// One subscriber and its habits.
struct Plan {
    id: &'static str,
    filter: &'static str,
    qos: &'static str,
    /// Present only in cycles that leave this rest when divided by 3; `None`: always.
    only: Option<usize>,
    /// Now and then it takes its own session over with a second connection.
    takes_over: bool,
    /// Index of its counter, where publishers wait for it.
    counts: Option<usize>,
    version: fn(usize) -> &'static str,
}

/// The first three get every message; the last two are one shared group.
static PLANS: [Plan; 5] = [
    Plan {
        id: "sub-exactly",
        filter: "load/#",
        qos: "2",
        only: None,
        takes_over: true,
        counts: Some(0),
        version: |_| "5.0",
    },
    Plan {
        id: "sub-both-versions",
        filter: "load/#",
        qos: "2",
        only: None,
        takes_over: false,
        counts: Some(1),
        version: |n| if n % 2 == 0 { "5.0" } else { "3.1.1" },
    },
    Plan {
        id: "sub-sometimes",
        filter: "load/#",
        qos: "1",
        only: Some(2),
        takes_over: false,
        counts: None,
        version: |_| "3.1.1",
    },
    Plan {
        id: "sub-g1",
        filter: "$share/g/load/#",
        qos: "1",
        only: None,
        takes_over: true,
        counts: None,
        version: |_| "5.0",
    },
    Plan {
        id: "sub-g2",
        filter: "$share/g/load/#",
        qos: "1",
        only: Some(1),
        takes_over: false,
        counts: None,
        version: |_| "5.0",
    },
];

fn subscriber(world: &World, plan: &Plan, got: &Mutex<Got>, ready: &AtomicUsize) {
    let mut random = Random(world.seed + plan.id.bytes().map(u64::from).sum::<u64>());
    let mut received: HashSet<String> = HashSet::new();
    let mut subscribed = false;
    let mut successor: Option<Client> = None;
    world.connections(plan.id, plan.version, |client| {
        if !subscribed {
            client
                .send("subscribe", &[("id", "1"), ("filters", &format!("{}@{}", plan.filter, plan.qos))])?;
        }
        let mut acks: Vec<(&'static str, String)> = Vec::new();
        loop {
            if world.over.load(Ordering::Relaxed) {
                return Ok(true);
            }
            let here = plan.only.is_none_or(|rest| world.cycle.load(Ordering::Relaxed) % 3 == rest);
            if subscribed && !here && !world.ending.load(Ordering::Relaxed) {
                client.send("disconnect", &[])?;
                while !world.ending.load(Ordering::Relaxed)
                    && plan.only.is_some_and(|rest| world.cycle.load(Ordering::Relaxed) % 3 != rest)
                {
                    std::thread::sleep(TICK);
                }
                return Ok(false);
            }
            if plan.takes_over && random.below(400) == 0 {
                successor = world
                    .address()
                    .and_then(|address| Client::resume(&address, plan.id, (plan.version)(1)).ok())
                    .map(|(client, _)| client);
                // The new connection ends the old one, then breaks itself.
                drop(successor.take());
                return Ok(false);
            }
            // Acknowledgements come late and several at once, so that a crash finds messages in all
            // states.
            if acks.len() > random.below(30) as usize {
                for (packet, id) in acks.drain(..) {
                    client.send(packet, &[("id", &id)])?;
                }
            }
            let Some((packet, fields)) = client.next(TICK)? else {
                for (packet, id) in acks.drain(..) {
                    client.send(packet, &[("id", &id)])?;
                }
                continue;
            };
            match packet {
                "suback" => {
                    subscribed = true;
                    ready.fetch_add(1, Ordering::Relaxed);
                }
                "publish" => {
                    let id = fields.get("id").cloned().unwrap_or_default();
                    let new = match fields["qos"].as_str() {
                        "2" => {
                            acks.push(("pubrec", id.clone()));
                            received.insert(id)
                        }
                        "1" => {
                            acks.push(("puback", id));
                            true
                        }
                        _ => true,
                    };
                    if new {
                        let (topic, n) = (fields["topic"].clone(), fields["payload"].parse().unwrap());
                        let mut got = got.lock().unwrap();
                        if got.known.insert((topic.clone(), n))
                            && let Some(arrived) = plan.counts.map(|at| &world.arrived[at])
                        {
                            arrived.fetch_add(1, Ordering::Relaxed);
                        }
                        got.arrivals.entry(topic).or_default().push(n);
                    }
                }
                "pubrel" => {
                    received.remove(&fields["id"]);
                    acks.push(("pubcomp", fields["id"].clone()));
                }
                "disconnect" => return Ok(false),
                _ => {}
            }
        }
    });
}

/// Subscribes to one more filter again and again.
fn collector(world: &World) {
    let mut n = 0;
    world.connections(
        "subber",
        |_| "5.0",
        |client| {
            loop {
                if world.ending.load(Ordering::Relaxed) {
                    return Ok(true);
                }
                n += 1;
                let filter = format!("many/{n}");
                client.send("subscribe", &[("id", "9"), ("filters", &format!("{filter}@1"))])?;
                match client.next(Duration::from_secs(5))? {
                    Some(("suback", _)) => world.subscribed.lock().unwrap().push(filter),
                    _ => return Ok(false),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        },
    );
}

/// A small window, so that checkpoints and recycled segments are among what is interrupted.
const CONFIG: &str = "[store]\nwindow_bytes = 65536\n[mqtt]\nsys_interval_s = 0\n\
    [limits]\nqueued_messages_max = 50\n";

/// Starts the broker on the state in this folder, and tells the actors its address.
fn start(world: &World, folder: &Folder) -> Program {
    let program = Program::with(CONFIG).state(folder).start();
    *world.address.lock().unwrap() = Some(program.address("mqtt"));
    program
}

type Inboxes = [Arc<Mutex<Got>>; PLANS.len()];

/// Starts all actors: the subscribers first, until each has its SUBACK.
fn actors(world: &Arc<World>, got: &Inboxes) -> Vec<std::thread::JoinHandle<()>> {
    let ready = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    for (plan, got) in PLANS.iter().zip(got) {
        let (world, got, ready) = (world.clone(), got.clone(), ready.clone());
        threads.push(std::thread::spawn(move || subscriber(&world, plan, &got, &ready)));
    }
    let patience = Instant::now() + Duration::from_secs(20);
    while ready.load(Ordering::Relaxed) < PLANS.len() {
        assert!(Instant::now() < patience, "the subscribers do not get their SUBACK");
        std::thread::sleep(TICK);
    }
    for k in 0..3 {
        let world = world.clone();
        threads.push(std::thread::spawn(move || publisher(&world, k)));
    }
    let world = world.clone();
    threads.push(std::thread::spawn(move || collector(&world)));
    threads
}

/// Returns a line for each acknowledged message that a subscriber, or the shared group, has not
/// got.
fn missing(world: &World, got: &Inboxes) -> Vec<String> {
    let acknowledged = world.acknowledged.lock().unwrap();
    let mut missing = Vec::new();
    let got: Vec<_> = got.iter().map(|got| got.lock().unwrap()).collect();
    let arrived = |at: usize, topic: &str, n: &u64| got[at].known.contains(&(topic.to_owned(), *n));
    for (topic, numbers) in acknowledged.iter() {
        for n in numbers {
            for at in (0..3).filter(|at| !arrived(*at, topic, n)) {
                missing.push(format!("subscriber {at} never got {topic} {n}"));
            }
            if !arrived(3, topic, n) && !arrived(4, topic, n) {
                missing.push(format!("the shared group never got {topic} {n}"));
            }
        }
    }
    missing
}

/// Waits while messages still arrive, and reports those that never did.
fn nothing_is_missing(world: &World, got: &Inboxes, program: &Program, faults: &mut Vec<String>) {
    let (mut before, mut still_since) = (usize::MAX, Instant::now());
    let mut left = missing(world, got);
    while !left.is_empty() && still_since.elapsed() < Duration::from_secs(20) {
        if left.len() != before {
            (before, still_since) = (left.len(), Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
        left = missing(world, got);
    }
    if left.is_empty() {
        return;
    }
    let of = |who: &str| left.iter().filter(|fault| fault.starts_with(who)).count();
    let counts = ["subscriber 0", "subscriber 1", "subscriber 2", "the shared"].map(of);
    left.truncate(20);
    faults.extend(left);
    faults.push(format!("missing for each: {counts:?}; the log:\n{}", program.log()));
}

/// Each topic arrives in its order, and by QoS 2 all the way exactly once.
fn in_order_and_once(got: &Inboxes, faults: &mut Vec<String>) {
    for (at, got) in got.iter().enumerate().take(3) {
        for (topic, numbers) in &got.lock().unwrap().arrivals {
            let mut seen = BTreeSet::new();
            let first: Vec<u64> = numbers.iter().copied().filter(|n| seen.insert(*n)).collect();
            if !first.is_sorted() {
                let at_fault = first.windows(2).find(|pair| pair[0] > pair[1]);
                faults.push(format!("subscriber {at} got {topic} out of order: {at_fault:?}"));
            }
            // load/K/2 to a subscription of QoS 2.
            if at < 2 && topic.ends_with("/2") && numbers.len() != seen.len() {
                let mut once = BTreeSet::new();
                let twice = numbers.iter().find(|n| !once.insert(**n));
                faults.push(format!("subscriber {at} got {topic} {twice:?} twice, by QoS 2"));
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_at_any_moment() {
    let cycles: usize = std::env::var("LAPWING_CRASHES").map_or(10, |n| n.parse().unwrap());
    let seed = seed();
    let world = Arc::new(World { seed: seed + 1, ..World::default() });
    let folder = Folder::new("crash");
    let got = Inboxes::default();
    let mut program = start(&world, &folder);
    let threads = actors(&world, &got);

    let mut random = Random(seed + 17);
    for cycle in 1..=cycles {
        std::thread::sleep(Duration::from_millis(20 + random.below(400)));
        program.signal("KILL");
        program.wait();
        world.cycle.store(cycle, Ordering::Relaxed);
        program = start(&world, &folder);
    }

    // Publishers settle, then subscribers get the rest.
    world.ending.store(true, Ordering::Relaxed);
    let mut faults = Vec::new();
    nothing_is_missing(&world, &got, &program, &mut faults);
    world.over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    faults.extend(world.faults.lock().unwrap().drain(..));
    in_order_and_once(&got, &mut faults);
    retained(&world, &mut faults);
    subscriptions(&world, &mut faults);
    let total: usize = world.acknowledged.lock().unwrap().values().map(BTreeSet::len).sum();
    let subscriptions = world.subscribed.lock().unwrap().len();
    println!("{cycles} crashes, {total} messages acknowledged, {subscriptions} subscriptions");
    assert!(faults.is_empty(), "seed {seed}:\n{}", faults.join("\n"));
    assert!(total > cycles * 10, "only {total} messages were acknowledged: the load does not load");
    program.signal("TERM");
    assert!(program.wait().success());
}

/// The retained message of a topic is the last one acknowledged, or one sent after that.
fn retained(world: &World, faults: &mut Vec<String>) {
    let address = world.address().unwrap();
    let (mut client, _) = Client::connect(&address, "5.0", &[("id", "looker"), ("clean", "1")]).unwrap();
    client.send("subscribe", &[("id", "1"), ("filters", "retained/#@0")]).unwrap();
    let mut found = BTreeMap::new();
    let wanted: BTreeMap<String, (u64, u64)> =
        world.retained.lock().unwrap().clone().into_iter().filter(|(_, (acked, _))| *acked > 0).collect();
    while !wanted.keys().all(|topic| found.contains_key(topic)) {
        match client.next(Duration::from_secs(5)).unwrap() {
            Some(("publish", fields)) => {
                found.insert(fields["topic"].clone(), fields["payload"].parse::<u64>().unwrap());
            }
            Some(_) => {}
            None => break,
        }
    }
    for (topic, (acked, sent)) in wanted {
        match found.get(&topic) {
            Some(n) if (acked..=sent).contains(n) => {}
            other => faults.push(format!("retained {topic}: {other:?}, acknowledged {acked}, sent {sent}")),
        }
    }
}

/// Every subscription that was acknowledged is there.
fn subscriptions(world: &World, faults: &mut Vec<String>) {
    let address = world.address().unwrap();
    let wanted = world.subscribed.lock().unwrap().clone();
    let (mut subber, present) = Client::resume(&address, "subber", "5.0").unwrap();
    if !present {
        faults.push("the session with many subscriptions is lost".to_owned());
    }
    let (mut publisher, _) = Client::connect(&address, "5.0", &[("id", "prober"), ("clean", "1")]).unwrap();
    for filter in wanted {
        publisher.send("publish", &[("topic", &filter), ("qos", "0"), ("payload", "x")]).unwrap();
        match subber.next(Duration::from_secs(5)).unwrap() {
            Some(("publish", fields)) if fields["topic"] == filter => {}
            other => {
                faults.push(format!("the subscription to {filter} is lost: {other:?}"));
                return;
            }
        }
    }
}
