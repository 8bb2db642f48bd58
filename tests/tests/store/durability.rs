//! The durability seam, with a store that takes its time: an acknowledgement leaves only once the
//! store has said "durable".

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use lapwing::QoS;
use lapwing::internals::clock::Clock;
use lapwing::internals::message::{Delivery, Durability, Message, MessageParts, Seq};
use lapwing::internals::store::{
    DurableStore, Entry, Failed, Figures, Lsn, MemoryStore, OpenError, Options, PageRequest, Paged,
    QueueSlots, ReadReply, Record, RecordBatch, Recovered, Store, Ticket, Unavailable, WakerSlot,
};
use lapwing_tests::disk::{Fault, MemoryDisk};
use lapwing_tests::inside::Inside;
use lapwing_tests::wire::{self, Fields};

/// Numbers records and makes them durable when the test says so.
#[derive(Clone, Debug, Default)]
struct Slow(Arc<(Mutex<State>, Condvar, MemoryStore)>);

#[derive(Debug, Default)]
struct State {
    records: Vec<String>,
    durable: Lsn,
    waiting: Vec<Waker>,
}

impl Store for Slow {
    fn is_durable(&self) -> bool {
        true
    }

    fn reserve(&self) -> Result<Lsn, Unavailable> {
        Ok(self.reserve_always())
    }

    fn reserve_always(&self) -> Lsn {
        let mut state = self.0.0.lock().unwrap();
        state.records.push("reserved".to_owned());
        state.records.len() as Lsn
    }

    fn fill(&self, entries: &mut dyn Iterator<Item = Entry>) {
        let mut state = self.0.0.lock().unwrap();
        for entry in entries {
            state.records[entry.lsn as usize - 1] = name(&entry.record);
        }
        self.0.1.notify_all();
    }

