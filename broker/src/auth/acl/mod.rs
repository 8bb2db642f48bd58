//! Access rules: rights to publish and to subscribe.
//!
//! A rule that denies wins over every rule that allows, whatever their order. Topics without an
//! allowing rule are denied. So a list of rules can be read in any order, and a rule that allows
//! never undoes one that denies.
//!
//! A subscription is allowed when one rule allows all that it could bring. Where a rule denies a
//! part of it, that part is not delivered: the policy is asked again for every message.

mod cover;
mod mosquitto;
mod table;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use lapwing_protocol::topic;

use super::template::Values;
use super::{Action, Identity};

/// Location of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLocation {
    /// The file, or another name of the list.
    pub file: Arc<str>,
    /// Line of the file, from 1; 0: it has none.
    pub line: usize,
}

impl std::fmt::Display for RuleLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// One rule about one topic filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Set when it denies; else it allows.
    pub denies: bool,
    /// Set when it concerns publishing.
    pub publish: bool,
    /// Set when it concerns subscribing and delivery.
    pub subscribe: bool,
    /// The topic filter, perhaps with `%u` and `%c`.
    pub filter: Box<str>,
    /// Set when the filter has `%u` or `%c`.
    pub is_template: bool,
    /// Names of the listeners that it is limited to; empty: all.
    pub listeners: Arc<[Box<str>]>,
    /// Client identifiers that it is limited to; empty: all.
    pub clients: Arc<[Box<str>]>,
    /// Location of the rule.
    pub source: RuleLocation,
    /// Subject of the rule in words.
    pub subject: Arc<str>,
}

impl Rule {
    fn is_conditional(&self) -> bool {
        self.is_template || !self.listeners.is_empty() || !self.clients.is_empty()
    }

    fn is_about(&self, action: Action) -> bool {
        match action {
            Action::Publish => self.publish,
            Action::Subscribe | Action::Receive => self.subscribe,
        }
    }

    fn applies(&self, action: Action, topic: &str, wide: bool) -> bool {
        match action {
            Action::Publish | Action::Receive => topic::matches(&self.filter, topic),
            Action::Subscribe if wide && !self.denies => cover::overlaps(&self.filter, topic),
            Action::Subscribe => cover::covers(&self.filter, topic),
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let effect = if self.denies { "deny" } else { "allow" };
        let action = match (self.publish, self.subscribe) {
            (true, true) => "publish and subscribe",
            (true, false) => "publish",
            _ => "subscribe",
        };
        write!(f, "{}: {effect} {action} '{}' for {}", self.source, self.filter, self.subject)
    }
}

/// Subject of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Everyone,
    Anonymous,
    User(Box<str>),
    Group(Box<str>),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Everyone => f.write_str("everybody"),
            Subject::Anonymous => f.write_str("clients without a user"),
            Subject::User(user) => write!(f, "user '{user}'"),
            Subject::Group(group) => write!(f, "group '{group}'"),
        }
    }
}

/// All rules of a file.
#[derive(Debug)]
pub struct Acl {
    file: Arc<str>,
    rules: HashMap<Subject, Arc<[Rule]>>,
    /// Groups of each user.
    groups: HashMap<Box<str>, Vec<Box<str>>>,
}

/// Rules and mistakes that a parser collects.
#[derive(Debug)]
struct Draft {
    file: Arc<str>,
    rules: HashMap<Subject, Vec<Rule>>,
    groups: HashMap<Box<str>, Vec<Box<str>>>,
    errors: Vec<String>,
}

impl Draft {
    fn new(file: &str) -> Draft {
        Draft { file: file.into(), rules: HashMap::new(), groups: HashMap::new(), errors: Vec::new() }
    }

    fn wrong(&mut self, line: usize, what: impl std::fmt::Display) {
        self.errors.push(format!("{}:{line}: {what}", self.file));
    }

    /// Adds a rule; a shared subscription counts as the filter inside it.
    fn add(&mut self, subject: &Subject, mut rule: Rule) {
        if let Some((_, inner)) = topic::shared(&rule.filter) {
            rule.filter = inner.into();
        }
        let sample = Values { user: Some("x"), client_id: "x" };
        let filter = if rule.is_template {
            sample.expand(&rule.filter).unwrap_or_default()
        } else {
            rule.filter.to_string()
        };
        if topic::check_filter(&filter).is_err() {
            let text = format!("'{}' is not a topic filter", rule.filter);
            return self.wrong(rule.source.line, text);
        }
        self.rules.entry(subject.clone()).or_default().push(rule);
    }

    fn finish(self) -> Result<Acl, Vec<String>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let rules = self.rules.into_iter().map(|(subject, rules)| (subject, rules.into())).collect();
        Ok(Acl { file: self.file, rules, groups: self.groups })
    }
}

impl Acl {
    /// Parses a text: TOML where the name ends in `.toml`, else Mosquitto's format.
    ///
    /// # Errors
    /// Returns every mistake, with its line.
    pub fn parse(text: &str, name: &str) -> Result<Acl, Vec<String>> {
        let draft = if Path::new(name).extension().is_some_and(|e| e == "toml") {
            table::parse(text, name)
        } else {
            mosquitto::parse(text, name)
        };
        draft.finish()
    }

    /// Returns `true` when there is no rule: everything is denied then.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the name of its file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns `true` when a rule is for some listeners only.
    pub fn names_listeners(&self) -> bool {
        self.rules.values().flat_map(|rules| rules.iter()).any(|rule| !rule.listeners.is_empty())
    }

