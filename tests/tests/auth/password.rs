//! Users and passwords: who comes in, who does not, what both are told, and how guessing is slowed
//! down.
//!
//! A prefix of a name, such as `b08_`, is a row of `docs/ABUSE.md`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lapwing_tests::access::{password, password_lines, secret_file};
use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program, binary, is_there, run};

const ALL: &str = "[[rule]]\nall = ['#']\n";

fn knock(broker: &Program, version: &'static str, all: &[(&str, &str)]) -> lapwing_tests::wire::Fields {
    Client::knock(&broker.address("mqtt"), version, all).unwrap().1
}

/// Runs the program with something on its standard input.
fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(binary())
        .args(arguments)
        .env("LAPWING_AUTH__PASSWORD_MEMORY_BYTES", "65536")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have refused before it read anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn b08_all_wrong_credentials_get_the_same_late_answer() {
    let mut broker = Program::with("").users(ALL).start();
    drop(broker.client("ann"));
    let mut words = Vec::new();
    for (user, pw) in [("ann", "wrong"), ("nobody", "wrong"), ("ann", "")] {
        let began = Instant::now();
        let connack = knock(&broker, "5.0", &[("id", "x"), ("user", user), ("password", pw)]);
        assert!(began.elapsed() >= Duration::from_secs(1), "it waits for its answer");
        assert_eq!(code(&connack), 0x86);
        words.push(connack["p.reason_string"].clone());
    }
    words.dedup();
    assert_eq!(words.len(), 1, "{words:?}");
    assert_eq!(code(&knock(&broker, "3.1.1", &[("id", "x"), ("user", "ann"), ("password", "wrong")])), 4);
    // The log tells the operator which it was.
    let log = broker.wait_for("there is no user 'nobody'");
    assert!(log.contains("refused") && log.contains("127.0.0.1") && log.contains("user=nobody"), "{log}");
}

#[test]
fn b08_a_guessing_address_is_blocked_for_a_minute_but_known_good_devices_are_not() {
    let broker = Program::with("").users(ALL).auth("failures_per_address_max = 5").start();
    drop(broker.client("ann"));
    let address = broker.address("mqtt");
    let guess = |n: usize| {
        let (address, pw) = (address.clone(), format!("guess-{n}"));
        std::thread::spawn(move || {
            let id = format!("guesser-{n}");
            let all = [("id", &*id), ("user", "bob"), ("password", &*pw)];
            code(&Client::knock(&address, "5.0", &all).unwrap().1)
        })
    };
    let began = Instant::now();
    let codes: Vec<u8> =
        (0..60).map(guess).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect();
    assert!(codes.iter().all(|code| [0x86, 0x9f].contains(code)), "{codes:?}");
    assert!(codes.iter().filter(|code| **code == 0x9f).count() >= 50, "{codes:?}");
    assert!(began.elapsed() >= Duration::from_secs(1));
    // The right password, from the same address, by a user that was not seen yet: shut out as well.
    let all = [("id", "bob"), ("user", "bob"), ("password", "bob-pw")];
    assert_eq!(code(&knock(&broker, "5.0", &all)), 0x9f);
    assert_eq!(code(&knock(&broker, "3.1.1", &all)), 3);
    // Who was let in before is not locked out by a neighbour.
    drop(broker.client("ann"));
}

#[test]
fn b08_a_full_password_queue_answers_server_busy() {
    let folder = Folder::new("busy");
    let slow = lapwing::internals::auth::password::Cost { memory_kib: 32_768, passes: 4 };
    let hash = lapwing::internals::auth::password::Hash::make(b"pw", slow, &mut Vec::new()).unwrap();
    let users = secret_file(&folder, "users", &format!("ann:{hash}\n"));
    // Who hashes gives way to all others, also to the tests beside this one: that is not to end a
    // connection here.
    let program = Program::with("[limits]\nconnect_timeout_s = 60")
        .auth(&format!("password_file = '{}'", users.display()))
        .auth("password_queue_max = 1\npassword_hashers_max = 1")
        .start();
    let address = program.address("mqtt");
    let connect = |n: usize| {
        let address = address.clone();
        std::thread::spawn(move || {
            let id = format!("c{n}");
            let all = [("id", &*id), ("user", "ann"), ("password", "pw")];
            code(&Client::knock(&address, "5.0", &all).unwrap().1)
        })
    };
    let codes: Vec<u8> =
        (0..8).map(connect).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect();
    assert!(codes.iter().all(|code| [0, 0x89].contains(code)), "{codes:?}");
    assert!(codes.contains(&0) && codes.contains(&0x89), "{codes:?}");
}