    fn poll(&self, ticket: Ticket, _: &mut WakerSlot, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let mut state = self.0.0.lock().unwrap();
        if ticket.is_free() || ticket.lsn <= state.durable {
            return Poll::Ready(Ok(()));
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }

    fn poll_room(&self, _: &mut WakerSlot, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn queued(&self, page: PageRequest) -> ReadReply<Paged> {
        self.0.2.queued(page)
    }

    fn read_at(&self, session: u64, places: Vec<Seq>) -> ReadReply<Vec<Delivery>> {
        self.0.2.read_at(session, places)
    }

    fn retained(&self, topics: Vec<Box<str>>) -> ReadReply<Vec<Message>> {
        self.0.2.retained(topics)
    }

    fn next_number(&self) -> u64 {
        self.0.2.next_number()
    }

    fn clock(&self) -> Clock {
        self.0.2.clock()
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }

    fn recover(&self) -> Result<Recovered, OpenError> {
        self.0.2.recover()
    }

    fn each_retained(&self, _: &mut dyn FnMut(Message)) -> Result<(), OpenError> {
        Ok(())
    }

    fn close(&self) {}
}

/// The kind of a record.
fn name(record: &Record) -> String {
    format!("{record:?}").split([' ', '(']).next().unwrap().to_owned()
}

impl Slow {
    /// Everything so far is on disk now.
    fn sync(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.durable = state.records.len() as Lsn;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Waits until so many records of this name were appended: a message may reach its subscriber a
    /// moment before.
    fn wait_for(&self, name: &str, count: usize) {
        let state = self.0.0.lock().unwrap();
        let missing =
            |state: &mut State| state.records.iter().filter(|record| *record == name).count() < count;
        let (_state, waited) = self.0.1.wait_timeout_while(state, Duration::from_secs(10), missing).unwrap();
        assert!(!waited.timed_out(), "{name} was not appended {count} times");
    }

    fn records(&self) -> Vec<String> {
        self.0.0.lock().unwrap().records.clone()
    }
}

struct Client(TcpStream);

impl Client {
    fn connect(address: &str, id: &str) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Client(stream);
        client.send("connect", &[("id", id), ("clean", "0"), ("p.session_expiry", "100")]);
        assert_eq!(client.next().0, "connack");
        client
    }

    fn send(&mut self, name: &str, fields: &[(&str, &str)]) {
        let fields: Fields = fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.0.write_all(&wire::encode(name, &fields, "5.0")).unwrap();
    }

    fn next(&mut self) -> (&'static str, Fields) {
        let (mut bytes, mut one) = (Vec::new(), [0]);
        while wire::packet_len(&bytes).is_none() {
            self.0.read_exact(&mut one).unwrap();
            bytes.push(one[0]);
        }
        wire::decode(&bytes, "5.0")
    }
}

/// Messages of the broker itself would be records, too.
const QUIET: &str = "[mqtt]\nsys_interval_s = 0\n";

#[test]
fn acknowledgements_wait_for_the_store_and_leave_in_order() {
    let store = Slow::default();
    let broker = Inside::on(store.clone(), QUIET);

    let mut subscriber = Client::connect(&broker.mqtt, "subscriber");
    subscriber.send("subscribe", &[("filters", "t@1")]);
    // PINGRESP does not wait for the store, but stays behind what does.
    subscriber.send("pingreq", &[]);
    let mut publisher = Client::connect(&broker.mqtt, "publisher");
    store.wait_for("Subscribed", 1);
    store.sync();
    assert_eq!(subscriber.next().0, "suback");
    assert_eq!(subscriber.next().0, "pingresp");

    publisher.send("publish", &[("topic", "t"), ("qos", "1"), ("id", "1"), ("payload", "a")]);
    publisher.send("publish", &[("topic", "t"), ("qos", "2"), ("id", "2"), ("payload", "b")]);
    publisher.send("publish", &[("topic", "nobody"), ("qos", "1"), ("id", "3")]);
    // The messages are with their subscriber already, and on record, but nothing is acknowledged.
    assert_eq!(subscriber.next().1["payload"], "a");
    assert_eq!(subscriber.next().1["payload"], "b");
    publisher.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(publisher.0.read(&mut [0]).is_err(), "an acknowledgement left before the store was ready");
    publisher.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    store.wait_for("Published", 2);
    store.sync();
    for (name, id) in [("puback", "1"), ("pubrec", "2"), ("puback", "3")] {
        let (got, fields) = publisher.next();
        assert_eq!((got, fields["id"].as_str()), (name, id));
    }
    let records = store.records();
    assert_eq!(records.iter().filter(|record| *record == "Published").count(), 2, "{records:?}");
    assert!(
        records.contains(&"Session".to_owned()) && records.contains(&"Subscribed".to_owned()),
        "{records:?}"
    );
    broker.stop();
}

#[test]
fn durability_is_chosen_by_listener_and_by_topic_filter() {
    let store = Slow::default();
    let toml = format!(
        "{QUIET}[store]\ntopics_always = ['safe/#']\n\
         [[listener]]\naddress = '127.0.0.1:0'\ndurability = 'none'\n"
    );
    let broker = Inside::on(store.clone(), &toml);
    let mut client = Client::connect(&broker.mqtt, "client");
    // Nothing is ever synced here, and nothing waits for it.
    client.send("subscribe", &[("filters", "#@1")]);
    assert_eq!(client.next().0, "suback");
    client.send("publish", &[("topic", "fast/1"), ("qos", "1"), ("id", "1")]);
    let mut kinds = [client.next().0, client.next().0];
    kinds.sort_unstable();
    assert_eq!(kinds, ["puback", "publish"]);
    client.send("publish", &[("topic", "safe/1"), ("qos", "1"), ("id", "2")]);
    assert_eq!(client.next().0, "publish");
    client.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.0.read(&mut [0]).is_err(), "an acknowledgement left before the store was ready");
    client.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    store.wait_for("Published", 2);
    store.sync();
    assert_eq!(client.next().0, "puback");
    broker.stop();
}

#[test]
fn a_message_that_no_session_keeps_costs_no_sync() {
    let store = Slow::default();
    let broker = Inside::on(store.clone(), &format!("{QUIET}[store]\nqueue_bytes_max = 1\n"));
    let mut subscriber = Client::connect(&broker.mqtt, "subscriber");
    subscriber.send("subscribe", &[("filters", "t@1")]);
    store.wait_for("Subscribed", 1);
    store.sync();
    assert_eq!(subscriber.next().0, "suback");
    subscriber.send("disconnect", &[]);
    assert_eq!(subscriber.0.read(&mut [0]).unwrap(), 0, "the session rests");
    let mut publisher = Client::connect(&broker.mqtt, "publisher");
    publisher.send("publish", &[("topic", "t"), ("qos", "1"), ("id", "1")]);
    store.wait_for("Published", 1);
    store.sync();
    assert_eq!(publisher.next().0, "puback");
    // The queue is full: the policy drops this one, and there is nothing to wait for.
    publisher.send("publish", &[("topic", "t"), ("qos", "1"), ("id", "2")]);
    assert_eq!(publisher.next().1["id"], "2");
    assert_eq!(store.records().iter().filter(|record| *record == "Published").count(), 1);
    broker.stop();
}

fn opened(disk: &MemoryDisk) -> DurableStore {
    let options = Options { segment_bytes: 1 << 20, window_bytes: 2 << 20, ..Options::default() };
    DurableStore::on(Arc::new(disk.clone()), options).unwrap()
}

/// On an empty disk.
fn on(disk: &MemoryDisk) -> DurableStore {
    let store = opened(disk);
    // A message that was taken waits for space. That none has to, there are segments ahead; they
    // are made beside the writer.
    let begun = std::time::Instant::now();
    while disk.content("wal/0000000000000003.log").is_none_or(|log| log.len() < 1 << 20) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no segment is made ahead");
        std::thread::sleep(Duration::from_millis(1));
    }
    store
}

