//! The invariants of the house that can be read off its sources (`docs/ARCHITECTURE.md`).

use std::path::{Path, PathBuf};

use lapwing_tests::program::root;

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "{} has sources", folder.display());
    found
}

/// A file without its tests and its comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(usize::MAX);
    text.lines()
        .enumerate()
        .take(tests)
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(n, line)| (n + 1, line))
}

fn found(files: &[(PathBuf, String)], words: &[&str]) -> Vec<String> {
    let hits = files.iter().flat_map(|(path, text)| code(text).map(move |(n, line)| (path, n, line)));
    hits.filter(|(_, _, line)| words.iter().any(|word| line.contains(word)))
        .map(|(path, n, line)| format!("{}:{n}: {}", path.display(), line.trim()))
        .collect()
}

#[test]
fn the_session_knows_no_runtime_clock_lock_net_router_or_store() {
    let files = sources(&root().join("broker/src/session"));
    let hits = found(
        &files,
        &[
            "tokio",
            "Instant",
            "SystemTime",
            "Mutex",
            "RwLock",
            "crate::net",
            "crate::router",
            "crate::store",
            "Version",
        ],
    );
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn version_words_stay_in_protocol_handshake_and_connection() {
    let files = sources(&root().join("broker/src"));
    // The tools are clients: they say the version that their user asked for.
    let files: Vec<_> = files
        .into_iter()
        .filter(|(path, _)| !path.display().to_string().contains("/bin/lapwing/commands/tools/"))
        .collect();
    let hits = found(&files, &["Version::V"]);
    let elsewhere: Vec<_> =
        hits.iter().filter(|hit| !hit.contains("/handshake/") && !hit.contains("/connection/")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    assert!(hits.len() <= 12, "{} version words: {hits:#?}", hits.len());
}

#[test]
fn nothing_that_a_peer_sends_can_panic() {
    let mut files = sources(&root().join("protocol/src"));
    files.extend(sources(&root().join("embedded-client/src")));
    for room in [
        "handshake",
        "connection",
        "session",
        "router",
        "net",
        "auth",
        "store",
        "bin/lapwing/commands/tools",
        "admin",
        "bin/lapwing/commands/ctl",
    ] {
        files.extend(sources(&root().join("broker/src").join(room)));
    }
    files.extend(
        sources(&root().join("broker/src")).into_iter().filter(|(path, _)| path.ends_with("handshake.rs")),
    );
    let hits = found(
        &files,
        &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!(", "unsafe "],
    );
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn the_machine_of_the_client_knows_no_link_clock_or_executor_and_formats_nothing() {
    let client = root().join("embedded-client/src");
    let mut files = sources(&client.join("machine"));
    files.extend(sources(&client).into_iter().filter(|(path, _)| {
        ["shelf.rs", "publication.rs", "flights.rs"].iter().any(|name| path.ends_with(name))
    }));
    let hits = found(
        &files,
        &["embedded_io", "async fn", ".await", "core::fmt", "format_args", "Instant", "const OUTBOX"],
    );
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn only_the_outbox_and_the_tables_that_all_share_have_locks() {
    let files = sources(&root().join("broker/src"));
    let hits = found(&files, &["Mutex<", "RwLock<"]);
    let known = [
        "outbox.rs",
        "registry.rs",
        // Memory that one thread has too much of and another none.
        "message/spare.rs",
        // Who follows messages; nobody, mostly.
        "trace.rs",
        // Spans of those messages that are traced, for the thread that sends them.
        "telemetry/recorder.rs",
        "router/mod.rs",
        "router/retained.rs",
        "budget.rs",
        // What the allocator was last found to hold.
        "memory.rs",
        "janitor.rs",
        "live.rs",
        "arrivals.rs",
        // What the allocator was last found to hold.
        "memory.rs",
        // Whom other threads wake.
        "crew/mailbox.rs",
        // Questions of operators to a connection.
        "contact.rs",
        "rate.rs",
        // Counts and queues of those who are not let in yet.
        "auth/throttle.rs",
        "auth/http.rs",
        "auth/password/mod.rs",
        "auth/password/hashing.rs",
        "auth/password/successes.rs",
        // The store's threads and the broker's tasks.
        "store/shared.rs",
        "store/durable.rs",
    ];
    let strangers: Vec<_> = hits.iter().filter(|hit| !known.iter().any(|file| hit.contains(file))).collect();
    assert!(strangers.is_empty(), "{strangers:#?}");
}

#[test]
fn no_file_grows_into_a_god_file() {
    for folder in ["protocol/src", "broker/src", "embedded-client/src", "bench/src"] {
        for (path, text) in sources(&root().join(folder)) {
            let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
            assert!(lines <= 650, "{} has {lines} lines: split it", path.display());
        }
    }
}
