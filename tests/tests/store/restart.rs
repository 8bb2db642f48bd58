//! State after a restart, good or by kill -9, as clients see it; and the tools that look after the
//! state.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lapwing_tests::client::Client;
use lapwing_tests::program::{Folder, Program, binary, run};
use lapwing_tests::wire::Fields;

const SOON: Duration = Duration::from_secs(10);
/// Long enough for something that should not come to come.
const NOTHING: Duration = Duration::from_millis(200);

struct Broker {
    program: Program,
    address: String,
}

fn start(state: &Folder) -> Broker {
    start_with(state, "")
}

fn start_with(state: &Folder, more: &str) -> Broker {
    let program = Program::with(&format!("[mqtt]\nsys_interval_s = 0\n{more}")).state(state).start();
    let address = program.address("mqtt");
    Broker { program, address }
}

impl Broker {
    /// Ends it as `how` says: TERM or KILL.
    fn end(mut self, how: &str) {
        self.program.signal(how);
        let status = self.program.wait();
        assert_eq!(status.success(), how == "TERM", "{status}");
    }

    fn session(&self, id: &str, version: &'static str, known: bool) -> Client {
        let (client, present) = Client::resume(&self.address, id, version).unwrap();
        assert_eq!(present, known, "session present for {id}");
        client
    }

    /// Publishes and waits for the acknowledgement.
    fn publish(&self, all: &[(&str, &str)]) {
        let (mut client, _) =
            Client::connect(&self.address, "5.0", &[("id", "publisher"), ("clean", "1")]).unwrap();
        client.send("publish", &[&[("id", "1"), ("qos", "1")], all].concat()).unwrap();
        assert_eq!(expect(&mut client).0, "puback");
    }

    fn look(&self, topic: &str) -> Client {
        let (mut client, _) =
            Client::connect(&self.address, "5.0", &[("id", "looker"), ("clean", "1")]).unwrap();
        client.send("subscribe", &[("id", "1"), ("filters", &format!("{topic}@1"))]).unwrap();
        assert_eq!(expect(&mut client).0, "suback");
        client
    }

    /// The payload of the retained message of a topic that has one.
    fn retained(&self, topic: &str) -> String {
        expect(&mut self.look(topic)).1["payload"].clone()
    }

    fn assert_nothing_retained(&self, topic: &str) {
        assert_eq!(self.look(topic).next(NOTHING).unwrap(), None);
    }
}

fn expect(client: &mut Client) -> (&'static str, Fields) {
    client.next(SOON).unwrap().expect("a packet in time")
}

fn subscribe(client: &mut Client, filters: &str, more: &[(&str, &str)]) {
    client.send("subscribe", &[&[("id", "7"), ("filters", filters)], more].concat()).unwrap();
    assert_eq!(expect(client).0, "suback");
}

