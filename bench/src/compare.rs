//! Brokers side by side.
//!
//! Each scenario is measured in rounds. The brokers of a round run one after the other, so that
//! noise of the machine affects all of them. Figures are medians; a ratio is taken within its
//! round.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::broker::{self, Broker, Known, Tls};
use crate::measure::{Figures, MAIN, measure};
use crate::plot;
use crate::scenario::{ALL, Scenario};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Compares brokers side by side.
#[derive(Args, Debug)]
pub struct Compare {
    /// Only these scenarios, by name
    #[arg(value_name = "SCENARIO")]
    only: Vec<String>,
    /// Only these brokers, by name
    #[arg(long, value_delimiter = ',')]
    brokers: Vec<String>,
    /// The Lapwing program
    #[arg(long, default_value = "target/release/lapwing")]
    lapwing: PathBuf,
    /// Further brokers, a line each: NAME = COMMAND with {port}, {tls_port}, {folder}, {cert},
    /// {key}
    #[arg(long, value_name = "FILE")]
    others: Option<PathBuf>,
    /// Folder of brokers that are not installed in the system: in its bin/, as cargo install --root
    /// makes it
    #[arg(long, value_name = "FOLDER", default_value = "target/peers")]
    peers: PathBuf,
    /// Longest time of a broker for a scenario, beside the time that messages flow, in seconds;
    /// then it is killed and has failed
    #[arg(long, default_value_t = 120.0)]
    patience_s: f64,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Time that messages flow in each round, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Cores of the brokers, in the notation of taskset
    #[arg(long, default_value = "0")]
    cores: String,
    /// Core of the load; any core if not given
    #[arg(long, default_value = "1")]
    load_core: String,
    /// Folder for states and logs
    #[arg(long, default_value = "target/bench-compare")]
    folder: PathBuf,
    /// Writes all figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the main figures as a plot
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Fails if Lapwing is above its target ratio to Mosquitto
    #[arg(long)]
    check: bool,
    /// Lists the scenarios
    #[arg(long)]
    list: bool,
}

/// Result of a broker in a scenario.
#[derive(Debug, Default)]
struct Row {
    /// Figures of each round.
    rounds: Vec<Option<Figures>>,
    /// Reason for missing figures, in all rounds or from some round on.
    trouble: Option<Trouble>,
}

#[derive(Debug)]
enum Trouble {
    /// The broker was not measured.
    Cannot(&'static str),
    /// The broker failed and was not measured again.
    Failed { round: usize, why: String },
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Cannot(why) => write!(f, "cannot: {why}"),
            Trouble::Failed { round, why } => write!(f, "failed in round {round}: {why}"),
        }
    }
}

impl Row {
    fn median(&self, figure: &str) -> Option<f64> {
        of(&self.rounds, figure)
    }

    /// Returns the greatest loss of a round.
    fn lost(&self) -> f64 {
        self.rounds
            .iter()
            .flatten()
            .filter_map(|figures| figures.get("lost"))
            .fold(0.0, |most, lost| lost.max(most))
    }
}

/// Returns the median.
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

