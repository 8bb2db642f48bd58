//! Configurations as users of Mosquitto have them, after public guides: both brokers run the same
//! file with the same users and rules, and a script of clients (`tests/cases/mosquitto/`) has the
//! same outcome in both. Where it has not, the line names the row of `docs/MOSQUITTO.md` that says
//! why. `LAPWING_UPDATE=1` writes the outcomes; look at them before they are committed.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapwing_tests::access::secret_file;
use lapwing_tests::authority::{Authority, Issued, Wanted};
use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program, binary, free_port, is_there, root, run};
use rustls::ClientConfig;

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
/// Their password is their name and `-pw`.
const USERS: [&str; 5] = ["ann", "bob", "homeassistant", "zigbee2mqtt", "tasmota"];

fn cases() -> PathBuf {
    root().join("tests/cases/mosquitto")
}

/// Text of a file of the case, with ports and folder filled in.
fn fill(text: &str, ports: &[u16], folder: &Path) -> String {
    let text = text.replace("@DIR@", &folder.display().to_string());
    let fill =
        |text: String, (n, port): (usize, &u16)| text.replace(&format!("@PORT{n}@"), &port.to_string());
    ports.iter().enumerate().fold(text, fill)
}

fn free_ports() -> Vec<u16> {
    (0..3).map(|_| free_port()).collect()
}

/// Client certificates by name.
struct Certificates {
    authority: Authority,
    shown: BTreeMap<&'static str, Issued>,
}

impl Certificates {
    /// Puts what a server needs into the folder.
    fn new(folder: &Folder) -> Certificates {
        let authority = Authority::default();
        let server = authority.issue(Wanted { server: &["localhost", "127.0.0.1"], ..Wanted::default() });
        folder.file("ca.pem", &authority.pem);
        std::fs::create_dir(folder.0.join("authorities")).unwrap();
        folder.file("authorities/one.pem", &authority.pem);
        // OpenSSL finds them by names of its own.
        run(Command::new("openssl").arg("rehash").arg(folder.0.join("authorities")));
        folder.file("server.pem", &server.pem);
        secret_file(folder, "server.key", &server.key);
        folder.file("crl.pem", &authority.revoke(&[3], false));
        let shown = BTreeMap::from([
            ("pump-1", authority.client("pump-1", 1)),
            ("pump-2", authority.client("pump-2", 2)),
            ("revoked", authority.client("revoked", 3)),
            ("foreign", Authority::default().client("pump-1", 4)),
        ]);
        Certificates { authority, shown }
    }

    fn client(&self, name: &str) -> Arc<ClientConfig> {
        self.authority.tls(self.shown.get(name))
    }
}

enum Broker {
    Lapwing(Program),
    Mosquitto(Child),
}

impl Broker {
    fn start(is_lapwing: bool, folder: &Path, port: u16) -> Broker {
        if is_lapwing {
            let program = Program::by(&["-c", "mosquitto.conf"]).inside(folder).start();
            return Broker::Lapwing(program);
        }
        let mut command = Command::new(MOSQUITTO);
        command.current_dir(folder).args(["-c", "mosquitto.conf"]).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "Mosquitto does not start with the file");
            std::thread::sleep(Duration::from_millis(10));
        }
        Broker::Mosquitto(child)
    }

    fn stop(self) {
        match self {
            Broker::Lapwing(mut program) => {
                program.signal("TERM");
                assert!(program.wait().success());
            }
            Broker::Mosquitto(mut child) => {
                run(Command::new("kill").arg(child.id().to_string()));
                child.wait().unwrap();
            }
        }
    }
}

/// One broker with the clients of a script.
struct Play {
    is_lapwing: bool,
    broker: Option<Broker>,
    clients: BTreeMap<String, Client>,
    certificates: Certificates,
    ports: Vec<u16>,
    folder: Folder,
}

