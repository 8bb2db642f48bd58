//! A subscription as the router sees it: the session queue and the granted options.

use std::num::NonZeroU32;
use std::sync::Arc;

use lapwing_protocol::QoS;

use crate::message::{Delivery, DeliveryTerms, Message, SubscriptionIds};
use crate::outbox::Outbox;
use crate::session::Subscription;

/// A session's interest in a topic filter.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Queue for its messages.
    pub outbox: Arc<Outbox>,
    /// The QoS granted.
    pub qos: QoS,
    /// Set when its own messages are not delivered to it (`[MQTT-3.8.3-3]`).
    pub no_local: bool,
    /// Set when RETAIN stays as it was published.
    pub retain_as_published: bool,
    /// The Subscription Identifier.
    pub id: Option<NonZeroU32>,
}

impl Subscriber {
    /// Returns a session's subscription in the router's form.
    pub fn new(outbox: &Arc<Outbox>, held: &Subscription) -> Subscriber {
        Subscriber {
            outbox: outbox.clone(),
            qos: held.options.qos,
            no_local: held.options.no_local,
            retain_as_published: held.options.retain_as_published,
            id: held.id.and_then(NonZeroU32::new),
        }
    }

    /// Returns the delivery of a message to this subscriber (`[MQTT-3.8.4-8]`, `[MQTT-3.3.1-12]`,
    /// `[MQTT-3.3.1-13]`).
    pub(super) fn delivery(
        &self,
        message: Message,
        subscription_ids: SubscriptionIds,
        share: Option<NonZeroU32>,
    ) -> Delivery {
        let qos = message.qos().min(self.qos);
        let retain = self.retain_as_published && message.retain();
        Delivery { message, terms: DeliveryTerms { qos, retain, subscription_ids, share }, seq: 0 }
    }
}