/// Returns the median of the ratios within rounds.
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
    /// Lapwing fails, or with `--check` misses a target.
    pub fn run(&self) -> Result<(), Error> {
        let scenarios = self.chosen_scenarios()?;
        if self.list {
            scenarios.iter().for_each(|scenario| println!("{:<16} {}", scenario.name, scenario.what));
            return Ok(());
        }
        let brokers = self.chosen_brokers()?;
        if let Ok(core) = self.load_core.parse() {
            let mut set = CpuSet::new();
            set.set(core);
            sched_setaffinity(None, &set)?;
        }
        let folder = std::path::absolute(&self.folder)?;
        std::fs::create_dir_all(&folder)?;
        let tls = Tls::make(&folder)?;
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
            let rows = self.measure_rounds(scenario, &brokers, &folder, &tls, &mut progress)?;
            progress.clear();
            missed.extend(print(scenario, &brokers, &rows));
            all.push((scenario, rows));
        }
        self.write_files(&brokers, &all)?;
        if self.check && !missed.is_empty() {
            return Err(format!("above the target ratio: {}", missed.join(", ")).into());
        }
        Ok(())
    }

    /// Returns the chosen scenarios.
    fn chosen_scenarios(&self) -> Result<Vec<&'static Scenario>, Error> {
        if let Some(name) = self.only.iter().find(|name| !ALL.iter().any(|known| known.name == **name)) {
            return Err(format!("there is no scenario '{name}'; --list shows them").into());
        }
        let wanted = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        Ok(ALL.iter().filter(|scenario| wanted(scenario.name)).collect())
    }

    /// Returns the chosen brokers that are installed.
    fn chosen_brokers(&self) -> Result<Vec<Broker>, Error> {
        let Known { mut brokers, left_out } =
            broker::known(&self.lapwing, &self.peers, self.others.as_deref())?;
        let is_wanted = |name: &String| self.brokers.is_empty() || self.brokers.contains(name);
        brokers.retain(|broker| is_wanted(&broker.name));
        if let Some(name) =
            self.brokers.iter().find(|name| !brokers.iter().any(|broker| broker.name == **name))
        {
            return Err(format!("there is no broker '{name}'; {}", left_out.join("; ")).into());
        }
        if self.brokers.is_empty() {
            left_out.iter().for_each(|line| eprintln!("{line}"));
        }
        Ok(brokers)
    }

    /// Measures one scenario in all rounds, with all brokers.
    fn measure_rounds(
        &self,
        scenario: &Scenario,
        brokers: &[Broker],
        folder: &Path,
        tls: &Tls,
        progress: &mut Progress,
    ) -> Result<Vec<Row>, Error> {
        let cannot = |broker: &Broker| broker.cannot(scenario.kind).map(Trouble::Cannot);
        let mut rows: Vec<Row> =
            brokers.iter().map(|broker| Row { trouble: cannot(broker), ..Row::default() }).collect();
        for round in 1..=self.rounds {
            for (broker, row) in brokers.iter().zip(&mut rows) {
                progress.step(&format!("{} {} {round}", scenario.name, broker.name));
                if row.trouble.is_some() {
                    row.rounds.push(None);
                    continue;
                }
                let figures = self.one(scenario, broker, &folder.join("broker"), tls);
                if let Err(error) = &figures {
                    let why = error.to_string();
                    if broker.name == "lapwing" {
                        return Err(format!("{}: lapwing: {why}", scenario.name).into());
                    }
                    progress.say(&format!("{}: {}: {why}", scenario.name, broker.name));
                    row.trouble = Some(Trouble::Failed { round, why });
                }
                row.rounds.push(figures.ok());
            }
        }
        Ok(rows)
    }

    /// Writes the files of `--json` and `--svg`.
    fn write_files(&self, brokers: &[Broker], all: &[(&Scenario, Vec<Row>)]) -> Result<(), Error> {
        let names: Vec<&str> = brokers.iter().map(|broker| broker.name.as_str()).collect();
        if let Some(file) = &self.json {
            std::fs::write(file, json(all, &names, &self.cores))?;
        }
        if let Some(file) = &self.svg {
            let bars = all.iter().map(|(scenario, rows)| {
                (scenario.name, rows.iter().map(|row| row.median(MAIN)).collect::<Vec<_>>())
            });
            std::fs::write(file, plot::bars(&names, &bars.collect::<Vec<_>>(), &machine()))?;
        }
        Ok(())
    }

    fn one(&self, scenario: &Scenario, broker: &Broker, folder: &Path, tls: &Tls) -> Result<Figures, Error> {
        let started = broker.start(scenario.kind, folder, tls, &self.cores)?;
        let deadline = started.running.deadline(Duration::from_secs_f64(self.patience_s + self.seconds));
        let figures = measure(scenario.kind, &started, &tls.client, Duration::from_secs_f64(self.seconds));
        if deadline.has_passed() {
            return Err(format!("stalled: killed after {} s", self.patience_s).into());
        }
        figures
    }
}

