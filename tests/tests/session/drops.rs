//! Why a message did not arrive: each reason is provoked, and exactly its counter moves.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lapwing::internals::clock::Clock;
use lapwing::internals::message::{Delivery, Message, Seq};
use lapwing::internals::store::{
    DurableStore, Entry, Failed, Figures, Lsn, OpenError, Options, PageRequest, Paged, ReadReply, Recovered,
    Store, Ticket, Unavailable, WakerSlot,
};
use lapwing::internals::telemetry::drop_reason::{Reason, ReasonKind};
use lapwing_tests::client::Client;
use lapwing_tests::disk::{Fault, MemoryDisk};
use lapwing_tests::inside::Inside;
use lapwing_tests::program::{Folder, Program, binary, root, run};

const PATIENCE: Duration = Duration::from_secs(20);
const ADMIN: &str = "[admin]\naddress = '127.0.0.1:0'\n";

/// The ends so far, by reason, those without any left out.
fn ends(admin: &str) -> BTreeMap<String, u64> {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let mut found = BTreeMap::new();
    for family in ["dropped", "skipped"] {
        let prefix = format!("lapwing_messages_{family}_total{{reason=\"");
        for (reason, n) in page
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .filter_map(|rest| rest.split_once("\"} "))
        {
            found.insert(reason.to_owned(), n.parse().unwrap());
        }
    }
    let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert!(all.iter().all(|name| found.contains_key(*name)) && found.len() == all.len(), "{found:?}");
    found.retain(|_, n| *n > 0);
    found
}

/// Waits until something has ended, and sees that it is this, so often, and nothing else.
fn only(admin: &str, reason: Reason, n: u64) {
    let end = Instant::now() + PATIENCE;
    let wanted = BTreeMap::from([(reason.name().to_owned(), n)]);
    loop {
        let found = ends(admin);
        if found == wanted {
            return;
        }
        let beginning = found.keys().all(|name| name == reason.name()) && found.values().all(|m| *m < n);
        assert!(beginning && Instant::now() < end, "{found:?} in place of {wanted:?}");
    }
}

struct Site {
    broker: Program,
    admin: String,
}

impl Site {
    fn start(toml: &str) -> Site {
        // What the broker says of itself would be for nobody, too.
        let sys = if toml.contains("[mqtt]") { "" } else { "[mqtt]\n" };
        let toml = format!("{sys}{toml}").replacen("[mqtt]\n", "[mqtt]\nsys_interval_s = 0\n", 1);
        let broker = Program::start(&format!("{ADMIN}{toml}"));
        let admin = broker.address("http");
        Site { broker, admin }
    }

    fn client(&self, all: &[(&str, &str)]) -> Client {
        Client::connect(&self.broker.address("mqtt"), "5.0", all).unwrap().0
    }

    fn publisher(&self) -> Client {
        self.client(&[("id", "publisher")])
    }

    fn resuming(&self, id: &str) -> Client {
        Client::resume(&self.broker.address("mqtt"), id, "5.0").unwrap().0
    }

    /// A session with a subscription to `t`, whose client has gone.
    fn offline(&self, filters: &str) {
        let mut client = self.resuming("away");
        client.subscribe(filters);
        client.send("disconnect", &[]).unwrap();
        client.end();
    }

    fn only(&self, reason: Reason, n: u64) {
        only(&self.admin, reason, n);
    }
}

