//! The prose of the pages: lengths of sentences and lines, and that the map names what is there.

use std::path::{Path, PathBuf};

use lapwing_tests::program::root;

/// Pages that are generated: their words belong to what they are made from.
const GENERATED: [&str; 3] = ["docs/CONFORMANCE.md", "docs/ABUSE.md", "docs/CONFIGURATION.md"];

/// Every Markdown file of the repository that is written by hand, with its text.
fn pages(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir()
            && name != "target"
            && name != "node_modules"
            && !name.to_string_lossy().starts_with('.')
        {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md")
            && !GENERATED.iter().any(|page| path.ends_with(page))
        {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// The lines of a page with their numbers, without blocks of code, tables and headings; a line
/// that is left out is `None` where it ends a paragraph.
fn prose(text: &str) -> impl Iterator<Item = (usize, Option<&str>)> {
    let mut code = false;
    text.lines().enumerate().map(move |(n, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        let other = ["|", "#", "!["].iter().any(|start| line.trim_start().starts_with(start));
        (n + 1, (!code && !fence && !other && !line.trim().is_empty()).then_some(line))
    })
}

/// The number of words of each sentence, with the line that its paragraph begins in. A code span is
/// one word, and an item of a list is a paragraph.
fn sentences(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut paragraph = (0, String::new());
    let mut end = |paragraph: &mut (usize, String)| {
        let outside: String = paragraph.1.split('`').step_by(2).collect::<Vec<_>>().join("x");
        let mut words = 0;
        for word in outside.split_whitespace() {
            words += 1;
            if word.trim_end_matches(['*', ')', '"']).ends_with(['.', '!', '?']) {
                found.push((paragraph.0, std::mem::take(&mut words)));
            }
        }
        if words > 0 {
            found.push((paragraph.0, words));
        }
        paragraph.1.clear();
    };
    for (n, line) in prose(text) {
        let item = line.is_some_and(|line| {
            let line = line.trim_start();
            let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
            line.starts_with("- ") || line.starts_with("* ") || (digits != line && digits.starts_with(". "))
        });
        if item || line.is_none() {
            end(&mut paragraph);
        }
        let Some(line) = line else { continue };
        if paragraph.1.is_empty() {
            paragraph.0 = n;
        }
        let text = if item { line.trim_start().split_once(' ').map_or("", |(_, rest)| rest) } else { line };
        paragraph.1.push_str(text);
        paragraph.1.push(' ');
    }
    end(&mut paragraph);
    found
}

#[test]
fn pages_have_short_sentences_and_lines() {
    let mut all = Vec::new();
    pages(&root(), &mut all);
    let mut wrong = Vec::new();
    for (path, text) in &all {
        let counted = sentences(text);
        let words: usize = counted.iter().map(|(_, words)| words).sum();
        if words > 16 * counted.len() {
            wrong.push(format!("{}: {words} words in {} sentences", path.display(), counted.len()));
        }
        for (n, words) in counted.iter().filter(|(_, words)| *words > 25) {
            wrong.push(format!("{}:{n}: a sentence of {words} words", path.display()));
        }
        for (n, line) in prose(text).filter_map(|(n, line)| Some((n, line?))) {
            if line.chars().count() > 100 && !line.contains("](") {
                wrong.push(format!("{}:{n}: {} columns", path.display(), line.chars().count()));
            }
        }
    }
    assert!(all.len() > 60 && wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every path that ARCHITECTURE and GLOSSARY name exists.
#[test]
fn paths_of_the_map_exist() {
    let root = root();
    let below = ["", "broker/src", "protocol/src", "embedded-client/src", "tests/tests/store"];
    let mut gone = Vec::new();
    for page in ["docs/ARCHITECTURE.md", "docs/GLOSSARY.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let spans = text.split("```").step_by(2).flat_map(|part| part.split('`').skip(1).step_by(2));
        for span in spans.filter(|span| span.ends_with(".rs") || span.ends_with('/')) {
            if !below.iter().any(|folder| root.join(folder).join(span).exists()) {
                gone.push(format!("{page}: {span}"));
            }
        }
    }
    assert!(gone.is_empty(), "{gone:#?}");
}

/// Every entry of the glossary is one line, in the order of the alphabet, and there are at most 60.
#[test]
fn the_glossary_has_at_most_60_entries() {
    let text = std::fs::read_to_string(root().join("docs/GLOSSARY.md")).unwrap();
    let words: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .filter_map(|line| line.split('|').nth(1).map(|word| word.trim().to_lowercase()))
        .collect();
    assert!(words.len() <= 60 && words.is_sorted(), "{}: {words:?}", words.len());
}