impl Play {
    fn new(case: &str, is_lapwing: bool) -> Play {
        let (folder, ports) = (Folder::new(case), free_ports());
        let certificates = Certificates::new(&folder);
        let path = folder.0.join("passwords");
        for (n, user) in USERS.iter().enumerate() {
            let mut command = Command::new("mosquitto_passwd");
            command.args(if n == 0 { &["-c", "-b"][..] } else { &["-b"] });
            run(command.arg(&path).args([user, &*format!("{user}-pw")]));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for folder in [folder.0.join("data"), folder.0.join("conf.d")] {
            std::fs::create_dir(folder).unwrap();
        }
        for (extension, to) in [("conf", "mosquitto.conf"), ("acl", "acl"), ("included", "conf.d/more.conf")]
        {
            if let Ok(text) = std::fs::read_to_string(cases().join(format!("{case}.{extension}"))) {
                folder.file(to, &fill(&text, &ports, &folder.0));
            }
        }
        let broker = Some(Broker::start(is_lapwing, &folder.0, ports[0]));
        Play { is_lapwing, broker, clients: BTreeMap::new(), certificates, ports, folder }
    }

    /// Does what a line says; what came of it.
    fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["+", name, listener, version, fields @ ..] => {
                self.connect(name, listener.parse().unwrap(), version, fields)
            }
            ["restart"] => {
                self.clients.clear();
                self.broker.take().unwrap().stop();
                self.broker = Some(Broker::start(self.is_lapwing, &self.folder.0, self.ports[0]));
                String::new()
            }
            // The connection is over when the broker has closed it, too.
            [name, "leave"] => {
                self.client(name).send("disconnect", &[]).unwrap();
                self.clients.remove(*name).unwrap().end();
                String::new()
            }
            [name, "drop"] => {
                self.clients.remove(*name);
                String::new()
            }
            [name, "closed"] => {
                self.clients.remove(*name).unwrap().end();
                "closed".to_owned()
            }
            [name, "subscribe", filters] => {
                let suback = self.client(name).ask("subscribe", &[("filters", filters)], "suback").unwrap();
                let codes = suback["codes"]
                    .split('|')
                    .map(|code| if code.parse::<u8>().unwrap() < 3 { code } else { "no" });
                codes.collect::<Vec<_>>().join(" ")
            }
            [name, "unsubscribe", filters] => {
                self.client(name).ask("unsubscribe", &[("filters", filters)], "unsuback").unwrap();
                "done".to_owned()
            }
            [name, "publish", topic, payload, more @ ..] => self.publish(name, topic, payload, more),
            [name, "receive", last] => self.client(name).messages_until(last).join(", "),
            _ => panic!("what is '{line}'?"),
        }
    }

    fn client(&mut self, name: &str) -> &mut Client {
        self.clients.get_mut(name).unwrap_or_else(|| panic!("{name} is not connected"))
    }

    fn connect(&mut self, name: &str, listener: usize, version: &str, fields: &[&str]) -> String {
        let version = ["3.1", "3.1.1", "5.0"].into_iter().find(|known| *known == version).unwrap();
        let port = self.ports[listener];
        let address = format!("127.0.0.1:{port}");
        let fields: Vec<(&str, &str)> = fields.iter().map(|field| field.split_once('=').unwrap()).collect();
        let mut all = vec![("id", name), ("ka", "30")];
        let (over, said): (Vec<_>, Vec<_>) =
            fields.into_iter().partition(|(key, _)| ["tls", "ws", "unix", "ip"].contains(key));
        all.extend(said);
        let came = match over.as_slice() {
            [] => Client::knock(&address, version, &all),
            [("ip", _)] => Client::knock(&format!("[::1]:{port}"), version, &all),
            [("tls", shown)] => Client::knock_tls(&address, version, &all, &self.certificates.client(shown)),
            [("ws", path)] => Client::knock_ws(&address, path, version, &all),
            [("unix", file), ..] => {
                Client::knock_unix(&self.folder.0.join(file).display().to_string(), version, &all)
            }
            other => panic!("{other:?}"),
        };
        match came {
            Err(_) => "no connection".to_owned(),
            Ok((_, connack)) if code(&connack) != 0 => "refused".to_owned(),
            Ok((client, connack)) => {
                self.clients.insert(name.to_owned(), client);
                let told = connack.get("p.server_keep_alive").map(|s| format!(", keep-alive {s}"));
                let session = if connack["sp"] == "1" { ", with its session" } else { "" };
                format!("in{session}{}", told.unwrap_or_default())
            }
        }
    }

    fn publish(&mut self, name: &str, topic: &str, payload: &str, more: &[&str]) -> String {
        let payload = match payload.strip_prefix('@') {
            Some(len) => "x".repeat(len.parse().unwrap()),
            None => payload.to_owned(),
        };
        let mut all = vec![("topic", topic), ("payload", &*payload), ("id", "9")];
        all.extend(more.iter().map(|field| field.split_once('=').unwrap()));
        let qos = all.iter().find(|(key, _)| *key == "qos").map_or("0", |(_, qos)| qos);
        let client = self.client(name);
        let answered = match qos {
            "0" => client.send("publish", &all).map(|()| None),
            "1" => client.ask("publish", &all, "puback").map(Some),
            _ => client
                .ask("publish", &all, "pubrec")
                .and_then(|pubrec| client.ask("pubrel", &[("id", "9")], "pubcomp").map(|_| Some(pubrec))),
        };
        match answered {
            Err(_) => "closed".to_owned(),
            Ok(answer) => {
                let reason =
                    answer.and_then(|fields| fields.get("reason").and_then(|code| code.parse::<u8>().ok()));
                if reason.unwrap_or(0) < 0x80 { "done" } else { "no" }.to_owned()
            }
        }
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if let Some(Broker::Mosquitto(mut child)) = self.broker.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A line of a script: what is done, and what has to come of it.
struct Line {
    done: String,
    ours: String,
    theirs: String,
    /// The row of the document, where the two are not the same.
    why: String,
}

impl Line {
    fn read(line: &str) -> Line {
        let (done, outcome) = line.split_once(" => ").unwrap_or((line.trim_end_matches(" =>"), ""));
        let (ours, other) =
            outcome.split_once(" | mosquitto: ").map_or((outcome, None), |(o, t)| (o, Some(t)));
        let (theirs, why) = other.map_or((ours, ""), |other| other.split_once(" | ").unwrap_or((other, "?")));
        Line { done: done.to_owned(), ours: ours.to_owned(), theirs: theirs.to_owned(), why: why.to_owned() }
    }

    fn write(&self) -> String {
        let other = match self.ours == self.theirs {
            true => String::new(),
            false => format!(
                " | mosquitto: {} | {}",
                self.theirs,
                if self.why.is_empty() { "?" } else { &self.why }
            ),
        };
        format!("{} => {}{other}", self.done, self.ours).trim_end().to_owned() + "\n"
    }
}

fn case(name: &str) {
    if !is_there("mosquitto", MOSQUITTO.as_ref()) {
        return;
    }
    let path = cases().join(format!("{name}.script"));
    let script = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<Line> = script.lines().map(Line::read).collect();
    let conf = std::fs::read_to_string(cases().join(format!("{name}.conf"))).unwrap();
    let lacking = conf.contains("# mosquitto: ");
    let play = |is_lapwing: bool| {
        let mut play = Play::new(name, is_lapwing);
        lines.iter().map(|line| play.line(&line.done)).collect::<Vec<_>>()
    };
    let ours = play(true);
    let theirs = if lacking { ours.clone() } else { play(false) };
    for (line, (ours, theirs)) in lines.iter_mut().zip(ours.into_iter().zip(theirs)) {
        (line.ours, line.theirs) = (ours, theirs);
    }
    let found: String = lines.iter().map(Line::write).collect();
    if std::env::var_os("LAPWING_UPDATE").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (expected, found) in expected.lines().zip(found.lines()) {
        assert_eq!(expected, found, "{name}");
    }
    let document = std::fs::read_to_string(root().join("docs/MOSQUITTO.md")).unwrap();
    for line in lines.iter().filter(|line| line.ours != line.theirs) {
        assert!(
            document.contains(&format!("| {} |", line.why)),
            "docs/MOSQUITTO.md has no row '{}'",
            line.why
        );
    }
}

macro_rules! cases {
    ($($test:ident = $name:literal,)+) => { $(
        #[test]
        fn $test() {
            case($name);
        }
    )+ };
}

cases! {
    the_first_steps_of_every_tutorial = "first-steps",
    the_add_on_of_home_assistant = "home-assistant",
    what_debian_installs = "debian",
    tls_with_client_certificates = "tls",
    tls_with_a_folder_of_authorities_and_users_by_subject = "tls-subject",
    several_listeners_with_and_without_tls = "tls-and-plain",
    websockets = "websockets",
    mount_points = "mount-points",
    per_listener_settings = "per-listener",
    acl_patterns = "patterns",
    no_persistence = "memory",
    interfaces_families_and_unix_sockets = "interfaces",
    limits = "limits",
    a_bridge_is_left_out = "bridge",
}

#[test]
fn a_converted_file_behaves_the_same_and_dropped_options_are_named_with_remedies() {
    let folder = Folder::new("convert");
    let conf = folder.file(
        "x.conf",
        "pid_file /run/m.pid\nlistener 18840 127.0.0.1\nmount_point a/\nallow_anonymous true\nconnection c\naddress h\ntopic # out\n\
         max_queued_bytes 0\n",
    );
    let output = run(Command::new(binary()).arg("convert").arg(&conf));
    let (comments, toml) = output.split_once("\n\n").unwrap();
    assert!(comments.contains("x.conf:1: pid_file has no effect: the service manager"), "{comments}");
    assert_eq!(comments.matches("bridges are not supported yet: 'connection c'").count(), 1, "{comments}");
    let shown = |file: &Path| {
        let shown = run(Command::new(binary()).args(["config", "-c"]).arg(file));
        shown.lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let converted = folder.file("x.toml", toml);
    assert_eq!(shown(&conf), shown(&converted));
    assert!(
        toml.contains("mount_point = \"a/\"") && toml.contains("queued_bytes_max = 1099511627776"),
        "{toml}"
    );
}

#[test]
fn a_misspelt_option_a_wrong_value_and_an_auth_plugin_refuse_the_start() {
    let folder = Folder::new("misspelt");
    let conf = folder.file(
        "x.conf",
        "allow_anonymus true\nmax_qos three\ntopic a both\nplugin /usr/lib/x.so\nlistener 18841\nallow_anonymous true\n",
    );
    let output = Command::new(binary()).args(["--test-config", "-c"]).arg(&conf).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    for words in [
        "x.conf:1: unknown option 'allow_anonymus'; did you mean 'allow_anonymous'?",
        "x.conf:2: max_qos three is not allowed: expected a number",
        "x.conf:3: 'topic' is an option of a bridge; write it below a line 'connection NAME'",
        "x.conf:4: the plugin is not loaded",
    ] {
        assert!(told.contains(words), "{words} is missing in:\n{told}");
    }
    assert!(!output.status.success());
}

#[test]
fn the_kind_of_a_file_is_told_by_content_and_name_or_by_format() {
    let folder = Folder::new("kind");
    let kind = |name: &str, text: &str, more: &[&str]| {
        let file = folder.file(name, text);
        let mut command = Command::new(binary());
        let output = command.args(["config", "-c"]).arg(&file).args(more).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        // Nothing is kept by Mosquitto unless it is told to.
        text.contains("in_memory = true")
    };
    assert!(kind("mosquitto.conf", "listener 1883 localhost\n", &[]));
    assert!(kind("anything", "# mine\nallow_anonymous true\n", &[]));
    assert!(kind("empty.conf", "", &[]));
    assert!(!kind("lapwing.conf", "[limits]\nreceive_maximum = 1\n", &[]));
    assert!(!kind("empty.toml", "", &[]));
    assert!(kind("empty.toml", "", &["--format", "mosquitto"]));
}

#[test]
fn a_refused_anonymous_client_is_told_why_and_the_log_names_the_remedy() {
    let (folder, ports) = (Folder::new("first"), free_ports());
    folder.file("mosquitto.conf", &format!("listener {} 127.0.0.1\n", ports[0]));
    let mut broker = Program::by(&["-c", "mosquitto.conf"]).inside(&folder.0).start();
    let (_, connack) = Client::knock(&broker.address("mqtt"), "5.0", &[("id", "first")]).unwrap();
    assert_eq!(code(&connack), 0x87);
    let told = "no user name and password were sent, and this listener requires them";
    assert_eq!(connack["p.reason_string"], told);
    let line = broker.wait_for("no credentials were sent");
    let listener = format!("mqtt://127.0.0.1:{}", ports[0]);
    for words in
        [&*listener, "there are no users", "lapwing user add NAME", "password_file", "allow_anonymous"]
    {
        assert!(line.contains(words), "{words} is missing in: {line}");
    }
}
