//! Lists subscriptions a page at a time: all of them, or those that match a topic. The lock is held
//! for one page.

use std::num::NonZeroU32;
use std::sync::PoisonError;

use lapwing_protocol::QoS;

use super::Router;
use super::trie::Node;
use crate::message::SessionNumber;
use crate::outbox::Readiness;
use crate::router::Subscriber;
use crate::router::table::SubscriptionTable;

/// A subscription in a list.
#[derive(Clone, Debug)]
pub struct ListedSubscription {
    /// Its position in the list.
    pub key: SubscriptionKey,
    /// The client identifier.
    pub client_id: std::sync::Arc<str>,
    /// The QoS granted.
    pub qos: QoS,
    /// Set when its own messages are not delivered to it.
    pub no_local: bool,
    /// Set when RETAIN stays as it was published.
    pub retain_as_published: bool,
    /// The Subscription Identifier.
    pub id: Option<NonZeroU32>,
    /// Set when the client is connected.
    pub connected: bool,
}

/// Position of a subscription among all.
///
/// They are ordered by filter (below each level `#`, `+`, then names). Those of one filter are
/// ordered by share name (unshared first), then by session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubscriptionKey {
    /// The topic filter, without its `$share` prefix.
    pub filter: String,
    /// The share name; empty when it is not shared.
    pub share: String,
    /// The session.
    pub session: SessionNumber,
}

/// Largest number of tree nodes that one page visits.
const NODES_MAX: usize = 4_096;
/// Sorts behind every share name.
const LAST: char = char::MAX;

impl SubscriptionKey {
    /// Returns a position behind all subscriptions of this filter.
    fn behind(filter: String) -> SubscriptionKey {
        SubscriptionKey { filter, share: LAST.to_string(), session: SessionNumber::MAX }
    }

    /// Encodes the position as a cursor.
    pub fn to_text(&self) -> String {
        format!("{}/{}/{}", self.session, self.share, self.filter)
    }

    /// Decodes a cursor of [`to_text`](Self::to_text). No share name holds a `/`.
    pub fn from_text(text: &str) -> Option<SubscriptionKey> {
        let mut parts = text.splitn(3, '/');
        let session = parts.next()?.parse().ok()?;
        let share = parts.next()?.to_owned();
        Some(SubscriptionKey { session, share, filter: parts.next()?.to_owned() })
    }
}

/// A page that is being filled.
struct BrowsePage {
    most: usize,
    found: Vec<ListedSubscription>,
}

impl BrowsePage {
    /// Adds the subscriptions of a node behind a position. Returns `true` when the page had no room
    /// for all of them.
    fn fill(&mut self, filter: &str, node: &Node, after: Option<&SubscriptionKey>) -> bool {
        let own = after.filter(|after| after.filter == filter);
        let passed_own = own.is_some_and(|after| !after.share.is_empty());
        if !passed_own {
            for subscriber in node.subscribers_behind(own.map(|after| after.session)) {
                if !self.add(filter, "", subscriber) {
                    return true;
                }
            }
        }
        for (name, group) in
            node.groups().filter(|(name, _)| own.is_none_or(|after| *name >= after.share.as_str()))
        {
            let mut members: Vec<&Subscriber> = group.members().iter().collect();
            members.sort_by_key(|member| member.outbox.session());
            let behind = own.filter(|after| after.share == name).map(|after| after.session);
            for member in
                members.into_iter().filter(|member| behind.is_none_or(|s| member.outbox.session() > s))
            {
                if !self.add(filter, name, member) {
                    return true;
                }
            }
        }
        false
    }

    fn add(&mut self, filter: &str, share: &str, subscriber: &Subscriber) -> bool {
        if self.found.len() >= self.most {
            return false;
        }
        let Subscriber { outbox, qos, no_local, retain_as_published, id } = subscriber;
        self.found.push(ListedSubscription {
            key: SubscriptionKey {
                filter: filter.to_owned(),
                share: share.to_owned(),
                session: outbox.session(),
            },
            client_id: outbox.client_id().clone(),
            qos: *qos,
            no_local: *no_local,
            retain_as_published: *retain_as_published,
            id: *id,
            connected: outbox.readiness(0) != Readiness::Away,
        });
        true
    }

    fn last(&self) -> Option<SubscriptionKey> {
        self.found.last().map(|subscription| subscription.key.clone())
    }
}

