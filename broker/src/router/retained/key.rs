//! The key of a retained message: its topic in the order of levels, with the message or its facts.

use std::cmp::Ordering;

use crate::message::{Expiry, Message, Millis};

/// A topic in the order of levels: `a/b` sorts before `a-b`, so that all topics below one prefix
/// are adjacent.
#[derive(Debug)]
pub(super) enum RetainedKey {
    Message(Message),
    /// A message that only the store has.
    Stored(Box<StoredRetained>),
    /// A key for look-ups.
    Topic(Box<str>),
}

/// Facts in memory about a message that only the store has.
#[derive(Debug)]
pub(super) struct StoredRetained {
    topic: Box<str>,
    size: u64,
    expires_at: Option<Millis>,
}

impl RetainedKey {
    pub(super) fn topic(&self) -> &str {
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

impl RetainedKey {
    pub(super) fn stored(message: &Message) -> RetainedKey {
        RetainedKey::Stored(Box::new(StoredRetained {
            topic: message.topic_str().into(),
            size: message.size() as u64,
            expires_at: message.expires_at(),
        }))
    }

    pub(super) fn message(&self) -> Option<&Message> {
        match self {
            RetainedKey::Message(message) => Some(message),
            _ => None,
        }
    }

    pub(super) fn is_own(&self) -> bool {
        matches!(self, RetainedKey::Message(message) if message.publisher() == 0)
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            RetainedKey::Message(message) => message.size() as u64,
            RetainedKey::Stored(stored) => stored.size,
            RetainedKey::Topic(_) => 0,
        }
    }

    /// Returns its bytes in the cache.
    pub(super) fn cached(&self) -> u64 {
        match self {
            RetainedKey::Message(message) => message.size() as u64,
            _ => 0,
        }
    }

    pub(super) fn has_expired(&self, now: Millis) -> bool {
        match self {
            RetainedKey::Message(message) => message.expiry(now) == Expiry::Expired,
            RetainedKey::Stored(stored) => stored.expires_at.is_some_and(|at| at <= now),
            RetainedKey::Topic(_) => false,
        }
    }
}
