//! Rust sources as the tidy tests read them: files below a folder, their code without tests and
//! comments.

use std::path::{Path, PathBuf};

use crate::program::root;

/// One source file.
pub struct Source {
    /// Its path from the root of the repository, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// Every `.rs` file below a folder of the repository, ordered by path.
pub fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    assert!(!paths.is_empty(), "{folder} has no sources");
    paths.sort();
    let relative = |path: &Path| path.strip_prefix(root()).expect("below the root").display().to_string();
    paths
        .into_iter()
        .map(|path| Source {
            path: relative(&path),
            text: std::fs::read_to_string(&path).expect("a source is UTF-8"),
        })
        .collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

impl Source {
    /// The lines in front of the test module, with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_tests = |pair: &[&str]| {
            pair[0] == "#[cfg(test)]" && pair[1].trim_start_matches("pub(crate) ").starts_with("mod ")
        };
        let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(n, line)| (n + 1, line))
    }

    /// Those of them that are no comment.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The lines of code that have one of these words, each as `path:line: text`.
    pub fn hits(&self, words: &[&str]) -> Vec<String> {
        self.code()
            .filter(|(_, line)| words.iter().any(|word| line.contains(word)))
            .map(|(n, line)| format!("{}:{n}: {}", self.path, line.trim()))
            .collect()
    }

    /// Name, first line and number of lines of each function that has a body, from `fn` to its
    /// brace.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let lines: Vec<(usize, &str)> = self.lines().collect();
        let mut functions = Vec::new();
        for (at, (number, line)) in lines.iter().enumerate() {
            let indent = &line[..line.len() - line.trim_start().len()];
            let Some(name) = function_name(line.trim_start()) else { continue };
            // rustfmt closes a body at the indentation that it was opened with.
            let close = format!("{indent}}}");
            let end = lines[at..].iter().position(|(_, line)| *line == close);
            let declared =
                lines[at..].iter().position(|(_, line)| line.trim_end().ends_with([';', '{', '}']));
            let has_body = declared.is_some_and(|declared| !lines[at + declared].1.trim_end().ends_with(';'));
            if let Some(end) = end.filter(|_| has_body && !line.trim_end().ends_with('}')) {
                functions.push((name.to_owned(), *number, end + 1));
            }
        }
        functions
    }

    /// Names of the types that are declared at the level of the module: `struct`, `enum`, `trait`,
    /// `type`.
    pub fn types(&self) -> Vec<String> {
        let at_module_level = |line: &&str| !line.starts_with(char::is_whitespace);
        self.code().map(|(_, line)| line).filter(at_module_level).filter_map(type_name).collect()
    }
}

fn type_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub") || *word == "unsafe");
    words.next().filter(|word| matches!(*word, "struct" | "enum" | "trait" | "type" | "union"))?;
    let name = words.next()?.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    Some(name.to_owned())
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    loop {
        match words.next()? {
            "fn" => break,
            "async" | "const" | "unsafe" | "extern" | "\"C\"" => {}
            word if word.starts_with("pub") => {}
            _ => return None,
        }
    }
    words.next()?.split(['(', '<']).next()
}
