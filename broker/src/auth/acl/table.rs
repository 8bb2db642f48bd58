//! Our format, TOML:
//!
//! ```toml
//! [groups]
//! operators = ["ann", "bob"]
//!
//! [[rule]]                        # whom: everybody, unless one of the next says more
//! users = ["sensor-7"]
//! groups = ["operators"]
//! anonymous = true                # clients without a user
//! clients = ["c1"]                # and of those only these client identifiers
//! listeners = ["plant"]           # and only by these listeners, by their `name`
//! publish = ["plant/%u/#"]        # what: %u is the user, %c the client identifier
//! subscribe = ["plant/+/state"]
//! all = ["shared/#"]              # both
//! deny_publish = []
//! deny_subscribe = ["plant/+/secret/#"]
//! deny = []                       # both
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Draft, Rule, RuleLocation, Subject};
use crate::auth::template;

/// Effects of the keys of a rule: denies, concerns publishing, concerns subscribing.
const EFFECTS: &[(&str, (bool, bool, bool))] = &[
    ("publish", (false, true, false)),
    ("subscribe", (false, false, true)),
    ("all", (false, true, true)),
    ("deny_publish", (true, true, false)),
    ("deny_subscribe", (true, false, true)),
    ("deny", (true, true, true)),
];
const OTHERS: &[&str] = &["users", "groups", "anonymous", "clients", "listeners"];

fn line(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

pub(super) fn parse(text: &str, name: &str) -> Draft {
    let mut draft = Draft::new(name);
    match DeTable::parse(text) {
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            draft.wrong(line(text, at), error.message());
        }
        Ok(table) => {
            for (key, value) in table.get_ref().iter() {
                let at = line(text, key.span().start);
                match (key.get_ref().as_ref(), value.get_ref()) {
                    ("groups", DeValue::Table(groups)) => groups_of(groups, text, &mut draft),
                    ("rule", DeValue::Array(rules)) => {
                        for rule in rules.iter() {
                            match rule.get_ref() {
                                DeValue::Table(table) => {
                                    rule_of(table, text, line(text, rule.span().start), &mut draft)
                                }
                                _ => {
                                    draft.wrong(line(text, rule.span().start), "a rule is a table: [[rule]]")
                                }
                            }
                        }
                    }
                    ("rule", _) => draft.wrong(at, "write [[rule]] with two brackets: there can be several"),
                    (other, _) => draft.wrong(
                        at,
                        format!("unknown key '{}'; there are [groups] and [[rule]]", other.escape_debug()),
                    ),
                }
            }
        }
    }
    draft
}

/// Returns the texts of a list, with their lines.
fn texts(value: &Spanned<DeValue<'_>>, text: &str, key: &str, draft: &mut Draft) -> Vec<(usize, Box<str>)> {
    let mut out = Vec::new();
    let mut one = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
        DeValue::String(item) => out.push((line(text, value.span().start), Box::from(item.as_ref()))),
        _ => draft.wrong(line(text, value.span().start), format!("'{key}' is a list of texts")),
    };
    match value.get_ref() {
        DeValue::Array(list) => list.iter().for_each(&mut one),
        _ => one(value),
    }
    out
}

fn groups_of(groups: &DeTable<'_>, text: &str, draft: &mut Draft) {
    for (group, users) in groups.iter() {
        let name: Box<str> = group.get_ref().as_ref().into();
        for (_, user) in texts(users, text, &name, draft) {
            draft.groups.entry(user).or_default().push(name.clone());
        }
    }
}

fn rule_of(table: &DeTable<'_>, text: &str, at: usize, draft: &mut Draft) {
    let (mut subjects, mut clients, mut listeners) = (Vec::new(), Vec::new(), Vec::new());
    let mut entries: Vec<(&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut topics = Vec::new();
    for (key, value) in entries {
        let name = key.get_ref().as_ref();
        let here = line(text, key.span().start);
        if let Some((_, effect)) = EFFECTS.iter().find(|(effect, _)| *effect == name) {
            topics.extend(
                texts(value, text, name, draft).into_iter().map(|(line, filter)| (line, filter, *effect)),
            );
            continue;
        }
        match (name, value.get_ref()) {
            ("users", _) => {
                subjects
                    .extend(texts(value, text, name, draft).into_iter().map(|(_, user)| Subject::User(user)));
            }
            ("groups", _) => {
                subjects.extend(
                    texts(value, text, name, draft).into_iter().map(|(_, group)| Subject::Group(group)),
                );
            }
            ("anonymous", DeValue::Boolean(true)) => subjects.push(Subject::Anonymous),
            ("anonymous", DeValue::Boolean(false)) => {}
            ("anonymous", _) => draft.wrong(here, "'anonymous' is true or false"),
            ("clients", _) => {
                clients.extend(texts(value, text, name, draft).into_iter().map(|(_, client)| client))
            }
            ("listeners", _) => {
                listeners.extend(texts(value, text, name, draft).into_iter().map(|(_, listener)| listener))
            }
            (other, _) => {
                let known = EFFECTS.iter().map(|(name, _)| *name).chain(OTHERS.iter().copied());
                let nearest =
                    known.min_by_key(|known| strsim::damerau_levenshtein(known, other)).unwrap_or_default();
                draft.wrong(
                    here,
                    format!("unknown key '{}' in a rule; did you mean '{nearest}'?", other.escape_debug()),
                );
            }
        }
    }
    let names_somebody = ["users", "groups", "anonymous"].iter().any(|key| table.contains_key(*key));
    match (subjects.is_empty(), names_somebody) {
        // An empty list means nobody, not everybody.
        (true, true) => return,
        (true, false) => subjects.push(Subject::Everyone),
        _ => {}
    }
    let none_of = |key: &str, names: &[Box<str>]| table.contains_key(key) && names.is_empty();
    if none_of("clients", &clients) || none_of("listeners", &listeners) {
        return;
    }
    if topics.is_empty() {
        return draft.wrong(at, "a rule says nothing: it needs one of publish, subscribe, all, deny_publish, deny_subscribe, deny");
    }
    let clients: Arc<[Box<str>]> = clients.into();
    let listeners: Arc<[Box<str>]> = listeners.into();
    for subject in subjects {
        let words: Arc<str> = subject.to_string().into();
        for (line, filter, (denies, publish, subscribe)) in &topics {
            let rule = Rule {
                denies: *denies,
                publish: *publish,
                subscribe: *subscribe,
                filter: filter.clone(),
                is_template: template::has_any(filter),
                listeners: listeners.clone(),
                clients: clients.clone(),
                source: RuleLocation { file: draft.file.clone(), line: *line },
                subject: words.clone(),
            };
            draft.add(&subject, rule);
        }
    }
}