/// Each case is a test, and all of them are a list.
macro_rules! ends_by {
    ($($reason:ident as $name:ident $body:block)+) => {
        mod a_message_ends_by {
            use super::*;
            $(#[test] fn $name() $body)+
        }

        const TESTED: &[(Reason, &str)] = &[$((Reason::$reason, stringify!($name))),+];
    };
}

ends_by! {
    DeniedPublish as denied_publish {
        let broker = Program::with(ADMIN).users("[[rule]]\nusers = ['ann']\npublish = ['own/#']\n").start();
        assert_eq!(broker.client("ann").publish("others/x", "x", &[])["reason"], "135");
        only(&broker.address("http"), Reason::DeniedPublish, 1);
    }

    BrokerTopic as broker_topic {
        let site = Site::start("");
        assert_eq!(site.publisher().publish("$SYS/broker/x", "x", &[])["reason"], "135");
        site.only(Reason::BrokerTopic, 1);
    }

    TopicLimit as topic_limit {
        let site = Site::start("[limits]\ntopic_levels_max = 3\n");
        assert_eq!(site.publisher().publish("a/b/c/d", "x", &[])["reason"], "144");
        site.only(Reason::TopicLimit, 1);
    }

    UserProperties as user_properties {
        let site = Site::start("[limits]\nuser_properties_max = 1\n");
        assert_eq!(site.publisher().publish("t", "x", &[("p.user", "a:1|b:2")])["reason"], "151");
        site.only(Reason::UserProperties, 1);
    }

    PayloadFormat as payload_format {
        let site = Site::start("[mqtt]\npayload_format_checked = true\n");
        let answer = site.publisher().publish("t", "hex:ff", &[("p.payload_format", "1")]);
        assert_eq!(answer["reason"], "153");
        site.only(Reason::PayloadFormat, 1);
    }

    Violation as violation {
        let site = Site::start("[mqtt]\nqos_max = 1\n[limits]\npacket_bytes_max = 2000000\n");
        let mut publisher = site.publisher();
        publisher.send("publish", &[("topic", "t"), ("qos", "2"), ("id", "1")]).unwrap();
        assert_eq!(publisher.end().as_deref(), Some("155"));
        let mut publisher = site.publisher();
        publisher.send("publish", &[("topic", ""), ("p.alias", "1")]).unwrap();
        assert_eq!(publisher.end().as_deref(), Some("130"));
        let mut publisher = site.publisher();
        // It is told as soon as the length is known, and closed, perhaps before all of it is sent.
        let _ = publisher.send("publish", &[("topic", "t"), ("payload", "rep:3000000")]);
        assert_eq!(publisher.end().as_deref(), Some("149"));
        site.only(Reason::Violation, 3);
    }

    RetainedFull as retained_full {
        let site = Site::start("[limits]\nretained_messages_max = 0\n");
        assert_eq!(site.publisher().publish("t", "x", &[("retain", "1")])["reason"], "151");
        site.only(Reason::RetainedFull, 1);
    }

    StoreRefused as store_refused {
        let disk = MemoryDisk::forgetful();
        let options = Options { segment_bytes: 64 * 1024, window_bytes: 128 * 1024, ..Options::default() };
        let inside = inside(DurableStore::on(Arc::new(disk.clone()), options).unwrap());
        let (mut publisher, _) = Client::connect(&inside.mqtt, "5.0", &[("id", "publisher")]).unwrap();
        disk.fail(disk.calls() + 1, u64::MAX, Fault::Io);
        let end = Instant::now() + PATIENCE;
        while ends(&inside.admin()).is_empty() {
            publisher.send("publish", &[("topic", "t"), ("retain", "1"), ("payload", "rep:5000")]).unwrap();
            assert!(Instant::now() < end, "nothing is refused");
        }
        assert_eq!(ends(&inside.admin()).keys().collect::<Vec<_>>(), ["store_refused"]);
    }

    SessionQueueRefused as session_queue_refused {
        let site = full("refuse");
        assert_eq!(site.publisher().publish("t", "more", &[])["reason"], "151");
        site.only(Reason::SessionQueueRefused, 1);
    }

    SessionQueueFull as session_queue_full {
        let site = full("drop_newest");
        assert_eq!(site.publisher().publish("t", "more", &[])["reason"], "0");
        site.only(Reason::SessionQueueFull, 1);
        let mut away = site.resuming("away");
        assert_eq!(away.expect("publish")["payload"], "first");
    }

    SessionQueueOldest as session_queue_oldest {
        let site = full("drop_oldest");
        assert_eq!(site.publisher().publish("t", "more", &[])["reason"], "0");
        site.only(Reason::SessionQueueOldest, 1);
        let mut away = site.resuming("away");
        assert_eq!(away.expect("publish")["payload"], "more");
    }

    SessionQueueDiskFull as session_queue_disk_full {
        let site = Site::start("[store]\nqueue_messages_max = 1\n");
        site.offline("t@1");
        for payload in ["first", "more"] {
            assert_eq!(site.publisher().publish("t", payload, &[])["reason"], "0");
        }
        site.only(Reason::SessionQueueDiskFull, 1);
    }

    DiskQueuesFull as disk_queues_full {
        let site = Site::start("[store]\nqueues_bytes_max = 1\n");
        site.offline("t@1");
        for payload in ["first", "more"] {
            assert_eq!(site.publisher().publish("t", payload, &[])["reason"], "0");
        }
        site.only(Reason::DiskQueuesFull, 1);
    }

    NoMember as no_member {
        let site = Site::start("[store]\nin_memory = true\n[limits]\nqueued_messages_max = 1\n");
        site.offline("$share/g/t@1");
        for payload in ["first", "more"] {
            assert_eq!(site.publisher().publish("t", payload, &[])["reason"], "0");
        }
        site.only(Reason::NoMember, 1);
    }

    DeniedDelivery as denied_delivery {
        let rules = "[[rule]]\nusers = ['ann']\nsubscribe = ['#']\ndeny_subscribe = ['secret/#']\n\
                     [[rule]]\nusers = ['root']\nall = ['#']\n";
        let broker = Program::with(ADMIN).users(rules).start();
        let mut ann = broker.client("ann");
        assert_eq!(ann.subscribe("#@1"), "1");
        broker.client("root").publish("secret/x", "x", &[]);
        only(&broker.address("http"), Reason::DeniedDelivery, 1);
    }

    DeniedSource as denied_source {
        let root = "[[rule]]\nusers = ['root']\nall = ['#']\n";
        let mut broker =
            Program::with(ADMIN).users(&format!("{root}[[rule]]\nusers = ['ann']\npublish = ['a']\n")).start();
        broker.client("ann").publish("a", "kept", &[("retain", "1")]);
        broker.rules(root);
        broker.client("root").subscribe("a@1");
        only(&broker.address("http"), Reason::DeniedSource, 1);
    }

    MountPoint as mount_point {
        let site = Site::start(
            "[[listener]]\naddress = '127.0.0.1:0'\nmount_point = 'house/'\n\
             [[listener]]\naddress = '127.0.0.1:0'\nmount_point = 'garden/'\n",
        );
        let mqtt: Vec<&str> =
            site.broker.listeners.iter().filter_map(|name| name.strip_prefix("mqtt://")).collect();
        let mut moving = Client::resume(mqtt[0], "moving", "5.0").unwrap().0;
        moving.subscribe("t@1");
        moving.send("disconnect", &[]).unwrap();
        moving.end();
        let (mut publisher, _) = Client::connect(mqtt[0], "5.0", &[("id", "publisher")]).unwrap();
        assert_eq!(publisher.publish("t", "x", &[])["reason"], "0");
        let _moved = Client::resume(mqtt[1], "moving", "5.0").unwrap();
        site.only(Reason::MountPoint, 1);
    }

    TooLarge as too_large {
        let site = Site::start("");
        let mut small = site.client(&[("id", "small"), ("p.packet_max", "100")]);
        small.subscribe("t@0");
        site.publisher().publish("t", "rep:200", &[]);
        site.only(Reason::TooLarge, 1);
    }

    Expired as expired {
        let site = Site::start("");
        site.offline("t@1");
        site.publisher().publish("t", "x", &[("p.expiry", "0")]);
        let _back = site.resuming("away");
        site.only(Reason::Expired, 1);
    }

    WaitedTooLong as waited_too_long {
        let site = Site::start("[limits]\nmessage_expiry_max_s = 1\n");
        site.offline("t@1");
        site.publisher().publish("t", "x", &[]);
        // The time itself is what is waited for.
        std::thread::sleep(Duration::from_millis(1_100));
        let _back = site.resuming("away");
        site.only(Reason::WaitedTooLong, 1);
    }

    StoreLost as store_lost {
        let store = DurableStore::on(Arc::new(MemoryDisk::forgetful()), Options::default()).unwrap();
        let inside = inside(Forgetful(store));
        let (mut away, _) = Client::resume(&inside.mqtt, "away", "5.0").unwrap();
        away.subscribe("t@1");
        let (mut publisher, _) = Client::connect(&inside.mqtt, "5.0", &[("id", "publisher")]).unwrap();
        publisher.publish("t", "x", &[]);
        away.expect("publish");
        // Not acknowledged: it would be sent again.
        away.send("disconnect", &[]).unwrap();
        away.end();
        let _back = Client::resume(&inside.mqtt, "away", "5.0").unwrap();
        only(&inside.admin(), Reason::StoreLost, 1);
    }

    SessionEnded as session_ended {
        for store in ["", "[store]\nin_memory = true\n"] {
            let site = Site::start(store);
            site.offline("t@1");
            site.publisher().publish("t", "1", &[]);
            site.publisher().publish("t", "2", &[]);
            site.client(&[("id", "away"), ("clean", "1")]);
            site.only(Reason::SessionEnded, 2);
        }
    }

    NoSubscriber as no_subscriber {
        let site = Site::start("");
        assert_eq!(site.publisher().publish("t", "x", &[])["reason"], "16");
        site.only(Reason::NoSubscriber, 1);
        // One that is retained waits for whoever comes.
        site.publisher().publish("t", "x", &[("retain", "1")]);
        site.only(Reason::NoSubscriber, 1);
    }

    NoLocal as no_local {
        let site = Site::start("");
        let mut own = site.publisher();
        own.subscribe("t@4");
        own.publish("t", "x", &[]);
        site.only(Reason::NoLocal, 1);
    }

    Offline as offline {
        let site = Site::start("");
        site.offline("t@0");
        site.publisher().publish("t", "x", &[]);
        site.only(Reason::Offline, 1);
    }
}

/// A broker with a session at rest whose queue is full with one message.
fn full(policy: &str) -> Site {
    let limits = format!("[limits]\nqueued_messages_max = 1\nqueue_policy = '{policy}'\n");
    let site = Site::start(&format!("[store]\nin_memory = true\n{limits}"));
    site.offline("t@1");
    assert_eq!(site.publisher().publish("t", "first", &[])["reason"], "0");
    site
}

#[test]
fn sys_topics_have_the_sum_of_drops_and_each_client_its_own() {
    let folder = Folder::new("drops");
    let socket = folder.0.join("ctl.sock").display().to_string();
    let broker = Program::start(&format!(
        "[admin]\nsocket = '{socket}'\n[mqtt]\nsys_interval_s = 1\n[limits]\ntopic_levels_max = 5\n\
         [[listener]]\naddress = '127.0.0.1:0'\n"
    ));
    let (mut client, _) = Client::connect(&broker.address("mqtt"), "5.0", &[("id", "sensor")]).unwrap();
    client.publish("$SYS/x", "x", &[]);
    client.publish("a/b/c/d/e/f", "x", &[]);
    // For nobody: no drop.
    client.publish("t", "x", &[]);
    client.subscribe("$SYS/broker/publish/messages/dropped@0");
    client.messages_until("2");
    let shown = run(Command::new(binary()).args(["ctl", "--socket", &socket, "client", "sensor"]));
    assert!(shown.contains("1 broker_topic") && shown.contains("1 topic_limit"), "{shown}");
    assert!(shown.contains("2 dropped"), "{shown}");
}

#[test]
fn every_drop_reason_is_documented_and_tested() {
    let tested: Vec<&str> = TESTED.iter().map(|(_, name)| *name).collect();
    let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(tested, names, "each reason has a test of its name above, in their order");
    assert!(TESTED.iter().all(|(reason, name)| reason.name() == *name));
    let page = std::fs::read_to_string(root().join("docs/MONITORING.md")).unwrap();
    let table = page.split("| reason | what it is | which end |").nth(1).expect("the table of reasons");
    let rows: Vec<(&str, &str, &str)> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`'), cells[1], cells[2])
        })
        .collect();
    let wanted: Vec<(&str, &str, &str)> = Reason::ALL
        .iter()
        .map(|reason| {
            let kind = match reason.kind() {
                ReasonKind::Refused => "not taken",
                ReasonKind::Lost => "not delivered",
                ReasonKind::Skipped => "skipped",
            };
            (reason.name(), reason.text(), kind)
        })
        .collect();
    assert_eq!(rows, wanted, "docs/MONITORING.md");
}

/// A broker in this process, on a store of the test.
fn inside(store: impl Store + 'static) -> Inside {
    Inside::on(store, &format!("[mqtt]\nsys_interval_s = 0\n{ADMIN}"))
}

/// A store that does not find again what is in flight.
#[derive(Debug)]
struct Forgetful(DurableStore);

impl Store for Forgetful {
    fn is_durable(&self) -> bool {
        self.0.is_durable()
    }
    fn reserve(&self) -> Result<Lsn, Unavailable> {
        self.0.reserve()
    }
    fn reserve_always(&self) -> Lsn {
        self.0.reserve_always()
    }
    fn fill(&self, entries: &mut dyn Iterator<Item = Entry>) {
        self.0.fill(entries);
    }
    fn poll(&self, ticket: Ticket, seat: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.0.poll(ticket, seat, cx)
    }
    fn poll_room(&self, seat: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_room(seat, cx)
    }
    fn queued(&self, page: PageRequest) -> ReadReply<Paged> {
        self.0.queued(page)
    }
    fn read_at(&self, session: u64, _: Vec<Seq>) -> ReadReply<Vec<Delivery>> {
        self.0.read_at(session, Vec::new())
    }
    fn retained(&self, topics: Vec<Box<str>>) -> ReadReply<Vec<Message>> {
        self.0.retained(topics)
    }
    fn next_number(&self) -> u64 {
        self.0.next_number()
    }
    fn clock(&self) -> Clock {
        self.0.clock()
    }
    fn figures(&self) -> Figures {
        self.0.figures()
    }
    fn recover(&self) -> Result<Recovered, OpenError> {
        self.0.recover()
    }
    fn each_retained(&self, give: &mut dyn FnMut(Message)) -> Result<(), OpenError> {
        self.0.each_retained(give)
    }
    fn close(&self) {
        self.0.close();
    }
}

/// A session that is away has a full queue, and `limits.queue_policy` is refuse.
#[test]
fn a_message_that_a_full_queue_refuses_has_no_effect() {
    let broker = Program::start("[limits]\nqueue_policy = 'refuse'\n[store]\nqueue_messages_max = 2\n");
    let address = broker.address("mqtt");
    let (mut away, _) = Client::resume(&address, "away", "5.0").unwrap();
    away.subscribe("a/#@1");
    away.leave();
    let (mut watcher, _) = Client::connect(&address, "5.0", &[("id", "watcher")]).unwrap();
    watcher.subscribe("#@2");
    let (mut publisher, _) = Client::connect(&address, "5.0", &[("id", "publisher")]).unwrap();
    for text in ["first", "second"] {
        assert_eq!(publisher.publish("a/x", text, &[("retain", "1")])["reason"], "0");
    }
    // Again and again, as publishers do; with each QoS that has an answer.
    for (qos, answer) in [("1", "puback"), ("2", "pubrec"), ("1", "puback")] {
        let all = [("topic", "a/x"), ("payload", "refused"), ("retain", "1"), ("qos", qos), ("id", "7")];
        assert_eq!(publisher.ask("publish", &all, answer).unwrap()["reason"], "151", "0x97 for QoS {qos}");
    }
    // Another topic is not concerned, and tells the watcher that nothing else came.
    publisher.publish("b", "end", &[]);
    assert_eq!(watcher.messages_until("end"), ["a/x first", "a/x second"]);
    let (mut newcomer, _) = Client::connect(&address, "5.0", &[("id", "newcomer")]).unwrap();
    newcomer.subscribe("a/x@0");
    assert_eq!(newcomer.expect("publish")["payload"], "second", "the retained message is the one before");
    // There is room again: it is taken, by all.
    let (mut away, _) = Client::resume(&address, "away", "5.0").unwrap();
    assert_eq!(away.messages_until("second"), ["a/x first"]);
    assert_eq!(publisher.publish("a/x", "third", &[("retain", "1")])["reason"], "0");
    assert_eq!(newcomer.expect("publish")["payload"], "third");
}
