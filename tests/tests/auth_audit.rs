//! What the log says of who came, who did not, and what they did.

use lapwing_tests::access::{Guarded, password};
use lapwing_tests::client::Client;

const RULES: &str = "[[rule]]\nusers = ['root']\nall = ['#']\n[[rule]]\nusers = ['ann']\nsubscribe = ['a']\n";

#[test]
fn the_audit_has_acceptance_refusal_takeover_denial_revocation_expulsion_and_reload() {
    let mut broker = Guarded::start(RULES, "", "");
    let ann = broker.client("ann");
    let line = broker.program.wait_for("accepted");
    for word in ["client=ann", "user=ann", "peer=127.0.0.1:", "listener=mqtt://", "method=\"password\""] {
        assert!(line.contains(word), "{word} is missing in: {line}");
    }
    drop(Client::knock(
        &broker.program.address("mqtt"),
        "5.0",
        &[("id", "x"), ("user", "ann"), ("password", "no")],
    ));
    broker.program.wait_for("refused: the password is wrong");
    let mut again = broker.client("ann");
    // The connection that lost it says so, too, before or after this.
    let line = broker.program.wait_for("session taken over client=");
    assert!(line.contains("client=ann") && line.contains("by=\"127.0.0.1:"), "{line}");
    assert_eq!(ann.end().as_deref(), Some("142"));
    assert_eq!(again.subscribe("a|b"), "0|135");
    broker.program.wait_for("SUBSCRIBE denied");
    broker.rules("[[rule]]\nusers = ['root']\nall = ['#']\n");
    broker.program.wait_for("subscription removed");
    let users = std::fs::read_to_string(broker.folder.0.join("users")).unwrap();
    broker.folder.file("users", &users.replace("ann:", "anna:"));
    broker.reload();
    let line = broker.program.wait_for("disconnected: the user 'ann' was removed");
    assert!(line.contains("client=ann"), "{line}");
    assert_eq!(again.end().as_deref(), Some("152"));
}

#[test]
fn denials_are_one_line_a_second_for_a_client_with_the_number_of_those_held_back() {
    let mut broker = Guarded::start(RULES, "", "");
    let mut ann = broker.client("ann");
    for _ in 0..200 {
        assert_eq!(ann.publish("b", "x", &[])["reason"], "135");
    }
    broker.program.wait_for("PUBLISH denied");
    let began = std::time::Instant::now();
    let line = loop {
        ann.publish("b", "x", &[]);
        let log = broker.program.log.lock().unwrap().clone();
        if let Some(line) = log.lines().filter(|line| line.contains("PUBLISH denied")).nth(1) {
            break line.to_owned();
        }
        assert!(began.elapsed().as_secs() < 10, "{log}");
    };
    let held: u64 = line.split("more_before=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(held >= 190, "{line}");
}

#[test]
fn nobody_writes_lines_or_colours_of_their_own_into_the_log() {
    let mut broker = Guarded::start(RULES, "", "");
    let address = broker.program.address("mqtt");
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
    broker.program.wait_for("the last one");
    let log = broker.program.log.lock().unwrap().clone();
    assert!(log.contains("forged"), "it is in the log at all:\n{log}");
    assert!(!log.lines().any(|line| line.contains("forged") && line.starts_with("2026-01-01")), "{log}");
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "{log:?}");
}
