//! Removal of expired retained messages.

use std::ops::Bound;
use std::sync::PoisonError;

use super::key::RetainedKey;
use super::{Retained, VISITS_MAX};
use crate::message::Millis;

impl Retained {
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
