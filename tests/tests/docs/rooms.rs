//! The rooms of the broker: which may import which (`docs/ARCHITECTURE.md`). A room is a folder of
//! `broker/src`, an import a path that begins with `crate::ROOM`.

use std::collections::{BTreeMap, BTreeSet};

use lapwing_tests::sources::{Source, sources};

/// Every room, the highest first, with all rooms that it may import. Each stands below it in this
/// list: so there is no circle, and a line that would need one cannot be written.
const ALLOWED: &[(&str, &str)] = &[
    ("server", "admin otlp connection core auth store outbox net limits telemetry config message workers"),
    ("admin", "core clients router outbox auth store net session limits telemetry config message"),
    ("otlp", "core telemetry config message"),
    ("connection", "core clients router outbox auth store net session limits telemetry config message"),
    ("core", "clients router outbox auth store net session limits telemetry config clock message"),
    ("clients", "outbox auth net session telemetry message"),
    ("router", "outbox store session telemetry config message workers"),
    ("outbox", "store telemetry config message workers"),
    ("auth", "net config message"),
    ("store", "session telemetry config clock message"),
    ("net", "telemetry config"),
    ("session", "telemetry message"),
    ("limits", "config message"),
    ("telemetry", "clock message"),
    ("config", "message"),
    ("clock", "message"),
    ("message", ""),
    ("workers", ""),
];

fn library() -> Vec<Source> {
    sources("broker/src").into_iter().filter(|source| !source.path.contains("/bin/")).collect()
}

fn room(path: &str) -> &str {
    let below = path.strip_prefix("broker/src/").unwrap_or(path);
    below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
}

/// The names behind each `crate::` of a file's code.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    for (n, line) in source.code() {
        let behind = line.match_indices("crate::").filter(|(at, _)| !line[..*at].ends_with('$'));
        for (at, word) in behind {
            let path = &line[at + word.len()..];
            let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(path.len());
            imports.push((n, path[..end].to_owned()));
        }
    }
    imports
}

#[test]
fn rooms_import_only_what_stands_below_them() {
    let rooms: Vec<&str> = ALLOWED.iter().map(|(room, _)| *room).collect();
    for (at, (room, allowed)) in ALLOWED.iter().enumerate() {
        for other in allowed.split_whitespace() {
            assert!(rooms[at..].contains(&other) && other != *room, "the table lets {room} import {other}");
        }
    }
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(room, others)| (*room, others.split_whitespace().collect())).collect();
    let mut wrong = Vec::new();
    let mut used: BTreeSet<(&str, String)> = BTreeSet::new();
    let library = library();
    for source in library.iter().filter(|source| source.path != "broker/src/lib.rs") {
        let own = room(&source.path);
        let Some(allowed) = allowed.get(own) else {
            wrong.push(format!("{}: {own} is no room of the table", source.path));
            continue;
        };
        for (n, path) in imports(source) {
            let other = path.split(':').next().unwrap_or_default();
            if other == own || !rooms.contains(&other) && other == "VERSION" {
                continue;
            }
            used.insert((own, other.to_owned()));
            if !allowed.contains(other) {
                wrong.push(format!("{}:{n}: {own} may not import {other} ({path})", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (room, others) in &allowed {
        for other in others {
            assert!(
                used.contains(&(*room, (*other).to_owned())),
                "{room} does not import {other}: take it out of the table"
            );
        }
    }
}

#[test]
fn the_source_folder_holds_folders_and_two_files() {
    let flat: Vec<String> = library()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| path.matches('/').count() == 2)
        .collect();
    assert_eq!(flat, ["broker/src/clock.rs", "broker/src/lib.rs"]);
    let face = library().into_iter().find(|source| source.path == "broker/src/lib.rs").unwrap();
    assert!(face.text.lines().count() <= 90, "lib.rs is the public face: re-exports and docs");
}

/// Files that `session/` reaches, directly or through others, with the import that led there.
fn reached_from_session(library: &[Source]) -> BTreeMap<&str, String> {
    let file_of = |path: &str| {
        // The longest prefix that names a module's file.
        let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
        (1..=parts.len()).rev().find_map(|n| {
            let stem = format!("broker/src/{}", parts[..n].join("/"));
            library
                .iter()
                .find(|source| source.path == format!("{stem}.rs") || source.path == format!("{stem}/mod.rs"))
        })
    };
    let mut reached: BTreeMap<&str, String> = BTreeMap::new();
    let mut waiting: Vec<&Source> =
        library.iter().filter(|source| source.path.starts_with("broker/src/session/")).collect();
    while let Some(source) = waiting.pop() {
        for (n, path) in imports(source) {
            let Some(file) = file_of(&path) else { continue };
            if reached.insert(&file.path, format!("{}:{n}", source.path)).is_none() {
                waiting.push(file);
            }
        }
    }
    reached
}

#[test]
fn the_session_reaches_no_runtime_clock_lock_net_router_or_store() {
    let library = library();
    let words =
        ["tokio", "Instant", "SystemTime", "Mutex", "RwLock", "crate::net", "crate::router", "crate::store"];
    let mut hits: Vec<String> = library
        .iter()
        .filter(|source| source.path.starts_with("broker/src/session/"))
        .flat_map(|source| source.hits(&[&words[..], &["Version"]].concat()))
        .collect();
    for (path, from) in reached_from_session(&library) {
        // The memory of messages is shared between threads: the one lock that a session may meet.
        let source =
            library.iter().find(|source| source.path == path && path != "broker/src/message/pool.rs");
        hits.extend(
            source.into_iter().flat_map(|source| source.hits(&words)).map(|hit| format!("{hit} (by {from})")),
        );
    }
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn the_log_knows_bytes_and_not_what_a_record_means() {
    let library = library();
    let log = library.iter().filter(|source| source.path.starts_with("broker/src/store/wal/"));
    let used: BTreeSet<&str> =
        log.flat_map(Source::code).filter_map(|(_, line)| line.trim().strip_prefix("use crate::")).collect();
    let known = ["message::Millis;", "store::Lsn;", "store::error::OpenError;"];
    assert_eq!(used, BTreeSet::from(known));
}
