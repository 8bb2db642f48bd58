//! Delivery of retained messages to a new subscription, a few at a time.

use std::sync::PoisonError;

use lapwing_protocol::topic;

use super::key::RetainedKey;
use super::{Fetched, Next, Retained, VISITS_MAX};
use crate::message::{Delivery, DeliveryTerms, Message, Millis, SubscriptionIds};
use crate::session::RetainedCursor;

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

    fn deliver(&mut self, cursor: &RetainedCursor, key: &RetainedKey, fetched: &Fetched) -> Option<Delivery> {
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
        message.filter(|_| self.missing.is_empty()).and_then(|message| delivery(cursor, message))
    }
}

impl Retained {
    /// Collects the next few messages for a new subscription. `fetched` has the store's replies.
    pub fn next(
        &self,
        cursor: &mut RetainedCursor,
        most: usize,
        now: Millis,
        fetched: &Fetched,
        into: &mut impl Extend<Delivery>,
    ) -> Next {
        let mut slice = Slice { messages: most, visits: VISITS_MAX, missing: Vec::new() };
        while let Some(filter) = cursor.filter() {
            if slice.is_used_up() {
                return Next::More;
            }
            // A filter without wildcards, the most usual one, is a single look-up.
            if !topic::has_wildcard(filter) {
                let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
                let key =
                    inner.messages.get_key_value(&RetainedKey::Topic(filter.into())).map(|(key, ())| key);
                let wanted = key.filter(|key| !key.has_expired(now) && !cursor.has_come(key.topic()));
                slice.visit(wanted.is_some());
                into.extend(wanted.and_then(|key| slice.deliver(cursor, key, fetched)));
            } else if self.walk(cursor, &mut slice, now, fetched, into) {
                return if slice.missing.is_empty() { Next::More } else { Next::Fetch(slice.missing) };
            }
            if !slice.missing.is_empty() {
                return Next::Fetch(slice.missing);
            }
            cursor.next_filter();
        }
        Next::End
    }

    /// Visits further topics of one filter; returns `true` when it stopped before their end.
    fn walk(
        &self,
        cursor: &mut RetainedCursor,
        slice: &mut Slice,
        now: Millis,
        fetched: &Fetched,
        into: &mut impl Extend<Delivery>,
    ) -> bool {
        let filter = cursor.filter().unwrap_or("").to_owned();
        let after = cursor.after.clone();
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.walk(&filter, after, |key, matches| {
            let topic = key.topic();
            let found = matches && !key.has_expired(now) && !cursor.has_come(topic);
            if found {
                into.extend(slice.deliver(cursor, key, fetched));
            }
            slice.visit(found);
            // Topics that have to be fetched are visited once more.
            if slice.missing.is_empty() && (found || slice.is_used_up()) {
                cursor.after = Some(topic.into());
            }
            slice.is_used_up()
        })
    }
}

fn delivery(cursor: &RetainedCursor, message: &Message) -> Option<Delivery> {
    let (qos, ids) = cursor.matching(message.topic_str())?;
    let terms = DeliveryTerms {
        // `[MQTT-3.3.1-8]`: a retained message for a new subscription says so.
        retain: true,
        subscription_ids: ids.collect::<SubscriptionIds>(),
        ..DeliveryTerms::plain(message.qos().min(qos))
    };
    Some(Delivery { message: message.clone(), terms, seq: 0 })
}
