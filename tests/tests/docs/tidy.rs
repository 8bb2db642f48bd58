//! The rules of the house that can be read off its sources (`CONTRIBUTING.md`): words, sizes,
//! prose.

use std::collections::BTreeMap;

use lapwing_tests::sources::{Source, sources};

/// The sources of these folders.
fn all(folders: &[&str]) -> Vec<Source> {
    folders.iter().flat_map(|folder| sources(folder)).collect()
}

/// Every package that others depend on, and the benchmark.
const PACKAGES: [&str; 4] = ["protocol/src", "broker/src", "embedded-client/src", "bench/src"];

fn hits(files: &[Source], words: &[&str]) -> Vec<String> {
    files.iter().flat_map(|source| source.hits(words)).collect()
}

#[test]
fn version_words_stay_in_protocol_and_connection() {
    // The program's tools are clients: they say the version that their user asked for.
    let library: Vec<Source> =
        sources("broker/src").into_iter().filter(|source| !source.path.contains("/bin/")).collect();
    let hits = hits(&library, &["Version::V"]);
    let elsewhere: Vec<_> = hits.iter().filter(|hit| !hit.contains("/connection/")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    assert!(hits.len() <= 12, "{} version words: {hits:#?}", hits.len());
}

#[test]
fn nothing_that_a_peer_sends_can_panic() {
    let files = all(&["protocol/src", "embedded-client/src", "broker/src"]);
    let words = [".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!(", "unsafe "];
    let hits = hits(&files, &words);
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn the_machine_of_the_client_knows_no_link_clock_or_executor_and_formats_nothing() {
    let is_of_the_machine = |source: &Source| {
        source.path.contains("/machine/")
            || ["shelf.rs", "publication.rs", "flights.rs"].iter().any(|name| source.path.ends_with(name))
    };
    let files: Vec<Source> = sources("embedded-client/src").into_iter().filter(is_of_the_machine).collect();
    let words = ["embedded_io", "async fn", ".await", "core::fmt", "format_args", "Instant", "const OUTBOX"];
    let hits = hits(&files, &words);
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

/// Files of the broker's library that may have a lock, and who shares it.
const LOCKS: &[(&str, &str)] = &[
    ("auth/http.rs", "answers of the service, asked by all connections"),
    ("auth/password/hash_pool.rs", "the queue of passwords that wait for a hash"),
    ("auth/log_pace.rs", "lines of the log in this second"),
    ("auth/password/mod.rs", "counts of failed attempts"),
    ("auth/password/verified_cache.rs", "passwords that were verified lately"),
    ("auth/throttle.rs", "addresses that wait for their answer"),
    ("clients/handle.rs", "commands of operators to a connection"),
    ("clients/mod.rs", "the registry"),
    ("clients/timers.rs", "timers of offline sessions"),
    ("core/settings.rs", "the settings in force"),
    ("limits/budget.rs", "connections by address"),
    ("limits/flapping.rs", "clients that connect too often"),
    ("limits/memory.rs", "the last sample of the allocator"),
    ("limits/rate.rs", "rates of users"),
    ("message/pool.rs", "memory that one thread has too much of and another none"),
    ("otlp/recorder.rs", "spans for the thread that sends them"),
    ("outbox/", "the queue of one session"),
    ("router/", "subscriptions and retained messages"),
    ("store/", "the store's threads and the broker's tasks"),
    ("telemetry/trace.rs", "followers of messages"),
    ("workers/wakeups.rs", "tasks that other threads wake"),
];

#[test]
fn only_what_connections_share_has_locks() {
    let files = sources("broker/src");
    let hits = hits(&files, &["Mutex<", "RwLock<"]);
    let known = |hit: &&String| LOCKS.iter().any(|(file, _)| hit.starts_with(&format!("broker/src/{file}")));
    let strangers: Vec<_> = hits.iter().filter(|hit| !known(hit)).collect();
    assert!(strangers.is_empty(), "{strangers:#?}");
    for (file, _) in LOCKS {
        assert!(
            hits.iter().any(|hit| hit.starts_with(&format!("broker/src/{file}"))),
            "{file} has no lock any more"
        );
    }
}

#[test]
fn a_type_has_a_name_of_its_own() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources("broker/src").iter().filter(|source| !source.path.contains("/bin/")) {
        for name in source.types() {
            places.entry(name).or_default().push(source.path.clone());
        }
    }
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "one name for several types: {places:#?}");
}

#[test]
fn files_and_functions_stay_small() {
    let files = all(&PACKAGES);
    let mut long_files = Vec::new();
    let (mut functions, mut long_functions, mut too_long) = (0, Vec::new(), Vec::new());
    for source in &files {
        let lines = source.lines().count();
        assert!(lines <= 600, "{} has {lines} lines: split it", source.path);
        if lines > 450 {
            long_files.push(format!("{} ({lines})", source.path));
        }
        for (name, line, length) in source.functions() {
            functions += 1;
            let text = format!("{}:{line}: {name} ({length})", source.path);
            match length {
                91.. => too_long.push(text),
                71..=90 => long_functions.push(text),
                _ => {}
            }
        }
    }
    assert!(functions > 2_000, "only {functions} functions were found: this test reads them wrongly");
    assert!(too_long.is_empty(), "functions over 90 lines: {too_long:#?}");
    assert!(
        long_functions.len() * 200 <= functions,
        "over 0.5 % of {functions} are longer than 70 lines: {long_functions:#?}"
    );
    assert!(long_files.len() <= 5, "files over 450 lines: {long_files:#?}");
}

/// Words that no line of a doc comment begins with: they make a clause without a subject
/// (`CONTRIBUTING.md`).
const FIRST_WORDS: [&str; 7] = ["What", "Who", "How", "Whether", "Where", "Of", "So many"];

#[test]
fn comments_are_sentences_and_fit_100_columns() {
    let mut wrong = Vec::new();
    for source in all(&PACKAGES) {
        for (n, line) in source.text.lines().enumerate() {
            let text = line.trim_start();
            if !text.starts_with("//") {
                continue;
            }
            if line.chars().count() > 100 {
                wrong.push(format!("{}:{}: over 100 columns: {text}", source.path, n + 1));
            }
            let doc =
                text.strip_prefix("///").or_else(|| text.strip_prefix("//!")).unwrap_or("").trim_start();
            let begins = |word: &&&str| {
                doc.strip_prefix(**word).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
            };
            if let Some(word) = FIRST_WORDS.iter().find(begins) {
                wrong.push(format!("{}:{}: begins with {word}: {doc}", source.path, n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} lines:\n{}", wrong.len(), wrong.join("\n"));
}
