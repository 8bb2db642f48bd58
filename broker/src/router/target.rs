//! Receivers of one topic.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::message::SubscriptionIds;
use crate::router::{Group, Subscriber};

/// One receiver of a topic.
#[derive(Clone, Debug)]
pub enum Target {
    /// A session with all its matching subscriptions, merged into one (`[MQTT-3.3.4-2]`).
    Session(Subscriber, SubscriptionIds),
    /// A shared group: one of its members gets the message.
    Share(Arc<Group>),
}

/// Subscription identifiers that a message has at most. A client may have any number of overlapping
/// subscriptions; each copy of a message that waits for it would carry all of them.
const IDS_MAX: usize = 64;

/// Merges the matching subscriptions of each session: the highest QoS, each identifier once.
/// Sessions that the store keeps come first.
pub(super) fn merge(mut matched: Vec<Subscriber>) -> impl Iterator<Item = Target> {
    matched.sort_by_key(|subscriber| (!subscriber.outbox.is_stored(), subscriber.outbox.session()));
    let mut merged: Vec<(Subscriber, Vec<u32>)> = Vec::with_capacity(matched.len());
    for subscriber in matched {
        let ids = subscriber.id.map(NonZeroU32::get);
        match merged.last_mut() {
            Some((best, all)) if Arc::ptr_eq(&best.outbox, &subscriber.outbox) => {
                best.qos = best.qos.max(subscriber.qos);
                best.no_local &= subscriber.no_local;
                best.retain_as_published |= subscriber.retain_as_published;
                all.extend(ids);
            }
            _ => merged.push((subscriber, ids.into_iter().collect())),
        }
    }
    merged.into_iter().map(|(subscriber, mut ids)| {
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(IDS_MAX);
        Target::Session(subscriber, ids.into_iter().collect())
    })
}