impl Router {
    /// Returns a page of at most `most` subscriptions behind a position, and the next position. An
    /// empty page may have a next one, too.
    pub fn browse(
        &self,
        after: Option<&SubscriptionKey>,
        most: usize,
    ) -> (Vec<ListedSubscription>, Option<SubscriptionKey>) {
        let table = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        let SubscriptionTable { trie, .. } = &*table;
        let mut page = BrowsePage { most, found: Vec::new() };
        let own = after.and_then(|after| Some((after, trie.node(&after.filter)?)));
        if let Some((after, node)) = own
            && page.fill(&after.filter, node, Some(after))
        {
            let next = page.last();
            return (page.found, next);
        }
        let (mut nodes, mut next) = (0, None);
        trie.walk(after.map(|after| after.filter.as_str()), |filter, node| {
            nodes += 1;
            if !node.has_subscriptions() {
                if nodes >= NODES_MAX {
                    next = Some(SubscriptionKey::behind(filter()));
                }
                return nodes >= NODES_MAX;
            }
            let filter = filter();
            if page.fill(&filter, node, None) {
                next = page.last();
            } else if nodes >= NODES_MAX {
                next = Some(SubscriptionKey::behind(filter));
            }
            next.is_some()
        });
        (page.found, next)
    }

    /// Returns a page of the subscriptions that match a topic, as [`browse`](Self::browse) does.
    pub fn matching(
        &self,
        topic: &str,
        after: Option<&SubscriptionKey>,
        most: usize,
    ) -> (Vec<ListedSubscription>, Option<SubscriptionKey>) {
        let table = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = table.trie.matching(topic);
        nodes.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut page = BrowsePage { most, found: Vec::new() };
        for (filter, node) in
            nodes.iter().filter(|(filter, _)| after.is_none_or(|after| *filter >= after.filter))
        {
            if page.fill(filter, node, after) {
                let next = page.last();
                return (page.found, next);
            }
        }
        (page.found, None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outbox::{Outbox, QueueLimits};
    use crate::router::{Retained, RetainedLimits, subscriber};

    /// Reads everything, in pages of this size.
    fn all(
        most: usize,
        look: impl Fn(Option<&SubscriptionKey>, usize) -> (Vec<ListedSubscription>, Option<SubscriptionKey>),
    ) -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), None::<SubscriptionKey>);
        loop {
            let (page, next) = look(after.as_ref(), most);
            assert!(page.len() <= most);
            found.extend(page.iter().map(|s| format!("{} {} {}", s.key.filter, s.key.share, s.key.session)));
            // Goes through the text form, as an API client does.
            match next {
                Some(next) => after = SubscriptionKey::from_text(&next.to_text()),
                None => return found,
            }
        }
    }

    #[test]
    fn pages_list_every_subscription_once_and_in_order() {
        let router = Router::new(Retained::new(RetainedLimits::default()), std::sync::Arc::default());
        let filters = [
            "#",
            "+/b",
            "a",
            "a/b",
            "a/b/c",
            "/",
            "/a",
            "$SYS/#",
            "$share/g/a/b",
            "$share/h/a/b",
            "$share/g/#",
            "b",
        ];
        for session in 1..=20 {
            let outbox = Arc::new(Outbox::new(session, QueueLimits::default()));
            for filter in filters.iter().take(session as usize) {
                router.subscribe(filter, subscriber(&outbox, QoS::AtMostOnce));
            }
        }
        let whole = all(1_000, |after, most| router.browse(after, most));
        assert_eq!(whole.len(), {
            let (count, shared) = router.counts();
            count + shared
        });
        let mut once = whole.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), whole.len());
        let matching = all(1_000, |after, most| router.matching("a/b", after, most));
        let plain: Vec<&str> = ["#", "+/b", "a/b"].to_vec();
        let expected: Vec<&String> =
            whole.iter().filter(|s| plain.contains(&s.split(' ').next().unwrap())).collect();
        assert_eq!(matching.len(), expected.len());
        for most in [1, 2, 3, 7, 50] {
            assert_eq!(all(most, |after, most| router.browse(after, most)), whole, "{most}");
            assert_eq!(all(most, |after, most| router.matching("a/b", after, most)), matching, "{most}");
        }
    }
}
