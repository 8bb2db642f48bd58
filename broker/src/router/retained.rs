//! Retained messages (`3.3.1.3`): the last message of each topic, in the order of their levels.
//!
//! The order makes delivery cheap in memory. A new subscription keeps the last topic that it was
//! sent, and asks for the next few as fast as its client reads. The store may change meanwhile.
//!
//! All topics are in memory. Messages are in memory as far as the cache goes where the store has
//! them; the others are fetched on demand.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use lapwing_protocol::topic;

use crate::config::Config;
use crate::message::{Delivery, DeliveryTerms, Expiry, Message, Millis, SubscriptionIds};
use crate::session::RetainedCursor;
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

/// A topic in the order of levels: `a/b` sorts before `a-b`, so that all topics below one prefix
/// are adjacent.
#[derive(Debug)]
enum RetainedKey {
    Message(Message),
    /// A message that only the store has.
    Stored(Box<StoredRetained>),
    /// A key for look-ups.
    Topic(Box<str>),
}

/// Facts in memory about a message that only the store has.
#[derive(Debug)]
struct StoredRetained {
    topic: Box<str>,
    size: u64,
    expires_at: Option<Millis>,
}

impl RetainedKey {
    fn topic(&self) -> &str {
        match self {
            RetainedKey::Message(message) => message.topic_str(),
            RetainedKey::Stored(stored) => &stored.topic,
            RetainedKey::Topic(topic) => topic,
        }
    }
}

impl Ord for RetainedKey {
    fn cmp(&self, other: &Self) -> Ordering {
        // `/` sorts below every other byte; U+0000 does not occur.
        let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
        self.topic().bytes().map(rank).cmp(other.topic().bytes().map(rank))
    }
}

impl PartialOrd for RetainedKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for RetainedKey {
    fn eq(&self, other: &Self) -> bool {
        self.topic() == other.topic()
    }
}

impl Eq for RetainedKey {}

/// Largest number of topics that one call visits, so that no walk delays others.
const VISITS_MAX: usize = 1_024;

/// Remaining work of one call.
struct Slice {
    messages: usize,
    visits: usize,
    /// Topics whose messages have to be fetched. Nothing is delivered behind the first, so that the
    /// order holds.
    missing: Vec<Box<str>>,
}

impl Slice {
    fn visit(&mut self, found: bool) {
        self.visits = self.visits.saturating_sub(1);
        self.messages = self.messages.saturating_sub(usize::from(found));
    }

    fn is_used_up(&self) -> bool {
        self.messages == 0 || self.visits == 0
    }

