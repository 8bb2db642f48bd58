//! The program `lapwing` as a user runs it: started with arguments or a file, known by what it
//! logs.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::access;

/// Longest time that the program may take to start, to log something, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker; dropping it kills it. [`with`](Program::with) starts one.
pub struct Program {
    child: Child,
    /// Everything that it has logged.
    pub log: Arc<Mutex<String>>,
    lines: Receiver<String>,
    /// Its listeners, as `mqtt://127.0.0.1:1883`.
    pub listeners: Vec<String>,
    /// Its own folder: the configuration and the files that options brought. The state is here too,
    /// unless it was given another place.
    pub folder: Folder,
}

/// A broker to start, by options:
/// `Program::with("[limits]\n…").users(RULES).state(&folder).start()`.
///
/// It listens on a free port of 127.0.0.1, unless the configuration, [`listener`](Setup::listener)
/// or arguments say otherwise.
pub struct Setup {
    toml: Option<String>,
    auth: String,
    listeners: String,
    arguments: Vec<String>,
    /// Place of the configuration and the state.
    state: Option<PathBuf>,
    working: Option<PathBuf>,
    folder: Folder,
}

/// A folder for the files of one test; dropping it removes it.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// A new one, named after the process and `name`.
    pub fn new(name: &str) -> Folder {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lapwing-test-{}-{n}-{name}", std::process::id()));
        // A test that was killed may have left something there, in a process of the same number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file for the test");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary, built if need be.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("LAPWING_BIN") {
                return path.into();
            }
            // …/target/PROFILE/deps/TEST
            let profile = std::env::current_exe()
                .ok()
                .and_then(|exe| Some(exe.parent()?.parent()?.to_owned()))
                .expect("a target folder");
            let mut build = Command::new(env!("CARGO"));
            // What cargo tells this test about itself would make build scripts run again.
            for (name, _) in std::env::vars_os() {
                let name = name.to_string_lossy();
                if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                    .iter()
                    .any(|own| name.starts_with(own))
                {
                    build.env_remove(&*name);
                }
            }
            build.args(["build", "--quiet", "--package", "lapwing", "--bin", "lapwing", "--target-dir"]);
            build.arg(profile.parent().expect("a target folder"));
            if profile.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo").success(), "the broker does not build");
            profile.join("lapwing")
        })
        .clone()
}

impl Setup {
    fn new(toml: Option<String>) -> Setup {
        Setup {
            toml,
            auth: String::new(),
            listeners: String::new(),
            arguments: Vec::new(),
            state: None,
            working: None,
            folder: Folder::new("broker"),
        }
    }

    /// Adds a listener on a free port of 127.0.0.1 with these keys.
    pub fn listener(mut self, keys: &str) -> Setup {
        self.listeners += &format!("[[listener]]\naddress = '127.0.0.1:0'\n{keys}\n");
        self
    }

    /// Adds a listener of every transport, with certificates in the folder of the broker.
    pub fn all_transports(mut self) -> Setup {
        certificates(&self.folder);
        let path = self.folder.0.display();
        let tls = format!("certificate_file = '{path}/server.pem'\nkey_file = '{path}/server.key'\n");
        for transport in ["tcp", "tls", "ws", "wss"] {
            let tls = if matches!(transport, "tls" | "wss") { &tls } else { "" };
            self.listeners +=
                &format!("[[listener]]\naddress = 'localhost:0'\ntransport = '{transport}'\n{tls}");
        }
        self.listeners += &format!("[[listener]]\ntransport = 'unix'\npath = '{path}/mqtt.sock'\n");
        self
    }

    /// Adds keys of `[auth]`.
    pub fn auth(mut self, keys: &str) -> Setup {
        self.auth += &format!("{keys}\n");
        self
    }

    /// Adds the users of [`access::USERS`] and a file of rules, `users` and `acl.toml` in the
    /// folder of the broker.
    pub fn users(self, rules: &str) -> Setup {
        let passwords: Vec<String> = access::USERS.iter().map(|user| access::password(user)).collect();
        let users: Vec<(&str, &str)> =
            access::USERS.iter().copied().zip(passwords.iter().map(String::as_str)).collect();
        access::secret_file(&self.folder, "users", &access::password_lines(&users));
        self.folder.file("acl.toml", rules);
        let path = self.folder.0.display();
        let keys = format!("password_file = '{path}/users'\nacl_file = '{path}/acl.toml'");
        self.auth(&keys)
    }

    /// Keeps configuration and state in this folder, for a broker that is started again.
    pub fn state(mut self, folder: &Folder) -> Setup {
        self.state = Some(folder.0.clone());
        self
    }

    /// Starts in this folder, the state there as well.
    pub fn inside(mut self, folder: &Path) -> Setup {
        self.state = Some(folder.to_owned());
        self.working = Some(folder.to_owned());
        self
    }

