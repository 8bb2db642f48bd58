//! The store on a disk that loses power, breaks, or is full: what was acknowledged is there
//! afterwards, nothing else is, and what is there is the state at one moment.
//!
//! `LAPWING_CUTS=500` for more points; `LAPWING_SEED` repeats a run.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lapwing::internals::config::OnCorruption;
use lapwing::internals::message::Durability;
use lapwing::internals::store::{
    DurableStore, Health, OpenError, Options, PageRequest, Record, Store, Ticket,
};
use lapwing_tests::disk::{Fault, LOSSES, MemoryDisk};
use lapwing_tests::ledger::{self, Model, State};
use lapwing_tests::random::{Random, seed};

fn options() -> Options {
    Options {
        // Small, so that a short run has checkpoints, new segments and recycled ones.
        window_bytes: 200 * 1024,
        segment_bytes: 64 * 1024,
        cache_bytes: 1 << 20,
        ..Options::default()
    }
}

fn cuts(usual: usize) -> usize {
    std::env::var("LAPWING_CUTS").map_or(usual, |n| n.parse().unwrap())
}

/// Result of a run.
struct Run {
    /// The state before the first record and behind each.
    states: Vec<State>,
    /// Records that were acknowledged.
    acknowledged: usize,
    /// The most segments that were kept for a backlog.
    most_kept: u64,
}

/// Tells a store so many records and notes on the disk which were acknowledged. Ends early where
/// the store says no.
fn run(store: &DurableStore, disk: &MemoryDisk, records: usize, random: &mut Random) -> Run {
    let mut model = Model::default();
    let mut run = Run { states: vec![State::new()], acknowledged: 0, most_kept: 0 };
    for n in 1..=records {
        // Some wait, so that those before them are in one frame with them. Where only few do,
        // frames are dense, and their messages stay in the log.
        let waits = random.below(if n % 1_000 > 400 { 16 } else { 4 }) == 0;
        let level = if waits { Durability::Always } else { Durability::None };
        let Some(ticket) = ledger::tell(store, model.next(random), level) else { break };
        run.states.push(model.state.clone());
        if waits {
            if ledger::wait(store, ticket).is_err() {
                break;
            }
            disk.mark(n as u64);
            run.acknowledged = n;
            run.most_kept = run.most_kept.max(store.figures().segments_kept);
        }
    }
    run
}

/// Asserts that the state is that of one moment, behind everything acknowledged.
fn judge(found: &State, states: &HashMap<String, Vec<usize>>, acknowledged: usize) -> Result<(), String> {
    match states.get(&format!("{found:?}")) {
        Some(moments) if moments.iter().any(|at| *at >= acknowledged) => Ok(()),
        Some(moments) => {
            Err(format!("the state is that after {moments:?}, {acknowledged} were acknowledged"))
        }
        None => Err("the state is that of no moment".to_owned()),
    }
}

fn by_text(states: &[State]) -> HashMap<String, Vec<usize>> {
    let mut all: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, state) in states.iter().enumerate() {
        all.entry(format!("{state:?}")).or_default().push(at);
    }
    all
}

fn open(disk: &MemoryDisk, options: Options) -> Result<(DurableStore, State), OpenError> {
    let store = DurableStore::on(Arc::new(disk.clone()), options)?;
    let state = ledger::recovered(&store)?;
    Ok((store, state))
}

