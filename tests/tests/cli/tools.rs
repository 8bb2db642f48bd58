//! `lapwing pub`, `sub`, `rr` and `top` as users run them, beside mosquitto's clients where those
//! are here: what they print and how they end.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use lapwing_tests::access::secret_file;
use lapwing_tests::authority::{Authority, Wanted};
use lapwing_tests::client::Client;
use lapwing_tests::program::{Folder, Program, binary, free_port, is_there};

const PATIENCE: Duration = Duration::from_secs(60);

/// Whose client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    Theirs,
}
use Whose::{Ours, Theirs};

fn command(whose: Whose, tool: &str) -> Command {
    match whose {
        Ours => {
            let mut command = Command::new(binary());
            command.arg(tool);
            command
        }
        Theirs => Command::new(format!("mosquitto_{tool}")),
    }
}

/// Exit code and output.
fn run(whose: Whose, tool: &str, arguments: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut command = command(whose, tool);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who ends at once reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Our tool, which must end well; what it printed.
fn ours(tool: &str, arguments: &[&str]) -> String {
    let (code, out, errors) = run(Ours, tool, arguments, b"");
    assert_eq!(code, Some(0), "{tool} {arguments:?}: {errors}");
    assert_eq!(errors, "", "{tool} {arguments:?}");
    out
}

/// A `sub` that has subscribed. What it prints is read at once, so that it never waits for us.
struct Listening {
    child: Child,
    lines: Receiver<String>,
}

impl Listening {
    fn start(arguments: &[&str]) -> Listening {
        let mut command = command(Ours, "sub");
        command.arg("-d").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("<- SUBACK") {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "no SUBACK for {arguments:?}");
        }
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        let (send, lines) = channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while out.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Listening { child, lines }
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        let line = |_| self.lines.recv_timeout(PATIENCE).expect("a line").trim_end().to_owned();
        (0..count).map(line).collect()
    }

    /// Exit code, and the rest of its output.
    fn end(mut self) -> (Option<i32>, String) {
        let mut out = String::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => out.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end; it printed {} bytes", out.len()),
            }
        }
        (self.child.wait().unwrap().code(), out)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plain() -> Program {
    Program::start("[[listener]]\naddress = 'localhost:0'\n[store]\nin_memory = true\n")
}

fn theirs_are_here() -> bool {
    is_there("mosquitto_sub", Path::new("mosquitto_sub"))
}

#[test]
fn sub_prints_and_ends_as_mosquitto_sub_does() {
    if !theirs_are_here() {
        return;
    }
    let broker = plain();
    let port = broker.port("mqtt");
    let publish = |more: &[&str]| ours("pub", &[&["-p", &port, "-V", "5", "-r"], more].concat());
    publish(&["-t", "r/a", "-m", "one"]);
    publish(&["-t", "r/b", "-m", "two\nlines"]);
    publish(&["-t", "r/c", "-m", "\u{e9}"]);
    let rich = [
        "content-type text/plain",
        "correlation-data zz",
        "response-topic x/y",
        "payload-format-indicator 1",
    ];
    let mut words = vec!["-t", "rich", "-m", "{\"a\":1}", "-q", "1"];
    for property in &rich {
        words.extend(["-D", "publish"]);
        words.extend(property.split(' '));
    }
    words.extend(["-D", "publish", "user-property", "k", "v", "-D", "publish", "user-property", "k", "w"]);
    publish(&words);
    let url = format!("mqtt://localhost:{port}/r/a");
    let cases: &[&[&str]] = &[
        &["-t", "r/#", "-C", "3", "-v"],
        &["-t", "r/a", "-C", "1"],
        &["-t", "r/a", "-C", "1", "-N"],
        &["-t", "r/a", "-t", "r/b", "-C", "2"],
        &["-t", "r/#", "-T", "r/b", "-C", "2", "-v"],
        &["-t", "r/#", "-R", "-W", "1"],
        &["-t", "none", "-W", "1"],
        &["-t", "r/#", "--retained-only", "-C", "2"],
        &["-t", "r/a", "-E"],
        &["-L", &url, "-C", "1"],
        &["-V", "mqttv31", "-t", "r/a", "-C", "1"],
        &["-V", "mqttv5", "-t", "r/a", "-C", "1", "-q", "2"],
        &["-t", "r/a", "-C", "1", "-F", r"%t|%p|%q|%r|%l|%x|%X|%%|\t|\n|%10t|%-10t|%.1t|%05l|@@"],
        &[
            "-V",
            "5",
            "-t",
            "rich",
            "-C",
            "1",
            "-F",
            "%C|%D|%P|%R|%F|%S|%q",
            "-D",
            "subscribe",
            "subscription-identifier",
            "7",
        ],
        &["-t", "r/a", "-i", "somebody", "-u", "user", "-P", "pw", "-k", "5", "-C", "1"],
        // What is not said well.
        &["-t", "a/#/b"],
        &["-t", "a", "-q", "3"],
        &["--bogus"],
        &["-t", "a", "-F", "%y", "-C", "1"],
        &[],
    ];
    for case in cases {
        let arguments = [&["-p", &port][..], case].concat();
        let arguments = if case.contains(&"-L") { case.to_vec() } else { arguments };
        let ((code, out, _), theirs) =
            (run(Ours, "sub", &arguments, b""), run(Theirs, "sub", &arguments, b""));
        let theirs_out = if theirs.0 == Some(0) || theirs.0 == Some(27) { theirs.1 } else { String::new() };
        assert_eq!((code, out), (theirs.0, theirs_out), "{case:?}");
    }
}

