//! Messages that wait long are written once: they stay in the log, which is kept for as long as
//! they wait, and no longer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapwing::QoS;
use lapwing::internals::config::OnCorruption;
use lapwing::internals::message::{DeliveryTerms, Durability, Message, MessageParts};
use lapwing::internals::store::{
    DurableStore, FlightStep, Options, PageRequest, PreviousSlot, QueueSlot, QueueSlots, Record,
    SessionTerms, Store,
};
use lapwing_tests::disk::{Fault, MemoryDisk};
use lapwing_tests::ledger;

const PAYLOAD: usize = 1_000;
const SEGMENT: u64 = 64 * 1024;

fn options() -> Options {
    Options { window_bytes: 512 * 1024, segment_bytes: SEGMENT, cache_bytes: 1 << 20, ..Options::default() }
}

fn open(disk: &MemoryDisk) -> DurableStore {
    DurableStore::on(Arc::new(disk.clone()), options()).unwrap()
}

fn session(number: u64) -> Record {
    Record::Session(Box::new(SessionTerms {
        number,
        client_id: format!("client-{number}").into(),
        expiry_s: 100,
        ..SessionTerms::default()
    }))
}

fn message(n: u64) -> Message {
    let payload: Vec<u8> = n.to_le_bytes().into_iter().cycle().take(PAYLOAD).collect();
    Message::new(&MessageParts {
        qos: QoS::AtLeastOnce,
        published_at: n,
        ..MessageParts::new("backlog", &payload)
    })
}

/// A message for these sessions, in place `n` of each.
fn published(n: u64, sessions: &[u64]) -> Record {
    let place = |session: &u64| QueueSlot {
        session: *session,
        seq: n,
        terms: DeliveryTerms::plain(QoS::AtLeastOnce),
    };
    let queued: QueueSlots = sessions.iter().map(place).collect();
    Record::Published { message: message(n), retained: false, queued, beside: None }
}

fn done(session: u64, seq: u64) -> Record {
    FlightStep::Acknowledged(PreviousSlot::new(session, seq, message(seq).size() as u32, None)).into()
}

/// Writes records a few at a time, as they gather under load, and waits until all of them are on
/// disk.
fn write(store: &DurableStore, records: impl IntoIterator<Item = Record>) {
    for (n, record) in records.into_iter().enumerate() {
        let level = if n % 16 == 15 { Durability::Always } else { Durability::None };
        let ticket = ledger::tell(store, record, level).unwrap();
        if level == Durability::Always {
            ledger::wait(store, ticket).unwrap();
        }
    }
    let ticket = store.append(Record::Nothing, Durability::Always);
    ledger::wait(store, ticket).unwrap();
}

/// The numbers of the messages that wait for a session, each checked to be whole.
fn queue(store: &DurableStore, session: u64, until: u64) -> Vec<u64> {
    let (mut from, mut all) = (1, Vec::new());
    while from < until {
        let page = PageRequest { session, from, until, messages_max: 50, bytes_max: 1 << 20 };
        let paged = store.queued(page).blocking_recv().expect("an answer");
        from = paged.next;
        all.extend(paged.deliveries.into_iter().map(|delivery| {
            assert_eq!(delivery.message, message(delivery.seq), "another message stands there");
            delivery.seq
        }));
    }
    all
}

/// Checkpoints are made by a thread of the store: what it has done is waited for, with work for it.
fn until(store: &DurableStore, what: &str, holds: impl Fn(&DurableStore) -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !holds(store) {
        assert!(Instant::now() < patience, "{what}: {:?}", store.figures());
        let filler = || Record::RetainedExpired { topic: "x".repeat(4_000).into() };
        write(store, (0..16).map(|_| filler()));
    }
}

/// A store with so many messages for session 1 that stand in the log.
fn with_backlog(disk: &MemoryDisk, count: u64) -> DurableStore {
    let store = open(disk);
    write(&store, [session(1)]);
    write(&store, (1..=count).map(|n| published(n, &[1])));
    until(&store, "the backlog is in the log", |store| store.figures().segments_kept > 2);
    store
}

fn segments(disk: &MemoryDisk) -> usize {
    (1..2_000).filter(|id| disk.content(&format!("wal/{id:016}.log")).is_some()).count()
}

