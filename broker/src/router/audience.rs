//! Receivers of a topic with the subscriptions that match, for people who ask. Messages take
//! another way, which keeps less.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use lapwing_protocol::QoS;

use super::Router;
use crate::message::SessionNumber;
use crate::router::target::merge;
use crate::router::{Group, Subscriber, Target};

/// Filters of a session that are named; further ones are only counted.
const FILTERS_MAX: usize = 16;

/// A session with the subscriptions by which it receives a topic.
#[derive(Clone, Debug)]
pub struct Match {
    /// Its matching subscriptions, merged into one.
    pub subscriber: Subscriber,
    /// Their filters, at most [`FILTERS_MAX`].
    pub filters: Vec<Box<str>>,
    /// Number of its matching filters.
    pub filter_count: usize,
    /// The shared group through which it matches.
    pub share: Option<ShareMatch>,
}

/// A session's membership in a shared group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareMatch {
    /// The share name.
    pub name: Box<str>,
    /// Number of members.
    pub members: usize,
    /// Set when the next message would go to this member.
    pub is_next: bool,
}

/// Receivers of a topic.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Number of sessions, each member of a group included.
    pub sessions: usize,
    /// Number of shared groups.
    pub groups: usize,
    /// Receivers behind the requested one, in the order of their session numbers.
    pub listeners: Vec<Match>,
}

impl Router {
    /// Returns the receivers of such a message: at most `most` sessions with a number above
    /// `after`.
    pub fn audience(&self, topic: &str, qos: QoS, size: usize, after: SessionNumber, most: usize) -> Matches {
        let mut direct: BTreeMap<SessionNumber, (Vec<Subscriber>, Vec<Box<str>>)> = BTreeMap::new();
        let mut groups: Vec<(Box<str>, Box<str>, Arc<Group>)> = Vec::new();
        let table = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        for (filter, node) in table.trie.matching(topic) {
            for subscriber in node.subscribers_behind(None) {
                let (subscribers, filters) = direct.entry(subscriber.outbox.session()).or_default();
                subscribers.push(subscriber.clone());
                if filters.len() < FILTERS_MAX {
                    filters.push(filter.as_str().into());
                }
            }
            let named =
                node.groups().map(|(name, group)| (name.into(), filter.as_str().into(), group.clone()));
            groups.extend(named);
        }
        drop(table);
        let mut audience = Matches { groups: groups.len(), ..Matches::default() };
        for (subscribers, filters) in direct.into_values() {
            let filter_count = subscribers.len();
            let merged = merge(subscribers).filter_map(|target| match target {
                Target::Session(subscriber, _) => Some(subscriber),
                Target::Share(_) => None,
            });
            audience.listeners.extend(merged.map(|subscriber| Match {
                subscriber,
                filters: filters.clone(),
                filter_count,
                share: None,
            }));
        }
        for (name, filter, group) in &groups {
            let next = group.next(qos, size).map(|member| member.outbox.session());
            audience.listeners.extend(group.members().iter().map(|member| Match {
                subscriber: member.clone(),
                filters: vec![filter.clone()],
                filter_count: 1,
                share: Some(ShareMatch {
                    name: name.clone(),
                    members: group.members().len(),
                    is_next: next == Some(member.outbox.session()),
                }),
            }));
        }
        audience.sessions = audience.listeners.len();
        audience.listeners.sort_by_key(Match::session);
        audience.listeners.retain(|listener| listener.session() > after);
        // Keep a session whole that is also in several groups.
        let last = audience.listeners.get(most.saturating_sub(1)).map(Match::session);
        audience.listeners.retain(|listener| last.is_none_or(|last| listener.session() <= last));
        audience
    }
}

impl Match {
    /// Returns the number of its session.
    pub fn session(&self) -> SessionNumber {
        self.subscriber.outbox.session()
    }
}
