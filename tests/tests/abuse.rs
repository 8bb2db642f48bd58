//! Plays every case of `tests/cases/abuse/` against the program, in every version it names: what
//! the client gets, how much memory the broker takes meanwhile and keeps, and what an honest pair
//! of clients beside it notices.
//!
//! `LAPWING_LONG=1` plays the long ones, too. `LAPWING_UPDATE=1` writes `docs/ABUSE.md` with the
//! figures of this run, beside those of Mosquitto where that is installed. `elsewhere.tsv` names
//! the tests of the rows that are no dialogue; that they are there is checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapwing_tests::bystander::Bystander;
use lapwing_tests::program::{Folder, Program, free_port, root};
use lapwing_tests::script::{self, Case};
use libtest_mimic::{Arguments, Failed, Trial};

/// Highest p99 of the pair, where it is less than half of that without an attack.
const P99: Duration = Duration::from_millis(10);
/// The machine may be busy with something else: a late pair is looked at again, nothing else is.
const ATTEMPTS: usize = 5;
/// Longest time until the broker has given back memory and file descriptors.
const AFTERWARDS: Duration = Duration::from_secs(10);
const MIB: u64 = 1024;

/// The rows of the abuse table.
const ROWS: &str = "A01 A02 A04 A06 A07 A08 A09 A10 A12 A13 A14 A15 A17 A18 A20 B01 B02 B03 B04 B06 B08 B10 B12 \
    C01 C02 C03 C04 C05 C06 C08 C09 C12 C13 D01 D02 D04 D05 D06 D08 D09 E01 E02 E04 E05 E06 E08 E10 \
    F01 F02 F03 F04 F05 F07 F08 F09 F10 F14 G01 G02 G03 G04 G05 G06 G08 G09 G10 G12 H01 H02 H03 H04 H06 H07 H09";