#[test]
fn a_loss_of_power_takes_nothing_acknowledged() {
    let seed = seed();
    let mut random = Random(seed);
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, options()).unwrap();
    let run = run(&store, &disk, 3_000, &mut random);
    let figures = store.figures();
    drop(store);
    assert!(figures.checkpoints > 3, "{figures:?}: too few checkpoints to show anything");
    assert!(run.most_kept > 0, "{figures:?}: no messages that stay in the log");
    let states = by_text(&run.states);
    let mut moments = BTreeSet::new();
    let mut losses_without_syncs = 0;
    let cuts = cuts(70);
    for n in 0..cuts {
        let upto = random.below(disk.changes() as u64 + 1) as usize;
        let loss = LOSSES[n % LOSSES.len()];
        let (image, marks) = disk.after_power_loss(upto, loss, &mut random, true);
        let acknowledged = marks.last().copied().unwrap_or(0) as usize;
        let place = format!("seed {seed}, cut at {upto}, {loss:?}");
        let (store, found) = open(&image, options()).unwrap_or_else(|error| panic!("{place}: {error}"));
        judge(&found, &states, acknowledged).unwrap_or_else(|fault| panic!("{place}: {fault}"));
        moments.insert(acknowledged);
        // It goes on from there, and opens once more.
        if n % 5 == 0 {
            drop(store);
            let (_, again) =
                open(&image, options()).unwrap_or_else(|error| panic!("{place}, again: {error}"));
            assert_eq!(found, again, "{place}: opened twice");
        }
        // The negative control: on a disk that only pretends to sync, the same check finds losses.
        let (image, marks) = disk.after_power_loss(upto, loss, &mut random, false);
        let acknowledged = marks.last().copied().unwrap_or(0) as usize;
        let lost =
            open(&image, options()).map_or(true, |(_, found)| judge(&found, &states, acknowledged).is_err());
        losses_without_syncs += usize::from(lost);
    }
    println!(
        "{cuts} cuts at {} moments: nothing lost; without syncs {losses_without_syncs} of them lose",
        moments.len()
    );
    assert!(losses_without_syncs * 4 > cuts, "the check does not find losses where there must be some");
}

#[test]
fn a_second_loss_of_power_soon_after_the_first_takes_nothing_either() {
    let seed = seed();
    let mut random = Random(seed ^ 0x5eed);
    for n in 0..cuts(70) / 5 {
        let disk = MemoryDisk::default();
        let (store, _) = open(&disk, options()).unwrap();
        run(&store, &disk, 300, &mut random);
        drop(store);
        let upto = random.below(disk.changes() as u64 + 1) as usize;
        let (image, _) = disk.after_power_loss(upto, LOSSES[n % LOSSES.len()], &mut random, true);
        let (store, before) = open(&image, options()).unwrap();
        // A few retained messages on top of whatever was found.
        let base = image.copy_with_history();
        drop(store);
        let (store, again) = open(&base, options()).unwrap();
        assert_eq!(before, again);
        let mut model = Model::from(before.clone());
        let mut states = vec![before];
        for n in 1..=40 {
            let record = model.retained(&mut random);
            let ticket = ledger::tell(&store, record, Durability::Always).unwrap();
            states.push(model.state.clone());
            ledger::wait(&store, ticket).unwrap();
            base.mark(n);
        }
        drop(store);
        let states = by_text(&states);
        for loss in LOSSES {
            let upto = random.below(base.changes() as u64 + 1) as usize;
            let (image, marks) = base.after_power_loss(upto, loss, &mut random, true);
            let acknowledged = marks.last().copied().unwrap_or(0) as usize;
            let (_, found) = open(&image, options()).unwrap_or_else(|e| panic!("seed {seed}, {loss:?}: {e}"));
            judge(&found, &states, acknowledged)
                .unwrap_or_else(|f| panic!("seed {seed}, {n}, {loss:?}: {f}"));
        }
    }
}

