//! States that another build wrote: older ones are read whole, newer ones are refused by name, and
//! a copy is no original.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lapwing::internals::store::{
    DurableStore, KeptSession, OpenError, Options, PageRequest, SessionKind, Store, tools,
};
use lapwing_tests::client::Client;
use lapwing_tests::program::{Folder, Program, root, run};

/// State and export with format 1 of the log and format 2 of the checkpoint; `make.py` beside them
/// made both.
fn kept_state() -> PathBuf {
    root().join("tests/states/log-1-checkpoint-2")
}

/// Unpacks the kept state; the state is in `data` of the folder.
fn unpacked() -> Folder {
    let folder = Folder::new("older");
    run(Command::new("tar").arg("xzf").arg(kept_state().join("state.tar.gz")).arg("-C").arg(&folder.0));
    folder
}

/// State as clients find it: each session by its client identifier, and all retained messages.
#[derive(Debug, Default, PartialEq)]
struct Found {
    sessions: BTreeMap<String, Kept>,
    retained: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    user: Option<String>,
    will: Option<String>,
    filters: Vec<String>,
    flights: Vec<String>,
    received: Vec<u16>,
    messages: Vec<String>,
}

fn messages(store: &DurableStore, kept: &KeptSession) -> Vec<String> {
    let (session, until) = (kept.terms.number, kept.waiting.last + 1);
    let page = PageRequest { session, from: 1, until, messages_max: 1_000, bytes_max: usize::MAX };
    let paged = store.queued(page).blocking_recv().unwrap();
    assert_eq!(paged.deliveries.len() as u64, kept.waiting.count);
    let text = |payload: &[u8]| String::from_utf8_lossy(payload).trim_end_matches('.').to_owned();
    paged
        .deliveries
        .iter()
        .map(|delivery| format!("{} {}", delivery.message.topic_str(), text(delivery.message.payload())))
        .collect()
}

fn found(store: &DurableStore) -> Found {
    let mut found = Found::default();
    for kept in store.recover().unwrap().sessions {
        assert_eq!(
            (kept.terms.kind, &kept.terms.state, &kept.terms.identity),
            (SessionKind::Client, &None, &None)
        );
        let mut filters: Vec<String> =
            kept.subscriptions.iter().map(|(filter, kept)| format!("{filter} {:?}", kept.held.id)).collect();
        filters.sort();
        let flight = |flight: &lapwing::internals::store::KeptFlight| format!("{:?}", flight.state);
        let session = Kept {
            user: kept.terms.user.as_deref().map(str::to_owned),
            will: kept.terms.will.as_ref().map(|will| will.topic.to_string()),
            filters,
            flights: kept.flights.iter().map(flight).collect(),
            received: kept.received.iter().map(|id| id.get()).collect(),
            messages: messages(store, &kept),
        };
        found.sessions.insert(kept.terms.client_id.to_string(), session);
    }
    store
        .each_retained(&mut |message| {
            assert_eq!(message.source().and_then(|source| source.user), Some("ann"));
            let payload = String::from_utf8_lossy(message.payload()).into_owned();
            found.retained.insert(message.topic_str().to_owned(), payload);
        })
        .unwrap();
    found
}

/// State that `make.py` left.
fn expected() -> Found {
    let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let early = (0..60).map(|n| format!("q/{n} early {n} "));
    let between = [150, 450, 750].map(|n| format!("q/between between {n}"));
    let late = (0..5).map(|n| format!("q/late{n} late {n}")).chain(["q/last last".to_owned()]);
    let ann = || Kept { user: Some("ann".to_owned()), ..Kept::default() };
    let away: Vec<String> =
        early.clone().chain(["s/x shared".to_owned()]).chain(between.clone()).chain(late.clone()).collect();
    let sessions = [
        (
            "away",
            Kept {
                filters: texts(&["$share/g/s/+ None", "own/# None", "q/# Some(7)"]),
                messages: away,
                ..ann()
            },
        ),
        (
            "beside",
            Kept {
                filters: texts(&["q/# Some(9)", "q/+ None"]),
                messages: early.chain(between).chain(late).collect(),
                ..ann()
            },
        ),
        ("willed", Kept { will: Some("wills/willed".to_owned()), ..ann() }),
        ("publisher", Kept { received: vec![100, 102], ..ann() }),
        ("consumer", Kept { filters: texts(&["busy/# None"]), ..ann() }),
        (
            "flying",
            Kept {
                filters: texts(&["f/# None", "r/# None"]),
                flights: texts(&[
                    "AwaitPubComp",
                    "AwaitPubAck",
                    "AwaitPubRec",
                    "AwaitPubAck",
                    "AwaitPubAck",
                    "AwaitPubAck",
                    "AwaitPubAck",
                ]),
                received: vec![77],
                messages: texts(&[
                    "f/1 flying 1",
                    "f/2 flying 2",
                    "f/3 flying 3",
                    "r/late retained late",
                    "r/1 retained 1 again",
                ]),
                ..ann()
            },
        ),
        (
            "last",
            Kept {
                filters: texts(&["q/# None"]),
                flights: texts(&["AwaitPubAck"]),
                messages: texts(&["q/last last"]),
                ..ann()
            },
        ),
    ];
    let retained = [
        ("r/0", "retained 0"),
        ("r/1", "retained 1 again"),
        ("r/2", "retained 2"),
        ("r/late", "retained late"),
    ];
    Found {
        sessions: sessions.into_iter().map(|(id, kept)| (id.to_owned(), kept)).collect(),
        retained: retained.iter().map(|(topic, text)| ((*topic).to_owned(), (*text).to_owned())).collect(),
    }
}