#[test]
fn a_client_without_credentials_is_told_the_listener_and_the_remedy() {
    let mut broker = Program::with("").users(ALL).start();
    let connack = knock(&broker, "5.0", &[("id", "x")]);
    assert_eq!(code(&connack), 0x87);
    assert!(connack["p.reason_string"].contains("no user name and password were sent"), "{connack:?}");
    assert_eq!(code(&knock(&broker, "3.1.1", &[("id", "x")])), 5);
    let line = broker.wait_for("no credentials were sent");
    for word in ["mqtt://127.0.0.1:0", "lapwing user add NAME", "allow_anonymous = true"] {
        assert!(line.contains(word), "{word} is missing in: {line}");
    }
}

#[test]
fn anonymous_clients_are_accepted_where_allowed_and_wrong_passwords_are_not() {
    let broker = Program::with("")
        .users("[[rule]]\nanonymous = true\nsubscribe = ['a']\n")
        .auth("allow_anonymous = true")
        .start();
    let (mut anybody, _) = Client::connect(&broker.address("mqtt"), "5.0", &[("id", "x")]).unwrap();
    assert_eq!(anybody.subscribe("a"), "0");
    assert_eq!(broker.client("ann").subscribe("a"), "135");
    assert_eq!(code(&knock(&broker, "5.0", &[("id", "y"), ("user", "ann"), ("password", "wrong")])), 0x86);
    assert_eq!(code(&knock(&broker, "5.0", &[("id", "y"), ("user", "ann")])), 0x86);
}

#[test]
fn e02_a_client_identifier_belongs_to_its_user_unless_a_key_frees_it() {
    let broker = Program::with("").users(ALL).start();
    let take = |broker: &Program, user: &str| {
        code(&knock(broker, "5.0", &[("id", "shared"), ("user", user), ("password", &password(user))]))
    };
    let ann =
        broker.client_with("ann", "5.0", &[("id", "shared"), ("clean", "0"), ("p.session_expiry", "3600")]);
    assert_eq!(take(&broker, "bob"), 0x85);
    drop(ann);
    assert_eq!(take(&broker, "bob"), 0x85);
    let three = knock(&broker, "3.1.1", &[("id", "shared"), ("user", "bob"), ("password", "bob-pw")]);
    assert_eq!(code(&three), 2);
    assert_eq!(take(&broker, "ann"), 0);
    let common = Program::with("").users(ALL).auth("sessions_belong_to_users = false").start();
    drop(common.client_with("ann", "5.0", &[("id", "shared"), ("clean", "0"), ("p.session_expiry", "3600")]));
    assert_eq!(take(&common, "bob"), 0);
}

#[test]
fn a_client_id_template_binds_client_identifiers_to_users() {
    let mut broker = Program::with("").users(ALL).auth("client_id_template = '%u-*'").start();
    let try_id = |broker: &Program, id: &str| {
        code(&knock(broker, "5.0", &[("id", id), ("user", "ann"), ("password", "ann-pw")]))
    };
    assert_eq!(try_id(&broker, "ann-1"), 0);
    for id in ["bob-1", "ann", "anna-1"] {
        assert_eq!(try_id(&broker, id), 0x85, "{id}");
    }
    broker.wait_for("auth.client_id_template");
    let fixed = Program::with("").users(ALL).auth("client_id_template = 'dev-%u'").start();
    let connack = knock(&fixed, "5.0", &[("user", "ann"), ("password", "ann-pw")]);
    assert_eq!((code(&connack), connack["p.assigned_id"].as_str()), (0, "dev-ann"));
}

#[test]
fn g01_a_broken_password_file_is_reported_by_line_and_the_old_one_stays() {
    let mut broker = Program::with("").users(ALL).start();
    let good = std::fs::read_to_string(broker.folder.0.join("users")).unwrap();
    let cases = [
        ("\n", "an empty line"),
        ("carl\n", "no ':'"),
        (good.lines().next().unwrap(), "is there already"),
        ("carl:$9$abc\n", "is not known"),
        ("carl:$7$4000000000$AAAAAAAAAAAAAAAA$AAAA\n", "iterations"),
        ("carl:hunter2\n", "plain text"),
    ];
    for (line, text) in cases {
        broker.folder.file("users", &format!("{good}{line}"));
        broker.signal("HUP");
        let told = broker.wait_for("NOT reloaded (asked to)");
        assert!(told.contains("users:5: ") && told.contains(text) && !told.contains("hunter2"), "{told}");
        drop(broker.client("ann"));
    }
    let file = broker
        .folder
        .file("lapwing.toml", &format!("[auth]\npassword_file = '{}/users'\n", broker.folder.0.display()));
    let tested = Command::new(binary()).args(["--test-config", "-c"]).arg(file).output().unwrap();
    let told = String::from_utf8_lossy(&tested.stderr);
    assert!(!tested.status.success() && told.contains("users:5: ") && !told.contains("hunter2"), "{told}");
}

