//! Reads TOML into values.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Listener;
use super::keys::SECTIONS;
use super::reading::{Origin, Reading, unknown, unknown_section};
use super::value::Given;

/// A TOML text, with lookup of line numbers.
struct File<'a> {
    text: &'a str,
    name: &'a str,
}

impl File<'_> {
    fn at(&self, at: usize) -> Origin {
        let line = self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        Origin::File(self.name.to_owned(), line)
    }
}

/// Reads a TOML text; `name` is the file's name in errors.
pub(super) fn read(text: &str, name: &str, reading: &mut Reading) {
    let file = File { text, name };
    match DeTable::parse(text) {
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reading.wrong(&file.at(at), error.message());
        }
        Ok(table) => sections(table.get_ref(), &file, reading),
    }
}

type TomlItem<'t, 'i> = (&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>);

/// Entries of a table in the order of the text.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<TomlItem<'t, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn sections(table: &DeTable<'_>, file: &File<'_>, reading: &mut Reading) {
    for (key, value) in in_order(table) {
        let (name, at) = (key.get_ref().as_ref(), file.at(key.span().start));
        match (name, value.get_ref()) {
            ("listener", DeValue::Array(tables)) => {
                for table in tables.iter() {
                    let at = file.at(table.span().start);
                    match table.get_ref() {
                        DeValue::Table(table) => listener(table, file, reading),
                        _ => reading.wrong(&at, "a listener must be a table; write [[listener]]"),
                    }
                }
            }
            ("listener", _) => {
                reading.wrong(&at, "there can be several listeners; write [[listener]] with two brackets")
            }
            ("include", value) => match given(value) {
                Given::List(paths) => {
                    let beside = Path::new(file.name).parent().unwrap_or_else(|| Path::new(""));
                    reading.includes.extend(paths.iter().map(|path| (beside.join(path), at.clone())));
                }
                _ => reading.wrong(&at, "include must be a list of files and folders, like [\"conf.d\"]"),
            },
            (section, DeValue::Table(table)) if SECTIONS.contains(&section) => {
                for (key, value) in in_order(table) {
                    let origin = file.at(key.span().start);
                    reading.set(section, key.get_ref(), &given(value.get_ref()), origin);
                }
            }
            (section, DeValue::Table(_)) => reading.wrong(&at, unknown_section(section)),
            (name, _) => reading.wrong(&at, unknown(name, "")),
        }
    }
}

fn listener(table: &DeTable<'_>, file: &File<'_>, reading: &mut Reading) {
    let number = reading.add_listener(Listener::default());
    for (key, value) in in_order(table) {
        let origin = file.at(key.span().start);
        reading.set_listener(number, key.get_ref(), &given(value.get_ref()), origin);
    }
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