    /// Returns the groups of a user: those of the file, and those that came with its credentials.
    pub fn groups_of(&self, user: Option<&str>, from_credentials: &[Box<str>]) -> Arc<[Box<str>]> {
        let mut groups: Vec<Box<str>> = from_credentials.to_vec();
        groups.extend(user.and_then(|user| self.groups.get(user)).into_iter().flatten().cloned());
        groups.sort();
        groups.dedup();
        groups.into()
    }

    /// Returns the rights of a client: the lists that concern it, and its templates expanded.
    /// `grants` come with its credentials.
    pub fn rights(&self, identity: &Identity, client_id: &str, wide: bool) -> Rights {
        let mut subjects = vec![Subject::Everyone];
        match &identity.user {
            Some(user) => subjects.push(Subject::User((**user).into())),
            None => subjects.push(Subject::Anonymous),
        }
        subjects.extend(identity.groups.iter().map(|group| Subject::Group(group.clone())));
        let lists = subjects.iter().filter_map(|subject| self.rules.get(subject)).cloned();
        Rights::new(self.file.clone(), lists.collect(), identity, client_id, wide)
    }
}

/// Decision about one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// This rule allows it, and none denies it.
    Allowed(&'a Rule),
    /// This rule denies it.
    Denied(&'a Rule),
    /// No rule allows it.
    NoRule,
}

/// Rights of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    file: Arc<str>,
    /// Rules as the file has them; templates are skipped.
    shared: Box<[Arc<[Rule]>]>,
    /// Expanded templates, and rules that came with the credentials.
    own: Box<[Rule]>,
    /// Set when a subscription is allowed where a part of it is.
    wide: bool,
    reads_all: bool,
}

impl Rights {
    /// Returns the rights of a client without a file of rules: those that its credentials grant.
    pub fn granted(identity: &Identity, client_id: &str, wide: bool) -> Rights {
        Rights::new("its credentials".into(), Vec::new(), identity, client_id, wide)
    }

    fn new(
        file: Arc<str>,
        shared: Vec<Arc<[Rule]>>,
        identity: &Identity,
        client_id: &str,
        wide: bool,
    ) -> Rights {
        let values = Values { user: identity.user.as_deref(), client_id };
        let conditional = shared.iter().flat_map(|list| list.iter()).filter(|rule| rule.is_conditional());
        let own = conditional.chain(identity.grants.iter().flat_map(|grants| grants.iter())).filter(|rule| {
            let named =
                |names: &[Box<str>], name: &str| names.is_empty() || names.iter().any(|n| **n == *name);
            named(&rule.listeners, &identity.listener) && named(&rule.clients, client_id)
        });
        let own = own.filter_map(|rule| {
            let filter = match (rule.is_template, rule.denies) {
                (false, _) => return Some(rule.clone()),
                (true, true) => values.expand_widely(&rule.filter),
                (true, false) => values.expand(&rule.filter).ok()?,
            };
            Some(Rule { filter: filter.into(), ..rule.clone() })
        });
        let own: Box<[Rule]> = own.collect();
        let mut rights = Rights { file, shared: shared.into(), own, wide, reads_all: false };
        let reads = || rights.rules().filter(|rule| rule.subscribe);
        rights.reads_all =
            reads().any(|rule| !rule.denies && *rule.filter == *"#") && !reads().any(|rule| rule.denies);
        rights
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        let shared = self.shared.iter().flat_map(|list| list.iter()).filter(|rule| !rule.is_conditional());
        shared.chain(&self.own)
    }

    /// Returns the decision, with the deciding rule.
    pub fn decide(&self, action: Action, topic: &str) -> Decision<'_> {
        let mut allowed = Decision::NoRule;
        for rule in self.rules().filter(|rule| rule.is_about(action)) {
            if (rule.denies || allowed == Decision::NoRule) && rule.applies(action, topic, self.wide) {
                match rule.denies {
                    true => return Decision::Denied(rule),
                    false => allowed = Decision::Allowed(rule),
                }
            }
        }
        allowed
    }

    /// Returns `true` when the action is allowed.
    pub fn allows(&self, action: Action, topic: &str) -> bool {
        matches!(self.decide(action, topic), Decision::Allowed(_))
    }

    /// Returns `true` when every message may be delivered, topics that begin with `$` apart.
    pub fn reads_all(&self) -> bool {
        self.reads_all
    }

    /// Returns the rules that deny a part of a subscription.
    #[cfg(feature = "internals")]
    pub fn exceptions<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules().filter(|rule| rule.denies && rule.subscribe && cover::overlaps(&rule.filter, filter))
    }

    /// Returns the deciding rule in words.
    pub fn explain(&self, action: Action, topic: &str) -> String {
        match self.decide(action, topic) {
            Decision::Allowed(rule) | Decision::Denied(rule) => rule.to_string(),
            Decision::NoRule => {
                let nearly = self.rules().find(|rule| {
                    action == Action::Subscribe
                        && rule.subscribe
                        && !rule.denies
                        && cover::overlaps(&rule.filter, topic)
                });
                match nearly {
                    Some(rule) => format!("{}: no rule allows all of it; the nearest is {rule}", self.file),
                    None => format!("{}: no rule allows it", self.file),
                }
            }
        }
    }
}
