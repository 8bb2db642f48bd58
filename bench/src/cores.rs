//! The gain of a second core: the same load on a broker with one core, and on one with two.
//!
//! On a machine without more cores, the load takes the CPU time it needs from the broker. So
//! this load does nearly nothing for a message. Publishers write packets that were made before,
//! over and over, and subscribers count bytes. Nothing may be lost, so that received bytes tell
//! what is in flight. The broker with one core has the load on another core.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use mio::{Events, Poll, Token};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::broker::{self, Broker, Started, Tls};
use crate::compare::{machine, median};
use crate::load::Socket;
use crate::scenario::{Kind, SPEC, WARM};
use crate::wire::{self, Version};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Longest time for a connect, and for the messages in flight at the end.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of packets that a publisher writes at once.
const BLOCK: usize = 500;
/// Messages in flight for each group, and the number that must have arrived before more are
/// written.
const WINDOW: u64 = 2_000;
const STEP: u64 = 250;
/// As short as the reading of a sensor.
const PAYLOAD: &[u8] = b"21.5 C, all well";

/// Compares the throughput of one core and two.
#[derive(Args, Debug)]
pub struct Cores {
    /// Only these cases, by name
    #[arg(value_name = "CASE")]
    only: Vec<String>,
    /// The Lapwing program
    #[arg(long, default_value = "target/release/lapwing")]
    lapwing: PathBuf,
    /// Core of the broker with one core, and core of its load
    #[arg(long, value_delimiter = ',', num_args = 2, default_value = "0,1")]
    one: Vec<usize>,
    /// Cores of the broker with two cores
    #[arg(long, value_delimiter = ',', num_args = 2, default_value = "0,1")]
    two: Vec<usize>,
    /// Cores of its load
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    load: Vec<usize>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Time that messages flow in each round, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Fails if two cores carry less than this multiple of one, in the cases that spread
    #[arg(long)]
    at_least: Option<f64>,
    /// Folder for states and logs
    #[arg(long, default_value = "target/bench-compare")]
    folder: PathBuf,
}

/// Groups of one publisher and its subscribers.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    what: &'static str,
    groups: usize,
    subscribers: usize,
    qos: u8,
}

const CASES: &[Case] = &[
    Case { name: "pairs", what: "32 pairs, QoS 0", groups: 32, subscribers: 1, qos: 0 },
    Case { name: "pairs-q1", what: "32 pairs, published with QoS 1", groups: 32, subscribers: 1, qos: 1 },
    Case { name: "fan-out", what: "16 times 1 to 10, QoS 0", groups: 16, subscribers: 10, qos: 0 },
];

/// A case in a round. Clients connect in another order in each round, so that threads are shared by
/// chance.
struct ShuffledCase {
    case: Case,
    round: usize,
}

impl ShuffledCase {
    /// Returns the numbers of all clients in the order of their connects.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.case.groups * (self.case.subscribers + 1)).collect();
        let mut random = self.round as u64 + 1;
        for n in (1..order.len()).rev() {
            // Knuth's MMIX.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(n, (random >> 33) as usize % (n + 1));
        }
        order
    }
}

/// Figures of one broker.
#[derive(Clone, Copy, Debug)]
struct CoreFigures {
    per_s: f64,
    /// Number of cores that the broker used.
    broker: f64,
    load: f64,
    lost: u64,
}

impl CoreFigures {
    /// CPU time of the broker for each message, in µs.
    fn cost(self) -> f64 {
        self.broker / self.per_s * 1e6
    }
}

/// Cores of the broker, and of the load generator.
#[derive(Clone, Copy)]
struct Cpus<'a> {
    broker: &'a [usize],
    load: &'a [usize],
}

