//! Retained messages (`3.3.1.3`): the last message of each topic, in the order of their levels.
//!
//! The order is what makes delivery cheap in memory: a new subscription remembers the topic it was sent last and asks for
//! the next few, as fast as its client reads, whatever happens to the store meanwhile.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use lapwing_protocol::topic;

use crate::message::{Expiry, Message, Millis};
use crate::outbox::{Delivery, SubscriptionIds};
use crate::session::Replay;

/// What became of a message to be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is the retained message of its topic now, or its empty payload removed that.
    Done,
    /// The store is full: 0x97.
    Full,
}

/// The store.
#[derive(Debug)]
pub struct Retained {
    messages_max: usize,
    bytes_max: u64,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    messages: BTreeMap<Key, ()>,
    bytes: u64,
    /// The broker's own messages among them: no client can make them more, so they do not count against the bounds.
    own: usize,
}

/// A topic in the order of levels: `a/b` comes before `a-b`, so that all topics below one prefix stand together.
#[derive(Debug)]
enum Key {
    Message(Message),
    /// To ask with.
    Topic(Box<str>),
}

impl Key {
    fn topic(&self) -> &str {
        match self {
            Key::Message(message) => message.topic_str(),
            Key::Topic(topic) => topic,
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        // `/` sorts below every other byte; U+0000 does not occur.
        let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
        self.topic().bytes().map(rank).cmp(other.topic().bytes().map(rank))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.topic() == other.topic()
    }
}

impl Eq for Key {}

/// How many topics one call walks over, so that no walk keeps others waiting.
const VISITS_MAX: usize = 1_024;

/// What is left of one call.
struct Slice {
    messages: usize,
    visits: usize,
}

impl Slice {
    fn visit(&mut self, found: bool) {
        self.visits = self.visits.saturating_sub(1);
        self.messages = self.messages.saturating_sub(usize::from(found));
    }

    fn is_used_up(&self) -> bool {
        self.messages == 0 || self.visits == 0
    }
}

impl Retained {
    /// An empty store with its bounds.
    pub fn new(messages_max: usize, bytes_max: u64) -> Retained {
        Retained { messages_max, bytes_max, inner: RwLock::default() }
    }

    /// Keeps a message in place of the one that its topic had; an empty payload only removes (`[MQTT-3.3.1-6]`).
    pub fn keep(&self, message: &Message) -> Kept {
        let key = Key::Message(message.clone());
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let before = inner.messages.get_key_value(&key).map(|(key, ())| key.size());
        if !message.payload().is_empty() && !key.is_own() {
            let bytes = inner.bytes - before.unwrap_or(0) + message.size() as u64;
            if (before.is_none() && inner.messages.len() - inner.own >= self.messages_max)
                || bytes > self.bytes_max
            {
                return Kept::Full;
            }
        }
        // Insertion would keep the old key.
        inner.remove(&key);
        if !message.payload().is_empty() {
            inner.bytes += message.size() as u64;
            inner.own += usize::from(key.is_own());
            inner.messages.insert(key, ());
        }
        Kept::Done
    }

    /// The retained message of one topic.
    pub fn get(&self, topic: &str, now: Millis) -> Option<Message> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        match inner.messages.get_key_value(&Key::Topic(topic.into())) {
            Some((Key::Message(message), ())) if message.expiry(now) != Expiry::Expired => {
                Some(message.clone())
            }
            _ => None,
        }
    }

    /// Number and bytes.
    pub fn len(&self) -> (usize, u64) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        (inner.messages.len(), inner.bytes)
    }

    /// The next few messages for a new subscription; `false` when there are no more.
    pub fn next(
        &self,
        replay: &mut Replay,
        most: usize,
        now: Millis,
        into: &mut impl Extend<Delivery>,
    ) -> bool {
        let mut slice = Slice { messages: most, visits: VISITS_MAX };
        while let Some(filter) = replay.filter() {
            if slice.is_used_up() {
                return true;
            }
            // A filter without wildcards, the most usual kind, is one look-up.
            if !topic::has_wildcard(filter) {
                let message = self.get(filter, now).filter(|message| !replay.has_come(message.topic_str()));
                slice.visit(message.is_some());
                into.extend(message.and_then(|message| delivery(replay, &message)));
            } else if self.walk(replay, &mut slice, now, into) {
                return true;
            }
            replay.next_filter();
        }
        false
    }

    /// Walks on over the topics of one filter; `true` when it stopped before their end.
    fn walk(
        &self,
        replay: &mut Replay,
        slice: &mut Slice,
        now: Millis,
        into: &mut impl Extend<Delivery>,
    ) -> bool {
        let filter = replay.filter().unwrap_or("").to_owned();
        let prefix = literal_prefix(&filter);
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut start = match replay.after.take() {
            Some(after) => Bound::Excluded(Key::Topic(after)),
            None => Bound::Included(Key::Topic(prefix.into())),
        };
        loop {
            let mut step = Step::End;
            for (key, ()) in inner.messages.range((start, Bound::Unbounded)) {
                let topic = key.topic();
                if !topic.starts_with(prefix) {
                    return false;
                }
                step = Step::Next;
                let mut found = false;
                if !topic::matches(&filter, topic) {
                    step = after_mismatch(&filter, topic);
                } else if let Key::Message(message) = key
                    && message.expiry(now) != Expiry::Expired
                    && !replay.has_come(topic)
                {
                    found = true;
                    into.extend(delivery(replay, message));
                }
                slice.visit(found);
                if slice.is_used_up() {
                    replay.after = Some(topic.into());
                    return true;
                }
                if !matches!(step, Step::Next) {
                    break;
                }
            }
            match step {
                Step::Seek(topic) => start = Bound::Included(Key::Topic(topic)),
                Step::Next | Step::End => return false,
            }
        }
    }

    /// Removes what has expired, a slice of the store at a time: walks on after `after`, returns where it stopped.
    pub fn sweep(&self, after: Option<Box<str>>, now: Millis) -> Option<Box<str>> {
        let start = after.map_or(Bound::Unbounded, |topic| Bound::Excluded(Key::Topic(topic)));
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let mut void = Vec::new();
        let mut last = None;
        for (visited, (key, ())) in inner.messages.range((start, Bound::Unbounded)).enumerate() {
            if visited >= VISITS_MAX {
                last = Some(key.topic().into());
                break;
            }
            if let Key::Message(message) = key
                && message.expiry(now) == Expiry::Expired
            {
                void.push(message.clone());
            }
        }
        for message in void {
            inner.remove(&Key::Message(message));
        }
        last
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        if let Some((old, ())) = self.messages.remove_entry(key) {
            self.bytes -= old.size();
            self.own -= usize::from(old.is_own());
        }
    }
}

