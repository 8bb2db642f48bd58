//! Who is to have a topic, and by which subscriptions: for people who ask. Messages go another way,
//! which keeps less.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use lapwing_protocol::QoS;

use super::Router;
use crate::message::SessionNumber;
use crate::router::target::merge;
use crate::router::{Group, Subscriber, Target};

/// The filters of a session that are named; of more, only the number.
const FILTERS_MAX: usize = 16;

/// A session with the subscriptions by which it is to have a topic.
#[derive(Clone, Debug)]
pub struct Match {
    /// Its subscriptions that match, in one.
    pub subscriber: Subscriber,
    /// Their filters, a few at most.
    pub filters: Vec<Box<str>>,
    /// How many there are.
    pub filter_count: usize,
    /// The shared group by which it is.
    pub share: Option<ShareMatch>,
}

/// The place of a session in a shared group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareMatch {
    /// The share name.
    pub name: Box<str>,
    /// How many members there are.
    pub members: usize,
    /// Whether the next message would go to this one.
    pub is_next: bool,
}

/// Who is to have a topic.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// How many sessions, each member of a group included.
    pub sessions: usize,
    /// How many shared groups.
    pub groups: usize,
    /// Those behind the one that was asked for, in the order of their numbers.
    pub listeners: Vec<Match>,
}

impl Router {
    /// Who is to have such a message: `most` sessions with a number above `after`.
    pub fn audience(
        &self,
        topic: &str,
        (qos, size): (QoS, usize),
        after: SessionNumber,
        most: usize,
    ) -> Matches {
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
        // A session that is in several groups, too, is not torn apart.
        let last = audience.listeners.get(most.saturating_sub(1)).map(Match::session);
        audience.listeners.retain(|listener| last.is_none_or(|last| listener.session() <= last));
        audience
    }
}

impl Match {
    /// The number of its session.
    pub fn session(&self) -> SessionNumber {
        self.subscriber.outbox.session()
    }
}