/// Publishes one message; the reason code of its acknowledgement.
fn publish(client: &mut Client, id: u16, more: &[(&str, &str)]) -> String {
    let id = id.to_string();
    client.send(
        "publish",
        &[&[("topic", "t"), ("qos", "1"), ("id", &id), ("payload", "rep:5000")], more].concat(),
    );
    let (name, fields) = client.next();
    assert_eq!((name, &fields["id"]), ("puback", &id));
    fields["reason"].clone()
}

#[test]
fn a_full_disk_is_told_to_publishers_and_passes() {
    let disk = MemoryDisk::forgetful();
    let broker = Inside::on(on(&disk), QUIET);
    let mut subscriber = Client::connect(&broker.mqtt, "subscriber");
    subscriber.send("subscribe", &[("filters", "t@1")]);
    assert_eq!(subscriber.next().0, "suback");
    subscriber.send("disconnect", &[]);
    let mut publisher = Client::connect(&broker.mqtt, "publisher");
    assert_eq!(publish(&mut publisher, 1, &[]), "0");
    disk.fail(disk.calls() + 1, u64::MAX, Fault::NoSpace);
    let mut taken = 1;
    let refused = (2..2_000).find(|id| {
        let reason = publish(&mut publisher, *id, &[]);
        taken += u16::from(reason == "0");
        reason == "151"
    });
    let refused = refused.expect("0x97 once the disk is full");
    // What needs no store goes on: nobody durable gets this.
    assert_eq!(publish(&mut publisher, 1, &[("topic", "elsewhere")]), "16");
    // MQTT 3 has no such word: the connection ends, and the client keeps its message.
    let mut old = TcpStream::connect(&broker.mqtt).unwrap();
    old.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for (name, fields) in [
        ("connect", vec![("id", "old"), ("clean", "1")]),
        ("publish", vec![("topic", "t"), ("qos", "1"), ("id", "1"), ("payload", "x")]),
    ] {
        let fields: Fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        old.write_all(&wire::encode(name, &fields, "3.1.1")).unwrap();
    }
    let mut answer = Vec::new();
    old.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), 4, "CONNACK and no PUBACK: {answer:?}");

    disk.heal();
    let back = (refused + 1..u16::MAX).find(|id| publish(&mut publisher, *id, &[]) == "0");
    assert!(back.is_some(), "there is space again");
    taken += 1;
    // None that was acknowledged is lost.
    let mut subscriber = Client::connect(&broker.mqtt, "subscriber");
    for _ in 0..taken {
        let (name, fields) = subscriber.next();
        assert_eq!(name, "publish");
        subscriber.send("puback", &[("id", &fields["id"])]);
    }
    broker.stop();
}

