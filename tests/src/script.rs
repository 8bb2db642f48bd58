//! Plays dialogues that are written as data. `tests/cases/conformance/README.md` tells the
//! language.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use lapwing::Broker;
use lapwing::internals::auth::{AuthExchange, AuthMethod, AuthStep, Credentials};
use lapwing::internals::config::Config;

use crate::program::Folder;
use crate::siege::Crowd;
use crate::wire::{self, Fields};

/// Longest time that anything that must come may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A dialogue.
#[derive(Clone, Debug)]
pub struct Case {
    /// As a sentence.
    pub name: String,
    /// The file it stands in.
    pub file: String,
    /// The versions it is played in.
    pub versions: Vec<String>,
    /// Statements that it shows, as `3.1.1:MQTT-x.y.z-n`.
    pub shows: Vec<String>,
    /// Lines of TOML for the broker.
    pub config: String,
    /// The row of the abuse table that it is, if any, and what is said of that besides.
    pub abuse: Abuse,
    /// Its steps.
    pub steps: Vec<String>,
}

/// Parts of a case of abuse besides its dialogue.
#[derive(Clone, Debug, Default)]
pub struct Abuse {
    /// Its row.
    pub id: String,
    /// Memory that the broker may take more meanwhile, in MiB.
    pub memory_mib: u64,
    /// Some of it stays by its nature, like retained messages.
    pub keeps: bool,
    /// It takes long.
    pub long: bool,
}

/// Reads all cases of a folder.
pub fn load(folder: &Path) -> Vec<Case> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder of cases").map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "case"));
    files.sort();
    files
        .iter()
        .flat_map(|path| {
            parse(&path.file_name().unwrap().to_string_lossy(), &std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn parse(file: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "case" {
            let versions = ["3.1", "3.1.1", "5.0"].map(str::to_owned).to_vec();
            let (name, file) = (rest.to_owned(), file.to_owned());
            let (config, abuse) = (String::new(), Abuse::default());
            cases.push(Case { name, file, versions, shows: vec![], config, abuse, steps: vec![] });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("{file}: a line before the first case: {line}"));
        match word {
            "on" => case.versions = rest.split(' ').map(str::to_owned).collect(),
            "shows3" => case.shows.extend(rest.split(' ').map(|id| format!("3.1.1:MQTT-{id}"))),
            "shows5" => case.shows.extend(rest.split(' ').map(|id| format!("5.0:MQTT-{id}"))),
            "config" => case.config += &format!("{rest}\n"),
            "row" => case.abuse.id = rest.to_owned(),
            "memory" => case.abuse.memory_mib = wire::number(rest),
            "keeps" => case.abuse.keeps = true,
            "long" => case.abuse.long = true,
            _ => case.steps.push(line.to_owned()),
        }
    }
    cases
}

/// A scripted method for enhanced authentication: says `round-1`, wants `answer-1`, and so on for
/// two rounds.
struct TwoRounds;

struct Rounds(usize);

impl AuthMethod for TwoRounds {
    fn name(&self) -> &str {
        "TWO-ROUNDS"
    }

    fn begin(&self, _: &Credentials<'_>) -> Box<dyn AuthExchange> {
        Box::new(Rounds(0))
    }
}

impl AuthExchange for Rounds {
    fn step(&mut self, data: Option<&[u8]>) -> AuthStep {
        let expected = if self.0 == 0 { None } else { Some(format!("answer-{}", self.0).into_bytes()) };
        if expected.is_some() && data != expected.as_deref() {
            return AuthStep::Reject(lapwing_reason());
        }
        self.0 += 1;
        match self.0 {
            3 => AuthStep::Accept { identity: Box::default(), data: Some(b"welcome".to_vec()) },
            n => AuthStep::Continue(format!("round-{n}").into_bytes()),
        }
    }
}

fn lapwing_reason() -> lapwing::ReasonCode {
    lapwing::ReasonCode::NotAuthorized
}

/// One client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    version: String,
    pub(crate) input: Vec<u8>,
    /// When its last step began.
    pub(crate) since: Instant,
}

impl Client {
    fn connect(address: SocketAddr, version: &str) -> Client {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, version: version.to_owned(), input: Vec::new(), since: Instant::now() }
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The next packet, or `None` when the broker has closed.
    pub(crate) fn receive(&mut self) -> Option<(&'static str, Fields)> {
        loop {
            if let Some(len) = wire::packet_len(&self.input) {
                let packet: Vec<u8> = self.input.drain(..len).collect();
                wire::second_opinion(&packet, &self.version);
                return Some(wire::decode(&packet, &self.version));
            }
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.input.extend(&buffer[..n]),
                // It was stopped and goes on.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }
}

/// Plays a case in one version.
///
/// # Errors
/// The step that went wrong, and how.
pub fn play(case: &Case, version: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let text = format!("[[listener]]\naddress = '127.0.0.1:0'\n{}", toml_of(&case.config));
    let mut config = Config::from_toml(&text, &case.file).map_err(|error| error.to_string())?;
    let state = Folder::new("script");
    config.store.data_dir = state.0.display().to_string();
    let broker = runtime
        .block_on(Broker::builder().config(config).auth_method(TwoRounds).start())
        .map_err(|e| e.to_string())?;
    let address: SocketAddr = broker.listeners()[0].strip_prefix("mqtt://").unwrap().parse().unwrap();
    let mut stage = Stage::new(address, version);
    stage.broker = Some((broker, runtime));
    stage.play(case)
}

/// Plays a case in one version against a broker that runs already.
///
/// # Errors
/// The step that went wrong, and how.
pub fn play_at(case: &Case, version: &str, address: SocketAddr) -> Result<(), String> {
    Stage::new(address, version).play(case)
}

/// `limits.x=1` lines as TOML tables.
pub fn toml_of(config: &str) -> String {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    for (key, value) in config.split_whitespace().filter_map(|pair| pair.split_once('=')) {
        let (section, key) = key.split_once('.').expect("SECTION.KEY=VALUE");
        *sections.entry(section).or_default() += &format!("{key} = {value}\n");
    }
    sections.iter().map(|(section, keys)| format!("[{section}]\n{keys}")).collect()
}

pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) version: String,
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) crowds: Vec<Crowd>,
    /// Values that `?name` has bound.
    bound: BTreeMap<String, String>,
    broker: Option<(Broker, tokio::runtime::Runtime)>,
    stopping: Option<tokio::runtime::Runtime>,
}

