//! Brokers side by side: each scenario in rounds, the brokers of a round one after the other, so that what the machine does
//! meanwhile happens to all of them. Figures are medians; a ratio is taken within its round.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::broker::{self, Broker, Tls};
use crate::load::Security;
use crate::measure::{Figures, MAIN, measure};
use crate::plot;
use crate::scenario::{ALL, Scenario};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// See the module.
#[derive(Args, Debug)]
pub struct Compare {
    /// Only these scenarios, by name
    #[arg(value_name = "SCENARIO")]
    only: Vec<String>,
    /// Only these brokers, by name
    #[arg(long, value_delimiter = ',')]
    brokers: Vec<String>,
    /// Our broker
    #[arg(long, default_value = "target/release/lapwing")]
    lapwing: PathBuf,
    /// Further brokers, a line each: NAME = COMMAND with {port}, {tls_port}, {folder}, {cert}, {key}
    #[arg(long, value_name = "FILE")]
    others: Option<PathBuf>,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long messages flow in each, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The core of the brokers, as taskset has them
    #[arg(long, default_value = "0")]
    cores: String,
    /// The core of the load; none: any
    #[arg(long, default_value = "1")]
    load_core: String,
    /// Where states and logs are kept meanwhile
    #[arg(long, default_value = "target/bench-compare")]
    folder: PathBuf,
    /// Writes all figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the main figures as a plot
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Fails where Lapwing is above what it is to reach beside Mosquitto
    #[arg(long)]
    check: bool,
    /// Lists the scenarios
    #[arg(long)]
    list: bool,
}

/// Of each broker, the figures of each round.
type Rounds = BTreeMap<usize, Vec<Option<Figures>>>;

/// The middle one.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
    }
}

fn of(rounds: &[Option<Figures>], figure: &str) -> Option<f64> {
    median(rounds.iter().flatten().filter_map(|figures| figures.get(figure).copied()).collect())
}

/// The median of the ratios within rounds.
fn ratio(ours: &[Option<Figures>], base: &[Option<Figures>]) -> Option<f64> {
    let pairs = ours.iter().zip(base).filter_map(|(ours, base)| {
        let (ours, base) = (ours.as_ref()?.get(MAIN)?, base.as_ref()?.get(MAIN)?);
        (*base > 0.0).then_some(ours / base)
    });
    median(pairs.collect())
}

impl Compare {
    /// Measures and prints.
    ///
    /// # Errors
    /// That a broker of ours fails, or with `--check` that a figure is not reached.
    pub fn run(&self) -> Result<(), Error> {
        let wanted =
            |scenario: &&Scenario| self.only.is_empty() || self.only.iter().any(|name| name == scenario.name);
        let scenarios: Vec<&Scenario> = ALL.iter().filter(wanted).collect();
        if let Some(name) = self.only.iter().find(|name| !ALL.iter().any(|known| known.name == **name)) {
            return Err(format!("there is no scenario '{name}'; --list shows them").into());
        }
        if self.list {
            scenarios.iter().for_each(|scenario| println!("{:<16} {}", scenario.name, scenario.what));
            return Ok(());
        }
        let mut brokers = broker::known(&self.lapwing, self.others.as_deref())?;
        brokers.retain(|broker| self.brokers.is_empty() || self.brokers.contains(&broker.name));
        if let Ok(core) = self.load_core.parse() {
            let mut set = CpuSet::new();
            set.set(core);
            sched_setaffinity(None, &set)?;
        }
        let folder = std::path::absolute(&self.folder)?;
        std::fs::create_dir_all(&folder)?;
        let tls = Tls::make(&folder)?;
        let security = Security::new(tls.der.clone())?;
        println!(
            "{}; broker on core {}, load on {}; medians of {} rounds, ratios within the round",
            machine(),
            self.cores,
            self.load_core,
            self.rounds
        );
        let mut progress = Progress::new(scenarios.len() * brokers.len() * self.rounds);
        let (mut all, mut missed) = (Vec::new(), Vec::new());
        for scenario in scenarios {
            let mut rounds = Rounds::new();
            for round in 0..self.rounds {
                for (n, broker) in brokers.iter().enumerate() {
                    progress.step(&format!("{} {} {}", scenario.name, broker.name, round + 1));
                    let figures = self.one(scenario, broker, &folder.join("broker"), (&tls, &security));
                    if let (Err(error), 0) = (&figures, n) {
                        return Err(format!("{}: {}: {error}", scenario.name, broker.name).into());
                    }
                    if let (Err(error), 0) = (&figures, round) {
                        progress.say(&format!("{}: {}: {error}", scenario.name, broker.name));
                    }
                    rounds.entry(n).or_default().push(figures.ok());
                }
            }
            progress.clear();
            missed.extend(self.print(scenario, &brokers, &rounds));
            all.push((scenario, rounds));
        }
        let names: Vec<&str> = brokers.iter().map(|broker| broker.name.as_str()).collect();
        if let Some(file) = &self.json {
            std::fs::write(file, json(&all, &names, self))?;
        }
        if let Some(file) = &self.svg {
            let bars = all.iter().map(|(scenario, rounds)| {
                (scenario.name, rounds.values().map(|rounds| of(rounds, MAIN)).collect::<Vec<_>>())
            });
            std::fs::write(file, plot::bars(&names, &bars.collect::<Vec<_>>(), &machine()))?;
        }
        if self.check && !missed.is_empty() {
            return Err(format!("above what is to be reached: {}", missed.join(", ")).into());
        }
        Ok(())
    }

