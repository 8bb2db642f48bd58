//! Mosquitto's format: `user NAME`, `topic [read|write|readwrite|deny] FILTER`, `pattern [...]
//! FILTER`.
//!
//! As in Mosquitto, `topic` lines before the first `user` are for clients without a user, and
//! `pattern` lines are for everybody, wherever they stand. Unlike Mosquitto, `deny` wins over every
//! line that allows.

use std::sync::Arc;

use super::{Draft, Rule, RuleLocation, Subject};
use crate::auth::template;

pub(super) fn parse(text: &str, name: &str) -> Draft {
    let mut draft = Draft::new(name);
    let mut user = Subject::Anonymous;
    let none: Arc<[Box<str>]> = Arc::from([]);
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim_end_matches('\r').trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let rest = rest.trim();
        match word {
            "user" if rest.is_empty() => draft.wrong(line, "'user' needs a name"),
            "user" => user = Subject::User(rest.into()),
            "topic" | "pattern" => {
                let (access, filter) = rest.split_once([' ', '\t']).unwrap_or(("", rest));
                let (denies, publish, subscribe, filter) = match access {
                    "read" => (false, false, true, filter.trim()),
                    "write" => (false, true, false, filter.trim()),
                    "readwrite" => (false, true, true, filter.trim()),
                    "deny" => (true, true, true, filter.trim()),
                    // Without a word of access a line is for read and write; the filter may hold
                    // spaces.
                    _ => (false, true, true, rest),
                };
                if filter.is_empty() {
                    draft.wrong(line, format!("'{word}' needs a topic filter"));
                    continue;
                }
                let pattern = word == "pattern";
                let subject = if pattern { Subject::Everyone } else { user.clone() };
                let rule = Rule {
                    denies,
                    publish,
                    subscribe,
                    filter: filter.into(),
                    is_template: pattern && template::has_any(filter),
                    listeners: none.clone(),
                    clients: none.clone(),
                    source: RuleLocation { file: draft.file.clone(), line },
                    subject: subject.to_string().into(),
                };
                draft.add(&subject, rule);
            }
            other => draft.wrong(line, format!("'{}' is none of user, topic, pattern", other.escape_debug())),
        }
    }
    draft
}