#[test]
fn a_backlog_is_written_once_and_its_segments_are_reused_once_it_is_read() {
    let disk = MemoryDisk::forgetful();
    let store = open(&disk);
    write(&store, [session(1), session(2)]);
    let count = 2_000;
    write(&store, (1..=count).map(|n| published(n, if n % 2 == 0 { &[1, 2] } else { &[1] })));
    until(&store, "all is in a checkpoint", |store| {
        store.figures().segments_kept * SEGMENT > count * PAYLOAD as u64
    });
    let figures = store.figures();
    assert!(
        figures.checkpoint_bytes < figures.log_bytes / 4,
        "messages were written to the checkpoint as well: {figures:?}"
    );
    let all: Vec<u64> = (1..=count).collect();
    let even: Vec<u64> = all.iter().copied().filter(|n| n % 2 == 0).collect();
    assert_eq!(queue(&store, 1, count + 1), all);
    drop(store);

    // A restart does not have to read them.
    let before = disk.calls();
    let store = open(&disk);
    assert!(disk.calls() - before < 400, "{} calls to open it", disk.calls() - before);
    assert_eq!(queue(&store, 1, count + 1), all);
    assert_eq!(queue(&store, 2, count + 1), even);

    write(&store, all.iter().map(|n| done(1, *n)));
    until(&store, "a message that another session waits for is kept", |store| {
        store.figures().checkpoints > 3
    });
    assert_eq!(queue(&store, 1, count + 1), Vec::<u64>::new());
    assert_eq!(queue(&store, 2, count + 1), even);
    write(&store, [Record::SessionEnded { session: 2 }]);
    until(&store, "nobody waits: no log is kept", |store| store.figures().segments_kept == 0);
    // Twelve are kept for later, one is in use, and two windows of eight may not be in a checkpoint
    // yet; the backlog had more.
    until(&store, "the log is removed or used again", |_| segments(&disk) <= 12 + 1 + 2 * 8);
    assert_eq!(store.figures().corrupt, 0);
}

#[test]
fn a_message_of_several_sessions_that_leaves_the_log_is_written_once() {
    let count = 400;
    let written = |sessions: &[u64]| {
        let disk = MemoryDisk::forgetful();
        let store = open(&disk);
        write(&store, [session(1), session(2), session(3)]);
        // Most of the log is acknowledged at once: what is left does not stay there.
        let records = (1..=count).flat_map(|n| match n % 4 {
            0 => vec![published(n, sessions)],
            _ => vec![published(n, &[3]), done(3, n)],
        });
        write(&store, records);
        until(&store, "a checkpoint is made", |store| store.figures().checkpoints > 0);
        let figures = store.figures();
        assert_eq!(figures.segments_kept, 0, "a segment with little left in it is kept: {figures:?}");
        drop(store);
        let store = open(&disk);
        let left: Vec<u64> = (4..=count).step_by(4).collect();
        for session in sessions {
            assert_eq!(queue(&store, *session, count + 1), left);
        }
        figures.checkpoint_bytes
    };
    let (one, two) = (written(&[1]), written(&[1, 2]));
    assert!(two < one + one / 2, "{one} bytes for one session, {two} for two");
}

