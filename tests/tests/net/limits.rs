//! Limits on publishing, bans, flapping clients and slow ones.
//!
//! A prefix of a name, such as `f14_`, is a row of `docs/ABUSE.md`.

use std::time::{Duration, Instant};

use lapwing_tests::client::{Client, code};
use lapwing_tests::program::{Folder, Program, binary, run};

fn connect(program: &Program, id: &str) -> Client {
    Client::connect(&program.address("mqtt"), "5.0", &[("id", id)]).expect("it may come in").0
}

/// Publishes so many messages and waits for the last acknowledgement; how long that took.
fn publish_all(clients: &mut [Client], each: usize, payload: &str) -> Duration {
    let begun = Instant::now();
    for client in clients.iter_mut() {
        for n in 1..=each {
            let fields = [("topic", "rate"), ("payload", payload), ("qos", "1"), ("id", &n.to_string())];
            client.send("publish", &fields).expect("PUBLISH is sent");
        }
    }
    for client in clients {
        (0..each).for_each(|_| drop(client.expect("puback")));
    }
    begun.elapsed()
}

/// The rate is the subject here: at least so long for what is above one second's worth, and nothing
/// is lost.
#[test]
fn a_client_that_publishes_faster_than_it_may_waits_and_loses_nothing() {
    let program = Program::start("[limits]\npublishes_per_client_per_s = 20");
    let took = publish_all(&mut [connect(&program, "fast")], 50, "x");
    assert!(
        took >= Duration::from_millis(1_400),
        "50 messages at 20 a second, 20 of them ahead, took {took:?}"
    );
    // Another one has its own.
    let took = publish_all(&mut [connect(&program, "other")], 20, "x");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn bytes_are_counted_too_and_by_user() {
    let broker = Program::with("[limits]\npublish_bytes_per_user_per_s = 20000")
        .users("[[rule]]\npublish = ['#']\n")
        .start();
    let mut clients: Vec<Client> =
        ["1", "2"].iter().map(|id| broker.client_with("ann", "5.0", &[("id", id)])).collect();
    // 20 messages of 2,000 bytes by two clients of one user.
    let took = publish_all(&mut clients, 10, "rep:2000");
    assert!(
        took >= Duration::from_millis(900),
        "40 kB at 20 kB a second, 20 kB of them ahead, took {took:?}"
    );
    let took = publish_all(&mut [broker.client("bob")], 5, "rep:2000");
    assert!(took < Duration::from_secs(5), "another user waits for this one: {took:?}");
    broker.signal("TERM");
}

fn ban(program: &mut Program, folder: &Folder, arguments: &[&str]) {
    let config = folder.0.join("lapwing.toml").display().to_string();
    run(std::process::Command::new(binary()).args(["-c", &config, "ban"]).args(arguments));
    program.signal("HUP");
    program.wait_for("reloaded (asked to)");
}

fn with_bans() -> (Program, Folder) {
    let folder = Folder::new("bans");
    let ban_file = format!("ban_file = '{}'", folder.0.join("bans.toml").display());
    let program =
        Program::with("").auth(&ban_file).listener("proxy_protocol_from = []").state(&folder).start();
    (program, folder)
}

#[test]
fn f14_a_banned_client_is_disconnected_and_refused_until_the_ban_is_lifted() {
    let (mut program, folder) = with_bans();
    let victim = connect(&program, "victim");
    let mut other = connect(&program, "other");
    ban(&mut program, &folder, &["add", "--client", "victim", "--reason", "it floods"]);
    assert_eq!(victim.end().as_deref(), Some("152"), "0x98");
    other.publish("still", "here", &[]);
    let (_, connack) = Client::knock(&program.address("mqtt"), "5.0", &[("id", "victim")]).unwrap();
    assert_eq!(code(&connack), 0x8a);
    assert_eq!(connack["p.reason_string"], "this client is banned", "why is not for it to know");
    let (_, connack) = Client::knock(&program.address("mqtt"), "3.1.1", &[("id", "victim")]).unwrap();
    assert_ne!(code(&connack), 0);
    program.wait_for("client victim is banned (it floods)");
    ban(&mut program, &folder, &["remove", "--client", "victim"]);
    connect(&program, "victim");
}

#[test]
fn a_ban_ends_by_itself_and_a_broken_list_changes_nothing() {
    let (mut program, folder) = with_bans();
    // Longer than it takes to find it in force.
    ban(&mut program, &folder, &["add", "--client", "victim", "--for", "5s"]);
    let knock = || code(&Client::knock(&program.address("mqtt"), "5.0", &[("id", "victim")]).unwrap().1);
    assert_eq!(knock(), 0x8a);
    let begun = Instant::now();
    while knock() == 0x8a {
        assert!(begun.elapsed() < Duration::from_secs(15), "the ban does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    ban(&mut program, &folder, &["add", "--client", "victim"]);
    folder.file("bans.toml", "[[ban]]\nklient = 'victim'\n");
    program.signal("HUP");
    program.wait_for("NOT reloaded");
    assert_eq!(code(&Client::knock(&program.address("mqtt"), "5.0", &[("id", "victim")]).unwrap().1), 0x8a);
    let log = program.log.lock().unwrap().clone();
    assert!(log.contains("bans.toml: ban 1: 'klient' is not known"), "{log}");
}

#[test]
fn a_client_that_flaps_is_banned_for_a_while() {
    let mut program = Program::start("[limits]\nflapping_connects_max = 5\nflapping_ban_s = 60");
    for _ in 0..5 {
        drop(connect(&program, "flappy"));
    }
    let (_, connack) = Client::knock(&program.address("mqtt"), "5.0", &[("id", "flappy")]).unwrap();
    assert_eq!(code(&connack), 0x8a);
    program.wait_for("more often than limits.flapping_connects_max");
    connect(&program, "steady");
}

#[test]
fn e01_two_clients_with_one_identifier_are_logged_and_slowed_and_lose_nothing() {
    let mut program = Program::start("");
    let address = program.address("mqtt");
    let resume = || Client::resume(&address, "twin", "5.0").unwrap();
    let mut twin = resume().0;
    twin.subscribe("news@1");
    let mut publisher = connect(&program, "publisher");
    let begun = Instant::now();
    for n in 0..5 {
        let (other, present) = resume();
        assert!(present);
        assert_eq!(twin.end().as_deref(), Some("142"), "0x8E");
        twin = other;
        publisher.publish("news", &n.to_string(), &[]);
    }
    assert!(begun.elapsed() >= Duration::from_millis(750), "nobody was slowed down");
    let line = program.wait_for("two clients take one client identifier");
    assert!(line.contains("twin") && line.matches("127.0.0.1:").count() == 2, "both are named: {line}");
    publisher.publish("news", "end", &[]);
    let mut got = twin.messages_until("end");
    got.dedup();
    assert!((0..5).all(|n| got.contains(&format!("news {n}"))), "{got:?}");
}

#[test]
fn a_slow_client_is_disconnected_where_the_policy_says_so() {
    let mut program = Program::start(
        "[limits]\nqueue_policy = 'disconnect'\nqueued_messages_max = 100\nwrite_stall_timeout_s = 3600",
    );
    let mut slow = connect(&program, "slow");
    slow.subscribe("flood");
    let mut publisher = connect(&program, "publisher");
    for _ in 0..4_000 {
        publisher.send("publish", &[("topic", "flood"), ("payload", "rep:8192")]).unwrap();
    }
    publisher.publish("barrier", "x", &[]);
    program.wait_for("the client does not keep up");
    // What it was sent before is there, then the reason.
    assert_eq!(slow.end().as_deref(), Some("151"), "0x97");
    publisher.publish("barrier", "x", &[]);
}