#[test]
fn pub_sends_and_ends_as_mosquitto_pub_does() {
    if !theirs_are_here() {
        return;
    }
    let broker = plain();
    let port = broker.port("mqtt");
    let folder = Folder::new("pub");
    let file = folder.file("message", "from a file\n").display().to_string();
    // Arguments, standard input, and how many messages they are.
    let cases: &[(&[&str], &str, usize)] = &[
        (&["-m", "x"], "", 1),
        (&["-m", "-x"], "", 1),
        (&["-n"], "", 1),
        (&["-f", &file], "", 1),
        (&["-s"], "all\nof it", 1),
        (&["-l"], "one\ntwo\n\nfour", 4),
        (&["-l", "-q", "2"], "one\ntwo\nthree\n", 3),
        (&["-m", "x", "-q", "1", "--repeat", "3"], "", 3),
        (&["-m", "x", "-q", "2", "-V", "5", "-M", "1"], "", 1),
        (&["-m", "x", "-V", "31"], "", 1),
        (&["-m", "x", "-c", "-i", "kept"], "", 1),
        (&["-m", "x", "-I", "prefix-"], "", 1),
        (
            &[
                "-m",
                "x",
                "-V",
                "5",
                "-x",
                "10",
                "-D",
                "publish",
                "content-type",
                "t",
                "-D",
                "publish",
                "user-property",
                "a",
                "b",
            ],
            "",
            1,
        ),
    ];
    for (case, input, count) in cases {
        let heard = [Ours, Theirs].map(|whose| {
            let count = count.to_string();
            let format = ["-V", "5", "-p", &port, "-t", "t", "-q", "2", "-C", &count, "-F", "%p|%q|%l|%C|%P"];
            let listening = Listening::start(&format);
            let arguments = [&["-p", &port, "-t", "t"], *case].concat();
            let (code, out, errors) = run(whose, "pub", &arguments, input.as_bytes());
            assert_eq!((code, out.as_str(), errors.as_str()), (Some(0), "", ""), "{whose:?} {case:?}");
            listening.end()
        });
        assert_eq!(heard[0], heard[1], "{case:?}");
        assert_eq!(
            heard[0].1.lines().count(),
            input.lines().count().max(*count).max(heard[0].1.lines().count())
        );
    }
    let retained = ["-p", &port, "-t", "kept", "-m", "x", "-r"];
    ours("pub", &retained);
    assert_eq!(ours("sub", &["-p", &port, "-t", "kept", "-C", "1"]), "x\n");
    for case in [
        &["-t", "a/#", "-m", "x"][..],
        &["-t", "a"],
        &["-m", "x"],
        &["-t", "a", "-m", "x", "-q", "3"],
        &["-t", "a", "-f", "/no/such/file"],
        &["-t", "a", "-m", "x", "-n"],
    ] {
        let arguments = [&["-p", &port][..], case].concat();
        let (code, _, errors) = run(Ours, "pub", &arguments, b"");
        assert_eq!(code, run(Theirs, "pub", &arguments, b"").0, "{case:?}");
        assert!(!errors.is_empty(), "{case:?}");
    }
}

