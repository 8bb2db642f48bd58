//! Instructions of a message, counted by callgrind, which is the same on a busy machine.
//!
//! `work` does an action many times. The difference between two runs, divided by their difference
//! in length, is the cost of one action. Instructions of the kernel are not counted.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use lapwing::internals::config::QueuePolicy;
use lapwing::internals::message::PendingQueue;
use lapwing::internals::message::{Message, MessageParts};
use lapwing::internals::outbox::{Outbox, QueueLimits};
use lapwing::internals::router::{Retained, RetainedLimits, RouteCache, Router, Subscriber};
use lapwing::internals::store::publish_record::PublishRecord;
use lapwing::{QoS, Version};
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{Packet, PublishHeader};

use crate::wire;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Actions in the longer run, and in the shorter one, after which everything is warm.
const MANY: u64 = 3_000;
const FEW: u64 = 1_000;

/// Counts instructions and compares them with a table.
#[derive(Args, Debug)]
pub struct Instructions {
    /// File with the counts
    #[arg(long, default_value = "bench/instructions.tsv")]
    table: PathBuf,
    /// Tolerance above the table, in percent
    #[arg(long, default_value_t = 5.0)]
    tolerance: f64,
    /// Writes the table
    #[arg(long)]
    update: bool,
}

/// Does an action many times; for `instructions`.
#[derive(Args, Debug)]
pub struct RepeatAction {
    what: Action,
    times: u64,
}

/// The counted actions.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Action {
    /// Finds a PUBLISH of QoS 1 and 64 B in bytes, decodes it, and encodes its header again.
    Codec,
    /// Makes a message, routes it to one subscriber by a cached topic, and takes it out of the
    /// queue.
    Route,
    /// Sends a QoS 1 message from a client through the broker to a client, with both
    /// acknowledgements, clients included.
    Exchange,
}

const ACTIONS: [(Action, &str); 3] =
    [(Action::Codec, "codec"), (Action::Route, "route"), (Action::Exchange, "exchange")];

impl Instructions {
    /// Counts and compares.
    ///
    /// # Errors
    /// valgrind is missing, or a count is above the table.
    pub fn run(&self) -> Result<(), Error> {
        let known: BTreeMap<String, f64> = std::fs::read_to_string(&self.table)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| {
                line.split_once('\t').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))
            })
            .collect();
        let (mut text, mut above) = (String::new(), Vec::new());
        for (_, name) in ACTIONS {
            let each = (count(name, MANY)? as f64 - count(name, FEW)? as f64) / (MANY - FEW) as f64;
            text += &format!("{name}\t{each:.0}\n");
            match known.get(name) {
                Some(before) => {
                    let more = (each / before - 1.0) * 100.0;
                    println!("{name:<10} {each:>7.0} instructions ({more:+.1} % of {before:.0})");
                    if more > self.tolerance {
                        above.push(format!("{name} takes {each:.0} instructions, not {before:.0}"));
                    } else if more < -self.tolerance {
                        println!(
                            "           fewer than in the table: run lapwing-bench instructions --update"
                        );
                    }
                }
                None => println!("{name:<10} {each:>7.0} instructions"),
            }
        }
        if self.update {
            std::fs::write(&self.table, text)?;
        } else if !above.is_empty() {
            return Err(format!("{}; run with --update if that is worth it", above.join(", ")).into());
        }
        Ok(())
    }
}

/// Returns the instructions of a whole run.
fn count(name: &str, times: u64) -> Result<u64, Error> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["work", name, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{name}: {text}").into());
    }
    let line = text.lines().find_map(|line| line.split_once("Collected :")).ok_or("no count")?;
    Ok(line.1.trim().parse()?)
}

impl RepeatAction {
    /// Does the action.
    ///
    /// # Errors
    /// The action fails.
    pub fn run(&self) -> Result<(), Error> {
        match self.what {
            Action::Codec => codec(self.times),
            Action::Route => route(self.times),
            Action::Exchange => exchange(self.times),
        }
    }
}

