//! The audit log: logins, refusals and actions of clients.

use std::time::{Duration, Instant};

use lapwing_tests::access::password;
use lapwing_tests::client::Client;
use lapwing_tests::program::Program;

const RULES: &str = "[[rule]]\nusers = ['root']\nall = ['#']\n[[rule]]\nusers = ['ann']\nsubscribe = ['a']\n";

#[test]
fn the_audit_log_has_logins_refusals_takeovers_denials_revocations_and_reloads() {
    let mut broker = Program::with("").users(RULES).start();
    let ann = broker.client("ann");
    let line = broker.wait_for("connected");
    for word in ["client=ann", "user=ann", "peer=127.0.0.1:", "listener=mqtt://", "method=\"password\""] {
        assert!(line.contains(word), "{word} is missing in: {line}");
    }
    drop(Client::knock(&broker.address("mqtt"), "5.0", &[("id", "x"), ("user", "ann"), ("password", "no")]));
    broker.wait_for("refused: the password is wrong");
    let mut again = broker.client("ann");
    // The connection that lost it says so, too, before or after this.
    let line = broker.wait_for("session taken over client=");
    assert!(line.contains("client=ann") && line.contains("by=127.0.0.1:"), "{line}");
    assert_eq!(ann.end().as_deref(), Some("142"));
    assert_eq!(again.subscribe("a|b"), "0|135");
    broker.wait_for("SUBSCRIBE denied");
    broker.rules_say("[[rule]]\nusers = ['root']\nall = ['#']\n", "subscription removed");
    let users = std::fs::read_to_string(broker.folder.0.join("users")).unwrap();
    broker.folder.file("users", &users.replace("ann:", "anna:"));
    let line = broker.reload_says("disconnected: the user 'ann' was removed");
    assert!(line.contains("client=ann"), "{line}");
    assert_eq!(again.end().as_deref(), Some("152"));
}

/// The number behind a word of a line.
fn number(line: &str, word: &str) -> u64 {
    let rest = line.split(word).nth(1).unwrap_or_else(|| panic!("no {word} in {line}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn denials_of_a_client_are_one_log_line_a_second_with_the_number_suppressed() {
    let broker = Program::with("").users(RULES).start();
    let mut ann = broker.client("ann");
    let began = Instant::now();
    let (mut said, mut count) = (Vec::new(), 0);
    while said.len() < 3 {
        // The topic says which of them has the line.
        assert_eq!(ann.publish(&format!("b/{count}"), "x", &[])["reason"], "135");
        count += 1;
        let log = broker.log();
        let denied = log.lines().filter(|line| line.contains("PUBLISH denied"));
        let told = |line: &str| (number(line, "topic=b/"), number(line, "more_before="));
        said = denied.take(3).map(told).collect();
        assert!(began.elapsed() < Duration::from_secs(20), "{log}");
    }
    assert!(began.elapsed() >= Duration::from_millis(1_990), "{said:?}");
    let [(0, 0), (second, before_it), (third, before_that)] = said[..] else { panic!("{said:?}") };
    assert!(second > 1, "none was held back: {said:?}");
    assert_eq!((before_it, before_that), (second - 1, third - second - 1));
}

#[test]
fn client_text_cannot_add_lines_or_colours_to_the_log() {
    let mut broker = Program::with("").users(RULES).start();
    let address = broker.address("mqtt");
    let evil = "x\n2026-01-01T00:00:00Z  INFO forged\r\u{1b}[31m\u{9b}31m";
    let pw = password("root");
    let evil_pw = password("ann");
    // As client identifier, as user, as topic and as filter; let in and not.
    drop(Client::knock(&address, "5.0", &[("id", evil), ("user", evil), ("password", "x")]));
    drop(Client::knock(&address, "3.1.1", &[("id", evil), ("user", "root"), ("password", &pw)]));
    if let Ok((mut client, _)) =
        Client::connect(&address, "5.0", &[("id", evil), ("user", "ann"), ("password", &evil_pw)])
    {
        let _ = client.send("publish", &[("topic", evil), ("qos", "1"), ("id", "1")]);
        let _ = client.send("subscribe", &[("filters", evil)]);
        let _ = client.next(std::time::Duration::from_secs(2));
        let _ = client.next(std::time::Duration::from_secs(2));
    }
    let mut last = broker.client_with("ann", "5.0", &[("id", "the last one")]);
    last.subscribe("b");
    broker.wait_for("the last one");
    let log = broker.log.lock().unwrap().clone();
    assert!(log.contains("forged"), "it is in the log at all:\n{log}");
    assert!(!log.lines().any(|line| line.contains("forged") && line.starts_with("2026-01-01")), "{log}");
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "{log:?}");
}

#[test]
fn a_stranger_cannot_fill_the_log() {
    use std::io::{Read, Write};
    let broker = Program::with("").users("[[rule]]\nall = ['#']\n").start();
    let began = std::time::Instant::now();
    let long = "\u{1}".repeat(60_000);
    for n in 0..1_000 {
        // Not MQTT, and a user name of 60 KB that nobody has.
        let mut stranger = std::net::TcpStream::connect(broker.address("mqtt")).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = stranger.read(&mut [0; 64]);
        if n % 250 == 0 {
            let all = [("id", "x"), ("user", &*long), ("password", "wrong")];
            let _ = Client::knock(&broker.address("mqtt"), "5.0", &all);
        }
    }
    let log = broker.log();
    // Twenty lines a second for each kind and address, and the second in which it began.
    let most = 20 * (began.elapsed().as_secs() as usize + 2);
    let lines = log.lines().filter(|line| line.contains("127.0.0.1") && line.contains("WARN")).count();
    assert!(lines <= 2 * most && lines > 4, "{lines} lines in {:?}", began.elapsed());
    assert!(log.lines().all(|line| line.len() < 4_096), "values are cut");
    assert!(log.contains("more_before="), "{log}");
}