#[test]
fn a_checkpoint_is_made_before_the_log_outgrows_the_window_in_memory() {
    let store = open(&MemoryDisk::forgetful());
    // Small ones, each for a topic of its own: they take more memory than log.
    let retained = |n: u64| {
        let topic = format!("t/{n}");
        let content = MessageParts { retain: true, ..MessageParts::new(&topic, b"1") };
        let message = Message::new(&content);
        Record::Published { message, retained: true, queued: QueueSlots::None, beside: None }
    };
    for n in 0..5_000 {
        store.append(retained(n), Durability::None);
    }
    write(&store, []);
    let log = store.figures().log_bytes;
    assert!(log < options().window_bytes, "{log} bytes of log are a reason of their own");
    let patience = Instant::now() + Duration::from_secs(30);
    while store.figures().checkpoints == 0 {
        assert!(Instant::now() < patience, "no checkpoint: {:?}", store.figures());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn segments_with_few_live_messages_are_compacted() {
    let disk = MemoryDisk::forgetful();
    let store = open(&disk);
    write(&store, [session(1), session(2)]);
    // Session 1 is read, and every tenth message is for session 2, which is not.
    let count = 6_000;
    let of = |n: u64| if n.is_multiple_of(10) { 2 } else { 1 };
    write(&store, (1..=count).map(|n| published(n, &[of(n)])));
    until(&store, "the backlog is in the log", |store| store.figures().segments_kept > 80);
    let kept = store.figures().segments_kept;
    write(&store, (1..=count).filter(|n| of(*n) == 1).map(|n| done(1, n)));
    // A tenth of the backlog is left: it takes no more than twice that and the least that is worth
    // the work.
    until(&store, "they are emptied", |store| store.figures().segments_kept < kept / 3);
    assert!(store.figures().moved > 0);
    let left: Vec<u64> = (1..=count).filter(|n| of(*n) == 2).collect();
    assert_eq!(queue(&store, 2, count + 1), left);
    drop(store);
    let store = open(&disk);
    assert_eq!(queue(&store, 2, count + 1), left);
    assert_eq!(queue(&store, 1, count + 1), Vec::<u64>::new());
    assert_eq!(store.figures().corrupt, 0);
}

#[test]
fn a_backup_needs_no_log_of_the_original() {
    let (disk, count) = (MemoryDisk::forgetful(), 600);
    let store = with_backlog(&disk, count);
    write(&store, (1..=count).filter(|n| n % 3 == 0).map(|n| done(1, n)));
    let folder = std::env::temp_dir().join(format!("lapwing-backlog-{}", std::process::id()));
    store.backup(&folder).unwrap();
    let copy = DurableStore::open(&folder, options()).unwrap();
    let left: Vec<u64> = (1..=count).filter(|n| n % 3 != 0).collect();
    assert_eq!(queue(&copy, 1, count + 1), left);
    // What is gone there is gone for good: the last message takes the rest with it.
    write(&copy, left.iter().map(|n| done(1, *n)));
    assert_eq!(queue(&copy, 1, count + 1), Vec::<u64>::new());
    assert_eq!(copy.figures().corrupt, 0);
    drop(copy);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_disk_that_cannot_be_read_for_a_moment_loses_no_message_of_a_backlog() {
    let (disk, count) = (MemoryDisk::forgetful(), 600);
    let store = with_backlog(&disk, count);
    disk.fail_one("read", disk.kinds()["read"] + 3, Fault::Io);
    let page = PageRequest { session: 1, from: 1, until: count + 1, messages_max: 600, bytes_max: 1 << 20 };
    assert!(store.queued(page).blocking_recv().is_err(), "an answer, though the disk could not be read");
    assert_eq!(queue(&store, 1, count + 1), (1..=count).collect::<Vec<u64>>());
    assert_eq!(store.figures().corrupt, 0, "what could not be read for a moment is not damaged");
}

#[test]
fn without_its_checkpoint_a_store_brings_no_message_back_that_was_acknowledged() {
    let (disk, count) = (MemoryDisk::forgetful(), 600);
    let store = with_backlog(&disk, count);
    // One is left, so that its segment is kept, with others in it that are over.
    write(&store, (1..=count).filter(|n| *n != 300).map(|n| done(1, n)));
    let before = store.figures().checkpoints;
    until(&store, "that is in a checkpoint, too", |store| store.figures().checkpoints > before + 2);
    assert_eq!(store.figures().segments_kept, 1);
    write(&store, [session(1)]);
    drop(store);
    disk.put("checkpoint.redb", b"this is no database");
    let quarantine = Options { on_corruption: OnCorruption::Quarantine, ..options() };
    let store = DurableStore::on(Arc::new(disk.clone()), quarantine).unwrap();
    let sessions = store.recover().unwrap().sessions;
    assert_eq!(sessions.len(), 1, "what the log still says of the session is used");
    assert_eq!(queue(&store, 1, count + 1), Vec::<u64>::new());
    assert!(store.figures().corrupt > 0, "nobody was told");
}

#[test]
fn a_message_of_a_backlog_that_is_damaged_is_counted_and_the_others_are_delivered() {
    let (disk, count) = (MemoryDisk::forgetful(), 600);
    let store = with_backlog(&disk, count);
    drop(store);
    let wanted = message(100);
    let (name, at, mut bytes) = (1..100)
        .find_map(|id| {
            let name = format!("wal/{id:016}.log");
            let bytes = disk.content(&name)?;
            let at = bytes.windows(wanted.size()).position(|window| window == wanted.as_bytes())?;
            Some((name, at, bytes))
        })
        .expect("the message in the log");
    bytes[at + 500] ^= 1;
    disk.put(&name, &bytes);
    let store = open(&disk);
    let left: Vec<u64> = (1..=count).filter(|n| *n != 100).collect();
    assert_eq!(queue(&store, 1, count + 1), left);
    assert!(store.figures().corrupt > 0, "nobody was told");
}