fn codec(times: u64) -> Result<(), Error> {
    let (bytes, _, _) = wire::publish(wire::Version::V5, "bench/0", 1, false, &[b'x'; 64]);
    let mut out = [0; 128];
    for _ in 0..times {
        let bytes = std::hint::black_box(&bytes[..]);
        let Ok(Split::Frame { frame, .. }) = frame::split(bytes, Version::V5, 1 << 20) else {
            return Err("no frame".into());
        };
        let Ok(Packet::Publish(publish)) = Packet::decode(frame, Version::V5) else {
            return Err("no PUBLISH".into());
        };
        let header = PublishHeader {
            dup: false,
            qos: publish.qos,
            retain: false,
            topic: publish.topic.as_bytes(),
            packet_id: publish.packet_id,
            forwarded: publish.properties.as_bytes(),
            message_expiry_interval_s: None,
            topic_alias: None,
            subscription_identifiers: &[],
            payload_len: publish.payload.len(),
        };
        header.encode(Version::V5, u32::MAX, &mut out).map_err(|error| error.to_string())?;
        std::hint::black_box(&out);
    }
    Ok(())
}

fn route(times: u64) -> Result<(), Error> {
    let retained = Retained::new(RetainedLimits { messages_max: 1, bytes_max: 1, cache_bytes_max: u64::MAX });
    let router = Router::new(retained, Arc::default());
    let bounds = QueueLimits {
        messages_max: 1_000,
        bytes_max: 1 << 20,
        policy: QueuePolicy::DropNewest,
        keeps_qos0: false,
        stored_bytes_max: 0,
        stored_messages_max: 0,
    };
    let outbox = Arc::new(Outbox::new(1, bounds));
    outbox.connect(&Arc::default());
    let subscriber = Subscriber {
        outbox: outbox.clone(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        id: None,
    };
    router.subscribe("bench/#", subscriber);
    let (mut cache, mut wakers) = (RouteCache::default(), Vec::new());
    let mut taken = PendingQueue::default();
    for _ in 0..times {
        let message = Message::new(&MessageParts {
            topic: "bench/0",
            properties: &[],
            payload: &[b'x'; 64],
            qos: QoS::AtLeastOnce,
            retain: false,
            publisher: 2,
            published_at: 0,
            expires_at: None,
        });
        router.route(&message, &mut cache, &mut wakers, &mut PublishRecord::disabled());
        outbox.take(&mut taken, std::task::Waker::noop());
        while let Some(delivery) = taken.pop_front() {
            delivery.message.recycle();
        }
        message.recycle();
        wakers.clear();
    }
    Ok(())
}

/// Runs the broker on a thread of its own with one runtime thread, and two clients here.
fn exchange(times: u64) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let toml =
        "[mqtt]\nsys_interval_s = 0\n[store]\nin_memory = true\n[[listener]]\naddress = '127.0.0.1:0'\n";
    let config = lapwing::internals::config::Config::from_toml(toml, "bench")?;
    let broker = runtime.block_on(lapwing::Broker::builder().config(config).start())?;
    let address = broker.listeners()[0].trim_start_matches("mqtt://").to_owned();
    let join = |id: &str| -> Result<TcpStream, Error> {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_nodelay(true)?;
        let mut out = Vec::new();
        wire::connect(&mut out, wire::Version::V311, id, wire::Stay::SHORT);
        stream.write_all(&out)?;
        stream.read_exact(&mut [0; 4])?;
        Ok(stream)
    };
    let (mut publisher, mut subscriber) = (join("p")?, join("s")?);
    let mut out = Vec::new();
    wire::subscribe(&mut out, wire::Version::V311, ["bench/0"].into_iter(), 1);
    subscriber.write_all(&out)?;
    subscriber.read_exact(&mut [0; 5])?;
    let (packet, id, _) = wire::publish(wire::Version::V311, "bench/0", 1, false, &[b'x'; 64]);
    let mut got = vec![0; packet.len()];
    for _ in 0..times {
        publisher.write_all(&packet)?;
        publisher.read_exact(&mut [0; 4])?;
        subscriber.read_exact(&mut got)?;
        subscriber.write_all(&[0x40, 2, got[id], got[id + 1]])?;
    }
    drop((publisher, subscriber));
    runtime.block_on(broker.stop());
    Ok(())
}
