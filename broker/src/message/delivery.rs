//! The identifiers of the subscriptions that a message is delivered for.

use std::sync::Arc;

/// Subscription identifiers, mostly none or one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubscriptionIds {
    /// No subscription that matched had one.
    #[default]
    None,
    /// One.
    One(u32),
    /// Several overlapping subscriptions (`[MQTT-3.3.4-4]`). Seldom, so that one more step is no loss, and every message in a queue is smaller.
    Many(Arc<Box<[u32]>>),
}

impl SubscriptionIds {
    /// As a list.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            SubscriptionIds::None => &[],
            SubscriptionIds::One(id) => std::slice::from_ref(id),
            SubscriptionIds::Many(ids) => ids,
        }
    }
}

impl FromIterator<u32> for SubscriptionIds {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let ids: Vec<u32> = ids.into_iter().collect();
        match ids.as_slice() {
            [] => SubscriptionIds::None,
            [id] => SubscriptionIds::One(*id),
            _ => SubscriptionIds::Many(Arc::new(ids.into())),
        }
    }
}