#[test]
fn g05_a_public_listener_needs_users_to_start() {
    let folder = Folder::new("open");
    let users = secret_file(&folder, "users", &password_lines(&[("ann", "x")]));
    let test = |toml: &str| {
        let file = folder.file("lapwing.toml", toml);
        let output = Command::new(binary()).args(["--test-config", "-c"]).arg(file).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let listener = "[[listener]]\naddress = '0.0.0.0:1883'\n";
    let (good, told) = test(listener);
    assert!(!good && told.contains("open = true") && told.contains("lapwing user add"), "{told}");
    let auth = format!("[auth]\npassword_file = '{}'\n", users.display());
    assert!(test(&format!("{auth}{listener}")).0);
    assert!(!test(&format!("{auth}allow_anonymous = true\n{listener}")).0);
    assert!(!test(&format!("{auth}{listener}allow_anonymous = true\n")).0);
    assert!(!test(&format!("{auth}{listener}authentication = []\n")).0);
    let (good, told) = test(&format!("{listener}authentication = ['password']\n"));
    assert!(!good && told.contains("needs auth.password_file"), "{told}");
    let arguments = ["--test-config", "--listen", "0.0.0.0:1883"];
    assert!(!Command::new(binary()).args(arguments).output().unwrap().status.success());
    let with = Command::new(binary()).args(arguments).arg("--password-file").arg(&users).output().unwrap();
    assert!(with.status.success(), "{with:?}");
}

#[test]
fn g10_a_password_is_in_no_log_sys_topic_or_answer_and_does_not_stay_in_memory() {
    const SECRET: &str = "correct-horse-battery-staple";
    const GUESS: &str = "incorrect-horse-battery-staple";
    let folder = Folder::new("secret");
    let users = secret_file(&folder, "users", &password_lines(&[("ann", SECRET)]));
    let program = Program::with("[log]\nlevel = 'trace'\n[mqtt]\nsys_interval_s = 1")
        .auth(&format!("password_file = '{}'", users.display()))
        .start();
    let address = program.address("mqtt");
    let mut answers = String::new();
    for version in ["3.1.1", "5.0"] {
        for pw in [SECRET, GUESS] {
            let all = [("id", "x"), ("user", "ann"), ("password", pw)];
            let (mut client, connack) = Client::knock(&address, version, &all).unwrap();
            answers.push_str(&format!("{connack:?}"));
            if pw == SECRET {
                client.subscribe("$SYS/#");
                for _ in 0..40 {
                    answers.push_str(&format!("{:?}", client.next(Duration::from_secs(5)).unwrap()));
                }
            }
        }
    }
    // The thread that hashed lets go of its memory only after a while; passwords are overwritten at
    // once.
    let memory = memory_of(program.id());
    let log = program.log.lock().unwrap().clone();
    for secret in [SECRET, GUESS] {
        assert!(!log.contains(secret) && !answers.contains(secret));
        let found = memory.windows(secret.len()).filter(|window| *window == secret.as_bytes()).count();
        assert_eq!(found, 0, "{secret} is in the memory of the broker");
    }
}

/// Everything that a process has written to its memory.
fn memory_of(process: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|n| u64::from_str_radix(n, 16).unwrap());
        let mut part = vec![0; (to - from) as usize];
        if let Ok(n) = memory.read_at(&mut part, from) {
            all.extend_from_slice(&part[..n]);
        }
    }
    assert!(all.len() > 1 << 20, "the memory of the broker was read");
    all
}