#[test]
fn a_disk_that_fails_at_any_call_loses_nothing_acknowledged() {
    let seed = seed();
    // How many calls there are is found out without a fault.
    let disk = MemoryDisk::forgetful();
    let (store, _) = open(&disk, options()).unwrap();
    run(&store, &disk, 700, &mut Random(seed));
    drop(store);
    let calls = disk.calls();
    let kinds = disk.kinds();
    let mut points: Vec<(Option<&'static str>, u64)> = Vec::new();
    let step = (calls * 2 / cuts(70).max(1) as u64).max(1);
    points.extend((1..=calls).step_by(step as usize).map(|at| (None, at)));
    // Of each kind the first, the second, and one in the middle, whatever the steps hit.
    for (kind, count) in &kinds {
        points.extend([1, 2, count / 2].map(|n| (Some(*kind), n)));
    }
    let mut failed: BTreeSet<&'static str> = BTreeSet::new();
    for (kind, n) in &points {
        for fault in [Fault::ShortWrite, Fault::Io, Fault::NoSpace] {
            let disk = MemoryDisk::forgetful();
            match kind {
                Some(kind) => disk.fail_one(kind, *n, fault),
                None => disk.fail(*n, 1, fault),
            }
            let place = format!("seed {seed}, call {n} of {kind:?}, {fault:?}");
            let done = open(&disk, options()).map(|(store, _)| run(&store, &disk, 700, &mut Random(seed)));
            failed.extend(disk.failed());
            disk.heal();
            // Nothing was acknowledged by a store that did not open.
            let done = done.unwrap_or(Run { states: vec![State::new()], acknowledged: 0, most_kept: 0 });
            let (_, found) = open(&disk, options()).unwrap_or_else(|error| panic!("{place}: {error}"));
            judge(&found, &by_text(&done.states), done.acknowledged)
                .unwrap_or_else(|fault| panic!("{place}: {fault}"));
        }
    }
    println!("faults at {} of {calls} calls: {kinds:?}", points.len());
    assert_eq!(failed, kinds.keys().copied().collect(), "a kind of call never failed");
}

#[test]
fn a_full_disk_refuses_messages_and_goes_on_where_it_stopped() {
    let disk = MemoryDisk::forgetful();
    let (store, _) = open(&disk, options()).unwrap();
    let mut random = Random(7);
    let mut model = Model::default();
    let mut tell = |model: &mut Model| {
        let mut next = model.clone();
        let ticket = ledger::tell(&store, next.next(&mut random), Durability::Always);
        if ticket.is_some() {
            *model = next;
        }
        ticket
    };
    for _ in 0..50 {
        let ticket = tell(&mut model).unwrap();
        ledger::wait(&store, ticket).unwrap();
    }
    // From now on nothing can grow.
    disk.fail(disk.calls() + 1, u64::MAX, Fault::NoSpace);
    let mut told = 0;
    let mut open_tickets = Vec::new();
    while store.figures().health == Health::Good {
        open_tickets.extend(tell(&mut model));
        told += 1;
        assert!(told < 100_000, "the store never says that the disk is full");
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(store.reserve().is_err(), "a message is taken although the disk is full");
    disk.heal();
    // Those that were taken become durable now, none of them was lost.
    for ticket in open_tickets {
        ledger::wait(&store, ticket).unwrap();
    }
    while store.figures().health != Health::Good {
        std::thread::sleep(Duration::from_millis(10));
    }
    let ticket = tell(&mut model).unwrap();
    ledger::wait(&store, ticket).unwrap();
    drop(store);
    assert_eq!(open(&disk, options()).unwrap().1, model.state);
}

#[test]
fn a_full_disk_does_not_keep_a_broker_from_ending() {
    let disk = MemoryDisk::forgetful();
    let (store, _) = open(&disk, options()).unwrap();
    disk.fail(disk.calls() + 1, u64::MAX, Fault::NoSpace);
    // More than the segments that are ready can take.
    let mut last = Ticket::default();
    for _ in 0..400 {
        last = store.append(Record::RetainedExpired { topic: "x".repeat(5_000).into() }, Durability::Always);
    }
    store.close();
    assert!(ledger::wait(&store, last).is_err(), "it was acknowledged and is not on disk");
    disk.heal();
    open(&disk, options()).expect("what there was room for is sound");
}

/// Offset of the third frame of a segment.
fn third_frame(segment: &[u8]) -> usize {
    (0..2).fold(0, |at, _| {
        let len = u32::from_le_bytes(segment[at + 12..at + 16].try_into().unwrap()) as usize;
        at + (64 + len).next_multiple_of(4096)
    })
}

#[test]
fn a_flipped_bit_is_reported_with_its_offset_and_skipped_on_demand() {
    let disk = MemoryDisk::forgetful();
    // All of it stays in the log.
    let large = Options { window_bytes: 64 << 20, ..options() };
    let (store, _) = open(&disk, large).unwrap();
    let mut random = Random(3);
    let done = run(&store, &disk, 200, &mut random);
    drop(store);
    let name = "wal/0000000000000001.log";
    let mut bytes = disk.content(name).unwrap();
    let at = third_frame(&bytes);
    bytes[at + 100] ^= 1;
    disk.put(name, &bytes);
    let error = open(&disk, large).unwrap_err().to_string();
    assert!(
        error.contains(name) && error.contains(&format!("byte {at}:")) && error.contains("on_corruption"),
        "file, place and remedy are missing: {error}"
    );
    // The rest is sound, and is used.
    let quarantine = Options { on_corruption: OnCorruption::Quarantine, ..large };
    let store = DurableStore::on(Arc::new(disk.clone()), quarantine).unwrap();
    assert!(store.figures().corrupt > 0);
    let mut retained = 0;
    store.each_retained(&mut |_| retained += 1).unwrap();
    let wanted = done.states.last().unwrap().keys().filter(|key| key.starts_with("retained")).count();
    assert!(retained + 2 >= wanted, "{retained} of {wanted} retained messages are there");
    assert!(disk.content("quarantine/0000000000000001.log").is_some(), "nothing was set aside");
    drop(store);
    DurableStore::on(Arc::new(disk.clone()), large).expect("it opens after that");
}

#[test]
fn many_short_runs_leave_no_more_log_than_one() {
    let disk = MemoryDisk::forgetful();
    let mut model = Model::default();
    let mut random = Random(13);
    for _ in 0..40 {
        let (store, found) = open(&disk, options()).unwrap();
        assert_eq!(found, model.state);
        let ticket = ledger::tell(&store, model.next(&mut random), Durability::Always).unwrap();
        ledger::wait(&store, ticket).unwrap();
    }
    let segments = (1..1_000).filter(|id| disk.content(&format!("wal/{id:016}.log")).is_some()).count();
    assert!(segments <= 10, "{segments} segments");
}

#[test]
fn syncs_are_no_more_frequent_than_asked() {
    let disk = MemoryDisk::forgetful();
    let interval = Duration::from_millis(20);
    let (store, _) = open(&disk, Options { min_sync_interval: interval, ..options() }).unwrap();
    let before = store.figures().syncs;
    let begun = std::time::Instant::now();
    let done = run(&store, &disk, 100, &mut Random(11));
    let most = begun.elapsed().as_millis() as u64 / 20 + 2;
    let syncs = store.figures().syncs - before;
    assert!(syncs <= most, "{syncs} syncs where {most} are allowed");
    assert!(done.acknowledged > 10);
}

/// A payload can hold any bytes, also those of a frame, and a crash can leave it where a frame
/// would be looked for.
/// Waits until all records are written: a page of a queue is read behind them.
fn until_written(store: &DurableStore) {
    let page = PageRequest { session: 1, from: 1, until: 2, messages_max: 1, bytes_max: 1 };
    drop(store.queued(page).blocking_recv());
}

/// Clients drain a backlog while nobody publishes, and power is lost a moment later.
#[test]
fn acknowledgements_are_synced_in_time_though_nobody_publishes() {
    // With an interval of an hour the same loss takes something: the test can fail.
    for (sync_interval, keeps) in [(Duration::from_millis(50), true), (Duration::from_secs(3_600), false)] {
        let disk = MemoryDisk::default();
        // No checkpoint and no new segment, which sync, too.
        let options = Options { sync_interval, ..Options::default() };
        let (store, _) = open(&disk, options).unwrap();
        let mut model = Model::default();
        let mut random = Random(1);
        let mut last = Ticket::default();
        for n in 0..400 {
            // Sessions, subscriptions and messages are acknowledged; then only clients speak.
            let record = model.next(&mut random);
            let level = if n < 300 { Durability::Always } else { Durability::None };
            last = ledger::tell(&store, record, level).unwrap();
            if n == 299 {
                // The others would share a frame with these, and be synced with them.
                ledger::wait(&store, last).unwrap();
            }
        }
        if keeps {
            ledger::wait(&store, Ticket { durability: Durability::Always, ..last }).unwrap();
        }
        until_written(&store);
        let changes = disk.changes();
        let is_whole = |loss| {
            let (after, _) = disk.after_power_loss(changes, loss, &mut Random(2), true);
            open(&after, options).unwrap().1 == model.state
        };
        let whole: Vec<bool> = LOSSES.into_iter().map(is_whole).collect();
        assert_eq!(whole.iter().all(|whole| *whole), keeps, "{whole:?}");
    }
}

/// A broker without durability pays for no sync.
#[test]
fn a_store_of_records_that_ask_for_no_sync_is_not_synced() {
    let disk = MemoryDisk::default();
    // The end of a segment is synced: here it is never reached.
    let options = Options { sync_interval: Duration::from_millis(1), ..Options::default() };
    let (store, _) = open(&disk, options).unwrap();
    let mut model = Model::default();
    let mut random = Random(1);
    let before = store.figures().sync_time;
    for _ in 0..50 {
        ledger::tell(&store, model.next(&mut random), Durability::None).unwrap();
        until_written(&store);
    }
    assert_eq!(store.figures().sync_time, before);
}

#[test]
fn a_frame_inside_a_payload_counts_for_nothing() {
    let disk = MemoryDisk::forgetful();
    let large = Options { window_bytes: 64 << 20, ..options() };
    let (store, _) = open(&disk, large).unwrap();
    let done = run(&store, &disk, 3, &mut Random(5));
    drop(store);
    let name = "wal/0000000000000001.log";
    let mut bytes = disk.content(name).unwrap();
    let third = third_frame(&bytes);
    let forged = |salt: u8| {
        let mut frame = bytes[..third].to_vec();
        let len = u32::from_le_bytes(frame[12..16].try_into().unwrap()) as usize;
        frame.truncate((64 + len).next_multiple_of(4096));
        frame[24..32].copy_from_slice(&1_000u64.to_le_bytes());
        frame[32..40].copy_from_slice(&2_000u64.to_le_bytes());
        frame[60] ^= salt;
        let sum = crc32c::crc32c(&frame[8..64 + len]);
        frame[4..8].copy_from_slice(&sum.to_le_bytes());
        frame
    };
    let (guessed, known) = (forged(1), forged(0));
    let at = bytes.len() - 8 * 4096;
    bytes[at..at + guessed.len()].copy_from_slice(&guessed);
    disk.put(name, &bytes);
    let (store, found) = open(&disk, large).expect("nothing is damaged");
    assert_eq!(Some(&found), done.states.last());
    drop(store);
    // With the salt, which nobody outside knows, it would have been believed.
    bytes[at..at + known.len()].copy_from_slice(&known);
    disk.put(name, &bytes);
    assert!(open(&disk, large).is_err());
}

#[test]
fn a_state_of_another_format_version_is_refused_by_name() {
    let disk = MemoryDisk::forgetful();
    drop(open(&disk, options()).unwrap());
    let name = "wal/0000000000000001.log";
    let mut bytes = disk.content(name).unwrap();
    assert_eq!(&bytes[..4], b"LWlg", "the last word of the first run");
    bytes[8] = 99;
    let sum = crc32c::crc32c(&bytes[8..64 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    disk.put(name, &bytes);
    let error = open(&disk, options()).unwrap_err().to_string();
    assert!(error.contains("format 99") && error.contains(name), "{error}");

    let disk = MemoryDisk::forgetful();
    disk.put("checkpoint.redb", b"this is no database at all, only a file that has its name");
    let error = open(&disk, options()).unwrap_err().to_string();
    assert!(error.contains("checkpoint.redb"), "{error}");
}