#[test]
fn a_refused_tool_exits_with_the_reason_code_like_the_clients_of_mosquitto() {
    let rules = "[[rule]]\npublish = ['may']\nsubscribe = ['may']\n";
    let broker = Program::with("").users(rules).start();
    let port = broker.port("mqtt");
    // The version, who, and the code.
    for (version, login, code) in [
        ("311", &[][..], 5),
        ("5", &[], 135),
        ("311", &["-u", "ann", "-P", "wrong"], 4),
        ("5", &["-u", "ann", "-P", "wrong"], 134),
        ("5", &["-u", "ann", "-P", "ann-pw"], 0),
    ] {
        for tool in ["pub", "sub"] {
            let what: &[&str] = if tool == "pub" { &["-m", "x"] } else { &["-E"] };
            let arguments = [&["-p", &port, "-V", version, "-t", "may"], login, what].concat();
            let (got, _, errors) = run(Ours, tool, &arguments, b"");
            assert_eq!(got, Some(code), "{arguments:?} {errors}");
            assert_eq!(code == 0, errors.is_empty(), "{errors}");
            if theirs_are_here() {
                assert_eq!(run(Theirs, tool, &arguments, b"").0, Some(code), "{arguments:?}");
            }
        }
    }
    let login = ["-p", &port, "-u", "ann", "-P", "ann-pw", "-V", "5"];
    // What mosquitto_pub only warns of.
    let (code, _, errors) =
        run(Ours, "pub", &[&login[..], &["-t", "not", "-m", "x", "-q", "1"]].concat(), b"");
    assert_eq!(code, Some(135));
    assert!(
        errors.contains("refused a message: not authorized") && errors.contains("1 of 1 messages"),
        "{errors}"
    );
    let (code, _, errors) = run(Ours, "sub", &[&login[..], &["-t", "not", "-W", "5"]].concat(), b"");
    assert_eq!(code, Some(135));
    assert!(errors.contains("refused 'not': not authorized"), "{errors}");
    // One of two is granted: that goes on.
    let (code, _, errors) = run(Ours, "sub", &[&login[..], &["-t", "not", "-t", "may", "-E"]].concat(), b"");
    assert_eq!(code, Some(0));
    assert!(errors.contains("refused 'not'"), "{errors}");
    let mut quiet = Command::new(binary());
    quiet
        .args(["pub", "-p", &port, "-u", "ann", "-t", "may", "-m", "x", "--quiet"])
        .env("LAPWING_PASSWORD", "ann-pw");
    assert!(quiet.status().unwrap().success(), "the password of the environment");
}

#[test]
fn the_tools_use_every_transport() {
    let broker = Program::with("").all_transports().start();
    let folder = &broker.folder;
    let ca = folder.0.join("ca.pem").display().to_string();
    let (tcp, tls) = (broker.port("mqtt"), broker.port("mqtts"));
    let (ws, wss) = (broker.port("ws"), broker.port("wss"));
    let (ws_url, wss_url) = (format!("ws://localhost:{ws}/mqtt"), format!("wss://localhost:{wss}/mqtt"));
    let (mqtts_url, ws_root) = (format!("mqtts://localhost:{tls}/t"), format!("ws://localhost:{ws}"));
    let socket = folder.0.join("mqtt.sock").display().to_string();
    let payload = "x".repeat(300_000);
    for (n, way) in [
        &["-p", &tcp, "-t", "t"][..],
        &["-p", &tls, "--cafile", &ca, "-t", "t"],
        &["-L", &mqtts_url, "--cafile", &ca],
        &["-L", &ws_url, "-t", "t"],
        &["-L", &ws_root, "-t", "t"],
        &["-p", &ws, "--ws", "-t", "t"],
        &["-L", &wss_url, "--cafile", &ca, "-t", "t"],
        &["--unix", &socket, "-t", "t"],
    ]
    .into_iter()
    .enumerate()
    {
        let message = format!("{n} {payload}");
        let (code, _, errors) =
            run(Ours, "pub", &[way, &["-s", "-r", "-q", "1"]].concat(), message.as_bytes());
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{way:?}");
        let heard = ours("sub", &[way, &["-C", "1", "-N"]].concat());
        assert!(heard == message, "{way:?}: {} bytes", heard.len());
    }
    // Without the authority nothing is said to it.
    let (code, _, errors) = run(Ours, "pub", &["-p", &tls, "-L", &mqtts_url, "-m", "x"][2..], b"");
    assert_eq!(code, Some(1));
    assert!(errors.contains("--cafile") || errors.contains("trusted authorities"), "{errors}");
    // A plain port that is spoken TLS to.
    let (code, _, errors) = run(Ours, "pub", &["-p", &tcp, "--cafile", &ca, "-t", "t", "-m", "x"], b"");
    assert_eq!(code, Some(1));
    assert!(errors.contains("TLS with localhost:"), "{errors}");
}