    fn deliver(&mut self, replay: &RetainedCursor, key: &RetainedKey, fetched: &Fetched) -> Option<Delivery> {
        let message = match key {
            RetainedKey::Message(message) => Some(message),
            _ => match fetched.get(key.topic()) {
                Some(message) => message.as_ref(),
                None => {
                    self.missing.push(key.topic().into());
                    None
                }
            },
        };
        message.filter(|_| self.missing.is_empty()).and_then(|message| delivery(replay, message))
    }
}

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

    /// Collects the next few messages for a new subscription. `fetched` has the store's replies.
    pub fn next(
        &self,
        replay: &mut RetainedCursor,
        most: usize,
        now: Millis,
        fetched: &Fetched,
        into: &mut impl Extend<Delivery>,
    ) -> Next {
        let mut slice = Slice { messages: most, visits: VISITS_MAX, missing: Vec::new() };
        while let Some(filter) = replay.filter() {
            if slice.is_used_up() {
                return Next::More;
            }
            // A filter without wildcards, the most usual one, is a single look-up.
            if !topic::has_wildcard(filter) {
                let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
                let key =
                    inner.messages.get_key_value(&RetainedKey::Topic(filter.into())).map(|(key, ())| key);
                let wanted = key.filter(|key| !key.has_expired(now) && !replay.has_come(key.topic()));
                slice.visit(wanted.is_some());
                into.extend(wanted.and_then(|key| slice.deliver(replay, key, fetched)));
            } else if self.walk(replay, &mut slice, now, fetched, into) {
                return if slice.missing.is_empty() { Next::More } else { Next::Fetch(slice.missing) };
            }
            if !slice.missing.is_empty() {
                return Next::Fetch(slice.missing);
            }
            replay.next_filter();
        }
        Next::End
    }

    /// Visits further topics of one filter; returns `true` when it stopped before their end.
    fn walk(
        &self,
        replay: &mut RetainedCursor,
        slice: &mut Slice,
        now: Millis,
        fetched: &Fetched,
        into: &mut impl Extend<Delivery>,
    ) -> bool {
        let filter = replay.filter().unwrap_or("").to_owned();
        let after = replay.after.clone();
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.walk(&filter, after, |key, matches| {
            let topic = key.topic();
            let found = matches && !key.has_expired(now) && !replay.has_come(topic);
            if found {
                into.extend(slice.deliver(replay, key, fetched));
            }
            slice.visit(found);
            // Topics that have to be fetched are visited once more.
            if slice.missing.is_empty() && (found || slice.is_used_up()) {
                replay.after = Some(topic.into());
            }
            slice.is_used_up()
        })
    }

    /// Shows at most `most` topics that match a filter, in order from behind `after`, with the
    /// bytes of their messages. Returns the topic to continue behind, if there may be more; a page
    /// may be empty and have a next one.
    pub fn browse(
        &self,
        filter: &str,
        after: Option<Box<str>>,
        most: usize,
        now: Millis,
        mut show: impl FnMut(RetainedEntry<'_>),
    ) -> Option<Box<str>> {
        let (mut visits, mut left, mut last) = (VISITS_MAX, most, None);
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.walk(filter, after, |key, matches| {
            visits -= 1;
            if matches && !key.has_expired(now) {
                left -= 1;
                show(RetainedEntry {
                    topic: key.topic(),
                    bytes: key.size(),
                    message: key.message(),
                    is_own: key.is_own(),
                });
            }
            let is_end = visits == 0 || left == 0;
            if is_end {
                last = Some(key.topic().into());
            }
            is_end
        });
        last
    }

    /// Removes expired messages, a slice at a time: continues behind `after` and returns the topic
    /// where it stopped. `forget` is called for each topic before another thread can give it a new
    /// message.
    pub fn sweep(
        &self,
        after: Option<Box<str>>,
        now: Millis,
        mut forget: impl FnMut(&str),
    ) -> Option<Box<str>> {
        let start = after.map_or(Bound::Unbounded, |topic| Bound::Excluded(RetainedKey::Topic(topic)));
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let mut void: Vec<Box<str>> = Vec::new();
        let mut last = None;
        for (visited, (key, ())) in inner.messages.range((start, Bound::Unbounded)).enumerate() {
            if visited >= VISITS_MAX {
                last = Some(key.topic().into());
                break;
            }
            if key.has_expired(now) {
                void.push(key.topic().into());
            }
        }
        for topic in void {
            forget(&topic);
            inner.remove(&RetainedKey::Topic(topic));
        }
        last
    }
}

/// A retained message in a list.
pub struct RetainedEntry<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Size of the message in bytes.
    pub bytes: u64,
    /// The message; `None` when only the store has it.
    pub message: Option<&'a Message>,
    /// Set when the broker itself published it.
    pub is_own: bool,
}

impl RetainedState {
    /// Visits topics in order from behind `after`: those that match the filter, and those looked at
    /// on the way. Returns `true` when `visit` ended it.
    fn walk(
        &self,
        filter: &str,
        after: Option<Box<str>>,
        mut visit: impl FnMut(&RetainedKey, bool) -> bool,
    ) -> bool {
        let prefix = literal_prefix(filter);
        let mut start = match after {
            Some(after) => Bound::Excluded(RetainedKey::Topic(after)),
            None => Bound::Included(RetainedKey::Topic(prefix.into())),
        };
        loop {
            let mut step = SeekStep::End;
            for (key, ()) in self.messages.range((start, Bound::Unbounded)) {
                let topic = key.topic();
                if !topic.starts_with(prefix) {
                    return false;
                }
                let matches = topic::matches(filter, topic);
                step = if matches { SeekStep::Next } else { after_mismatch(filter, topic) };
                if visit(key, matches) {
                    return true;
                }
                if !matches!(step, SeekStep::Next) {
                    break;
                }
            }
            match step {
                SeekStep::Seek(topic) => start = Bound::Included(RetainedKey::Topic(topic)),
                SeekStep::Next | SeekStep::End => return false,
            }
        }
    }

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

impl RetainedKey {
    fn stored(message: &Message) -> RetainedKey {
        RetainedKey::Stored(Box::new(StoredRetained {
            topic: message.topic_str().into(),
            size: message.size() as u64,
            expires_at: message.expires_at(),
        }))
    }

    fn message(&self) -> Option<&Message> {
        match self {
            RetainedKey::Message(message) => Some(message),
            _ => None,
        }
    }

    fn is_own(&self) -> bool {
        matches!(self, RetainedKey::Message(message) if message.publisher() == 0)
    }

    fn size(&self) -> u64 {
        match self {
            RetainedKey::Message(message) => message.size() as u64,
            RetainedKey::Stored(stored) => stored.size,
            RetainedKey::Topic(_) => 0,
        }
    }

