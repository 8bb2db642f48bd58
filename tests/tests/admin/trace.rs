//! Why did it not arrive? What `lapwing ctl trace` and `lapwing ctl explain` say, by the program
//! itself.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lapwing_tests::client::Client;
use lapwing_tests::http;
use lapwing_tests::program::{Folder, Program, binary, run};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

fn admin(folder: &Folder) -> String {
    format!("[admin]\nsocket = '{}/ctl.sock'\n", folder.0.display())
}

fn ctl(folder: &Folder) -> Command {
    let mut command = Command::new(binary());
    command.args(["ctl", "--socket"]).arg(folder.0.join("ctl.sock"));
    command
}

/// A broker whose socket is in the folder.
fn start(folder: &Folder, more: &str) -> Program {
    Program::start(&format!("{}{more}", admin(folder)))
}

/// A running `lapwing ctl trace --json`.
struct Trace {
    child: Child,
    lines: Receiver<Value>,
}

impl Trace {
    fn start(folder: &Folder, arguments: &[&str]) -> Trace {
        let mut child = ctl(folder)
            .args(["--json", "trace"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let stdout: BufReader<ChildStdout> = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).unwrap());
            }
        });
        let trace = Trace { child, lines };
        assert_eq!(trace.next()["step"], "started");
        trace
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("an event")
    }

    /// The next events as `client step reason`, of one message.
    fn story(&self, count: usize) -> Vec<String> {
        let events: Vec<Value> = (0..count).map(|_| self.next()).collect();
        assert!(events.iter().all(|event| event["message"] == events[0]["message"]), "{events:?}");
        events.iter().map(told).collect()
    }
}

fn told(event: &Value) -> String {
    let word = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
    format!("{} {} {}", word("client"), word("step"), word("reason"))
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client(broker: &Program, all: &[(&str, &str)]) -> Client {
    Client::connect(&broker.address("mqtt"), "5.0", all).unwrap().0
}

fn resume(broker: &Program, id: &str) -> Client {
    Client::resume(&broker.address("mqtt"), id, "5.0").unwrap().0
}

fn leave(mut client: Client) {
    client.send("disconnect", &[]).unwrap();
    client.end();
}

#[test]
fn a_trace_goes_from_the_publisher_to_each_acknowledgement_or_drop_reason() {
    let folder = Folder::new("trace");
    let broker = start(&folder, "[mqtt]\nsys_interval_s = 0\n");
    let mut phone = resume(&broker, "phone");
    phone.subscribe("home/#@0");
    leave(phone);
    let mut tv = client(&broker, &[("id", "tv")]);
    tv.subscribe("home/temp@1");
    let mut kitchen = client(&broker, &[("id", "kitchen")]);
    kitchen.subscribe("home/temp@4");
    let trace = Trace::start(&folder, &["--topic", "home/+"]);
    assert_eq!(kitchen.publish("home/temp", "21.5", &[])["reason"], "0");
    let message = tv.expect("publish");
    tv.send("puback", &[("id", &message["id"])]).unwrap();

    let events: Vec<Value> = (0..7).map(|_| trace.next()).collect();
    let first = &events[0];
    assert_eq!((&first["from"], &first["topic"]), (&"kitchen".into(), &"home/temp".into()));
    assert_eq!((first["qos"].as_u64(), first["bytes"].as_u64()), (Some(1), Some(4)));
    assert!(events.iter().all(|event| event["message"].is_u64() && event["message"] == first["message"]));
    assert!(!events.iter().any(|event| event.to_string().contains("21.5")), "payloads are nobody's business");
    let mut all: Vec<String> = events.iter().map(told).collect();
    assert_eq!(all[..2], ["- accepted -", "- matched -"]);
    assert_eq!(events[1]["detail"], "3 sessions");
    let of_tv: Vec<String> = all.iter().filter(|told| told.starts_with("tv ")).cloned().collect();
    assert_eq!(of_tv, ["tv queued -", "tv sent -", "tv acknowledged -"]);
    all.retain(|told| !told.starts_with("tv ") && !told.starts_with("- "));
    all.sort();
    assert_eq!(all, ["kitchen skipped no_local", "phone skipped offline"]);

    // Another topic is not followed.
    kitchen.publish("garden/temp", "x", &[]);
    kitchen.publish("home/nobody", "x", &[]);
    assert_eq!(trace.story(3), ["- accepted -", "- matched -", "phone skipped offline"]);
}

#[test]
fn a_trace_by_receiver_finds_a_lost_message() {
    let folder = Folder::new("trace");
    let broker = start(&folder, "[mqtt]\nsys_interval_s = 0\n[store]\nqueue_messages_max = 1\n");
    let mut phone = resume(&broker, "phone");
    phone.subscribe("t@1");
    leave(phone);
    let trace = Trace::start(&folder, &["--client", "phone"]);
    let mut publisher = client(&broker, &[("id", "publisher")]);
    publisher.publish("t", "first", &[("p.expiry", "0")]);
    assert_eq!(trace.story(1), ["phone queued -"]);
    publisher.publish("t", "second", &[]);
    assert_eq!(trace.story(1), ["phone dropped session_queue_disk_full"]);
    // What waited on disk has its number still.
    let _back = resume(&broker, "phone");
    let expired = trace.next();
    assert_eq!(told(&expired), "phone dropped expired");
    assert!(expired["message"].is_u64() && expired["from"] == "publisher", "{expired}");
}

#[test]
fn a_trace_names_the_rule_of_a_refusal_and_follows_wills() {
    let folder = Folder::new("trace");
    let rules = "[[rule]]\nusers = ['ann']\npublish = ['own/#']\n";
    let broker =
        Program::with(&format!("[mqtt]\nsys_interval_s = 0\n{}", admin(&folder))).users(rules).start();
    let trace = Trace::start(&folder, &["--client", "ann"]);
    let mut ann = broker.client_with("ann", "5.0", &[("will", "own/will"), ("will_qos", "1")]);
    ann.publish("others/x", "x", &[]);
    let refused = trace.next();
    assert_eq!(told(&refused), "- refused denied_publish");
    assert!(refused["detail"].as_str().unwrap().contains("acl.toml"), "{refused}");
    drop(ann);
    assert_eq!(trace.story(2), ["- accepted -", "- skipped no_subscriber"]);
}

#[test]
fn the_number_of_traces_is_bounded_and_a_slow_reader_is_told_what_it_missed() {
    let folder = Folder::new("trace");
    let broker = start(&folder, "[mqtt]\nsys_interval_s = 0\n");
    let traces: Vec<Trace> = (0..4).map(|_| Trace::start(&folder, &["--topic", "t"])).collect();
    let one_more = ctl(&folder).args(["trace"]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&one_more.stderr);
    assert!(!one_more.status.success() && text.contains("4 traces are running"), "{text}");
    drop(traces);
    // Once their readers are gone, the broker notices by itself.
    let end = std::time::Instant::now() + PATIENCE;
    while !run_once(&folder) {
        assert!(std::time::Instant::now() < end, "ended traces are still counted");
    }
    let bad = ctl(&folder).args(["trace", "--topic", "a/#/b"]).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&bad.stderr).contains("not a topic filter"));
    drop(broker);
}

