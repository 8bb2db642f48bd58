//! The identifiers of the subscriptions that a message is delivered for.

use std::num::NonZeroU32;
use std::sync::Arc;

use lapwing_protocol::QoS;

use crate::message::{Message, Seq};

/// Subscription identifiers, mostly none or one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubscriptionIds {
    /// No subscription that matched had one.
    #[default]
    None,
    /// One.
    One(u32),
    /// Several overlapping subscriptions (`[MQTT-3.3.4-4]`). Seldom, so that one more step is no
    /// loss, and every message in a queue is smaller.
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

/// A message for one session.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Terms to deliver it on.
    pub terms: DeliveryTerms,
    /// Its slot in the stored queue of the session; 0: it is in memory only.
    pub seq: Seq,
}

/// Terms on which one session gets a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryTerms {
    /// The QoS to deliver with, at most.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
    /// The shared group it was given out by: another member can have it if this one leaves.
    pub share: Option<NonZeroU32>,
}

impl DeliveryTerms {
    /// With this QoS, and nothing else to it.
    pub fn plain(qos: QoS) -> DeliveryTerms {
        DeliveryTerms { qos, retain: false, subscription_ids: SubscriptionIds::None, share: None }
    }
}