#[test]
fn a_state_of_an_older_format_is_read_whole_and_stays_so() {
    let folder = unpacked();
    let data = folder.0.join("data");
    for round in 0..3 {
        let store = DurableStore::open(&data, Options::default()).unwrap();
        assert_eq!(found(&store), expected(), "opened {round} times before");
        // From now on it has the new format; a checkpoint writes the log of the old one into it.
        store.backup(&folder.0.join(format!("backup{round}"))).unwrap();
        store.close();
    }
    let store = DurableStore::open(&folder.0.join("backup1"), Options::default()).unwrap();
    assert_eq!(found(&store), expected(), "a backup of it");
}

#[test]
fn clients_get_what_waits_in_a_state_of_an_older_format() {
    let folder = unpacked();
    let toml = "[limits]\nsession_expiry_max_s = 4294967295\n";
    let mut broker =
        Program::with(toml).users("[[rule]]\npublish = ['#']\nsubscribe = ['#']\n").state(&folder).spawn();
    broker.wait_for("Lapwing ");
    let who = [("id", "away"), ("clean", "0"), ("user", "ann"), ("password", "ann-pw")];
    let all = [&who[..], &[("p.session_expiry", "4294967295")]].concat();
    let (mut client, there) = Client::connect(&broker.address("mqtt"), "5.0", &all).unwrap();
    assert!(there, "the session is there");
    let expected = expected().sessions["away"].messages.clone();
    let came: Vec<String> =
        client.messages_until("last").iter().map(|text| text.trim_end_matches('.').to_owned()).collect();
    assert_eq!(came, expected[..expected.len() - 1]);
}

#[test]
fn an_export_of_an_older_format_is_imported_whole() {
    let folder = Folder::new("older-export");
    let packed = std::fs::File::open(kept_state().join("export.gz")).unwrap();
    let unzip = Command::new("gzip").arg("-dc").stdin(packed).stdout(Stdio::piped()).output().unwrap();
    let file = folder.0.join("export");
    std::fs::write(&file, unzip.stdout).unwrap();
    let data = folder.0.join("data");
    tools::import(&data, &file).unwrap();
    let store = DurableStore::open(&data, Options::default()).unwrap();
    assert_eq!(found(&store), expected());
}

/// Writes `bytes` at this offset of the first frame of the newest segment that has one, and mends
/// the checksum.
fn change_frame(data: &Path, change: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    for path in segments.iter().rev() {
        let mut bytes = std::fs::read(path).unwrap();
        if bytes.starts_with(b"LWlg") {
            change(&mut bytes);
            let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
            let sum = crc32c::crc32c(&bytes[8..64 + len]);
            bytes[4..8].copy_from_slice(&sum.to_le_bytes());
            std::fs::File::create(path).unwrap().write_all(&bytes).unwrap();
            return path.clone();
        }
    }
    panic!("no segment has a frame");
}

#[test]
fn what_only_a_newer_version_can_read_is_refused_by_name_and_left_as_it_is() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(Change, &str); 2] =
        [(|bytes| bytes[8] = 9, "has format 9"), (|bytes| bytes[64] = 13, "has records of kind 13")];
    for (change, says) in changes {
        let folder = Folder::new("newer");
        let data = folder.0.join("data");
        DurableStore::open(&data, Options::default()).unwrap().close();
        let path = change_frame(&data, change);
        let before = std::fs::read(&path).unwrap();
        let quarantine = lapwing::internals::config::OnCorruption::Quarantine;
        for on_corruption in [Options::default().on_corruption, quarantine] {
            let error =
                DurableStore::open(&data, Options { on_corruption, ..Options::default() }).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, OpenError::Foreign(_)) && text.contains(says), "{text}");
            assert!(text.contains("Use the version that wrote it"), "{text}");
        }
        assert!(std::fs::read(&path).unwrap() == before);
    }
}

#[test]
fn a_copy_has_the_key_of_the_original_and_a_number_of_its_own() {
    let folder = Folder::new("copies");
    let place = |name: &str| folder.0.join(name);
    let open = |name: &str| DurableStore::open(&place(name), Options::default()).unwrap();
    let store = open("data");
    let original = store.identity().unwrap();
    store.backup(&place("backup")).unwrap();
    store.close();
    drop(store);
    assert_eq!(open("data").identity().unwrap(), original, "it is the same after a restart");
    tools::export(&place("data"), &place("export")).unwrap();
    tools::import(&place("imported"), &place("export")).unwrap();
    for copy in ["backup", "imported"] {
        let first = open(copy).identity().unwrap();
        assert_eq!(first.key, original.key);
        assert_ne!(first.number, original.number);
        assert_eq!(open(copy).identity().unwrap(), first, "it is the same after a restart");
    }
    assert_ne!(open("another").identity().unwrap().key, original.key);
}