    /// Adds arguments of the command line.
    pub fn arguments(mut self, arguments: &[&str]) -> Setup {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// The whole configuration.
    fn config(&self, toml: &str) -> String {
        let auth = if self.auth.is_empty() { String::new() } else { format!("[auth]\n{}", self.auth) };
        let is_served = !self.listeners.is_empty() || toml.contains("[[listener]]");
        let usual = if is_served { "" } else { "[[listener]]\naddress = '127.0.0.1:0'\n" };
        format!("{auth}{toml}\n{}{usual}", self.listeners)
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Program {
        let mut program = self.spawn();
        program.wait_for("Lapwing ");
        program
    }

    /// Starts it and waits for nothing.
    pub fn spawn(self) -> Program {
        let state = self.state.as_deref().unwrap_or(&self.folder.0);
        let mut command = Command::new(binary());
        if let Some(toml) = &self.toml {
            let file = state.join("lapwing.toml");
            std::fs::write(&file, self.config(toml)).expect("a file for the test");
            command.arg("-c").arg(file);
        }
        let mut child = command
            .current_dir(self.working.as_deref().unwrap_or(Path::new(".")))
            .args(&self.arguments)
            .env("LAPWING_STORE__DATA_DIR", state.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (send, lines) = channel();
        let (errors, copy) = (child.stderr.take().expect("its log"), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                copy.lock().unwrap().push_str(&format!("{line}\n"));
                let _ = send.send(line);
            }
        });
        Program { child, log, lines, listeners: Vec::new(), folder: self.folder }
    }
}

impl Program {
    /// A broker with this configuration, to which options may be added.
    pub fn with(toml: &str) -> Setup {
        Setup::new(Some(toml.to_owned()))
    }

    /// A broker without a configuration of the test, only with these arguments.
    pub fn by(arguments: &[&str]) -> Setup {
        Setup::new(None).arguments(arguments)
    }

    /// Starts with this configuration and waits until it serves.
    pub fn start(toml: &str) -> Program {
        Program::with(toml).start()
    }

    /// Waits for a line with this text and returns it.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let line = self.line(text);
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for a line with each of these texts, in whatever order they come, and returns those
    /// lines in the order of the texts. For lines that are written by different threads, or for
    /// different reasons that do not wait for each other.
    pub fn wait_for_all<const N: usize>(&mut self, texts: [&str; N]) -> [String; N] {
        let mut found = [const { String::new() }; N];
        while let Some(missing) = found.iter().position(String::is_empty) {
            let line = self.line(texts[missing]);
            let of_it = |(found, text): (&String, &str)| found.is_empty() && line.contains(text);
            if let Some(at) = found.iter().zip(texts).position(of_it) {
                found[at] = line;
            }
        }
        found
    }

    /// The next line, where one with this text is waited for.
    fn line(&mut self, text: &str) -> String {
        let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
            let log = self.log();
            panic!("the log never said '{text}':\n{log}");
        };
        if let Some((_, name)) = line.split_once("listening on ") {
            self.listeners.push(name.trim().to_owned());
        }
        line
    }

    /// `HOST:PORT` of the first listener of this scheme.
    pub fn address(&self, scheme: &str) -> String {
        let prefix = format!("{scheme}://");
        let found = self.listeners.iter().find_map(|name| name.strip_prefix(&prefix));
        found.unwrap_or_else(|| panic!("no {scheme} among {:?}", self.listeners)).to_owned()
    }

    /// The port of the first listener of this scheme.
    pub fn port(&self, scheme: &str) -> String {
        self.address(scheme).rsplit_once(':').expect("a port").1.to_owned()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, like `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(
                std::time::Instant::now() < until,
                "the broker does not end:\n{}",
                self.log.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on, for what cannot be told to take any. It is below those that the
/// system gives to who asks for any, and to who connects: none of the tests beside this one is
/// given it, and nobody who waits there for a listener meets himself.
pub fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    const FROM: u32 = 12_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_given = range.split_whitespace().next().and_then(|first| first.parse().ok());
    let until = first_given.filter(|until| *until > FROM + 1_000).unwrap_or(32_768);
    // Tests are processes of their own, with numbers that follow each other: 16 ports for each,
    // then those of the next.
    let first = std::process::id() * 16;
    loop {
        let port = (FROM + (first + COUNT.fetch_add(1, Ordering::Relaxed)) % (until - FROM)) as u16;
        let taken = |host: &str| {
            TcpListener::bind((host, port)).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
        };
        if !["127.0.0.1", "::1"].into_iter().any(taken) {
            return port;
        }
    }
}

/// True where a program of others is installed. Without it a test is skipped with a line, but fails
/// in CI.
pub fn is_there(what: &str, path: &Path) -> bool {
    let there = path.is_file()
        || std::env::var_os("PATH")
            .is_some_and(|all| std::env::split_paths(&all).any(|folder| folder.join(path).is_file()));
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{what} is missing in CI: run ./check, which installs it");
        println!("SKIPPED: {what} is not here ({}); ./check installs it", path.display());
    }
    there
}

/// The root of the project.
pub fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).canonicalize().expect("the project")
}

/// Runs a command that must succeed; its output.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A server certificate for `localhost` and 127.0.0.1, and a client's, by one authority; all as PEM
/// files in a folder.
pub fn certificates(folder: &Folder) {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "Lapwing test authority");
    let certificate = authority.self_signed(&authority_key).expect("a certificate");
    folder.file("ca.pem", &certificate.pem());
    let issuer = Issuer::new(authority, authority_key);
    for (name, names, usage) in [
        ("server", vec!["localhost".to_owned(), "127.0.0.1".to_owned()], ExtendedKeyUsagePurpose::ServerAuth),
        ("client", vec!["sensor-17".to_owned()], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(names).expect("parameters");
        parameters.extended_key_usages = vec![usage];
        let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
        folder.file(&format!("{name}.pem"), &certificate.pem());
        crate::access::secret_file(folder, &format!("{name}.key"), &key.serialize_pem());
    }
}