#[test]
fn insecure_accepts_another_host_name_but_no_other_authority() {
    let (authority, folder) = (Authority::default(), Folder::new("tools-tls"));
    let keys = authority.serve(&folder, "server");
    let elsewhere = authority.issue(Wanted { server: &["broker.example"], ..Wanted::default() });
    folder.file("server.pem", &elsewhere.pem);
    secret_file(&folder, "server.key", &elsewhere.key);
    let own = authority.client("pump", 1);
    let path = |name: &str| folder.0.join(name).display().to_string();
    folder.file("own.pem", &own.pem);
    secret_file(&folder, "own.key", &own.key);
    folder.file("stranger.pem", &Authority::default().pem);
    let acl = folder.file("acl.toml", "[[rule]]\npublish = ['of/%u']\nsubscribe = ['of/%u']\n");
    let broker = Program::start(&format!(
        "[auth]\nacl_file = '{}'\n[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\n{keys}client_certificate = 'required'\n",
        acl.display()
    ));
    let port = broker.port("mqtts");
    let publish = |more: &[&str]| {
        let message = ["-p", &port, "-V", "5", "-q", "1", "-t", "of/pump", "-m", "x"];
        let (code, _, errors) = run(Ours, "pub", &[&message, more].concat(), b"");
        (code, errors)
    };
    let (ca, cert, key, stranger) =
        (path("server-ca.pem"), path("own.pem"), path("own.key"), path("stranger.pem"));
    let own = ["--cert", &cert, "--key", &key];
    let (code, errors) = publish(&[&["--cafile", &ca], &own[..]].concat());
    assert_eq!(code, Some(1));
    assert!(errors.contains("--insecure"), "{errors}");
    assert_eq!(publish(&[&["--cafile", &ca, "--insecure"], &own[..]].concat()), (Some(0), String::new()));
    let (code, errors) = publish(&[&["--cafile", &stranger, "--insecure"], &own[..]].concat());
    assert_eq!(code, Some(1));
    assert!(errors.contains("--cafile"), "{errors}");
    assert_ne!(publish(&["--cafile", &ca, "--insecure"]).0, Some(0), "without a certificate");
}