/// Prints the rows of a scenario, and returns the missed targets of Lapwing.
fn print(scenario: &Scenario, brokers: &[Broker], rows: &[Row]) -> Vec<String> {
    println!("\n{}: {}", scenario.name, scenario.what);
    let base = brokers.iter().zip(rows).find(|(broker, _)| broker.name == "mosquitto").map(|(_, row)| row);
    let mut missed = Vec::new();
    for (broker, row) in brokers.iter().zip(rows) {
        let is_ours = broker.name == "lapwing";
        let mut line = format!("  {:<14}", broker.name);
        if let Some(main) = row.median(MAIN) {
            let part = base.and_then(|base| ratio(&row.rounds, &base.rounds));
            line += &format!(" {main:>9.3} us CPU");
            line += &part.map_or(String::new(), |part| format!("  x{part:.3}"));
            if let (true, Some(most), Some(part)) = (is_ours, scenario.at_most, part) {
                line += &format!(" (at most {most}: {})", if part <= most { "met" } else { "MISSED" });
                if part > most {
                    missed.push(format!("{} x{part:.3} > {most}", scenario.name));
                }
            }
            if row.lost() > 0.0 {
                line += &format!("  LOST {:.0}", row.lost());
                if is_ours {
                    missed.push(format!("{}: {:.0} lost", scenario.name, row.lost()));
                }
            }
            for (figure, value) in row.rounds.iter().flatten().next().into_iter().flatten() {
                if *figure != MAIN && *figure != "lost" {
                    line += &format!("  {figure} {}", shown(row.median(figure).unwrap_or(*value)));
                }
            }
        }
        line += &row.trouble.as_ref().map_or(String::new(), |trouble| format!(" {trouble}"));
        println!("{line}");
    }
    missed
}

fn shown(value: f64) -> String {
    if value >= 100.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Returns processor and kernel of this machine.
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

fn json(all: &[(&Scenario, Vec<Row>)], names: &[&str], cores: &str) -> String {
    use serde_json::{Map, Value, json};
    let each = |rows: &[Row], value: &dyn Fn(&Row) -> Option<Value>| -> Map<String, Value> {
        let values = names.iter().zip(rows).filter_map(|(name, row)| Some(((*name).to_owned(), value(row)?)));
        values.collect()
    };
    let scenarios: Vec<Value> = all
        .iter()
        .map(|(scenario, rows)| {
            json!({
                "name": scenario.name,
                "what": scenario.what,
                "at_most": scenario.at_most,
                "rounds": each(rows, &|row| Some(json!(row.rounds))),
                "trouble": each(rows, &|row| row.trouble.as_ref().map(|trouble| json!(trouble.to_string()))),
            })
        })
        .collect();
    let whole = json!({ "machine": machine(), "broker_cores": cores, "scenarios": scenarios });
    format!("{whole:#}\n")
}

/// Progress bar on a terminal; elsewhere a line now and then.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(costs: &[Option<f64>], trouble: Option<Trouble>) -> Row {
        let rounds = costs.iter().map(|cost| cost.map(|cost| Figures::from([(MAIN, cost)]))).collect();
        Row { rounds, trouble }
    }

    #[test]
    fn a_ratio_is_that_of_the_rounds_that_both_went_through() {
        let base = row(&[Some(10.0), Some(20.0), Some(40.0)], None);
        let other = row(&[Some(1.0), Some(4.0), None], None);
        assert!(ratio(&other.rounds, &base.rounds).is_some_and(|ratio| (ratio - 0.15).abs() < 1e-9));
        assert_eq!(ratio(&row(&[None, None, None], None).rounds, &base.rounds), None);
    }

    #[test]
    fn what_a_broker_cannot_do_or_failed_at_stands_in_the_json_by_its_name() {
        let failed = Trouble::Failed { round: 2, why: "stalled".to_owned() };
        let rows = vec![
            row(&[Some(1.0), Some(1.0)], None),
            row(&[None, None], Some(Trouble::Cannot("no QoS 2"))),
            row(&[Some(7.0), None], Some(failed)),
        ];
        let text = json(&[(&ALL[0], rows)], &["a", "b", "c"], "0");
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        let scenario = &whole["scenarios"][0];
        assert_eq!(scenario["rounds"]["c"], serde_json::json!([{ MAIN: 7.0 }, null]));
        assert_eq!(scenario["rounds"]["b"], serde_json::json!([null, null]));
        assert_eq!(
            scenario["trouble"],
            serde_json::json!({ "b": "cannot: no QoS 2", "c": "failed in round 2: stalled" })
        );
    }
}
