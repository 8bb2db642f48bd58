//! From TOML and the environment to the configuration.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, SECTIONS};
use super::value::Given;
use super::{Config, ConfigErrors, Listener};

/// Collects what is wrong, with the line.
struct Errors<'a> {
    text: &'a str,
    name: &'a str,
    found: Vec<String>,
}

impl Errors<'_> {
    fn push(&mut self, at: usize, what: String) {
        let line = self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        self.found.push(format!("{}:{line}: {what}", self.name));
    }
}

pub(super) fn parse(text: &str, name: &str) -> Result<Config, ConfigErrors> {
    let mut errors = Errors { text, name, found: Vec::new() };
    let mut config = Config::default();
    match DeTable::parse(text) {
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            errors.push(at, error.message().to_owned());
        }
        Ok(table) => sections(table.get_ref(), &mut config, &mut errors),
    }
    if errors.found.is_empty() { Ok(config) } else { Err(ConfigErrors(errors.found)) }
}

type Entry<'t, 'i> = (&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>);

/// The entries of a table in the order of the text.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn sections(table: &DeTable<'_>, config: &mut Config, errors: &mut Errors<'_>) {
    for (key, value) in in_order(table) {
        let (name, at) = (key.get_ref().as_ref(), key.span().start);
        match (name, value.get_ref()) {
            ("listener", DeValue::Array(tables)) => {
                config.listeners.clear();
                for table in tables.iter() {
                    match table.get_ref() {
                        DeValue::Table(table) => listener(table, config, errors),
                        _ => {
                            errors.push(table.span().start, "a listener is a table: [[listener]]".to_owned())
                        }
                    }
                }
            }
            ("listener", _) => {
                errors.push(at, "write [[listener]] with two brackets: there can be several".to_owned())
            }
            (section, DeValue::Table(table)) if SECTIONS.contains(&section) => {
                for (key, value) in in_order(table) {
                    set(config, section, key, value, errors);
                }
            }
            (section, DeValue::Table(_)) => {
                let nearest = nearest(section, SECTIONS.iter().copied().chain(["listener"]));
                let hint = nearest.map_or(String::new(), |nearest| format!("; did you mean [{nearest}]?"));
                errors.push(at, format!("unknown section [{section}]{hint}"));
            }
            (name, _) => errors.push(at, unknown(name, "")),
        }
    }
}

fn set(
    config: &mut Config,
    section: &str,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    errors: &mut Errors<'_>,
) {
    let name = key.get_ref().as_ref();
    match KEYS.iter().find(|key| key.section == section && key.name == name) {
        None => errors.push(key.span().start, unknown(name, section)),
        Some(key) => {
            let given = given(value.get_ref());
            if let Err(expected) = (key.set)(config, &given) {
                errors.push(value.span().start, wrong(key, &given, &expected));
            }
        }
    }
}

fn listener(table: &DeTable<'_>, config: &mut Config, errors: &mut Errors<'_>) {
    let mut listener = Listener::default();
    for (key, value) in in_order(table) {
        let name = key.get_ref().as_ref();
        let given = given(value.get_ref());
        match listener.set(name, &given) {
            None => errors.push(key.span().start, unknown(name, "listener")),
            Some(Err(expected)) => {
                errors.push(
                    value.span().start,
                    format!("listener.{name} = {given} is not allowed: expected {expected}"),
                );
            }
            Some(Ok(())) => {}
        }
    }
    config.listeners.push(listener);
}

fn wrong(key: &Key, given: &Given, expected: &str) -> String {
    format!(
        "{}.{} = {given} is not allowed: expected {expected} (default {})",
        key.section,
        key.name,
        (key.default)()
    )
}

fn unknown(name: &str, section: &str) -> String {
    let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("the key '{name}' belongs in [{}]", key.section);
    }
    let listener = super::listener::KEYS.iter().map(|(name, ..)| ("listener", *name));
    let all = || KEYS.iter().map(|key| (key.section, key.name)).chain(listener.clone());
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
    format!("unknown key '{name}'{place}{hint}")
}

fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= (name.len() / 3).max(2))
        .min()
        .map(|(_, candidate)| candidate)
}

fn given(value: &DeValue<'_>) -> Given {
    match value {
        DeValue::String(text) => Given::Text(text.to_string()),
        DeValue::Boolean(b) => Given::Boolean(*b),
        DeValue::Integer(n) => {
            i64::from_str_radix(n.as_str(), n.radix()).map_or(Given::Other("a number"), Given::Integer)
        }
        DeValue::Array(list) => {
            let texts = list.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            texts.collect::<Option<Vec<_>>>().map_or(Given::Other("a list"), Given::List)
        }
        DeValue::Float(_) => Given::Other("a fraction"),
        DeValue::Datetime(_) => Given::Other("a date"),
        DeValue::Table(_) => Given::Other("a table"),
    }
}

pub(super) fn environment(
    config: &mut Config,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigErrors> {
    let mut errors = Vec::new();
    for (variable, text) in variables {
        let Some((section, name)) = variable.strip_prefix("LAPWING_").and_then(|rest| rest.split_once("__"))
        else {
            continue;
        };
        let (section, name) = (section.to_lowercase(), name.to_lowercase());
        match KEYS.iter().find(|key| key.section == section && key.name == name) {
            None => errors.push(format!("environment {variable}: {}", unknown(&name, &section))),
            Some(key) => {
                let given = Given::Text(text);
                if let Err(expected) = (key.set)(config, &given) {
                    errors.push(format!("environment {variable}: {}", wrong(key, &given, &expected)));
                }
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
}