#[test]
fn the_tools_talk_to_mosquitto() {
    let found = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .iter()
        .map(Path::new)
        .find(|path| path.is_file());
    let path = found.unwrap_or(Path::new("mosquitto"));
    if !is_there("mosquitto", path) {
        return;
    }
    let folder = Folder::new("tools-mosquitto");
    let port = free_port().to_string();
    let file = folder.file("mosquitto.conf", &format!("listener {port} 127.0.0.1\nallow_anonymous true\n"));
    let broker = Command::new(path).arg("-c").arg(file).stderr(Stdio::null()).spawn().unwrap();
    let _broker = Ended(broker);
    let until = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_err() {
        assert!(Instant::now() < until, "mosquitto does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    for version in ["31", "311", "5"] {
        for qos in ["0", "1", "2"] {
            let at = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-t", "t", "-q", qos];
            let listening = Listening::start(&[&at[..], &["-C", "100"]].concat());
            let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
            let (code, _, errors) = run(Ours, "pub", &[&at[..], &["-l"]].concat(), lines.as_bytes());
            assert_eq!((code, errors.as_str()), (Some(0), ""), "{version} {qos}");
            assert_eq!(listening.end(), (Some(0), lines), "{version} {qos}");
        }
    }
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn twenty_thousand_lines_of_qos_2_arrive_once_and_in_order_and_a_large_file_whole() {
    // A subscriber that prints is slower than a publisher.
    let broker = Program::start(
        "[limits]\nqueued_messages_max = 100000\nqueued_bytes_max = 100000000\n[[listener]]\naddress = 'localhost:0'\n[store]\nin_memory = true\n",
    );
    let port = broker.port("mqtt");
    let listening = Listening::start(&["-p", &port, "-t", "bulk", "-q", "2", "-C", "20000"]);
    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let arguments = ["-p", &port, "-t", "bulk", "-l", "-q", "2", "--json"];
    let (code, out, errors) = run(Ours, "pub", &arguments, lines.as_bytes());
    assert_eq!((code, errors.as_str()), (Some(0), ""), "no bar where no terminal is");
    assert_eq!(out, "{\"topic\":\"bulk\",\"published\":20000,\"refused\":0}\n");
    assert!(listening.end() == (Some(0), lines.clone()));

    let folder = Folder::new("bulk");
    let file = folder.file("lines", &lines).display().to_string();
    let listening = Listening::start(&["-p", &port, "-t", "bulk", "-q", "1", "-C", "1", "-N"]);
    ours("pub", &["-p", &port, "-t", "bulk", "-q", "1", "-f", &file]);
    assert!(listening.end() == (Some(0), lines.clone()));
    let listening = Listening::start(&["-p", &port, "-t", "bulk", "-q", "1", "-C", "20000"]);
    ours("pub", &["-p", &port, "-t", "bulk", "-q", "1", "-l", "-f", &file]);
    assert!(listening.end() == (Some(0), lines));
}

#[test]
fn lines_are_published_as_they_come() {
    let broker = plain();
    let port = broker.port("mqtt");
    let mut listening = Listening::start(&["-p", &port, "-t", "t"]);
    let mut publishing = command(Ours, "pub");
    publishing.args(["-p", &port, "-t", "t", "-l"]).stdin(Stdio::piped());
    let mut publishing = publishing.spawn().unwrap();
    let mut say = |input: &mut ChildStdin, line: &str| {
        writeln!(input, "{line}").unwrap();
        assert_eq!(listening.lines(1), [line]);
    };
    let mut input = publishing.stdin.take().unwrap();
    say(&mut input, "first");
    say(&mut input, "second");
    drop(input);
    assert!(publishing.wait().unwrap().success());
}

#[test]
fn json_output_has_every_property_and_keeps_binary_payloads() {
    let broker = plain();
    let port = broker.port("mqtt");
    let publish = [
        "-p",
        &port,
        "-t",
        "j",
        "-r",
        "-D",
        "publish",
        "user-property",
        "k",
        "v",
        "-D",
        "publish",
        "user-property",
        "k",
        "w",
    ];
    run(Ours, "pub", &[&publish[..], &["-s"]].concat(), b"\xff\x00");
    let line = ours("sub", &["-p", &port, "-V", "5", "-t", "j", "-C", "1", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&value["topic"], &value["payload_base64"]), (&"j".into(), &"/wA=".into()));
    assert_eq!((&value["qos"], &value["retain"], &value["payloadlen"]), (&0.into(), &1.into(), &2.into()));
    assert_eq!(value["properties"]["user-properties"], serde_json::json!([["k", "v"], ["k", "w"]]));
}

#[test]
fn topic_aliases_are_resolved_and_values_may_begin_with_a_dash() {
    let broker = plain();
    let port = broker.port("mqtt");
    let aliases =
        ["-p", &port, "-t", "t/#", "-D", "connect", "topic-alias-maximum", "1", "-F", "-%t-%A-%p", "-C", "3"];
    let listening = Listening::start(&aliases);
    for payload in ["-1", "-2", "--"] {
        ours("pub", &["-p", &port, "-t", "t/a", "-m", payload, "-u", "-user", "-P", "-pw"]);
    }
    let (code, out) = listening.end();
    assert_eq!((code, out.as_str()), (Some(0), "-t/a-1--1\n-t/a-1--2\n-t/a-1---\n"));
}

#[test]
fn retained_messages_are_removed_by_filter() {
    let broker = plain();
    let port = broker.port("mqtt");
    for topic in ["gone/a", "gone/b", "kept"] {
        ours("pub", &["-p", &port, "-t", topic, "-m", "x", "-r"]);
    }
    let (code, out, _) =
        run(Ours, "sub", &["-p", &port, "-t", "gone/#", "--remove-retained", "-C", "2", "-v"], b"");
    assert_eq!((code, out.as_str()), (Some(0), "gone/a x\ngone/b x\n"));
    // What is kept comes in the order of topics.
    assert_eq!(ours("sub", &["-p", &port, "-t", "#", "-v", "-C", "1"]), "kept x\n");
}

#[test]
fn a_subscriber_with_a_session_survives_kill_9_and_prints_each_message_once() {
    let state = Folder::new("tools-state");
    let port = free_port().to_string();
    let toml = format!("[[listener]]\naddress = '127.0.0.1:{port}'\n");
    let start = || Program::with(&toml).state(&state).start();
    let mut broker = start();
    let mut listening = Listening::start(&[
        "-p",
        &port,
        "-h",
        "127.0.0.1",
        "-c",
        "-i",
        "listener",
        "-q",
        "2",
        "-t",
        "t",
        "-C",
        "3",
    ]);
    let say = |text: &str| ours("pub", &["-p", &port, "-h", "127.0.0.1", "-t", "t", "-q", "2", "-m", text]);
    say("one");
    assert_eq!(listening.lines(1), ["one"]);
    broker.signal("KILL");
    broker.wait();
    broker = start();
    say("two");
    say("three");
    assert_eq!(listening.end(), (Some(0), "two\nthree\n".to_owned()));
    drop(broker);
}

#[test]
fn an_interrupted_tool_disconnects_cleanly_so_that_no_will_is_sent() {
    let broker = plain();
    let port = broker.port("mqtt");
    let wills = Listening::start(&["-p", &port, "-t", "will/#", "-t", "end", "-C", "2"]);
    for (name, signal) in [("polite", "INT"), ("killed", "KILL")] {
        let topic = format!("will/{name}");
        let with_will =
            ["-p", &port, "-t", "x", "--will-topic", &topic, "--will-payload", name, "--will-qos", "1"];
        let mut victim = Listening::start(&with_will);
        Command::new("kill").args([&format!("-{signal}"), &victim.child.id().to_string()]).status().unwrap();
        let status = victim.child.wait().unwrap();
        assert_eq!(status.code(), (signal == "INT").then_some(0), "{status}");
    }
    assert!(ours("pub", &["-p", &port, "-t", "end", "-m", "end"]).is_empty());
    let (_, out) = wills.end();
    let mut heard: Vec<_> = out.lines().collect();
    heard.sort_unstable();
    assert_eq!(heard, ["end", "killed"]);
}

#[test]
fn a_request_is_answered() {
    let broker = plain();
    let port = broker.port("mqtt");
    let address = broker.address("mqtt");
    let (mut answerer, _) = Client::connect(&address, "5.0", &[("id", "answerer"), ("clean", "1")]).unwrap();
    answerer.send("subscribe", &[("id", "1"), ("filters", "ask@0")]).unwrap();
    assert_eq!(answerer.next(Duration::from_secs(10)).unwrap().unwrap().0, "suback");
    std::thread::spawn(move || {
        while let Ok(Some((name, request))) = answerer.next(Duration::from_secs(60)) {
            if name != "publish" {
                continue;
            }
            let topic = request["p.response_topic"].clone();
            let correlation = request.get("p.correlation").cloned().unwrap_or_default();
            // An answer to somebody else comes first.
            for (data, text) in [("another", "wrong"), (correlation.as_str(), "right")] {
                let payload = format!("{text} {}", request["payload"]);
                let fields = [("topic", topic.as_str()), ("payload", &payload), ("p.correlation", data)];
                answerer.send("publish", &fields).unwrap();
            }
        }
    });
    let ask = ["-p", &port, "-t", "ask", "-m", "6 x 7", "-D", "publish", "correlation-data", "mine"];
    assert_eq!(ours("rr", &ask), "right 6 x 7\n");
    let to = [
        "-p",
        &port,
        "-t",
        "ask",
        "-e",
        "answers/1",
        "-m",
        "?",
        "-D",
        "publish",
        "correlation-data",
        "mine",
        "-v",
    ];
    assert_eq!(ours("rr", &to), "answers/1 right ?\n");
    let (code, out, _) = run(Ours, "rr", &["-p", &port, "-t", "nobody", "-m", "x", "-W", "1"], b"");
    assert_eq!((code, out.as_str()), (Some(27), ""));
}

#[test]
fn top_shows_the_busy_topics_first_and_what_is_above_them() {
    let broker = plain();
    let port = broker.port("mqtt");
    let mut busy = [("plant/line 1/temp", "0.002"), ("plant/line 2/temp", "0.02"), ("office/door", "0.1")]
        .map(|(topic, delay)| {
            let mut command = command(Ours, "pub");
            command.args([
                "-p",
                &port,
                "-t",
                topic,
                "-m",
                "12345",
                "--repeat",
                "1000000",
                "--repeat-delay",
                delay,
            ]);
            command.stderr(Stdio::null()).spawn().unwrap()
        });
    // As soon as all of them are there.
    let mut seen = Listening::start(&["-p", &port, "-t", "office/#"]);
    seen.lines(1);
    let text = ours("top", &["-p", &port, "--once", "--interval", "2"]);
    let names: Vec<_> = text.lines().skip(2).map(|line| line[40..].to_owned()).collect();
    assert_eq!(
        names,
        ["plant/", "  line 1/", "    temp", "  line 2/", "    temp", "office/", "  door"],
        "{text}"
    );
    let flat = ours("top", &["-p", &port, "--once", "--interval", "1", "--depth", "1", "-t", "plant/#"]);
    assert_eq!(flat.lines().count(), 3, "{flat}");
    for child in &mut busy {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn wrong_arguments_are_named_with_the_remedy() {
    let broker = plain();
    let port = broker.port("mqtt");
    let cases: &[(&str, &[&str], &str)] = &[
        ("pub", &["-t", "a"], "name the message"),
        ("pub", &["-t", "a/+", "-m", "x"], "+ and # are for topic filters"),
        (
            "pub",
            &["-t", "a", "-m", "x", "-D", "publish", "content-tipe", "x"],
            "there is no property 'content-tipe'",
        ),
        ("pub", &["-t", "a", "-m", "x", "-D", "connect", "content-type", "x"], "is invalid there"),
        ("pub", &["-t", "a", "-m", "x", "-D", "publish", "topic-alias", "abc"], "a number from 0 to 65535"),
        ("pub", &["-t", "a", "-m", "x", "-V", "311", "-x", "5"], "need MQTT 5"),
        ("pub", &["-t", "a", "-m", "x", "-V", "6"], "31, 311 or 5"),
        ("pub", &["-t", "a", "-m", "x", "-c"], "name it with -i"),
        ("pub", &["-t", "a", "-m", "x", "--cafile", "/no/such"], "there is no such file"),
        ("sub", &["-t", "$share//x"], "$share/NAME/FILTER"),
        ("sub", &["-t", "a", "-F", "%y"], "is not one of"),
        ("sub", &[], "with -t"),
        ("rr", &["-t", "a"], "name the request"),
        ("top", &["--interval", "0"], "more than 0"),
    ];
    for (tool, arguments, expected) in cases {
        let (code, out, errors) = run(Ours, tool, &[&["-p", &port], *arguments].concat(), b"");
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
    let (code, _, errors) = run(Ours, "pub", &["-p", "1", "-t", "a", "-m", "x"], b"");
    assert_eq!(code, Some(1));
    assert!(errors.contains("localhost:1: Connection refused"), "{errors}");
    for tool in ["pub", "sub", "rr", "top"] {
        assert!(ours(tool, &["--help"]).contains(&format!("lapwing {tool}")));
    }
}

#[test]
fn the_tools_page_matches_the_help() {
    let broker = plain();
    let page = std::fs::read_to_string(lapwing_tests::program::root().join("docs/TOOLS.md")).unwrap();
    let block = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    // To this broker rather than to the usual port.
    let script = format!(
        "set -e -o pipefail\nlapwing() {{ local tool=$1; shift; '{}' \"$tool\" -p {} \"$@\"; }}\n{block}",
        binary().display(),
        broker.port("mqtt")
    );
    let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{errors}");
    assert!(out.contains("home/kitchen/temperature 21.5\n") && out.contains(" 21.5 retained=1\n"), "{out}");
    assert!(out.contains("messages/s"), "{out}");
}