#[test]
fn after_a_sync_error_nothing_is_acknowledged_and_readers_go_on() {
    let disk = MemoryDisk::forgetful();
    let broker = Inside::on(on(&disk), QUIET);
    let mut publisher = Client::connect(&broker.mqtt, "publisher");
    assert_eq!(publish(&mut publisher, 1, &[("topic", "kept"), ("retain", "1")]), "16");
    disk.fail(disk.calls() + 1, u64::MAX, Fault::Io);
    publisher
        .send("publish", &[("topic", "lost"), ("qos", "1"), ("id", "2"), ("retain", "1"), ("payload", "x")]);
    let (name, fields) = publisher.next();
    assert_eq!((name, fields["reason"].as_str()), ("disconnect", "136"), "no PUBACK, but server unavailable");
    disk.heal();
    // The disk is well again, but what it has is not known: fail-stop.
    let mut reader = TcpStream::connect(&broker.mqtt).map(Client).unwrap();
    reader.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    reader.send("connect", &[("id", "reader"), ("clean", "1")]);
    assert_eq!(reader.next().0, "connack");
    assert_eq!(publish(&mut reader, 3, &[("topic", "kept"), ("retain", "1")]), "151");
    reader.send("subscribe", &[("filters", "kept@0")]);
    let mut seen = vec![reader.next().0, reader.next().0];
    seen.sort_unstable();
    assert_eq!(seen, ["publish", "suback"]);
    broker.stop();
}

#[test]
fn a_waiting_task_is_woken_when_its_ticket_is_durable() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(DurableStore::on(Arc::new(MemoryDisk::default()), Options::default()).unwrap());
        let kept = |store: Arc<DurableStore>| async move {
            let topic = || Record::RetainedExpired { topic: "t".into() };
            let ticket = store.append(topic(), Durability::Always);
            let mut seat = WakerSlot::default();
            let kept = std::future::poll_fn(|cx| store.poll(ticket, &mut seat, cx));
            tokio::time::timeout(Duration::from_secs(20), kept).await.expect("nobody was woken").unwrap();
        };
        for _ in 0..50 {
            kept(store.clone()).await;
        }
    });
}

/// A message that its topic keeps.
fn kept(topic: &str) -> Record {
    let message = Message::new(&MessageParts {
        qos: QoS::AtLeastOnce,
        retain: true,
        published_at: 1,
        ..MessageParts::new(topic, b"x")
    });
    Record::Published { message, retained: true, queued: QueueSlots::None, beside: None }
}

/// The topics that keep a message, after a restart.
fn topics(disk: &MemoryDisk) -> Vec<String> {
    let (store, mut topics) = (opened(disk), Vec::new());
    store.each_retained(&mut |message| topics.push(message.topic_str().to_owned())).unwrap();
    topics
}

#[test]
fn closing_a_store_waits_for_reserved_places() {
    let disk = MemoryDisk::default();
    let store = Arc::new(opened(&disk));
    let lsn = store.reserve().unwrap();
    let closing = std::thread::spawn({
        let store = store.clone();
        move || store.close()
    });
    // It has every chance to end without.
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until && !closing.is_finished() {
        std::thread::yield_now();
    }
    assert!(!closing.is_finished(), "the store has ended before a place was filled");
    assert_eq!(store.reserve(), Err(Unavailable));
    store.fill(&mut std::iter::once(Entry::new(lsn, kept("late"), Durability::Always)));
    closing.join().unwrap();
    assert_eq!(store.append(kept("too late"), Durability::Always).lsn, Lsn::MAX);
    drop(store);
    assert_eq!(topics(&disk), ["late"]);
}

#[test]
fn records_of_a_dropped_connection_are_still_logged() {
    let disk = MemoryDisk::default();
    let store: Arc<dyn Store> = Arc::new(opened(&disk));
    let mut records = RecordBatch::of(&store);
    let first = records.append(kept("first"), Durability::None);
    let behind = store.append(kept("behind"), Durability::Always);
    assert!(first.lsn < behind.lsn);
    let waker = Waker::noop();
    let poll = || store.poll(behind, &mut WakerSlot::default(), &mut Context::from_waker(waker));
    assert_eq!(poll(), Poll::Pending, "the place before it is not filled");
    // As a panic would.
    drop(records);
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn({
        let store = store.clone();
        move || {
            store.close();
            let _ = done.send(());
        }
    });
    wait.recv_timeout(Duration::from_secs(30)).expect("nobody waits for a place for ever");
    assert_eq!(poll(), Poll::Ready(Ok(())));
    drop(store);
    assert_eq!(topics(&disk).len(), 2);
}
