//! Walks over the topics that match a filter, and the list that operators see.

use std::ops::Bound;
use std::sync::PoisonError;

use lapwing_protocol::topic;

use super::key::RetainedKey;
use super::{Retained, RetainedState, VISITS_MAX};
use crate::message::{Message, Millis};

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

impl Retained {
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
}

impl RetainedState {
    /// Visits topics in order from behind `after`: those that match the filter, and those looked at
    /// on the way. Returns `true` when `visit` ended it.
    pub(super) fn walk(
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
