//! `docs/CONFORMANCE.md`: each normative statement with the tests that show it.
//!
//! A dialogue names its statements in `shows3` and `shows5`; a Rust test has them in a comment
//! directly above it:
//! `// 3.1.1: [MQTT-4.7.1-1]  5.0: [MQTT-4.7.0-1]`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A statement.
struct Statement {
    standard: String,
    id: String,
    whom: String,
    text: String,
}

fn statements(root: &Path) -> Vec<Statement> {
    let text = std::fs::read_to_string(root.join("tests/cases/statements.tsv")).expect("the statements");
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| {
        let [standard, id, whom, text] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {row}")
        };
        assert!(["server", "client", "transport"].contains(&whom), "{row}");
        Statement { standard: standard.into(), id: id.into(), whom: whom.into(), text: text.into() }
    })
    .collect()
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && !["target", "node_modules", ".git"].contains(&&*name.to_string_lossy()) {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The tests of each `STANDARD ID`.
fn shown(root: &Path) -> BTreeMap<(String, String), Vec<String>> {
    let mut shown: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for case in crate::script::load(&root.join("tests/cases/conformance")) {
        for tag in &case.shows {
            let (standard, id) = tag.split_once(":MQTT-").expect("STANDARD:MQTT-ID");
            let test = format!("{}: {}", case.file.trim_end_matches(".case"), case.name);
            shown.entry((standard.to_owned(), id.to_owned())).or_default().push(test);
        }
    }
    let mut files = Vec::new();
    ["protocol", "broker", "tests"].iter().for_each(|folder| sources(&root.join(folder), &mut files));
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        let mut tags: Vec<(String, String)> = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("// ").filter(|comment| comment.contains("[MQTT-")) {
                let mut standard = None;
                for word in comment.split_whitespace() {
                    match word {
                        "3.1.1:" | "5.0:" => standard = Some(word.trim_end_matches(':').to_owned()),
                        _ => {
                            if let (Some(standard), Some(id)) = (&standard, word.strip_prefix("[MQTT-")) {
                                tags.push((standard.clone(), id.trim_end_matches(']').to_owned()));
                            }
                        }
                    }
                }
            } else if let Some(rest) = line.split("fn ").nth(1).filter(|_| !line.starts_with("//")) {
                let name = rest.split(['(', '<']).next().unwrap_or_default();
                let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
                for tag in tags.drain(..) {
                    shown.entry(tag).or_default().push(format!("`{place}`: {}", name.replace('_', " ")));
                }
            }
        }
    }
    shown
}

/// The document, and what is wrong with it.
pub fn make(root: &Path) -> (String, Vec<String>) {
    let (statements, mut shown) = (statements(root), shown(root));
    let mut wrong = Vec::new();
    let mut out = String::from(
        "# Conformance\n\nEvery normative statement of MQTT 3.1.1 and 5.0, in our own few words, with the tests that show it. Generated; \
         `cargo test -p lapwing-tests --test docs conformance` compares, and `LAPWING_UPDATE=1` before it writes. The dialogues stand in \
         `tests/cases/conformance/` and are played over sockets in every version they apply to.\n",
    );
    for standard in ["3.1.1", "5.0"] {
        let of = || statements.iter().filter(|statement| statement.standard == standard);
        let servers = of().filter(|statement| statement.whom == "server").count();
        let _ = write!(
            out,
            "\n## MQTT {standard}: {servers} of {} statements concern a server\n\n",
            of().count()
        );
        out.push_str("| statement | in short | shown by |\n|---|---|---|\n");
        for statement in of() {
            let tests = shown.remove(&(standard.to_owned(), statement.id.clone())).unwrap_or_default();
            let by = match (statement.whom.as_str(), tests.as_slice()) {
                ("server", []) => {
                    wrong.push(format!(
                        "MQTT {standard} [MQTT-{}] has no test: {}",
                        statement.id, statement.text
                    ));
                    "**nothing**".to_owned()
                }
                ("server", tests) => tests.join("<br>"),
                ("client", _) => "does not apply: it binds clients only".to_owned(),
                _ => "does not apply: TCP, TLS, WebSocket and Unix sockets give it".to_owned(),
            };
            let _ = writeln!(out, "| MQTT-{} | {} | {by} |", statement.id, statement.text);
        }
    }
    wrong.extend(
        shown
            .into_iter()
            .map(|((standard, id), tests)| format!("MQTT {standard} has no [MQTT-{id}], named by {tests:?}")),
    );
    (out, wrong)
}