fn run_once(folder: &Folder) -> bool {
    let output = ctl(folder).args(["trace", "--seconds", "1"]).stdin(Stdio::null()).output().unwrap();
    output.status.success()
}

#[test]
fn explain_lists_who_gets_a_message_who_does_not_and_why() {
    let folder = Folder::new("explain");
    let rules = "[[rule]]\nusers = ['root']\nall = ['#']\n\
                 [[rule]]\nusers = ['ann']\nsubscribe = ['#']\ndeny_subscribe = ['home/secret']\n\
                 [[rule]]\nusers = ['bob']\nsubscribe = ['#']\n";
    let more = format!(
        "[mqtt]\nsys_interval_s = 0\n[store]\nin_memory = true\n[limits]\nqueued_messages_max = 1\n{}",
        admin(&folder)
    );
    let broker = Program::with(&more).users(rules).start();
    let mut root = broker.client("root");
    root.subscribe("home/secret@5");
    let mut ann = broker.client("ann");
    ann.subscribe("#@2");
    let mut bob = broker.client("bob");
    bob.subscribe("home/+@1|home/#@0");
    leave(bob);
    root.publish("home/other", "fills the queue of bob", &[]);
    for id in ["one", "two"] {
        let mut member =
            broker.client_with("root", "5.0", &[("id", id), ("clean", "0"), ("p.session_expiry", "99")]);
        member.subscribe("$share/pair/home/secret@1");
        leave(member);
    }
    root.publish("home/secret", "kept", &[("retain", "1")]);
    let ask = |arguments: &[&str]| run(ctl(&folder).args(arguments));
    let answer: Value =
        serde_json::from_str(&ask(&["--json", "explain", "home/secret", "--from", "root"])).unwrap();
    let verdict = |client: &str| {
        let all = answer["receivers"].as_array().unwrap();
        let found: Vec<&Value> = all.iter().filter(|receiver| receiver["client"] == client).collect();
        assert_eq!(found.len(), 1, "{client}: {answer}");
        (found[0]["verdict"].as_str().unwrap().to_owned(), found[0]["gets"].as_bool().unwrap())
    };
    assert_eq!(verdict("root"), ("no_local".to_owned(), false));
    assert_eq!(verdict("ann"), ("denied_delivery".to_owned(), false));
    assert_eq!(verdict("bob"), ("session_queue_full".to_owned(), false));
    let mut pair = [verdict("one"), verdict("two")];
    pair.sort();
    assert_eq!(pair.map(|(verdict, _)| verdict).concat(), "keptnot_its_turn", "{answer}");
    assert_eq!((answer["sessions"].as_u64(), answer["shared_groups"].as_u64()), (Some(5), Some(1)));
    assert!(answer["retained_bytes"].as_u64().unwrap() > 4);
    assert_eq!((&answer["publisher"]["known"], &answer["publisher"]["reason"]), (&true.into(), &Value::Null));
    let ann_is = answer["receivers"].as_array().unwrap().iter().find(|r| r["client"] == "ann").unwrap();
    assert!(ann_is["detail"].as_str().unwrap().contains("acl.toml"), "{ann_is}");

    // For people, and a page at a time.
    let text = ask(&["explain", "home/other", "--from", "ann"]);
    assert!(text.contains("may not publish it (denied_publish)"), "{text}");
    assert!(text.contains("would be sent to it") && text.contains("session_queue_full: "), "{text}");
    assert!(text.contains("home/+, home/#") || text.contains("home/#, home/+"), "{text}");
    let first: Value =
        serde_json::from_str(&ask(&["--json", "explain", "home/secret", "--limit", "2"])).unwrap();
    assert!(first["receivers"].as_array().unwrap().len() == 2 && first["next"].is_string(), "{first}");
    ann.ask("unsubscribe", &[("filters", "#")], "unsuback").unwrap();
    assert!(ask(&["explain", "nobody/hears"]).contains("no subscription matches"));
}

