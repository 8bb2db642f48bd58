//! Subscriptions of a session, and cursors over the retained messages that its new subscriptions
//! still bring.

use std::collections::{BTreeMap, VecDeque};

use lapwing_protocol::packet::SubscriptionOptions;
use lapwing_protocol::{QoS, topic};

/// A subscription as the session holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The options, with the QoS that was granted.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier.
    pub id: Option<u32>,
}

/// Position in the retained topics that match the filters of one SUBSCRIBE. It advances filter by
/// filter, a few topics at a time, as fast as the client reads. So no queue is needed, however many
/// messages match.
#[derive(Debug, Default)]
pub struct RetainedCursor {
    filters: Vec<(Box<str>, Subscription)>,
    /// The filter whose topics are walked now.
    at: usize,
    /// The topic that was visited last.
    pub after: Option<Box<str>>,
}

impl RetainedCursor {
    /// Adds a filter.
    pub fn push(&mut self, filter: &str, held: Subscription) {
        self.filters.push((filter.into(), held));
    }

    /// Returns the filters.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().map(|(filter, _)| &**filter)
    }

    /// Returns `true` when there is no filter.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Returns the current filter, or `None` after the last one.
    pub fn filter(&self) -> Option<&str> {
        self.filters.get(self.at).map(|(filter, _)| &**filter)
    }

    /// Advances to the next filter.
    pub fn next_filter(&mut self) {
        self.at += 1;
        self.after = None;
    }

    /// Returns `true` when the topic matches an earlier filter of this cursor: each message is sent
    /// once.
    pub fn has_come(&self, topic: &str) -> bool {
        self.filters.iter().take(self.at).any(|(filter, _)| topic::matches(filter, topic))
    }

    fn forget(&mut self, filter: &str) {
        let Some(index) = self.filters.iter().position(|(asked, _)| **asked == *filter) else { return };
        self.filters.remove(index);
        if index < self.at {
            self.at -= 1;
        } else if index == self.at {
            self.after = None;
        }
    }

    /// Returns the terms for a topic, over all filters that match it: the highest QoS, whether
    /// RETAIN stays set, and all identifiers.
    pub fn matching(&self, topic: &str) -> Option<(QoS, impl Iterator<Item = u32>)> {
        let matching = || self.filters.iter().filter(move |(filter, _)| topic::matches(filter, topic));
        let qos = matching().map(|(_, held)| held.options.qos).max()?;
        Some((qos, matching().filter_map(|(_, held)| held.id)))
    }
}

/// The subscriptions of a session.
#[derive(Debug, Default)]
pub struct Subscriptions {
    held: BTreeMap<Box<str>, Subscription>,
    /// A cursor for each SUBSCRIBE whose retained messages are not all sent.
    pub cursors: VecDeque<RetainedCursor>,
}

impl Subscriptions {
    /// Adds or replaces a subscription (`[MQTT-3.8.4-3]`). Returns `true` when it is new.
    pub fn insert(&mut self, filter: &str, held: Subscription) -> bool {
        self.held.insert(filter.into(), held).is_none()
    }

    /// Removes a subscription, and stops sending its retained messages. Returns `false` when there
    /// was none.
    pub fn remove(&mut self, filter: &str) -> bool {
        for replay in &mut self.cursors {
            replay.forget(filter);
        }
        self.cursors.retain(|replay| replay.filter().is_some());
        self.held.remove(filter).is_some()
    }

    /// Returns the subscription with exactly this filter.
    pub fn get(&self, filter: &str) -> Option<&Subscription> {
        self.held.get(filter)
    }

    /// Returns `true` while retained messages for this filter are still to be sent.
    pub fn is_replaying(&self, filter: &str) -> bool {
        self.cursors.iter().any(|replay| replay.filters.iter().any(|(asked, _)| **asked == *filter))
    }

    /// Returns `true` when there is a subscription with exactly this filter.
    pub fn contains(&self, filter: &str) -> bool {
        self.held.contains_key(filter)
    }

    /// Number of subscriptions.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns `true` when there is none.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns all subscriptions.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Subscription)> {
        self.held.iter().map(|(filter, held)| (&**filter, held))
    }
}
