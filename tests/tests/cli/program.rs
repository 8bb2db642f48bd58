//! The program as a user meets it: its first words, its refusals, its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lapwing_tests::program::{Folder, Program, binary};
use lapwing_tests::wire::{self, Fields};

fn fails(toml: &str) -> String {
    let folder = Folder::new("bad");
    let file = folder.file("lapwing.toml", toml);
    let output = run(&["-c", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "it refuses to start");
    String::from_utf8(output.stderr).unwrap()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn connect_packet(id: &str, version: &str) -> Vec<u8> {
    wire::encode("connect", &Fields::from([("id".to_owned(), id.to_owned())]), version)
}

fn packet(stream: &mut impl Read, version: &str) -> Option<(&'static str, Fields)> {
    let mut bytes = Vec::new();
    let mut one = [0];
    while stream.read(&mut one).ok()? == 1 {
        bytes.push(one[0]);
        if wire::packet_len(&bytes).is_some() {
            return Some(wire::decode(&bytes, version));
        }
    }
    None
}

fn open(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream
}

#[test]
fn with_only_a_port_it_serves_both_loopback_addresses_and_names_the_next_command() {
    let mut broker = Program::by(&["-p", "0"]).spawn();
    let started = broker.wait_for("Lapwing ");
    // To open it to the network takes a user; a test of passwords shows that the second command
    // starts then.
    let command =
        "lapwing user add NAME --password-file users && lapwing --listen 0.0.0.0:1883 --password-file users";
    assert!(started.contains(command), "{started}");
    let hint = broker.wait_for("try it");
    let port = broker.port("mqtt");
    assert!(hint.contains("mosquitto_sub") && hint.contains(&port), "{hint}");
    assert_eq!(broker.listeners, [format!("mqtt://127.0.0.1:{port}"), format!("mqtt://[::1]:{port}")]);
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let mut stream = open(&address);
        stream.write_all(&connect_packet("x", "3.1.1")).unwrap();
        assert_eq!(packet(&mut stream, "3.1.1").unwrap().0, "connack");
    }
}

#[test]
fn a_wrong_configuration_is_told_with_file_line_and_remedy() {
    let told = fails("[limits]\nrecieve_maximum = 3\n");
    assert!(
        told.contains("lapwing.toml:2: unknown key 'recieve_maximum'") && told.contains("'receive_maximum'"),
        "{told}"
    );
    let told = fails("[[listener]]\naddress = '0.0.0.0:0'\n");
    assert!(told.contains("open = true"), "{told}");
    let told = fails(
        "[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\ncertificate_file = '/nowhere.pem'\nkey_file = '/nowhere.key'\n",
    );
    assert!(
        told.contains("/nowhere.pem") && told.contains("No such file") && told.contains("user id"),
        "{told}"
    );
    let output = run(&["-c", "/nowhere/lapwing.toml"]);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/nowhere/lapwing.toml")
    );
}

#[test]
fn a_bad_certificate_refuses_the_start_and_the_test_before_any_port_opens() {
    let folder = Folder::new("badcert");
    let (certificate, key) = (folder.file("c.pem", "nonsense"), folder.file("k.pem", "nonsense"));
    let toml = format!(
        "[[listener]]\naddress = 'localhost:0'\n[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\ncertificate_file = '{}'\nkey_file = '{}'\n",
        certificate.display(),
        key.display()
    );
    let told = fails(&toml);
    assert!(told.contains("c.pem") && !told.contains("listening on"), "{told}");
    let file = folder.file("lapwing.toml", &toml);
    let tested = run(&["--test-config", "-c", &file.display().to_string()]);
    assert!(!tested.status.success() && String::from_utf8_lossy(&tested.stderr).contains("c.pem"));
}

#[test]
fn test_config_says_that_a_good_file_is_good_and_serves_nothing() {
    let folder = Folder::new("good");
    let file = folder.file("lapwing.toml", "[limits]\nreceive_maximum = 3\n");
    let tested = run(&["--test-config", "-c", &file.display().to_string()]);
    assert!(tested.status.success());
    assert_eq!(String::from_utf8_lossy(&tested.stdout).trim(), "the configuration is valid");
}

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let broker = Program::start("");
    let told = fails(&format!("[[listener]]\naddress = '{}'\n", broker.address("mqtt")));
    assert!(told.contains("another program") && told.contains("-p"), "{told}");
}

#[test]
fn sigterm_tells_every_client_and_ends_with_success() {
    let mut broker = Program::start("");
    let mut five = open(&broker.address("mqtt"));
    five.write_all(&connect_packet("five", "5.0")).unwrap();
    assert_eq!(packet(&mut five, "5.0").unwrap().0, "connack");
    let mut three = open(&broker.address("mqtt"));
    three.write_all(&connect_packet("three", "3.1.1")).unwrap();
    assert_eq!(packet(&mut three, "3.1.1").unwrap().0, "connack");
    broker.signal("TERM");
    let (name, fields) = packet(&mut five, "5.0").unwrap();
    assert_eq!((name, fields["reason"].as_str()), ("disconnect", "139"));
    assert!(packet(&mut five, "5.0").is_none() && packet(&mut three, "3.1.1").is_none(), "closed");
    drop((five, three));
    assert!(broker.wait().success());
}

