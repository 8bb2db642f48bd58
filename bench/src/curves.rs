//! The cost of a message against the number of connections, subscriptions and topics.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::broker::{self, Broker, Tls};
use crate::compare::{machine, median};
use crate::load::{Layout, Spec};
use crate::measure::{MAIN, idlers, measure};
use crate::plot;
use crate::scenario::{Kind, SPEC};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures the cost of a message against the number of connections, subscriptions, topics.
#[derive(Args, Debug)]
pub struct Curves {
    /// Only these curves, by name: idle, busy, subscriptions, topics
    #[arg(value_name = "CURVE")]
    only: Vec<String>,
    /// The Lapwing program
    #[arg(long, default_value = "target/release/lapwing")]
    lapwing: PathBuf,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Time that messages flow in each round, in seconds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Cores of the brokers, in the notation of taskset
    #[arg(long, default_value = "0")]
    cores: String,
    /// Core of the load
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Folder for states and logs
    #[arg(long, default_value = "target/bench-curves")]
    folder: PathBuf,
    /// Writes the figures as a plot
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// A quantity that grows.
struct Curve {
    /// Name in the plot.
    name: &'static str,
    what: &'static str,
    /// Values of the quantity, with the measurement for each.
    points: Vec<(usize, CurvePoint)>,
}

struct CurvePoint {
    /// Number of clients that do nothing meanwhile.
    idle: usize,
    kind: Kind,
}

fn curves() -> Vec<Curve> {
    let point = |kind| CurvePoint { idle: 0, kind };
    let many = |layout, window| Kind::Flow(Spec { layout, window, ..SPEC });
    vec![
        Curve {
            name: "idle",
            what: "idle connections beside 4 busy pairs, QoS 0, window 100",
            points: [10, 100, 1_000, 10_000]
                .map(|n| (n, CurvePoint { idle: n, kind: Kind::Flow(SPEC) }))
                .into(),
        },
        Curve {
            // Each pair has four messages in flight, whatever the number of pairs: batches do not
            // shrink.
            name: "busy",
            what: "connections, all of them busy: pairs, QoS 0, window 4",
            points: [10, 100, 1_000, 10_000].map(|n| (n, point(many(Layout::Pairs(n / 2), 4)))).into(),
        },
        Curve {
            name: "subscriptions",
            what: "subscriptions with wildcards over 100 clients: a message that matches",
            points: [100, 1_000, 10_000, 100_000]
                .map(|n| (n, point(Kind::Subscriptions { count: n, messages: 100_000 })))
                .into(),
        },
        Curve {
            name: "topics",
            what: "topics in turn, 1 pair, QoS 0, window 100",
            points: [1, 10, 100, 1_000, 10_000].map(|n| (n, point(many(Layout::Topics(n), 100)))).into(),
        },
    ]
}

impl Curves {
    /// Measures and prints.
    ///
    /// # Errors
    /// The broker fails.
    pub fn run(&self) -> Result<(), Error> {
        let mut brokers = broker::known(&self.lapwing, &PathBuf::new(), None)?.brokers;
        brokers.retain(|broker| ["lapwing", "mosquitto"].contains(&broker.name.as_str()));
        let mut set = CpuSet::new();
        set.set(self.load_core);
        sched_setaffinity(None, &set)?;
        let folder = std::path::absolute(&self.folder)?;
        std::fs::create_dir_all(&folder)?;
        let tls = Tls::make(&folder)?;
        println!("{}; broker on core {}, load on {}", machine(), self.cores, self.load_core);
        let mut bars = Vec::new();
        let curves = curves();
        if let Some(name) = self.only.iter().find(|name| !curves.iter().any(|curve| curve.name == **name)) {
            return Err(format!("there is no curve '{name}': idle, busy, subscriptions, topics").into());
        }
        let is_wanted =
            |curve: &Curve| self.only.is_empty() || self.only.iter().any(|name| name == curve.name);
        for curve in curves.into_iter().filter(is_wanted) {
            println!("\n{}", curve.what);
            let mut least: Vec<Option<f64>> = vec![None; 2];
            for (n, point) in &curve.points {
                let mut line = format!("{n:>8}");
                let mut costs = Vec::new();
                for (broker, least) in brokers.iter().zip(&mut least) {
                    let mut rounds = Vec::new();
                    for _ in 0..self.rounds {
                        match self.one(point, broker, &folder.join("broker"), &tls) {
                            Ok(cost) => rounds.push(cost),
                            Err(error) => eprintln!("{} with {n}: {error}", broker.name),
                        }
                    }
                    let cost = median(rounds);
                    costs.push(cost);
                    let Some(cost) = cost else { continue };
                    let first = *least.get_or_insert(cost);
                    line += &format!("   {} {cost:>7.3} us CPU x{:.2}", broker.name, cost / first);
                }
                println!("{line}");
                bars.push((format!("{} {n}", curve.name), costs));
            }
        }
        if let Some(file) = &self.svg {
            let names: Vec<&str> = brokers.iter().map(|broker| broker.name.as_str()).collect();
            let bars: Vec<_> = bars.iter().map(|(name, costs)| (name.as_str(), costs.clone())).collect();
            std::fs::write(file, plot::bars(&names, &bars, &machine()))?;
        }
        Ok(())
    }

    fn one(
        &self,
        point: &CurvePoint,
        broker: &Broker,
        folder: &std::path::Path,
        tls: &Tls,
    ) -> Result<f64, Error> {
        let started = broker.start(point.kind, folder, tls, &self.cores)?;
        let _idlers = idlers(0..point.idle, &started)?;
        let figures = measure(point.kind, &started, &tls.client, Duration::from_secs_f64(self.seconds))?;
        figures.get(MAIN).copied().ok_or_else(|| "there is no figure".into())
    }
}