    fn one(
        &self,
        scenario: &Scenario,
        broker: &Broker,
        folder: &std::path::Path,
        (tls, security): (&Tls, &Security),
    ) -> Result<Figures, Error> {
        let started = broker.start(folder, tls, &self.cores)?;
        measure(scenario.kind, &started, security, Duration::from_secs_f64(self.seconds))
    }

    /// The rows of a scenario; says if ours is above what it is to be.
    fn print(&self, scenario: &Scenario, brokers: &[Broker], rounds: &Rounds) -> Option<String> {
        println!("\n{}: {}", scenario.name, scenario.what);
        let base = brokers.iter().position(|broker| broker.name == "mosquitto").and_then(|n| rounds.get(&n));
        let mut missed = None;
        for (n, broker) in brokers.iter().enumerate() {
            let own = &rounds[&n];
            let Some(main) = of(own, MAIN) else {
                println!("  {:<14} failed", broker.name);
                continue;
            };
            let part = base.and_then(|base| ratio(own, base));
            let mut line = format!("  {:<14} {main:>9.3} us CPU", broker.name);
            line += &part.map_or(String::new(), |part| format!("  x{part:.3}"));
            if let (0, Some(most), Some(part)) = (n, scenario.at_most, part) {
                line += &format!(" (at most {most}: {})", if part <= most { "met" } else { "MISSED" });
                if part > most {
                    missed = Some(format!("{} x{part:.3} > {most}", scenario.name));
                }
            }
            for (figure, value) in own.iter().flatten().next().into_iter().flatten() {
                if *figure != MAIN {
                    line += &format!("  {figure} {}", shown(of(own, figure).unwrap_or(*value)));
                }
            }
            println!("{line}");
        }
        missed
    }
}

fn shown(value: f64) -> String {
    if value >= 100.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The processor and the kernel.
pub fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, name)| name.trim());
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{}, {cores} cores, Linux {}",
        model.unwrap_or("some processor"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn json(all: &[(&Scenario, Rounds)], names: &[&str], compare: &Compare) -> String {
    let scenarios: Vec<serde_json::Value> = all
        .iter()
        .map(|(scenario, rounds)| {
            let brokers: serde_json::Map<String, serde_json::Value> = names
                .iter()
                .zip(rounds.values())
                .map(|(name, rounds)| ((*name).to_owned(), serde_json::json!(rounds)))
                .collect();
            serde_json::json!({ "name": scenario.name, "what": scenario.what, "at_most": scenario.at_most, "rounds": brokers })
        })
        .collect();
    let whole =
        serde_json::json!({ "machine": machine(), "broker_cores": compare.cores, "scenarios": scenarios });
    format!("{whole:#}\n")
}

/// A bar on the terminal; a line now and then where there is none.
struct Progress {
    done: usize,
    all: usize,
    terminal: bool,
    began: Instant,
}

impl Progress {
    fn new(all: usize) -> Progress {
        Progress { done: 0, all, terminal: std::io::stderr().is_terminal(), began: Instant::now() }
    }

    fn step(&mut self, what: &str) {
        if self.terminal {
            let filled = 30 * self.done / self.all.max(1);
            let left = self.began.elapsed().mul_f64((self.all - self.done) as f64 / self.done.max(1) as f64);
            let left = if self.done == 0 { String::new() } else { format!("{} s left", left.as_secs()) };
            eprint!("\r\x1b[K[{:<30}] {}/{} {what} {left}", "#".repeat(filled), self.done, self.all);
            let _ = std::io::stderr().flush();
        }
        self.done += 1;
    }

    fn say(&self, line: &str) {
        self.clear();
        eprintln!("{line}");
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
