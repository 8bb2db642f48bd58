//! Retained messages (`3.3.1.3`): the last message of each topic, in the order of their levels.
//!
//! The order is what makes delivery cheap in memory: a new subscription remembers the topic it was
//! sent last and asks for the next few, as fast as its client reads, whatever happens to the store
//! meanwhile.
//!
//! All topics are in memory, the messages only as far as the cache goes where a store has them: the
//! others are fetched when somebody wants them.

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

/// What became of a message to be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainResult {
    /// It is the retained message of its topic now, or its empty payload removed that.
    Kept,
    /// There are too many: 0x97.
    Full,
    /// The store takes nothing now: 0x97.
    Unavailable,
}

/// What a look for more messages brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Perhaps some, and there may be more.
    More,
    /// Perhaps some, and there are no more.
    End,
    /// Perhaps some; then those of these topics have to be fetched from the store.
    Fetch(Vec<Box<str>>),
}

/// What the store was asked for, by topic; `None`: it has none.
pub type Fetched = HashMap<Box<str>, Option<Message>>;

/// The store.
#[derive(Debug)]
pub struct Retained {
    inner: RwLock<RetainedState>,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RetainedLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of them.
    pub bytes_max: u64,
    /// How many bytes of them stay in memory: all where nothing else keeps them.
    pub cache_bytes_max: u64,
}

impl RetainedLimits {
    /// As it is configured.
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
    /// The part of it that is in memory.
    cached: u64,
    /// Where making room in memory goes on.
    eviction_cursor: Option<Box<str>>,
    /// The broker's own messages among them: no client can make them more, so they do not count
    /// against the bounds.
    own: usize,
}

/// A topic in the order of levels: `a/b` comes before `a-b`, so that all topics below one prefix
/// stand together.
#[derive(Debug)]
enum RetainedKey {
    Message(Message),
    /// The store has it.
    Stored(Box<StoredRetained>),
    /// To ask with.
    Topic(Box<str>),
}

/// What is known of a message that only the store has.
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

/// How many topics one call walks over, so that no walk keeps others waiting.
const VISITS_MAX: usize = 1_024;

/// What is left of one call.
struct Slice {
    messages: usize,
    visits: usize,
    /// Topics whose messages have to be fetched; nothing is delivered behind the first, so that the
    /// order stays.
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
    /// An empty store.
    pub fn new(space: RetainedLimits) -> Retained {
        Retained { inner: RwLock::new(RetainedState { space, ..RetainedState::default() }) }
    }

    /// Another bound. What is there already stays.
    pub fn set_limits(&self, space: RetainedLimits) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).space = space;
    }

    /// Takes over what an earlier run has kept; no bounds but the cache's hold.
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

    /// Keeps a message in place of the one that its topic had; an empty payload only removes
    /// (`[MQTT-3.3.1-6]`). Its place in the log is reserved here, so that log and memory agree
    /// on which of two messages is the last.
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

    /// The size of the retained message of a topic, in bytes, if it has one.
    pub fn size_of(&self, topic: &str, now: Millis) -> Option<u64> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let key = inner.messages.get_key_value(&RetainedKey::Topic(topic.into())).map(|(key, ())| key);
        key.filter(|key| !key.has_expired(now)).map(RetainedKey::size)
    }

    /// Number and bytes.
    pub fn len(&self) -> (usize, u64) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        (inner.messages.len(), inner.bytes)
    }

    /// The next few messages for a new subscription. `fetched` has what the store was asked for.
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
            // A filter without wildcards, the most usual kind, is one look-up.
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

    /// Walks on over the topics of one filter; `true` when it stopped before their end.
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
            // What has to be fetched is walked over once more.
            if slice.missing.is_empty() && (found || slice.is_used_up()) {
                replay.after = Some(topic.into());
            }
            slice.is_used_up()
        })
    }

    /// Shows `most` topics that match a filter, in order from behind `after` on, with the bytes
    /// that their messages take; the topic to go on behind, if there are more. It may be that
    /// none is shown and there are more.
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

    /// Removes what has expired, a slice of the store at a time: walks on after `after`, returns
    /// where it stopped. `forget` hears of each topic while nobody else can give it a new
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

/// A retained message, as somebody looks through them.
pub struct RetainedEntry<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// What it takes.
    pub bytes: u64,
    /// The message; `None`: only the store has it.
    pub message: Option<&'a Message>,
    /// The broker says it of itself.
    pub is_own: bool,
}

impl RetainedState {
    /// Visits topics in order from behind `after` on, those that match the filter and those that
    /// had to be looked at on the way, until `visit` says that it is enough: `true` then.
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

    /// Lets go of messages that the store has, round and round, until there are no more than
    /// `bytes` in memory.
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

    /// Its part of the cache.
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

/// What all topics that match begin with: the filter up to its first wildcard; whole levels only.
fn literal_prefix(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']).unwrap_or(filter.len());
    let prefix = filter.get(..wildcard).unwrap_or("");
    // `a/#` matches `a` as well.
    if filter.get(wildcard..) == Some("#") { prefix.strip_suffix('/').unwrap_or(prefix) } else { prefix }
}

/// Where to look after a topic that does not match.
enum SeekStep {
    Next,
    Seek(Box<str>),
    End,
}

/// The level that differs says where the next topic that could match stands: a literal that is
/// still ahead is jumped to, a branch that is behind it or too deep is left as a whole.
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
    fn what_is_not_in_memory_is_fetched_and_comes_in_its_place() {
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
    fn a_replay_in_small_steps_brings_what_the_plain_matcher_would_and_each_topic_once() {
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
    fn expired_messages_are_neither_delivered_nor_kept_for_long() {
        let retained =
            Retained::new(RetainedLimits { messages_max: 10, bytes_max: 1_000, cache_bytes_max: u64::MAX });
        retained.keep(&message("t", "1", Some(10)), &mut PublishRecord::disabled());
        retained.keep(&message("u", "1", None), &mut PublishRecord::disabled());
        assert!(get(&retained, "t", 9).is_some() && get(&retained, "t", 10).is_none());
        assert_eq!(retained.sweep(None, 10, |_| {}), None);
        assert_eq!(retained.len().0, 1);
    }
}