fn field<'f>(packet: &'f (&'static str, Fields), name: &str) -> &'f str {
    packet.1.get(name).map_or("", String::as_str)
}

/// Says goodbye, and waits until the broker has closed: the session rests then, and what comes for
/// it is not sent any more.
fn leave(mut client: Client) {
    client.send("disconnect", &[]).unwrap();
    client.end();
}

/// Takes this number of messages and acknowledges each; no more may come.
fn drain(client: &mut Client, count: usize) -> Vec<Fields> {
    let mut all = Vec::new();
    loop {
        let patience = if all.len() < count { SOON } else { NOTHING };
        let Some((packet, fields)) = client.next(patience).unwrap() else { break };
        match (packet, fields.get("qos").map(String::as_str)) {
            ("publish", Some("1")) => client.send("puback", &[("id", &fields["id"])]).unwrap(),
            ("publish", Some("2")) => client.send("pubrec", &[("id", &fields["id"])]).unwrap(),
            ("pubrel", _) => client.send("pubcomp", &[("id", &fields["id"])]).unwrap(),
            _ => {}
        }
        if packet == "publish" {
            all.push(fields);
        }
    }
    assert_eq!(all.len(), count, "{all:?}");
    all
}

// 5.0: [MQTT-4.1.0-1] [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.4-3] [MQTT-3.3.2-6]
#[test]
fn a_session_resumes_where_it_was() {
    for how in ["TERM", "KILL"] {
        let state = Folder::new("resume");
        let broker = start(&state);
        let mut client = broker.session("s", "5.0", false);
        subscribe(&mut client, "a/#@2", &[("p.sub_id", "42")]);
        let (mut publisher, _) =
            Client::connect(&broker.address, "5.0", &[("id", "p"), ("clean", "1")]).unwrap();
        for (n, qos) in [("1", "1"), ("2", "2"), ("3", "2"), ("4", "1")] {
            let all = [("topic", "a/b"), ("qos", qos), ("id", n), ("payload", n), ("p.expiry", "100")];
            publisher.send("publish", &all).unwrap();
        }
        let sent: Vec<_> = (0..4).map(|_| expect(&mut client)).collect();
        // The third is half way: PUBREC was sent, PUBREL came.
        client.send("pubrec", &[("id", field(&sent[2], "id"))]).unwrap();
        let pubrel = expect(&mut client);
        assert_eq!((pubrel.0, field(&pubrel, "id")), ("pubrel", field(&sent[2], "id")));
        leave(client);
        broker.publish(&[("topic", "a/late"), ("payload", "5"), ("p.expiry", "100")]);
        broker.publish(&[("topic", "a/short"), ("payload", "6"), ("p.expiry", "1")]);
        broker.end(how);
        // Time goes on while the broker is down.
        std::thread::sleep(Duration::from_millis(1_300));

        let broker = start(&state);
        let mut client = broker.session("s", "5.0", true);
        for n in [0, 1] {
            let again = expect(&mut client);
            assert_eq!((again.0, field(&again, "dup")), ("publish", "1"), "{how}");
            for name in ["id", "payload", "qos", "topic", "p.sub_id"] {
                assert_eq!(field(&again, name), field(&sent[n], name), "{how}: {name} of message {n}");
            }
            let left: u32 = field(&again, "p.expiry").parse().unwrap();
            assert!((90..100).contains(&left), "{how}: {left} s are left of 100");
        }
        let again = expect(&mut client);
        assert_eq!((again.0, field(&again, "id")), ("pubrel", field(&sent[2], "id")), "{how}");
        let again = expect(&mut client);
        assert_eq!((field(&again, "id"), field(&again, "dup")), (field(&sent[3], "id"), "1"), "{how}");
        let queued = expect(&mut client);
        assert_eq!((field(&queued, "payload"), field(&queued, "dup")), ("5", "0"), "{how}");
        assert_eq!(field(&queued, "p.sub_id"), "42");
        for (packet, at) in [("puback", 0), ("pubrec", 1), ("pubcomp", 2), ("puback", 3)] {
            client.send(packet, &[("id", field(&sent[at], "id"))]).unwrap();
        }
        client.send("puback", &[("id", field(&queued, "id"))]).unwrap();
        let pubrel = expect(&mut client);
        assert_eq!((pubrel.0, field(&pubrel, "id")), ("pubrel", field(&sent[1], "id")));
        client.send("pubcomp", &[("id", field(&sent[1], "id"))]).unwrap();
        // What expired meanwhile does not come, and nothing is left.
        assert_eq!(client.next(NOTHING).unwrap(), None, "{how}");
        client.send("disconnect", &[]).unwrap();
        drop(client);
        broker.end(how);
        let broker = start(&state);
        assert_eq!(broker.session("s", "5.0", true).next(NOTHING).unwrap(), None, "{how}");
    }
}

#[test]
fn a_resent_qos_2_message_is_routed_once() {
    for how in ["TERM", "KILL"] {
        let state = Folder::new("received");
        let broker = start(&state);
        let mut subscriber = broker.session("sub", "3.1.1", false);
        subscribe(&mut subscriber, "t@2", &[]);
        let mut publisher = broker.session("pub", "3.1.1", false);
        let message = [("topic", "t"), ("qos", "2"), ("id", "9"), ("payload", "once")];
        publisher.send("publish", &message).unwrap();
        assert_eq!(expect(&mut publisher).0, "pubrec");
        broker.end(how);
        let broker = start(&state);
        let mut publisher = broker.session("pub", "3.1.1", true);
        publisher.send("publish", &[&message[..], &[("dup", "1")]].concat()).unwrap();
        assert_eq!(expect(&mut publisher).0, "pubrec");
        publisher.send("pubrel", &[("id", "9")]).unwrap();
        assert_eq!(expect(&mut publisher).0, "pubcomp");
        // Released, the identifier is free for another message, also after one more crash.
        broker.end(how);
        let broker = start(&state);
        let mut publisher = broker.session("pub", "5.0", true);
        publisher.send("publish", &[("topic", "t"), ("qos", "2"), ("id", "9"), ("payload", "next")]).unwrap();
        assert_eq!(expect(&mut publisher).0, "pubrec");
        let mut subscriber = broker.session("sub", "5.0", true);
        let got: Vec<_> =
            drain(&mut subscriber, 2).into_iter().map(|fields| fields["payload"].clone()).collect();
        assert_eq!(got, ["once", "next"], "{how}");
    }
}

#[test]
fn sessions_move_between_versions_over_a_restart() {
    let state = Folder::new("versions");
    let mut broker = start(&state);
    for (before, after) in [("3.1.1", "5.0"), ("5.0", "3.1.1"), ("3.1", "5.0")] {
        let id = format!("from{}", before.replace('.', ""));
        let mut client = broker.session(&id, before, false);
        subscribe(&mut client, "v@1", &[]);
        leave(client);
        broker.publish(&[("topic", "v"), ("payload", "x"), ("p.user", "k:v")]);
        broker.end("KILL");
        broker = start(&state);
        let mut client = broker.session(&id, after, true);
        let message = expect(&mut client);
        assert_eq!((field(&message, "payload"), field(&message, "topic")), ("x", "v"));
        assert_eq!(field(&message, "p.user"), if after == "5.0" { "k:v" } else { "" });
        drop(client);
    }
}

#[test]
fn retained_messages_and_wills_outlive_a_crash() {
    let state = Folder::new("retained");
    let broker = start(&state);
    broker.publish(&[("topic", "r/1"), ("payload", "old"), ("retain", "1")]);
    broker.publish(&[("topic", "r/1"), ("payload", "new"), ("retain", "1")]);
    broker.publish(&[("topic", "r/2"), ("payload", "x"), ("retain", "1")]);
    broker.publish(&[("topic", "r/2"), ("payload", ""), ("retain", "1")]);
    let will = |id: &'static str, clean: &'static str, delay: &'static str| {
        vec![
            ("id", id),
            ("clean", clean),
            ("p.session_expiry", if clean == "1" { "0" } else { "3600" }),
            ("will", id),
            ("will_payload", "gone"),
            ("will_qos", "1"),
            ("will_retain", "1"),
            ("wp.will_delay", delay),
        ]
    };
    let names = will("w/clean", "1", "0");
    let connected = [
        Client::connect(&broker.address, "5.0", &names).unwrap(),
        Client::connect(&broker.address, "5.0", &will("w/kept", "0", "0")).unwrap(),
        Client::connect(&broker.address, "5.0", &will("w/later", "0", "3000")).unwrap(),
    ];
    // A synced record behind them says that theirs are written.
    broker.publish(&[("topic", "r/3"), ("payload", "x"), ("retain", "1")]);
    broker.end("KILL");
    drop(connected);
    let broker = start(&state);
    assert_eq!(broker.retained("r/1"), "new");
    broker.assert_nothing_retained("r/2");
    assert_eq!(broker.retained("w/clean"), "gone");
    assert_eq!(broker.retained("w/kept"), "gone");
    // That will still waits.
    broker.assert_nothing_retained("w/later");
    // It is published once: what replaces it stays.
    broker.publish(&[("topic", "w/kept"), ("payload", "back"), ("retain", "1")]);
    broker.end("KILL");
    let broker = start(&state);
    assert_eq!(broker.retained("w/kept"), "back");
}

