//! The needs of many cores and very many connections.
//!
//! This machine does not have 64 cores. The cost of one connection and the times of shared
//! resources are measured. [`model`] works out the rest from them, the same each time.

mod connections;
mod locks;
mod model;

use std::path::PathBuf;

use clap::Args;

use crate::broker::{self, Tls};
use crate::compare::machine;
use connections::each_kib;
use locks::Lock;
use model::Work;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Works out the limits of many cores and connections.
#[derive(Args, Debug)]
pub struct Scale {
    /// Cores
    #[arg(long, default_value_t = 64)]
    cores: usize,
    /// Connections
    #[arg(long, default_value_t = 1_000_000)]
    connections: usize,
    /// Maximum number of connections that are really made
    #[arg(long, default_value_t = 10_000)]
    made: usize,
    /// The Lapwing program
    #[arg(long, default_value = "target/release/lapwing")]
    lapwing: PathBuf,
    /// Measures only shared resources
    #[arg(long)]
    only_shared: bool,
    /// Folder for state and log
    #[arg(long, default_value = "target/bench-scale")]
    folder: PathBuf,
}

/// A kind of work: its CPU time on one core, and its uses of each of [`locks::all`], in their
/// order.
///
/// The CPU times are those of `compare`, in µs (see docs/PERFORMANCE.md).
struct WorkKind {
    what: &'static str,
    cpu_us: f64,
    takes: [f64; 6],
}

/// Time of the log's writer for a message that is kept, in µs, measured by `store`.
const LOG_US: f64 = 1.3;

//                accept, registry, tree write, tree read, counters, queue
const KINDS: [WorkKind; 6] = [
    WorkKind { what: "connect, CONNACK, close", cpu_us: 55.0, takes: [1.0, 2.0, 0.0, 0.0, 2.0, 0.0] },
    WorkKind {
        what: "connect, subscribe to one filter, close",
        // SUBSCRIBE and SUBACK are taken as half of a message that comes alone.
        cpu_us: 67.0,
        takes: [1.0, 2.0, 2.0, 0.0, 3.0, 0.0],
    },
    // Nothing is batched: each message takes a turn of the publisher and one of the subscriber.
    WorkKind { what: "messages, one at a time", cpu_us: 24.0, takes: [0.0, 0.0, 0.0, 0.0, 2.0, 0.0] },
    WorkKind { what: "messages, four at once", cpu_us: 1.61, takes: [0.0, 0.0, 0.0, 0.0, 0.5, 0.0] },
    // Each subscription makes all publishers look their topics up again.
    WorkKind {
        what: "the same, while clients subscribe all the time",
        cpu_us: 2.6,
        takes: [0.0, 0.0, 0.0, 1.0, 0.5, 0.0],
    },
    WorkKind { what: "messages, all to one subscriber", cpu_us: 0.47, takes: [0.0, 0.0, 0.0, 0.0, 0.1, 1.0] },
];

impl Scale {
    /// Measures, works out and prints.
    ///
    /// # Errors
    /// A figure cannot be measured.
    pub fn run(&self) -> Result<(), Error> {
        println!("{}", machine());
        if !self.only_shared {
            self.connections()?;
        }
        println!("\nwhat cores share, µs");
        let locks = locks::all()?;
        for lock in &locks {
            let contended = lock.contended_us.map_or("one core".to_owned(), |us| format!("{us:.3}"));
            println!(
                "  {:<26} alone {:>7.3}   two cores, from one use to the next {contended:>10}   shared {:>7.3}",
                lock.name,
                lock.alone_us,
                lock.shared_us()
            );
        }
        self.simulate(&locks);
        Ok(())
    }

    fn connections(&self) -> Result<(), Error> {
        let folder = std::path::absolute(&self.folder)?;
        std::fs::create_dir_all(&folder)?;
        let tls = Tls::make(&folder)?;
        let brokers = broker::known(&self.lapwing, &PathBuf::new(), None)?.brokers;
        let lapwing = brokers.first().ok_or("there is no broker")?;
        let counts = [0, self.made / 8, self.made / 4, self.made / 2, self.made];
        let points = connections::points(lapwing, &counts, &folder.join("broker"), &tls)?;
        println!("\nidle connections, each beyond the line before");
        for pair in points.windows(2) {
            let (from, to) = (&pair[0], &pair[1]);
            println!(
                "  {:>7}: {:>6.1} MiB, {:.2} KiB each; kernel {:.2} KiB each (half of both ends); {:.3} file descriptors each",
                to.connections,
                to.resident_kib / 1024.0,
                each_kib(from, to, |point| point.resident_kib),
                each_kib(from, to, |point| point.kernel_kib) / 2.0,
                each_kib(from, to, |point| point.descriptors as f64),
            );
        }
        if let (Some(none), Some(all)) = (points.first(), points.last()) {
            let gib = |kib: f64| kib * self.connections as f64 / 1024.0 / 1024.0;
            let each = each_kib(none, all, |point| point.resident_kib);
            let kernel = each_kib(none, all, |point| point.kernel_kib) / 2.0;
            let descriptors = each_kib(none, all, |point| point.descriptors as f64);
            println!(
                "  {}: {:.1} GiB in the broker, {:.1} GiB in the kernel, {:.0} file descriptors",
                self.connections,
                gib(each) + none.resident_kib / 1024.0 / 1024.0,
                gib(kernel),
                descriptors * self.connections as f64 + none.descriptors as f64
            );
        }
        const FEW: usize = 256;
        let (in_all, said) = connections::at_the_limit(lapwing, FEW, &folder.join("broker"), &tls)?;
        println!("  with {FEW} file descriptors {in_all} clients are accepted; the broker logs: {said}");
        Ok(())
    }

    fn simulate(&self, locks: &[Lock; 6]) {
        println!("\nworked out for {} cores, with shared resources as slow as for two", self.cores);
        for kind in &KINDS {
            let work = work(kind, locks);
            let (one, all) = (work.on(1).per_s, work.on(self.cores));
            println!(
                "  {:<48} {:>11.0}/s on 1, {:>11.0} on 2, {:>11.0} on 8, {:>11.0} on {}: x{:.1}",
                kind.what,
                one,
                work.on(2).per_s,
                work.on(8).per_s,
                all.per_s,
                self.cores,
                all.per_s / one
            );
            if let Some((resource, most)) = work.first_saturated() {
                println!(
                    "      saturates first: {} ({:.0} % busy), at {most:.0}/s",
                    locks[resource].name,
                    100.0 * all.utilization[resource]
                );
            }
        }
        let comes_back = self.connections as f64 / work(&KINDS[1], locks).on(self.cores).per_s;
        println!("  {} devices come back and subscribe in {comes_back:.0} s", self.connections);
        println!(
            "  kept messages: {:.0}/s on any number of cores, by the one writer of the log",
            1e6 / LOG_US
        );
    }
}

fn work(kind: &WorkKind, locks: &[Lock; 6]) -> Work {
    let alone: f64 = kind.takes.iter().zip(locks).map(|(takes, lock)| takes * lock.alone_us).sum();
    Work {
        own_us: (kind.cpu_us - alone).max(0.0),
        resources_us: kind.takes.iter().zip(locks).map(|(takes, lock)| takes * lock.shared_us()).collect(),
    }
}
