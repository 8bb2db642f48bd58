//! A configuration while it is read: every value is set here, from any source, and remembered with
//! its origin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::declare::ConfigKey;
use super::keys::{KEYS, SECTIONS};
use super::value::Given;
use super::{Config, ConfigErrors, Listener, listener};

/// Origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File(String, usize),
    /// An environment variable.
    Environment(String),
    /// A command line argument.
    Flag(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File(name, line) => write!(f, "{name}:{line}"),
            Origin::Environment(variable) => write!(f, "environment {variable}"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A configuration in progress, with its errors and warnings.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The configuration as read so far.
    pub config: Config,
    /// Options without effect, with their replacements.
    pub warnings: Vec<String>,
    pub(super) errors: Vec<String>,
    /// Origins by section (or number of listener) and name.
    origins: BTreeMap<(KeyScope, &'static str), Origin>,
    /// Set when listeners were given, so that the default one is replaced.
    listeners_said: bool,
    /// Included files, to be read after the current one.
    pub(super) includes: Vec<(PathBuf, Origin)>,
}

/// Owner of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeyScope {
    Section(&'static str),
    Listener(usize),
}

impl Reading {
    /// Origin of a value; `None` for the default.
    #[cfg(feature = "internals")]
    pub(super) fn origin(&self, scope: KeyScope, name: &'static str) -> Option<&Origin> {
        self.origins.get(&(scope, name))
    }

    /// Completes the reading.
    ///
    /// # Errors
    /// All errors that were found.
    pub fn finish(self) -> Result<Reading, ConfigErrors> {
        if self.errors.is_empty() { Ok(self) } else { Err(ConfigErrors(self.errors)) }
    }

    pub(super) fn wrong(&mut self, origin: &Origin, what: impl std::fmt::Display) {
        self.errors.push(format!("{origin}: {what}"));
    }

    /// Sets a key of a section; `at` is the position of its value, if it differs from the name's.
    pub(super) fn set(&mut self, section: &str, name: &str, given: &Given, origin: Origin) {
        let Some(key) = KEYS.iter().find(|key| key.section == section && key.name == name) else {
            return self.wrong(&origin, unknown(name, section));
        };
        match (key.set)(&mut self.config, given) {
            Ok(()) => {
                self.origins.insert((KeyScope::Section(key.section), key.name), origin);
            }
            Err(expected) => self.wrong(&origin, not_allowed(key, given, &expected)),
        }
    }

    /// Adds a listener, in place of the default one if it is the first; returns its number.
    pub(super) fn add_listener(&mut self, listener: Listener) -> usize {
        if !std::mem::replace(&mut self.listeners_said, true) {
            self.config.listeners.clear();
        }
        self.config.listeners.push(listener);
        self.config.listeners.len() - 1
    }

    /// Sets a key of a listener.
    pub(super) fn set_listener(&mut self, number: usize, name: &str, given: &Given, origin: Origin) {
        let Some(key) = listener::KEYS.iter().find(|key| key.name == name) else {
            return self.wrong(&origin, unknown(name, "listener"));
        };
        let Some(listener) = self.config.listeners.get_mut(number) else { return };
        match (key.set)(listener, given) {
            Ok(()) => {
                self.origins.insert((KeyScope::Listener(number), key.name), origin);
            }
            Err(expected) => self.wrong(&origin, not_allowed(key, given, &expected)),
        }
    }

    /// Reads the `LAPWING_…` variables.
    pub(super) fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let mut variables: Vec<_> = variables.filter(|(name, _)| name.starts_with("LAPWING_")).collect();
        // Listeners in their order.
        variables.sort();
        for (variable, text) in variables {
            let path = variable.trim_start_matches("LAPWING_").to_lowercase();
            let parts: Vec<&str> = path.split("__").collect();
            let origin = Origin::Environment(variable.clone());
            match *parts.as_slice() {
                ["listener", number, name] => self.environment_listener(number, name, &text, origin),
                [section, name] => {
                    let known =
                        |name: &str| KEYS.iter().any(|key| key.section == section && key.name == name);
                    if let Some((name, given)) = self.value_of(name, text, known, &origin) {
                        self.set(section, name, &given, origin);
                    }
                }
                [] | [_] => {}
                _ => self.wrong(
                    &origin,
                    "this names no key; write LAPWING_SECTION__KEY, or LAPWING_LISTENER__0__KEY",
                ),
            }
        }
    }

    fn environment_listener(&mut self, number: &str, name: &str, text: &str, origin: Origin) {
        let there = self.config.listeners.len();
        let Some(number) = number.parse().ok().filter(|number| *number <= there) else {
            let text = format!(
                "there is no such listener; they are numbered from 0, and the next new one is {there}"
            );
            return self.wrong(&origin, text);
        };
        if number == there {
            self.config.listeners.push(Listener::default());
        }
        let known = |name: &str| listener::KEYS.iter().any(|key| key.name == name);
        if let Some((name, given)) = self.value_of(name, text.to_owned(), known, &origin) {
            self.set_listener(number, name, &given, origin);
        }
    }

    /// Value of a variable. `KEY_FILE` names a file that holds the value of `KEY`, unless there is
    /// a key of that name.
    fn value_of<'a>(
        &mut self,
        name: &'a str,
        text: String,
        known: impl Fn(&str) -> bool,
        origin: &Origin,
    ) -> Option<(&'a str, Given)> {
        let Some(stripped) = name.strip_suffix("_file").filter(|short| !known(name) && known(short)) else {
            return Some((name, Given::Text(text)));
        };
        match std::fs::read_to_string(&text) {
            Ok(content) => Some((stripped, Given::Text(content.trim_end_matches(['\n', '\r']).to_owned()))),
            Err(error) => {
                self.wrong(origin, format!("{text} cannot be read: {error}"));
                None
            }
        }
    }

    /// Files of this extension in a folder, by name; a file stands for itself.
    pub(super) fn files_of(&mut self, path: &Path, extension: &str, origin: &Origin) -> Vec<PathBuf> {
        if !path.is_dir() {
            return vec![path.to_owned()];
        }
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.wrong(origin, format!("{} cannot be read: {error}", path.display()));
                return Vec::new();
            }
        };
        let files = entries.flatten().map(|entry| entry.path());
        let mut files: Vec<_> =
            files.filter(|file| file.extension().is_some_and(|e| e == extension)).collect();
        files.sort();
        files
    }
}