#[test]
fn a_client_that_does_not_read_delays_the_stop_only_so_long() {
    let mut broker = Program::start("[limits]\nshutdown_timeout_s = 1\n");
    let mut silent = open(&broker.address("mqtt"));
    silent.write_all(&connect_packet("silent", "5.0")).unwrap();
    assert_eq!(packet(&mut silent, "5.0").unwrap().0, "connack");
    broker.signal("TERM");
    assert!(broker.wait().success());
}

#[test]
fn sighup_reads_the_files_anew_and_ends_nothing() {
    let mut broker = Program::start("");
    broker.signal("HUP");
    broker.wait_for("reloaded");
    let mut stream = open(&broker.address("mqtt"));
    stream.write_all(&connect_packet("x", "3.1.1")).unwrap();
    assert_eq!(packet(&mut stream, "3.1.1").unwrap().0, "connack");
}

#[test]
fn the_log_can_be_json() {
    let mut broker = Program::start("[log]\nformat = 'json'\n");
    let line = broker.wait_for("try it");
    assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"timestamp\":\"20"), "{line}");
}

/// Sends bytes to a listener and waits for the line that says what they look like.
fn mistaken(broker: &mut Program, scheme: &str, bytes: &[u8], text: &str) {
    let mut stream = open(&broker.address(scheme));
    stream.write_all(bytes).unwrap();
    let line = broker.wait_for(text);
    assert!(line.contains("WARN"), "{line}");
    // Whatever else the transport says (a TLS alert, HTTP), it ends.
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn another_protocol_on_the_port_is_named_in_the_log() {
    let mut broker = Program::with("").all_transports().start();
    let connect = connect_packet("x", "3.1.1");
    mistaken(&mut broker, "mqtt", &[0x16, 3, 1, 0, 0], "looks like TLS");
    mistaken(&mut broker, "mqtt", b"GET /mqtt HTTP/1.1\r\n\r\n", "looks like HTTP or WebSocket");
    mistaken(&mut broker, "mqtts", &connect, "looks like plain MQTT");
    mistaken(&mut broker, "mqtts", b"GET / HTTP/1.1\r\n\r\n", "looks like plain HTTP");
    mistaken(&mut broker, "ws", &connect, "looks like plain MQTT");
    mistaken(&mut broker, "ws", &[0x16, 3, 1, 0, 0], "looks like TLS");
}

#[test]
fn a_refusal_is_logged_with_client_listener_cause_and_key() {
    let mut broker = Program::start("[limits]\nsubscriptions_max = 1\n");
    let mut stream = open(&broker.address("mqtt"));
    stream.write_all(&connect_packet("curious", "3.1.1")).unwrap();
    let subscribe =
        wire::encode("subscribe", &Fields::from([("filters".to_owned(), "a|b".to_owned())]), "3.1.1");
    stream.write_all(&subscribe).unwrap();
    let line = broker.wait_for("refused");
    for word in ["curious", "127.0.0.1", "limits.subscriptions_max", "quota exceeded", "SUBSCRIBE"] {
        assert!(line.contains(word), "{word} is missing in: {line}");
    }
}

#[test]
fn silence_after_the_connect_ends_at_the_connect_timeout_even_if_it_drips() {
    let mut broker = Program::start("[limits]\nconnect_timeout_s = 1\n");
    let mut silent = open(&broker.address("mqtt"));
    let mut dripping = open(&broker.address("mqtt"));
    dripping.write_all(&connect_packet("x", "3.1.1")[..5]).unwrap();
    let line = broker.wait_for("connect_timeout_s");
    assert!(line.contains("127.0.0.1"), "{line}");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert!(matches!(dripping.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_unix_socket_serves_and_is_gone_afterwards() {
    let mut broker = Program::with("").all_transports().start();
    let path = broker.folder.0.join("mqtt.sock");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(&connect_packet("x", "5.0")).unwrap();
    assert_eq!(packet(&mut stream, "5.0").unwrap().0, "connack");
    drop(stream);
    broker.signal("TERM");
    assert!(broker.wait().success());
    assert!(!path.exists());
}

#[test]
fn test_config_finds_every_error_of_a_start_without_opening_a_port() {
    let folder = Folder::new("machine");
    let in_the_way = folder.file("file", "").display().to_string();
    let path = folder.0.display();
    for (toml, told) in [
        (format!("[store]\ndata_dir = '{in_the_way}/data'\n"), "is a file, not a folder"),
        (
            "[[listener]]\naddress = 'localhost:0'\ninterface = 'eth99'\n".to_owned(),
            "the network interface eth99 does not exist",
        ),
        (format!("[[listener]]\ntransport = 'unix'\npath = '{in_the_way}'\n"), "is not a socket"),
        (
            format!("[[listener]]\ntransport = 'unix'\npath = '{path}/no/x.sock'\n"),
            "does not exist; create it",
        ),
        ("[log]\nlevel = 'lapwing=loud'\n".to_owned(), "log.level"),
        (format!("[auth]\nacl_file = '{path}/acl'\n"), "acl cannot be read"),
    ] {
        let file = folder.file("lapwing.toml", &toml).display().to_string();
        for arguments in [&["--test-config", "-c", &*file][..], &["-c", &*file]] {
            let output = run(arguments);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{toml}");
            assert!(errors.contains(told) && !errors.contains("listening on"), "{toml}{errors}");
        }
    }
}

#[test]
fn the_configuration_in_force_is_shown_with_where_each_value_came_from() {
    let folder = Folder::new("effective");
    std::fs::create_dir(folder.0.join("conf.d")).unwrap();
    folder.file("conf.d/limits.toml", "[limits]\nreceive_maximum = 7\n");
    folder.file("url", "https://who:hush@example.org/\n");
    let file = folder.file(
        "lapwing.toml",
        "include = ['conf.d']\n[mqtt]\nqos_max = 1\n\n[[listener]]\naddress = 'localhost:1'\n[[listener]]\naddress = 'localhost:2'\n",
    );
    let shown = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["config", "-c", &file.display().to_string()]).args(arguments).env_clear();
        command.env("LAPWING_LIMITS__QUEUE_POLICY", "refuse").env("LAPWING_LISTENER__1__QOS_MAX", "0");
        command.env("LAPWING_AUTH__HTTP_URL_FILE", folder.0.join("url")).stdin(Stdio::null());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let shown = shown(&["--data-dir", "/tmp/x"]);
    let file = file.display();
    for line in [
        &*format!("qos_max = 1  # {file}:3"),
        &format!("receive_maximum = 7  # {}/conf.d/limits.toml:2", folder.0.display()),
        &format!("address = \"localhost:2\"  # {file}:8"),
        "queue_policy = \"refuse\"  # environment LAPWING_LIMITS__QUEUE_POLICY",
        "qos_max = 0  # environment LAPWING_LISTENER__1__QOS_MAX",
        "data_dir = \"/tmp/x\"  # --data-dir",
        "in_flight_max = 64  # default",
        "http_url = \"https://(hidden)@example.org/\"  # environment LAPWING_AUTH__HTTP_URL_FILE",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line} is missing:\n{shown}");
    }
    assert!(!shown.contains("hush"));
}

#[test]
fn a_wrong_environment_and_a_wrong_include_are_told_with_the_nearest_name() {
    let folder = Folder::new("wrong");
    let file = folder.file("lapwing.toml", "include = ['nowhere.toml', 'more.toml']\n").display().to_string();
    folder.file("more.toml", "[limits]\nrecieve_maximum = 3\n");
    let mut command = Command::new(binary());
    command.args(["-c", &file]).stdin(Stdio::null());
    command.env("LAPWING_LIMITS__QUEUD_BYTES_MAX", "1").env("LAPWING_LISTENER__7__ADDRESS", "x");
    let told = String::from_utf8(command.output().unwrap().stderr).unwrap();
    for words in [
        "lapwing.toml:1: ",
        "nowhere.toml: cannot be read",
        "more.toml:2: unknown key 'recieve_maximum' in [limits]; did you mean 'receive_maximum'?",
        "environment LAPWING_LIMITS__QUEUD_BYTES_MAX: unknown key 'queud_bytes_max' in [limits]; did you mean 'queued_bytes_max'?",
        "environment LAPWING_LISTENER__7__ADDRESS: there is no such listener; they are numbered from 0, and the next new one is 1",
    ] {
        assert!(told.contains(words), "{words} is missing in:\n{told}");
    }
}

#[test]
fn a_packet_too_large_is_refused_and_logged_with_size_limit_and_key() {
    let mut broker = Program::start("[limits]\npacket_bytes_max = 1000\n");
    let mut stream = open(&broker.address("mqtt"));
    stream.write_all(&connect_packet("large", "5.0")).unwrap();
    assert_eq!(packet(&mut stream, "5.0").unwrap().0, "connack");
    let publish = Fields::from(
        [("topic", "a".to_owned()), ("payload", "x".repeat(2_000))].map(|(k, v)| (k.to_owned(), v)),
    );
    stream.write_all(&wire::encode("publish", &publish, "5.0")).unwrap();
    let (name, fields) = packet(&mut stream, "5.0").unwrap();
    assert_eq!((name, fields["reason"].as_str()), ("disconnect", "149"));
    let text = "a packet of 2007 bytes, limits.packet_bytes_max is 1000";
    assert_eq!(fields["p.reason_string"], text);
    let line = broker.wait_for(text);
    assert!(line.contains("large"), "{line}");
}