impl Stage {
    fn new(address: SocketAddr, version: &str) -> Stage {
        Stage {
            address,
            version: version.to_owned(),
            clients: BTreeMap::new(),
            crowds: Vec::new(),
            bound: BTreeMap::new(),
            broker: None,
            stopping: None,
        }
    }

    fn play(mut self, case: &Case) -> Result<(), String> {
        let stage = &mut self;
        for step in &case.steps {
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.step(step)));
            if let Err(panic) = played {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let (name, file, version) = (&case.name, &case.file, &stage.version);
                return Err(format!(
                    "{name} in {file} ({version}), at `{step}`:\n  {}",
                    text.unwrap_or_default()
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn step(&mut self, step: &str) {
        let words: Vec<&str> = step.split_whitespace().collect();
        if self.siege(&words) {
            return;
        }
        match words.as_slice() {
            ["wait", ms] => std::thread::sleep(Duration::from_millis(wire::number(ms))),
            ["stop"] => {
                let (broker, runtime) = self.broker.take().expect("a running broker");
                runtime.spawn(broker.stop());
                self.stopping = Some(runtime);
            }
            [who, "join", id, rest @ ..] => {
                // CONNECT and its success in one step.
                let connect = format!("{who} > connect id={id} {}", rest.join(" "));
                self.step(&connect);
                self.step(&format!("{who} < connack reason=0 code=0"));
            }
            [who, "open"] => {
                let client = Client::connect(self.address, &self.version);
                self.clients.insert((*who).to_owned(), client);
            }
            [who, "open", version] => {
                let client = Client::connect(self.address, version);
                self.clients.insert((*who).to_owned(), client);
            }
            [who, "drop"] => drop(self.clients.remove(*who).expect("a client")),
            [who, "hex", hex] => self.send(who, &wire::bytes_of(&format!("hex:{hex}"))),
            [who, ">", name, fields @ ..] => self.send_packet(who, name, fields),
            [who, ">>", packets @ ..] => {
                // Several packets in one segment, divided by `;`.
                let version = self.clients[*who].version.clone();
                let all: Vec<u8> = packets
                    .split(|word| *word == ";")
                    .flat_map(|packet| wire::encode(packet[0], &self.fields(&packet[1..]), &version))
                    .collect();
                self.send(who, &all);
            }
            [who, "slow", name, fields @ ..] => {
                // One byte at a time.
                let version = self.clients[*who].version.clone();
                let bytes = wire::encode(name, &self.fields(fields), &version);
                bytes.iter().for_each(|byte| self.send(who, &[*byte]));
            }
            [who, "<", "nothing"] => {
                self.send_packet(who, "pingreq", &[]);
                let next = self.client(who).receive();
                assert!(matches!(next, Some(("pingresp", _))), "nothing was to come, but {next:?}");
            }
            [who, "<", "closed"] => {
                let next = self.client(who).receive();
                assert!(next.is_none(), "the broker was to close, but sent {next:?}");
            }
            [who, "<", "end", reason] => {
                // DISCONNECT with a reason where the version has it, then the end of the
                // connection.
                if self.client(who).version == "5.0" {
                    self.expect(who, "disconnect", &[&format!("reason={reason}")]);
                }
                self.step(&format!("{who} < closed"));
            }
            [who, "<", "refused", reason, code] => {
                self.expect(who, "connack", &["sp=0", &format!("reason={reason}"), &format!("code={code}")]);
                self.step(&format!("{who} < closed"));
            }
            [who, "<", "within", low, high, rest @ ..] => {
                self.step(&format!("{who} < {}", rest.join(" ")));
                let took = self.client(who).since.elapsed().as_millis() as u64;
                assert!((wire::number(low)..=wire::number(high)).contains(&took), "it took {took} ms");
            }
            [who, "<", "set", rest @ ..] => {
                // Packets in any order, divided by `;`.
                let mut expected: Vec<&[&str]> = rest.split(|word| *word == ";").collect();
                while !expected.is_empty() {
                    let v5 = self.client(who).version == "5.0";
                    let (name, fields) = self.client(who).receive().expect("a packet");
                    let at = expected
                        .iter()
                        .position(|e| e[0] == name && self.differs(&e[1..], &fields, v5).is_none());
                    let at = at.unwrap_or_else(|| panic!("{name} {fields:?} is none of {expected:?}"));
                    expected.remove(at);
                }
            }
            [who, "<", name, fields @ ..] => self.expect(who, name, fields),
            _ => panic!("this is no step"),
        }
    }

    pub(crate) fn client(&mut self, who: &str) -> &mut Client {
        self.clients.get_mut(who).unwrap_or_else(|| panic!("there is no client {who}"))
    }

    pub(crate) fn send(&mut self, who: &str, bytes: &[u8]) {
        let client = self.client(who);
        client.since = Instant::now();
        client.stream.write_all(bytes).expect("the broker reads");
    }

    fn send_packet(&mut self, who: &str, name: &str, words: &[&str]) {
        let mut fields = self.fields(words);
        if name == "connect" && fields.remove("again").is_none() {
            let version = fields.remove("v").unwrap_or_else(|| self.version.clone());
            self.clients.insert(who.to_owned(), Client::connect(self.address, &version));
        }
        let version = self.client(who).version.clone();
        self.send(who, &wire::encode(name, &fields, &version));
    }

    pub(crate) fn fields(&self, words: &[&str]) -> Fields {
        let mut fields = Fields::new();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{word} is not KEY=VALUE"));
            let value = match value.strip_prefix('$') {
                Some(name) if self.bound.contains_key(name) => self.bound[name].clone(),
                _ => value.replace('~', " "),
            };
            let value = match (value.strip_prefix("levels:"), value.strip_prefix("slashes:")) {
                (Some(n), _) => vec!["a"; wire::number(n) as usize].join("/"),
                (_, Some(n)) => "/".repeat(wire::number(n) as usize),
                _ => value,
            };
            fields.entry(key.to_owned()).and_modify(|all| *all = format!("{all}|{value}")).or_insert(value);
        }
        fields
    }

    fn expect(&mut self, who: &str, name: &str, words: &[&str]) {
        let received = self.client(who).receive();
        let (got, fields) = received.unwrap_or_else(|| panic!("{name} was to come, but the broker closed"));
        assert!(got == name, "{name} was to come, but {got} {fields:?}");
        let v5 = self.client(who).version == "5.0";
        if let Some(why) = self.differs(words, &fields, v5) {
            panic!("{why} in {fields:?}");
        }
        for word in words {
            if let Some((key, variable)) = word.split_once("=?") {
                match fields.get(key) {
                    Some(value) => drop(self.bound.insert(variable.to_owned(), value.clone())),
                    None => assert!(
                        key.starts_with("p.") && self.client(who).version != "5.0",
                        "no {key} in {fields:?}"
                    ),
                }
            }
        }
    }

    /// Returns the first difference of the received fields. Fields of another version are skipped.
    fn differs(&self, words: &[&str], got: &Fields, v5: bool) -> Option<String> {
        for (key, wanted) in self.fields(words) {
            let only_v5 = key.starts_with("p.") || key == "reason";
            if wanted.starts_with('?')
                || (only_v5 && !v5)
                || (key == "code" && v5)
                || (key == "codes" && !v5 && !got.contains_key("codes"))
            {
                continue;
            }
            let value = got.get(&key).map(String::as_str);
            let same = match (wanted.as_str(), value) {
                ("none", value) => value.is_none(),
                ("any", value) => value.is_some(),
                (wanted, Some(value)) if key != "codes" && wanted.starts_with("0x") => {
                    wire::number(wanted).to_string() == value
                }
                (wanted, Some(value)) if wanted.contains("..") => {
                    let (low, high) = wanted.split_once("..")?;
                    (wire::number(low)..=wire::number(high)).contains(&wire::number(value))
                }
                (wanted, Some(value)) if key == "codes" => {
                    let wanted: Vec<String> =
                        wanted.split('|').map(|code| wire::number(code).to_string()).collect();
                    // Before MQTT 5 every failure is 0x80.
                    let wanted = wanted.iter().map(|code| {
                        if v5 || wire::number(code) < 0x80 { code.clone() } else { "128".to_owned() }
                    });
                    wanted.collect::<Vec<_>>().join("|") == value
                }
                (wanted, value) => Some(wanted) == value,
            };
            if !same {
                return Some(format!("{key} is {value:?}, not {wanted}"));
            }
        }
        None
    }
}