fn not_allowed<T>(key: &ConfigKey<T>, given: &Given, expected: &str) -> String {
    format!(
        "{}.{} = {given} is not allowed: expected {expected} (default {})",
        key.section,
        key.name,
        (key.default)()
    )
}

pub(super) fn unknown(name: &str, section: &str) -> String {
    let shown = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    let all = || {
        let listener = listener::KEYS.iter().map(|key| (key.section, key.name));
        KEYS.iter().map(|key| (key.section, key.name)).chain(listener)
    };
    if let Some((of, _)) = all().find(|(of, known)| *known == name && *of != section) {
        let brackets = if of == "listener" { format!("[[{of}]]") } else { format!("[{of}]") };
        return format!("the key '{name}' belongs in {brackets}");
    }
    if !section.is_empty() && section != "listener" && !SECTIONS.contains(&section) {
        return unknown_section(section);
    }
    let here = nearest(name, all().filter(|(of, _)| *of == section).map(|(_, name)| name));
    let hint = match here {
        Some(nearest) => format!("; did you mean '{nearest}'?"),
        None => match nearest(name, all().map(|(_, name)| name)) {
            None => String::new(),
            Some(nearest) => {
                let of = all().find(|(_, name)| *name == nearest).map_or("", |(section, _)| section);
                format!("; did you mean '{nearest}' in [{of}]?")
            }
        },
    };
    format!("unknown key '{name}'{shown}{hint}")
}

pub(super) fn unknown_section(section: &str) -> String {
    let nearest = nearest(section, SECTIONS.iter().copied().chain(["listener"]));
    let hint = nearest.map_or(String::new(), |nearest| format!("; did you mean [{nearest}]?"));
    format!("unknown section [{section}]{hint}")
}

pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= (name.len() / 3).max(2))
        .min()
        .map(|(_, candidate)| candidate)
}