#[test]
fn trace_and_explain_are_served_over_http_with_the_token() {
    const TOKEN: &str = "a-token-of-32-characters-for-tests";
    let toml = format!(
        "[mqtt]\nsys_interval_s = 0\n[admin]\naddress = '127.0.0.1:0'\ntoken = '{TOKEN}'\n\
         [[listener]]\naddress = '127.0.0.1:0'\n"
    );
    let broker = Program::start(&toml);
    let api = broker.address("http");
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let ask = |path: &str| http::ask(&api, "GET", &format!("/api/v1{path}"), &token);
    assert_eq!(http::get(&api, "/api/v1/trace").status, 401);
    let stream = ask("/trace?topic=a%2F%23&seconds=1");
    assert_eq!(stream.status, 200, "{stream:?}");
    assert!(stream.head.contains("content-type: application/x-ndjson"), "{}", stream.head);
    let steps: Vec<Value> = stream.body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let steps: Vec<&Value> = steps.iter().filter(|step| step.is_object()).map(|step| &step["step"]).collect();
    assert_eq!(steps, ["started", "ended"], "{}", stream.body);
    for (path, told) in [
        ("/trace?topic=a%2F%23%2Fb", "not a topic filter"),
        ("/trace?topic=%24share%2Fg%2Fa", "behind the share name"),
        ("/trace?seconds=0", "from 1 to 3600"),
        ("/explain?topic=a%2F%23", "not a topic name"),
        ("/explain", "topic is missing"),
        ("/explain?topic=a&cursor=x", "no cursor"),
    ] {
        let answer = ask(path);
        assert!(answer.status == 400 && answer.body.contains(told), "{path}: {answer:?}");
    }
    let nobody = ask("/explain?topic=a&from=stranger").json();
    assert_eq!((&nobody["sessions"], &nobody["publisher"]["known"]), (&0.into(), &false.into()));
}

#[test]
fn a_trace_follows_a_message_over_a_reconnect_and_qos_2_to_its_reason_code() {
    let folder = Folder::new("trace");
    let broker = start(&folder, "[mqtt]\nsys_interval_s = 0\n");
    let mut phone = resume(&broker, "phone");
    phone.subscribe("once@2|twice@1");
    let trace = Trace::start(&folder, &["--client", "phone"]);
    let mut publisher = client(&broker, &[("id", "publisher")]);
    publisher.publish("twice", "x", &[]);
    phone.expect("publish");
    assert_eq!(trace.story(2), ["phone queued -", "phone sent -"]);
    // Not acknowledged: it comes again.
    leave(phone);
    let mut phone = resume(&broker, "phone");
    let again = phone.expect("publish");
    phone.send("puback", &[("id", &again["id"])]).unwrap();
    let events = [trace.next(), trace.next()];
    assert_eq!(events.each_ref().map(told), ["phone sent -", "phone acknowledged -"]);
    assert!(events[0]["detail"].as_str().unwrap().ends_with(", again"), "{}", events[0]);
    assert!(events.iter().all(|event| event["from"] == "publisher" && event["message"].is_u64()));

    publisher.send("publish", &[("topic", "once"), ("qos", "2"), ("id", "1"), ("payload", "x")]).unwrap();
    let message = phone.expect("publish");
    phone.send("pubrec", &[("id", &message["id"]), ("reason", "0x97")]).unwrap();
    let events = [trace.next(), trace.next(), trace.next()];
    assert_eq!(events.each_ref().map(told), ["phone queued -", "phone sent -", "phone acknowledged -"]);
    assert!(events[2]["detail"].as_str().unwrap().contains("PUBREC quota exceeded (0x97)"), "{}", events[2]);
}
