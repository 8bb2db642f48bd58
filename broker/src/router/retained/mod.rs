//! Retained messages (`3.3.1.3`): the last message of each topic, in the order of their levels.
//!
//! The order makes delivery cheap in memory. A new subscription keeps the last topic that it was
//! sent, and asks for the next few as fast as its client reads. The store may change meanwhile.
//!
//! All topics are in memory. Messages are in memory as far as the cache goes where the store has
//! them; the others are fetched on demand.

pub(super) mod browse;
mod cursor;
mod key;
mod sweep;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use self::key::RetainedKey;
use crate::config::Config;
use crate::message::{Message, Millis};
use crate::store::Store;
use crate::store::publish_record::PublishRecord;

/// Result of keeping a retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainResult {
    /// It is the retained message of its topic now, or its empty payload removed the old one.
    Kept,
    /// The limit of retained messages is reached: 0x97.
    Full,
    /// The store cannot take it now: 0x97.
    Unavailable,
}

/// Result of a look for more messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// There may be more messages.
    More,
    /// There are no more messages.
    End,
    /// The messages of these topics have to be fetched from the store first.
    Fetch(Vec<Box<str>>),
}

/// Messages that the store returned, by topic; `None`: it has none.
pub type Fetched = HashMap<Box<str>, Option<Message>>;

/// The retained messages of the broker.
#[derive(Debug)]
pub struct Retained {
    inner: RwLock<RetainedState>,
}

/// Limits of the retained messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct RetainedLimits {
    /// Largest number of messages.
    pub messages_max: usize,
    /// Largest number of their bytes.
    pub bytes_max: u64,
    /// Bytes of messages that stay in memory; no limit where nothing else keeps them.
    pub cache_bytes_max: u64,
}

impl RetainedLimits {
    /// Returns the configured limits.
    pub fn of(config: &Config, store: &dyn Store) -> RetainedLimits {
        RetainedLimits {
            messages_max: config.limits.retained_messages_max as usize,
            bytes_max: config.limits.retained_bytes_max,
            cache_bytes_max: if store.is_durable() { config.store.retained_cache_bytes } else { u64::MAX },
        }
    }
}

#[derive(Debug, Default)]
struct RetainedState {
    space: RetainedLimits,
    messages: BTreeMap<RetainedKey, ()>,
    bytes: u64,
    /// Bytes of messages in memory.
    cached: u64,
    /// Topic at which eviction from memory continues.
    eviction_cursor: Option<Box<str>>,
    /// Number of the broker's own messages. Clients cannot add to them, so they do not count
    /// against the limits.
    own: usize,
}

/// Largest number of topics that one call visits, so that no walk delays others.
const VISITS_MAX: usize = 1_024;

impl Retained {
    /// Creates an empty set with these limits.
    pub fn new(space: RetainedLimits) -> Retained {
        Retained { inner: RwLock::new(RetainedState { space, ..RetainedState::default() }) }
    }

    /// Replaces the limits. Present messages stay.
    pub fn set_limits(&self, space: RetainedLimits) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).space = space;
    }

    /// Restores a message of an earlier run; only the limit of the cache holds.
    pub fn restore(&self, message: Message) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let size = message.size() as u64;
        let key = if inner.cached + size > inner.space.cache_bytes_max {
            RetainedKey::stored(&message)
        } else {
            RetainedKey::Message(message)
        };
        inner.remove(&key);
        inner.insert(key);
    }

    /// Keeps a message in place of the previous one of its topic; an empty payload only removes
    /// (`[MQTT-3.3.1-6]`). Its LSN is reserved here, so that log and memory agree on the last of
    /// two messages.
    pub fn keep(&self, message: &Message, record: &mut PublishRecord<'_>) -> RetainResult {
        let key = RetainedKey::Message(message.clone());
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let before = inner.messages.get_key_value(&key).map(|(key, ())| key.size());
        if !message.payload().is_empty() && !key.is_own() {
            let bytes = inner.bytes - before.unwrap_or(0) + message.size() as u64;
            if (before.is_none() && inner.messages.len() - inner.own >= inner.space.messages_max)
                || bytes > inner.space.bytes_max
            {
                return RetainResult::Full;
            }
        }
        if record.reserve().is_err() {
            return RetainResult::Unavailable;
        }
        // Insertion would keep the old key.
        inner.remove(&key);
        if !message.payload().is_empty() {
            inner.insert(key);
            if inner.cached > inner.space.cache_bytes_max {
                let bytes = inner.space.cache_bytes_max / 8 * 7;
                inner.make_room(bytes);
            }
        }
        RetainResult::Kept
    }

    /// Returns the size of a topic's retained message in bytes.
    pub fn size_of(&self, topic: &str, now: Millis) -> Option<u64> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let key = inner.messages.get_key_value(&RetainedKey::Topic(topic.into())).map(|(key, ())| key);
        key.filter(|key| !key.has_expired(now)).map(RetainedKey::size)
    }

    /// Returns number and bytes of the messages.
    pub fn len(&self) -> (usize, u64) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        (inner.messages.len(), inner.bytes)
    }
}