impl Key {
    fn is_own(&self) -> bool {
        matches!(self, Key::Message(message) if message.publisher() == 0)
    }

    fn size(&self) -> u64 {
        match self {
            Key::Message(message) => message.size() as u64,
            Key::Topic(_) => 0,
        }
    }
}

fn delivery(replay: &Replay, message: &Message) -> Option<Delivery> {
    let (qos, ids) = replay.matching(message.topic_str())?;
    Some(Delivery {
        message: message.clone(),
        qos: message.qos().min(qos),
        // `[MQTT-3.3.1-8]`: a retained message for a new subscription says so.
        retain: true,
        subscription_ids: ids.collect::<SubscriptionIds>(),
        share: None,
    })
}

/// What all topics that match begin with: the filter up to its first wildcard; whole levels only.
fn literal_prefix(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']).unwrap_or(filter.len());
    let prefix = filter.get(..wildcard).unwrap_or("");
    // `a/#` matches `a` as well.
    if filter.get(wildcard..) == Some("#") { prefix.strip_suffix('/').unwrap_or(prefix) } else { prefix }
}

/// Where to look after a topic that does not match.
enum Step {
    Next,
    Seek(Box<str>),
    End,
}

/// The level that differs says where the next topic that could match stands: a literal that is still ahead is jumped to, a
/// branch that is behind it or too deep is left as a whole.
fn after_mismatch(filter: &str, topic: &str) -> Step {
    let mut passed = 0;
    let mut levels = filter.split('/');
    for level in topic.split('/') {
        let before = topic.get(..passed).unwrap_or("");
        let wanted = levels.next();
        if wanted == Some("#") {
            return Step::Next;
        }
        match wanted {
            Some(wanted) if wanted == "+" || wanted == level => passed += level.len() + 1,
            Some(wanted) if Key::Topic(level.into()) < Key::Topic(wanted.into()) => {
                return Step::Seek(format!("{before}{wanted}").into());
            }
            // U+0001 sorts just behind `/`, so behind everything below the parent.
            _ => {
                return before
                    .strip_suffix('/')
                    .map_or(Step::End, |parent| Step::Seek(format!("{parent}\u{1}").into()));
            }
        }
    }
    Step::Next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Content;
    use crate::session::Held;
    use lapwing_protocol::packet::SubscriptionOptions;
    use lapwing_protocol::{QoS, topic};

    fn message(topic: &str, payload: &str, expires_at: Option<Millis>) -> Message {
        Message::new(&Content {
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
        let held = Held { options: SubscriptionOptions::default(), id: None };
        let mut replay = Replay::default();
        filters.iter().for_each(|filter| replay.push(filter, held));
        let mut all: Vec<Delivery> = Vec::new();
        while retained.next(&mut replay, most, 0, &mut all) {}
        all.iter().map(|delivery| delivery.message.topic_str().to_owned()).collect()
    }

    #[test]
    fn a_replay_in_small_steps_brings_what_the_plain_matcher_would_and_each_topic_once() {
        let levels = ["a", "b", "a-b", "", "c", "ab", "$x", "a\u{1}"];
        let retained = Retained::new(10_000, 1 << 30);
        let mut topics = Vec::new();
        for one in levels {
            topics.push(one.to_owned());
            for two in levels {
                topics.push(format!("{one}/{two}"));
                topics.extend(levels.iter().map(|three| format!("{one}/{two}/{three}")));
            }
        }
        topics.retain(|topic| !topic.is_empty());
        topics.iter().for_each(|topic| assert_eq!(retained.keep(&message(topic, "x", None)), Kept::Done));
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
        let retained = Retained::new(1, 1_000);
        assert_eq!(retained.keep(&message("t", "1", None)), Kept::Done);
        assert_eq!(retained.keep(&message("u", "1", None)), Kept::Full);
        assert_eq!(retained.keep(&message("t", "22", None)), Kept::Done);
        assert_eq!(retained.get("t", 0).map(|m| m.payload().to_vec()), Some(b"22".to_vec()));
        assert_eq!(retained.keep(&message("t", "", None)), Kept::Done);
        assert_eq!((retained.get("t", 0), retained.len()), (None, (0, 0)));
    }

    #[test]
    fn expired_messages_are_neither_delivered_nor_kept_for_long() {
        let retained = Retained::new(10, 1_000);
        retained.keep(&message("t", "1", Some(10)));
        retained.keep(&message("u", "1", None));
        assert!(retained.get("t", 9).is_some() && retained.get("t", 10).is_none());
        assert_eq!(retained.sweep(None, 10), None);
        assert_eq!(retained.len().0, 1);
    }
}