    /// Returns its bytes in the cache.
    fn cached(&self) -> u64 {
        match self {
            RetainedKey::Message(message) => message.size() as u64,
            _ => 0,
        }
    }

    fn has_expired(&self, now: Millis) -> bool {
        match self {
            RetainedKey::Message(message) => message.expiry(now) == Expiry::Expired,
            RetainedKey::Stored(stored) => stored.expires_at.is_some_and(|at| at <= now),
            RetainedKey::Topic(_) => false,
        }
    }
}

fn delivery(replay: &RetainedCursor, message: &Message) -> Option<Delivery> {
    let (qos, ids) = replay.matching(message.topic_str())?;
    let terms = DeliveryTerms {
        // `[MQTT-3.3.1-8]`: a retained message for a new subscription says so.
        retain: true,
        subscription_ids: ids.collect::<SubscriptionIds>(),
        ..DeliveryTerms::plain(message.qos().min(qos))
    };
    Some(Delivery { message: message.clone(), terms, seq: 0 })
}

/// Returns the common prefix of all matching topics: the filter up to its first wildcard, whole
/// levels only.
fn literal_prefix(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']).unwrap_or(filter.len());
    let prefix = filter.get(..wildcard).unwrap_or("");
    // `a/#` matches `a` as well.
    if filter.get(wildcard..) == Some("#") { prefix.strip_suffix('/').unwrap_or(prefix) } else { prefix }
}

/// Next position after a topic that does not match.
enum SeekStep {
    Next,
    Seek(Box<str>),
    End,
}

/// Finds the next topic that could match from the level that differs. A literal that is still ahead
/// is jumped to. A branch that is behind the filter or too deep is skipped as a whole.
fn after_mismatch(filter: &str, topic: &str) -> SeekStep {
    let mut passed = 0;
    let mut levels = filter.split('/');
    for level in topic.split('/') {
        let before = topic.get(..passed).unwrap_or("");
        let wanted = levels.next();
        if wanted == Some("#") {
            return SeekStep::Next;
        }
        match wanted {
            Some(wanted) if wanted == "+" || wanted == level => passed += level.len() + 1,
            Some(wanted) if RetainedKey::Topic(level.into()) < RetainedKey::Topic(wanted.into()) => {
                return SeekStep::Seek(format!("{before}{wanted}").into());
            }
            // U+0001 sorts just behind `/`, so behind everything below the parent.
            _ => {
                return before
                    .strip_suffix('/')
                    .map_or(SeekStep::End, |parent| SeekStep::Seek(format!("{parent}\u{1}").into()));
            }
        }
    }
    SeekStep::Next
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::packet::SubscriptionOptions;
    use lapwing_protocol::{QoS, topic};

    use super::*;
    use crate::message::MessageParts;
    use crate::session::Subscription;

    fn message(topic: &str, payload: &str, expires_at: Option<Millis>) -> Message {
        Message::new(&MessageParts {
            topic,
            properties: &[],
            payload: payload.as_bytes(),
            qos: QoS::AtLeastOnce,
            retain: true,
            publisher: 1,
            published_at: 0,
            expires_at,
        })
    }

    fn replayed(retained: &Retained, filters: &[&str], most: usize) -> Vec<String> {
        let held = Subscription { options: SubscriptionOptions::default(), id: None };
        let mut replay = RetainedCursor::default();
        filters.iter().for_each(|filter| replay.push(filter, held));
        let mut all: Vec<Delivery> = Vec::new();
        while retained.next(&mut replay, most, 0, &HashMap::new(), &mut all) == Next::More {}
        all.iter().map(|delivery| delivery.message.topic_str().to_owned()).collect()
    }

    fn get(retained: &Retained, topic: &str, now: Millis) -> Option<Message> {
        let mut replay = RetainedCursor::default();
        replay.push(topic, Subscription { options: SubscriptionOptions::default(), id: None });
        let mut all: Vec<Delivery> = Vec::new();
        retained.next(&mut replay, 1, now, &HashMap::new(), &mut all);
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
        let mut replay = RetainedCursor::default();
        replay.push("t/#", Subscription { options: SubscriptionOptions::default(), id: None });
        let (mut got, mut fetched, mut fetches): (Vec<Delivery>, _, _) = (Vec::new(), HashMap::new(), 0);
        loop {
            match retained.next(&mut replay, 3, 0, &fetched, &mut got) {
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
                let mut got = replayed(&retained, &[filter], most);
                got.sort();
                let mut expected: Vec<_> =
                    topics.iter().filter(|t| topic::matches(filter, t)).cloned().collect();
                expected.sort();
                assert_eq!(got, expected, "{filter} by {most}");
            }
        }
        for most in [1, 3, 1_000] {
            let both = replayed(&retained, &["a/b", "a/#", "+/b", "c"], most);
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