struct Watched {
    peak_kib: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

impl Watched {
    fn start(pid: u32) -> Watched {
        let (peak_kib, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (peak, stopped) = (peak_kib.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                peak.fetch_max(resident_kib(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Watched { peak_kib, stop, thread: Some(thread) }
    }

    fn peak_kib(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
        self.peak_kib.load(Ordering::Relaxed)
    }
}

/// Costs of a case.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    grown_mib: f64,
    p99_ms: f64,
}

enum Verdict {
    Good(Cost),
    /// The pair was late; all else was good.
    Late(Cost, Duration),
    Bad(String),
}

/// One case against a broker that runs, with everything that is the same for every broker.
fn play(case: &Case, version: &str, address: SocketAddr, pid: u32) -> Verdict {
    let quiet = Bystander::start(address).and_then(|pair| {
        std::thread::sleep(Duration::from_millis(400));
        pair.finish()
    });
    let baseline = match quiet {
        Ok(noticed) => noticed.p99,
        Err(error) => return Verdict::Bad(format!("the honest pair: {error}")),
    };
    let (before_kib, before_fds) = (resident_kib(pid), descriptors(pid));
    let watched = Watched::start(pid);
    let pair = match Bystander::start(address) {
        Ok(pair) => pair,
        Err(error) => return Verdict::Bad(format!("the honest pair: {error}")),
    };
    let played = script::play_at(case, version, address);
    // Of a case that is over at once, the pair would notice nothing.
    std::thread::sleep(Duration::from_millis(400));
    let noticed = pair.finish();
    let grown_kib = watched.peak_kib().saturating_sub(before_kib);
    let cost =
        |p99: Duration| Cost { grown_mib: grown_kib as f64 / MIB as f64, p99_ms: p99.as_secs_f64() * 1e3 };
    if let Err(error) = played {
        return Verdict::Bad(error);
    }
    let noticed = match noticed {
        Ok(noticed) => noticed,
        Err(error) => return Verdict::Bad(format!("the honest pair was thrown out: {error}")),
    };
    if noticed.lost > 0 {
        return Verdict::Bad(format!("the honest pair lost {} messages", noticed.lost));
    }
    if grown_kib > case.abuse.memory_mib * MIB {
        return Verdict::Bad(format!(
            "{} KiB more memory, of {} MiB allowed",
            grown_kib, case.abuse.memory_mib
        ));
    }
    // What stays by its nature, like retained messages, is part of what is allowed.
    let stays_kib = if case.abuse.keeps { case.abuse.memory_mib * MIB } else { 0 };
    let allowed_kib = before_kib + before_kib / 10 + 16 * MIB + stays_kib;
    let until = Instant::now() + AFTERWARDS;
    while resident_kib(pid) > allowed_kib || descriptors(pid) > before_fds {
        if Instant::now() > until {
            let (kib, fds) = (resident_kib(pid), descriptors(pid));
            return Verdict::Bad(format!(
                "ten seconds later it has {kib} KiB and {fds} file descriptors, before {before_kib} and {before_fds}"
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match noticed.p99 <= P99.max(baseline * 2) {
        true => Verdict::Good(cost(noticed.p99)),
        false => Verdict::Late(cost(noticed.p99), baseline),
    }
}

fn ours(case: &Case, version: &str) -> Verdict {
    let toml = format!("{}[[listener]]\naddress = '127.0.0.1:0'\n", script::toml_of(&case.config));
    let mut broker = Program::start(&toml);
    let address = broker.address("mqtt").parse().expect("an address");
    let verdict = play(case, version, address, broker.id());
    broker.signal("TERM");
    let ended = broker.wait().success();
    let log = broker.log.lock().unwrap().clone();
    if !ended || log.contains("panicked") {
        return Verdict::Bad(format!("the broker did not end well:\n{log}"));
    }
    verdict
}

fn judge(case: &Case, version: &str) -> Result<Cost, String> {
    for _ in 1..ATTEMPTS {
        match ours(case, version) {
            Verdict::Good(cost) => return Ok(cost),
            Verdict::Late(cost, baseline) => {
                eprintln!("late, once more: p99 {:.1} ms, {baseline:?} without the attack", cost.p99_ms);
            }
            Verdict::Bad(text) => return Err(text),
        }
    }
    match ours(case, version) {
        Verdict::Good(cost) => Ok(cost),
        Verdict::Late(cost, baseline) => Err(format!(
            "the honest pair waited: p99 {:.1} ms, {:?} without the attack",
            cost.p99_ms, baseline
        )),
        Verdict::Bad(text) => Err(text),
    }
}

struct Killed(Child, #[allow(dead_code)] Folder);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same case against Mosquitto, in words for the table. Keys of ours mean nothing to it.
fn mosquitto(case: &Case, version: &str) -> String {
    let port = free_port();
    let folder = Folder::new("mosquitto");
    let config = folder.file(
        "mosquitto.conf",
        &format!("listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"),
    );
    let child =
        Command::new(MOSQUITTO).arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = Killed(child.expect("mosquitto"), folder);
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let until = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(address).is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let verdict = play(case, version, address, child.0.id());
    if let Ok(Some(status)) = child.0.try_wait() {
        return format!("**ends: {status}**");
    }
    match verdict {
        Verdict::Good(cost) => format!("as expected, {:.1} MiB, {:.1} ms", cost.grown_mib, cost.p99_ms),
        Verdict::Late(cost, _) => {
            format!("as expected, {:.1} MiB, **{:.1} ms**", cost.grown_mib, cost.p99_ms)
        }
        Verdict::Bad(text) => {
            let line = text.lines().last().unwrap_or_default().trim().replace('|', "\\|");
            format!("differs: {}", line.chars().take(90).collect::<String>())
        }
    }
}

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// Row, and the test that shows it: `tests/tests/FILE.rs NAME`.
fn elsewhere() -> Vec<(String, String, String)> {
    let text =
        std::fs::read_to_string(root().join("tests/cases/abuse/elsewhere.tsv")).expect("elsewhere.tsv");
    let line = |line: &str| {
        let mut words = line.split('\t').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// Every row of the table is a case or a test that is there.
fn every_row_is_shown(cases: &[Case]) -> Result<(), Failed> {
    let mut shown: Vec<String> = cases.iter().map(|case| case.abuse.id.clone()).collect();
    for (row, file, test) in elsewhere() {
        let source = std::fs::read_to_string(root().join(&file)).unwrap_or_default();
        let there = source.contains(&format!("fn {test}(")) || source.contains(&format!("case {test}"));
        if !there {
            return Err(format!("{row}: there is no '{test}' in {file}").into());
        }
        shown.push(row);
    }
    let missing: Vec<&str> =
        ROWS.split_whitespace().filter(|row| !shown.iter().any(|known| known == row)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("nothing shows {missing:?}").into()) }
}

/// The table, with the figures of this run.
fn document(cases: &[Case], costs: &BTreeMap<(String, String), Cost>) {
    let mut text = String::from(
        "# Abuse\n\nThis page shows how brokers were broken, and what happens here. \
         `LAPWING_LONG=1 LAPWING_UPDATE=1 cargo test -p lapwing-tests --test abuse` writes it, with the figures of that run. \
         *Memory* is the most that the broker grew during the case. *p99* is the latency of an honest pair beside it \
         (200 QoS 1 messages a second), which lost nothing in any case. *Mosquitto* is 2.0.11 with its own defaults; \
         *differs* names the first step that went otherwise.\n\n\
         | row | case | version | memory | p99 | Mosquitto |\n|---|---|---|---|---|---|\n",
    );
    for case in cases {
        for version in &case.versions {
            let Some(cost) = costs.get(&(case.name.clone(), version.clone())) else { continue };
            let beside = if Path::new(MOSQUITTO).exists() { mosquitto(case, version) } else { String::new() };
            text += &format!(
                "| {} | {} | {version} | {:.1} MiB | {:.1} ms | {beside} |\n",
                case.abuse.id, case.name, cost.grown_mib, cost.p99_ms
            );
        }
    }
    text += "\nRows that are no dialogue, and the tests that show them:\n\n| row | test |\n|---|---|\n";
    for (row, file, test) in elsewhere() {
        text += &format!("| {row} | `{file}`: `{test}` |\n");
    }
    std::fs::write(root().join("docs/ABUSE.md"), text).expect("docs/ABUSE.md");
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let all = script::load(&root().join("tests/cases/abuse"));
    let is_long = std::env::var_os("LAPWING_LONG").is_some();
    let cases: Vec<Case> = all.iter().filter(|case| is_long || !case.abuse.long).cloned().collect();
    let costs = Arc::new(Mutex::new(BTreeMap::new()));
    let mut trials = vec![Trial::test("every_row_of_the_table_is_shown", {
        let all = all.clone();
        move || every_row_is_shown(&all)
    })];
    for case in &cases {
        for version in case.versions.clone() {
            let (case, costs) = (case.clone(), costs.clone());
            let name =
                format!("{}::{}::v{}", case.abuse.id, case.name.replace(' ', "_"), version.replace('.', "_"));
            trials.push(Trial::test(name, move || {
                let cost = judge(&case, &version)?;
                costs.lock().unwrap().insert((case.name.clone(), version), cost);
                Ok(())
            }));
        }
    }
    let mut arguments = Arguments::from_args();
    // One at a time: the pair is to notice the attack, not the other tests.
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials);
    if std::env::var_os("LAPWING_UPDATE").is_some() && !conclusion.has_failed() {
        document(&cases, &costs.lock().unwrap());
    }
    conclusion.exit();
}