#[test]
fn g12_password_files_of_mosquitto_are_read_and_one_flipped_bit_is_refused() {
    if !is_there("mosquitto", Path::new("mosquitto_passwd")) {
        return;
    }
    let folder = Folder::new("mosquitto");
    let users = secret_file(&folder, "users", "");
    run(Command::new("mosquitto_passwd").args(["-b"]).arg(&users).args(["ann", "ann-pw"]));
    let text = std::fs::read_to_string(&users).unwrap();
    assert!(text.starts_with("ann:$7$101$"), "{text}");
    // One bit of the hash, and $6$ as Mosquitto 1 made it.
    let at = text.trim_end().len() - 10;
    let flipped = if text.as_bytes()[at] == b'A' { 'B' } else { 'A' };
    let bob = text.trim_end().replacen("ann", "bob", 1);
    let bob = format!("{}{flipped}{}", &bob[..at], &bob[at + 1..]);
    let old = format!("eve:{}", lapwing_tests::access::mosquitto_1("eve-pw"));
    secret_file(&folder, "users", &format!("{text}{bob}\n{old}\n"));
    let mut program = Program::with("")
        .auth(&format!("password_file = '{}'", users.display()))
        .auth("password_rehash = true\npassword_memory_bytes = 65536")
        .start();
    let address = program.address("mqtt");
    let try_user = |user: &str, pw: &str| {
        code(&Client::knock(&address, "5.0", &[("id", user), ("user", user), ("password", pw)]).unwrap().1)
    };
    assert_eq!((try_user("ann", "ann-pw"), try_user("ann", "ann-pv")), (0, 0x86));
    assert_eq!(try_user("bob", "ann-pw"), 0x86);
    assert_eq!((try_user("eve", "eve-pw"), try_user("eve", "eve-pv")), (0, 0x86));
    let text = loop {
        program.wait_for("are argon2id now");
        program.wait_for("reloaded (a file has changed)");
        let text = std::fs::read_to_string(&users).unwrap();
        if text.matches("$argon2id$").count() == 2 {
            break text;
        }
    };
    assert!(
        text.contains("ann:$argon2id$") && text.contains("bob:$7$") && text.contains("eve:$argon2id$"),
        "{text}"
    );
    assert_eq!((try_user("ann", "ann-pw"), try_user("ann", "ann-pv")), (0, 0x86));
    assert_eq!(try_user("eve", "eve-pw"), 0);
}

#[test]
fn a_running_broker_follows_users_added_and_removed_by_command() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("cli");
    let file = folder.0.join("users").display().to_string();
    let user = |arguments: &[&str], input: &str| {
        with_input(&[&["user"], arguments, &["--password-file", &file]].concat(), input)
    };
    assert!(user(&["add", "ann"], "ann-pw\n").status.success());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(user(&["add", "bob"], "bob-pw\n").status.success());
    let list = user(&["list"], "");
    assert_eq!(String::from_utf8_lossy(&list.stdout), "ann\targon2id\nbob\targon2id\n");
    assert!(user(&["check", "ann"], "ann-pw\n").status.success());
    assert!(!user(&["check", "ann"], "bob-pw\n").status.success());
    for (arguments, input) in [(&["add", "a:b"], "x\n"), (&["add", "carl"], ""), (&["remove", "carl"], "")] {
        assert!(!user(arguments, input).status.success(), "{arguments:?}");
    }
    let mut program = Program::with("").auth(&format!("password_file = '{file}'")).start();
    let address = program.address("mqtt");
    let connect = |user: &str, pw: &str| {
        Client::knock(&address, "5.0", &[("id", user), ("user", user), ("password", pw)]).unwrap()
    };
    let (ann, connack) = connect("ann", "ann-pw");
    assert_eq!(code(&connack), 0);
    assert!(user(&["remove", "ann"], "").status.success());
    assert_eq!(ann.end().as_deref(), Some("152"));
    assert_eq!(code(&connect("ann", "ann-pw").1), 0x86);
    let made = user(&["add", "dev", "--generate"], "");
    let made = String::from_utf8(made.stdout).unwrap();
    assert!(user(&["add", "bob"], "another\n").status.success());
    program.wait_for("reloaded");
    program.signal("HUP");
    program.wait_for("asked to");
    assert_eq!(code(&connect("dev", made.trim()).1), 0);
    assert_eq!((code(&connect("bob", "bob-pw").1), code(&connect("bob", "another").1)), (0x86, 0));
    // Never by the arguments.
    assert!(!user(&["add", "carl", "secret"], "").status.success());
}

#[test]
fn mosquitto_clients_log_in_with_user_and_password() {
    if !is_there("mosquitto-clients", Path::new("mosquitto_pub")) {
        return;
    }
    let broker = Program::with("").users(ALL).start();
    let port = broker.port("mqtt");
    let publish = |pw: &str| {
        Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-u",
                "ann",
                "-P",
                pw,
                "-t",
                "t",
                "-m",
                "x",
                "-q",
                "1",
                "-V",
                "5",
            ])
            .output()
            .unwrap()
    };
    assert!(publish("ann-pw").status.success());
    let refused = publish("wrong");
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).to_lowercase().contains("bad user name or password"),
        "{refused:?}"
    );
}