impl Cores {
    /// Measures and prints.
    ///
    /// # Errors
    /// The broker fails, or misses `--at-least`.
    pub fn run(&self) -> Result<(), Error> {
        let is_wanted = |case: &&Case| self.only.is_empty() || self.only.iter().any(|name| name == case.name);
        if let Some(name) = self.only.iter().find(|name| !CASES.iter().any(|case| case.name == **name)) {
            let all: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            return Err(format!("there is no case '{name}'; the cases are {}", all.join(", ")).into());
        }
        let folder = std::path::absolute(&self.folder)?;
        std::fs::create_dir_all(&folder)?;
        let tls = Tls::make(&folder)?;
        let broker = broker::lapwing(&self.lapwing)?;
        println!("{}; medians of {} rounds of {} s", machine(), self.rounds, self.seconds);
        let mut missed = Vec::new();
        for case in CASES.iter().filter(is_wanted) {
            let mut rounds = Vec::new();
            for round in 0..self.rounds {
                let measured = |broker_cores: &[usize], load: &[usize]| {
                    let folder = folder.join("broker");
                    self.one(
                        &ShuffledCase { case: *case, round },
                        &broker,
                        &folder,
                        &tls,
                        Cpus { broker: broker_cores, load },
                    )
                };
                let [core, beside] = self.one[..] else { return Err("--one is CORE,CORE".into()) };
                rounds.push((measured(&[core], &[beside])?, measured(&self.two, &self.load)?));
            }
            let of = |value: &dyn Fn(&(CoreFigures, CoreFigures)) -> f64| {
                median(rounds.iter().map(value).collect()).unwrap_or(f64::NAN)
            };
            let times = of(&|(one, two)| two.per_s / one.per_s);
            println!("\n{}: {}", case.name, case.what);
            for (name, side) in [("one core", 0), ("two cores", 1)] {
                let of = |value: &dyn Fn(CoreFigures) -> f64| {
                    of(&|both| value(if side == 0 { both.0 } else { both.1 }))
                };
                println!(
                    "  {name:<10} {:>10.0} messages/s, {:.3} us CPU each; busy: broker {:.2} cores, load {:.2}",
                    of(&|seen| seen.per_s),
                    of(&CoreFigures::cost),
                    of(&|seen| seen.broker),
                    of(&|seen| seen.load)
                );
            }
            let cost = of(&|(one, two)| two.cost() / one.cost());
            println!(
                "  two cores carry {times:.2} times what one does; a message takes {cost:.2} times the CPU time"
            );
            let lost: u64 = rounds.iter().map(|(one, two)| one.lost + two.lost).sum();
            if lost > 0 {
                return Err(format!("{}: {lost} messages were lost", case.name).into());
            }
            if self.at_least.is_some_and(|least| times < least) {
                missed.push(format!("{} {times:.2}", case.name));
            }
        }
        println!(
            "\nOn two cores the load takes its part of the same two: without it, they would carry up to 2 / (CPU time) times what one does.\n\
             These cases spread: each group has connections of its own. What all clients share (one subscriber of all, one group) is in `compare`."
        );
        if missed.is_empty() {
            Ok(())
        } else {
            Err(format!("below --at-least: {}", missed.join(", ")).into())
        }
    }

    fn one(
        &self,
        placed: &ShuffledCase,
        broker: &Broker,
        folder: &Path,
        tls: &Tls,
        cpus: Cpus<'_>,
    ) -> Result<CoreFigures, Error> {
        let list: Vec<String> = cpus.broker.iter().map(usize::to_string).collect();
        let started = broker.start(Kind::Flow(SPEC), folder, tls, &list.join(","))?;
        let mut set = CpuSet::new();
        cpus.load.iter().for_each(|core| set.set(*core));
        sched_setaffinity(None, &set)?;
        LoadGenerator::connect(placed, &started)?.run(Duration::from_secs_f64(self.seconds), &started)
    }
}

/// One publisher and its subscribers.
struct Group {
    block: Vec<u8>,
    /// Length of a message as it is sent, and as it is received, in bytes.
    lengths: (u64, u64),
    sent: u64,
    came: u64,
}

impl Group {
    fn new(topic: &str, qos: u8) -> Group {
        let (packet, id, _) = wire::publish(Version::V311, topic, qos, false, PAYLOAD);
        let mut block = packet.repeat(BLOCK);
        if qos > 0 {
            for (n, packet) in block.chunks_exact_mut(packet.len()).enumerate() {
                packet[id..id + 2].copy_from_slice(&(n as u16 + 1).to_be_bytes());
            }
        }
        // It is received with QoS 0, without a packet identifier.
        let comes = wire::publish(Version::V311, topic, 0, false, PAYLOAD).0.len();
        Group { block, lengths: (packet.len() as u64, comes as u64), sent: 0, came: 0 }
    }

    /// Number of messages that subscribers have not received.
    fn in_flight(&self, subscribers: u64) -> u64 {
        (self.sent / self.lengths.0 * subscribers).saturating_sub(self.came / self.lengths.1)
    }
}

/// The load generator.
struct LoadGenerator {
    poll: Poll,
    /// Sockets of each group: its publisher, then its subscribers.
    sockets: Vec<Socket>,
    groups: Vec<Group>,
    subscribers: usize,
    scratch: Vec<u8>,
}