impl RetainedState {
    fn insert(&mut self, key: RetainedKey) {
        self.bytes += key.size();
        self.cached += key.cached();
        self.own += usize::from(key.is_own());
        self.messages.insert(key, ());
    }

    fn remove(&mut self, key: &RetainedKey) {
        if let Some((old, ())) = self.messages.remove_entry(key) {
            self.bytes -= old.size();
            self.cached -= old.cached();
            self.own -= usize::from(old.is_own());
        }
    }

    /// Evicts messages that the store has, round robin, until at most `bytes` are in memory.
    fn make_room(&mut self, bytes: u64) {
        let start = self
            .eviction_cursor
            .take()
            .map_or(Bound::Unbounded, |topic| Bound::Excluded(RetainedKey::Topic(topic)));
        let mut left = self.cached.saturating_sub(bytes);
        let mut stored = Vec::new();
        for (key, ()) in self.messages.range((start, Bound::Unbounded)) {
            if left == 0 {
                break;
            }
            if let RetainedKey::Message(message) = key
                && !key.is_own()
            {
                left = left.saturating_sub(key.cached());
                stored.push(RetainedKey::stored(message));
            }
        }
        self.eviction_cursor = if left == 0 { stored.last().map(|key| key.topic().into()) } else { None };
        for key in stored {
            self.remove(&key);
            self.insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::packet::SubscriptionOptions;
    use lapwing_protocol::{QoS, topic};

    use super::*;
    use crate::message::{Delivery, MessageParts};
    use crate::session::{RetainedCursor, Subscription};

    fn message(topic: &str, payload: &str, expires_at: Option<Millis>) -> Message {
        Message::new(&MessageParts {
            qos: QoS::AtLeastOnce,
            retain: true,
            publisher: 1,
            expires_at,
            ..MessageParts::new(topic, payload.as_bytes())
        })
    }

    fn delivered(retained: &Retained, filters: &[&str], most: usize) -> Vec<String> {
        let held = Subscription { options: SubscriptionOptions::default(), id: None };
        let mut cursor = RetainedCursor::default();
        filters.iter().for_each(|filter| cursor.push(filter, held));
        let mut all: Vec<Delivery> = Vec::new();
        while retained.next(&mut cursor, most, 0, &HashMap::new(), &mut all) == Next::More {}
        all.iter().map(|delivery| delivery.message.topic_str().to_owned()).collect()
    }

    fn get(retained: &Retained, topic: &str, now: Millis) -> Option<Message> {
        let mut cursor = RetainedCursor::default();
        cursor.push(topic, Subscription { options: SubscriptionOptions::default(), id: None });
        let mut all: Vec<Delivery> = Vec::new();
        retained.next(&mut cursor, 1, now, &HashMap::new(), &mut all);
        all.pop().map(|delivery| delivery.message)
    }

    #[test]
    fn messages_outside_the_cache_are_fetched_and_stay_in_order() {
        let retained =
            Retained::new(RetainedLimits { messages_max: 1_000, bytes_max: 1 << 30, cache_bytes_max: 300 });
        let all: Vec<_> = (0..20).map(|n| message(&format!("t/{n:02}"), "x", None)).collect();
        all.iter().for_each(|message| {
            assert_eq!(retained.keep(message, &mut PublishRecord::disabled()), RetainResult::Kept)
        });
        assert_eq!(retained.len().0, 20);
        let mut cursor = RetainedCursor::default();
        cursor.push("t/#", Subscription { options: SubscriptionOptions::default(), id: None });
        let (mut got, mut fetched, mut fetches): (Vec<Delivery>, _, _) = (Vec::new(), HashMap::new(), 0);
        loop {
            match retained.next(&mut cursor, 3, 0, &fetched, &mut got) {
                Next::End => break,
                Next::More => {}
                Next::Fetch(topics) => {
                    fetches += 1;
                    assert!(topics.len() <= 3, "{topics:?}");
                    let of = |topic: &str| all.iter().find(|m| m.topic_str() == topic).cloned();
                    fetched = topics.iter().map(|topic| (topic.clone(), of(topic))).collect();
                }
            }
        }
        let topics: Vec<_> = got.iter().map(|delivery| delivery.message.topic_str().to_owned()).collect();
        assert_eq!(topics, all.iter().map(|m| m.topic_str().to_owned()).collect::<Vec<_>>());
        assert!(fetches > 0);
    }

    #[test]
    fn a_cursor_in_small_steps_finds_each_matching_topic_once() {
        let levels = ["a", "b", "a-b", "", "c", "ab", "$x", "a\u{1}"];
        let retained = Retained::new(RetainedLimits {
            messages_max: 10_000,
            bytes_max: 1 << 30,
            cache_bytes_max: u64::MAX,
        });
        let mut topics = Vec::new();
        for one in levels {
            topics.push(one.to_owned());
            for two in levels {
                topics.push(format!("{one}/{two}"));
                topics.extend(levels.iter().map(|three| format!("{one}/{two}/{three}")));
            }
        }
        topics.retain(|topic| !topic.is_empty());
        topics.iter().for_each(|topic| {
            assert_eq!(
                retained.keep(&message(topic, "x", None), &mut PublishRecord::disabled()),
                RetainResult::Kept
            )
        });
        let filters = [
            "#", "+", "a", "a/#", "a/+", "+/b", "+/b/#", "+/+/c", "a/+/c", "a-b/#", "/#", "/+", "b/c/ab",
            "$x/#", "+/$x/+",
        ];
        for filter in filters {
            for most in [1, 7, 1_000] {
                let mut got = delivered(&retained, &[filter], most);
                got.sort();
                let mut expected: Vec<_> =
                    topics.iter().filter(|t| topic::matches(filter, t)).cloned().collect();
                expected.sort();
                assert_eq!(got, expected, "{filter} by {most}");
            }
        }
        for most in [1, 3, 1_000] {
            let both = delivered(&retained, &["a/b", "a/#", "+/b", "c"], most);
            let expected =
                ["a/#", "+/b", "c"].map(|filter| topics.iter().filter(move |t| topic::matches(filter, t)));
            let expected: std::collections::BTreeSet<_> = expected.into_iter().flatten().collect();
            assert_eq!(both.len(), expected.len());
        }
    }

    // 3.1.1: [MQTT-3.3.1-10] [MQTT-3.3.1-11]  5.0: [MQTT-3.3.1-6] [MQTT-3.3.1-7]
    #[test]
    fn an_empty_payload_removes_and_is_not_kept() {
        let retained =
            Retained::new(RetainedLimits { messages_max: 1, bytes_max: 1_000, cache_bytes_max: u64::MAX });
        assert_eq!(
            retained.keep(&message("t", "1", None), &mut PublishRecord::disabled()),
            RetainResult::Kept
        );
        assert_eq!(
            retained.keep(&message("u", "1", None), &mut PublishRecord::disabled()),
            RetainResult::Full
        );
        assert_eq!(
            retained.keep(&message("t", "22", None), &mut PublishRecord::disabled()),
            RetainResult::Kept
        );
        assert_eq!(get(&retained, "t", 0).map(|m| m.payload().to_vec()), Some(b"22".to_vec()));
        assert_eq!(
            retained.keep(&message("t", "", None), &mut PublishRecord::disabled()),
            RetainResult::Kept
        );
        assert_eq!((get(&retained, "t", 0), retained.len()), (None, (0, 0)));
    }

    #[test]
    fn expired_messages_are_not_delivered_and_are_swept() {
        let retained =
            Retained::new(RetainedLimits { messages_max: 10, bytes_max: 1_000, cache_bytes_max: u64::MAX });
        retained.keep(&message("t", "1", Some(10)), &mut PublishRecord::disabled());
        retained.keep(&message("u", "1", None), &mut PublishRecord::disabled());
        assert!(get(&retained, "t", 9).is_some() && get(&retained, "t", 10).is_none());
        assert_eq!(retained.sweep(None, 10, |_| {}), None);
        assert_eq!(retained.len().0, 1);
    }
}