#[test]
fn the_backlog_of_a_shared_group_is_still_its_members() {
    let state = Folder::new("shared");
    let broker = start(&state);
    for id in ["g1", "g2"] {
        let mut member = broker.session(id, "5.0", false);
        subscribe(&mut member, "$share/g/t@1", &[]);
        leave(member);
    }
    for n in 0..20 {
        broker.publish(&[("topic", "t"), ("payload", &n.to_string())]);
    }
    broker.end("KILL");
    let broker = start(&state);
    let mut first = broker.session("g1", "5.0", true);
    let mut got: Vec<u32> =
        drain(&mut first, 10).iter().map(|fields| fields["payload"].parse().unwrap()).collect();
    // The other one ends its session: what it had goes to the first.
    let (mut second, present) =
        Client::connect(&broker.address, "5.0", &[("id", "g2"), ("clean", "1")]).unwrap();
    assert!(!present);
    second.send("disconnect", &[]).unwrap();
    while got.len() < 20 {
        let message = expect(&mut first);
        first.send("puback", &[("id", field(&message, "id"))]).unwrap();
        got.push(field(&message, "payload").parse().unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, (0..20).collect::<Vec<u32>>());
}

#[test]
fn a_subscription_is_kept_as_it_was_made_last() {
    let state = Folder::new("subscriptions");
    let broker = start(&state);
    broker.publish(&[("topic", "a"), ("payload", "retained"), ("retain", "1")]);
    let mut client = broker.session("s", "5.0", false);
    // Three in one write: the retained messages of the first are sent after the others were made.
    for (filter, id) in [("a@0", "1"), ("a@1", "2"), ("b@2", "3")] {
        let all = [("id", id), ("filters", filter), ("p.sub_id", id)];
        client.send("subscribe", &all).unwrap();
    }
    client.send("unsubscribe", &[("id", "9"), ("filters", "b")]).unwrap();
    while expect(&mut client).0 != "unsuback" {}
    drop(client);
    broker.publish(&[("topic", "flush"), ("payload", "x"), ("retain", "1")]);
    broker.end("KILL");
    let broker = start(&state);
    let mut client = broker.session("s", "5.0", true);
    broker.publish(&[("topic", "b"), ("payload", "not this")]);
    broker.publish(&[("topic", "a"), ("payload", "this")]);
    // Retained messages that were on their way may come again before.
    let message = loop {
        let message = expect(&mut client);
        if field(&message, "payload") != "retained" {
            break message;
        }
        if !field(&message, "id").is_empty() {
            client.send("puback", &[("id", field(&message, "id"))]).unwrap();
        }
    };
    let found = (field(&message, "payload"), field(&message, "qos"), field(&message, "p.sub_id"));
    assert_eq!(found, ("this", "1", "2"));
}

#[test]
fn a_second_broker_on_the_same_state_is_refused() {
    let state = Folder::new("locked");
    let broker = start(&state);
    let mut second = Program::with("").state(&state).spawn();
    second.wait_for("is in use by another lapwing");
    assert!(!second.wait().success());
    broker.end("TERM");
}

fn store(state: &Path, arguments: &[&str]) -> String {
    let data = state.join("data").display().to_string();
    run(Command::new(binary()).arg("store").args(arguments).args(["--data-dir", &data]))
}

/// A broker with something of everything, ended by kill -9.
fn filled(state: &Folder) {
    let broker = start(state);
    let mut client = broker.session("s", "5.0", false);
    subscribe(&mut client, "q/#@1", &[("p.sub_id", "3")]);
    broker.publish(&[("topic", "q/1"), ("payload", "in flight")]);
    let sent = expect(&mut client);
    assert_eq!(field(&sent, "payload"), "in flight");
    leave(client);
    for n in 0..30 {
        broker.publish(&[("topic", "q/2"), ("payload", &n.to_string())]);
    }
    broker.publish(&[("topic", "r"), ("payload", "kept"), ("retain", "1")]);
    broker.end("KILL");
}

/// Asserts that everything of `filled` is there.
fn assert_filled(state: &Folder) {
    let broker = start(state);
    assert_eq!(broker.retained("r"), "kept");
    let mut client = broker.session("s", "5.0", true);
    let got = drain(&mut client, 31);
    assert_eq!((got[0]["payload"].as_str(), got[0]["dup"].as_str()), ("in flight", "1"));
    let numbers: Vec<u32> = got[1..].iter().map(|fields| fields["payload"].parse().unwrap()).collect();
    assert_eq!(numbers, (0..30).collect::<Vec<u32>>());
    assert!(got.iter().all(|fields| fields["p.sub_id"] == "3"));
    broker.end("TERM");
}

#[test]
fn a_backup_of_a_running_broker_is_a_state_to_start_with() {
    let state = Folder::new("backup");
    filled(&state);
    let broker = start(&state);
    let copy = Folder::new("copy");
    let to = copy.0.join("data").display().to_string();
    assert!(store(&state.0, &["backup", &to]).contains("backup made"));
    // What comes later is not in it.
    broker.publish(&[("topic", "r"), ("payload", "later"), ("retain", "1")]);
    broker.end("TERM");
    assert_filled(&copy);
    // Without a broker it works as well.
    let again = Folder::new("again");
    store(&state.0, &["backup", &again.0.join("data").display().to_string()]);
    assert_eq!(start(&again).retained("r"), "later");
}

#[test]
fn an_export_can_be_imported_and_check_counts_its_records() {
    let state = Folder::new("export");
    filled(&state);
    let report = store(&state.0, &["check"]);
    assert!(
        report
            .contains("1 sessions with 1 subscriptions, 31 messages in queues (1 on their way), 1 retained"),
        "{report}"
    );
    let file = state.0.join("state.lwx").display().to_string();
    store(&state.0, &["export", &file]);
    let imported = Folder::new("imported");
    store(&imported.0, &["import", &file]);
    assert_filled(&imported);

    // Half an export is none.
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2 / 4096 * 4096]).unwrap();
    let empty = Folder::new("empty");
    let data = empty.0.join("data").display().to_string();
    let output =
        Command::new(binary()).args(["store", "import", &file, "--data-dir", &data]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("export"), "{text}");
    assert!(!Path::new(&data).join("checkpoint.redb").exists(), "a state was begun nevertheless");

    // A damaged log is named with its place.
    let state = Folder::new("damaged");
    filled(&state);
    let log = state.0.join("data/wal/0000000000000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[4096 + 80] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let data = state.0.join("data").display().to_string();
    let output = Command::new(binary()).args(["store", "check", "--data-dir", &data]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains("0000000000000001.log at byte 4096"), "{text}");
}