impl LoadGenerator {
    fn connect(placed: &ShuffledCase, started: &Started) -> Result<LoadGenerator, Error> {
        let (poll, case) = (Poll::new()?, placed.case);
        let topic = |group: usize| format!("t/{group}");
        let mut sockets = Vec::new();
        for n in placed.order() {
            let mut socket = Socket::connect(started.plain, None, TIMEOUT)?;
            wire::connect(&mut socket.out, Version::V311, &format!("c-{n}"), started.stay(true));
            socket.ask(0x20)?;
            let (group, member) = (n / (case.subscribers + 1), n % (case.subscribers + 1));
            if member > 0 {
                wire::subscribe(&mut socket.out, Version::V311, [&*topic(group)].into_iter(), 0);
                socket.ask(0x90)?;
            }
            socket.register(&poll, Token(n))?;
            sockets.push((n, socket));
        }
        sockets.sort_by_key(|(n, _)| *n);
        let groups = (0..case.groups).map(|n| Group::new(&topic(n), case.qos)).collect();
        let sockets = sockets.into_iter().map(|(_, socket)| socket).collect();
        Ok(LoadGenerator {
            poll,
            sockets,
            groups,
            subscribers: case.subscribers,
            scratch: vec![0; 256 << 10],
        })
    }

    fn run(&mut self, time: Duration, started: &Started) -> Result<CoreFigures, Error> {
        let begun = Instant::now();
        self.flow(begun + WARM)?;
        let (came, broker, load, from) = (self.came(), started.running.cpu()?, cpu(), Instant::now());
        self.flow(from + time)?;
        let (time, load) = (from.elapsed().as_secs_f64(), cpu() - load);
        let seen = CoreFigures {
            per_s: (self.came() - came) as f64 / time,
            broker: (started.running.cpu()? - broker).as_secs_f64() / time,
            load: load.as_secs_f64() / time,
            lost: 0,
        };
        Ok(CoreFigures { lost: self.drain()?, ..seen })
    }

    /// Number of received messages.
    fn came(&self) -> u64 {
        self.groups.iter().map(|group| group.came / group.lengths.1).sum()
    }

    fn flow(&mut self, until: Instant) -> Result<(), Error> {
        for group in 0..self.groups.len() {
            self.top_up(group)?;
        }
        while Instant::now() < until {
            for group in self.turn()? {
                self.top_up(group)?;
            }
        }
        Ok(())
    }

    /// Waits until everything has been received. Returns the number of messages that have not.
    fn drain(&mut self) -> Result<u64, Error> {
        let until = Instant::now() + TIMEOUT;
        loop {
            let subscribers = self.subscribers as u64;
            let left = self.groups.iter().map(|group| group.in_flight(subscribers)).sum();
            if left == 0 || Instant::now() > until {
                return Ok(left);
            }
            self.turn()?;
        }
    }

    /// Reads everything that has arrived, once. Returns the groups whose publisher may write again.
    fn turn(&mut self) -> Result<Vec<usize>, Error> {
        let mut events = Events::with_capacity(1024);
        self.poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        let mut groups = Vec::new();
        for event in events.iter() {
            let n = event.token().0;
            let (group, member) = (n / (self.subscribers + 1), n % (self.subscribers + 1));
            if event.is_readable() {
                let bytes = self.sockets[n].skip(&mut self.scratch)?;
                // A publisher receives nothing but acknowledgements.
                self.groups[group].came += if member > 0 { bytes } else { 0 };
            }
            if groups.last() != Some(&group) {
                groups.push(group);
            }
        }
        Ok(groups)
    }

    fn top_up(&mut self, n: usize) -> Result<(), Error> {
        let subscribers = self.subscribers as u64;
        let group = &mut self.groups[n];
        let socket = &mut self.sockets[n * (self.subscribers + 1)];
        while group.in_flight(subscribers) + STEP * subscribers <= WINDOW * subscribers {
            let at = (group.sent % group.block.len() as u64) as usize;
            let most = (at + STEP as usize * group.lengths.0 as usize).min(group.block.len());
            match socket.write(&group.block[at..most])? {
                0 => return Ok(()),
                n => group.sent += n as u64,
            }
        }
        Ok(())
    }
}

/// Returns the CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_is_known_by_bytes_alone() {
        let mut group = Group::new("t/1", 1);
        let (sent, came) = group.lengths;
        assert_eq!((sent, came, group.block.len() as u64), (came + 2, sent - 2, sent * BLOCK as u64));
        (group.sent, group.came) = (10 * sent + 1, 25 * came + 1);
        assert_eq!(group.in_flight(3), 5, "ten to three each, of which 25 came");
    }

    #[test]
    fn clients_come_in_another_order_in_each_round_and_all_of_them() {
        let order = |round| ShuffledCase { case: CASES[0], round }.order();
        assert_ne!(order(0), order(1));
        let mut all = order(0);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..64));
    }
}
