//! SUBSCRIBE and UNSUBSCRIBE: each topic filter is judged alone, then the router and the session
//! learn of it.

use lapwing_protocol::packet::{
    self, Packet, ReasonCodes, RetainHandling, SubAck, Subscribe, UnsubAck, Unsubscribe,
};
use lapwing_protocol::property::Properties;
use lapwing_protocol::{QoS, ReasonCode, topic};
use tracing::debug;

use super::refusals::DENIED_SUBSCRIBE;
use super::reply::REASON_STRING_MAX;
use super::{Connection, Exit};
use crate::auth::Action;
use crate::config::mount;
use crate::router::Subscriber;
use crate::session::{RetainedCursor, Subscription, Violation};
use crate::store::{KeptSubscription, Record, Ticket};

/// Largest number of SUBSCRIBEs of one session whose retained messages are not all sent. A client
/// that reads never reaches it.
const REPLAYS_MAX: usize = 1_000;

impl Connection {
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe<'_>) -> Result<(), Exit> {
        let id = subscribe.properties.subscription_identifier();
        let mut reasons = Vec::new();
        let mut replay = RetainedCursor::default();
        let mut ticket = Ticket::default();
        let mut text = None;
        for subscription in subscribe.subscriptions.iter() {
            let filter = subscription.filter;
            match self.subscribe_one(&subscription, id) {
                Ok((held, wanted, recorded)) => {
                    ticket = ticket.and(recorded);
                    reasons.push(match held.options.qos {
                        QoS::AtMostOnce => ReasonCode::Success,
                        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
                        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
                    });
                    if wanted {
                        replay
                            .push(&mount::filter(self.endpoint.listener.mount_point.as_ref(), filter), held);
                    }
                }
                Err(refusal) => {
                    self.log_refusal("SUBSCRIBE", filter, &refusal);
                    text.get_or_insert(refusal.text);
                    reasons.push(refusal.reason);
                }
            }
        }
        if !replay.is_empty() {
            self.owned.session.subscriptions.cursors.push_back(replay);
        }
        let packet_id = subscribe.packet_id;
        let mut buffer = [0; REASON_STRING_MAX];
        let properties = self.words(text, &mut buffer);
        let answer = SubAck { packet_id, properties, reasons: ReasonCodes::new(&reasons) };
        self.send(&Packet::SubAck(answer), ticket);
        Ok(())
    }

    /// Subscribes to one filter. Returns the subscription, whether its retained messages are to be
    /// sent, and the ticket of its acknowledgement.
    fn subscribe_one(
        &mut self,
        subscription: &packet::Subscription<'_>,
        id: Option<u32>,
    ) -> Result<(Subscription, bool, Ticket), Violation> {
        let core = &self.core;
        let limits = &self.endpoint.limits;
        let refuse = |reason, text| Err(Violation::new(reason, text));
        let filter = subscription.filter;
        if topic::check_filter(filter).is_err() {
            return refuse(ReasonCode::TopicFilterInvalid, "the topic filter is not valid");
        }
        let inner = topic::shared(filter).map_or(filter, |(_, inner)| inner);
        if inner.len() > limits.topic_bytes_max as usize
            || topic::level_count(inner) > limits.topic_levels_max as usize
        {
            return refuse(
                ReasonCode::TopicFilterInvalid,
                "longer than limits.topic_bytes_max or limits.topic_levels_max",
            );
        }
        let filter = &*mount::filter(self.endpoint.listener.mount_point.as_ref(), filter);
        let inner = topic::shared(filter).map_or(filter, |(_, inner)| inner);
        let session = &mut self.owned.session;
        let known = session.subscriptions.contains(filter);
        if !known && session.subscriptions.len() >= limits.subscriptions_max as usize {
            return refuse(ReasonCode::QuotaExceeded, "limits.subscriptions_max is reached");
        }
        if session.subscriptions.cursors.len() >= REPLAYS_MAX {
            return refuse(
                ReasonCode::QuotaExceeded,
                "the retained messages of too many SUBSCRIBEs are still to be read",
            );
        }
        if !self.snapshot.auth.policy.allows(
            &self.owned.identity,
            &session.client_id,
            Action::Subscribe,
            inner,
        ) {
            return Err(DENIED_SUBSCRIBE);
        }
        let mut options = subscription.options;
        options.qos = options.qos.min(QoS::from_u8(self.negotiated.announced.qos_max).unwrap_or_default());
        let held = Subscription { options, id };
        session.subscriptions.insert(filter, held);
        core.router.subscribe(filter, Subscriber::new(&self.owned.outbox, &held));
        // `[MQTT-3.3.1-9]` … `[MQTT-3.3.1-11]`. No retained messages are sent for a shared
        // subscription (`4.8.2`).
        let wanted = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !known,
            RetainHandling::DoNotSend => false,
        };
        let wanted = wanted && topic::shared(filter).is_none();
        let session = &self.owned.session;
        let ticket = if self.owned.outbox.is_stored() {
            let subscription = KeptSubscription { held, group: core.router.group(filter), replay: wanted };
            let filter = filter.into();
            core.store
                .append(Record::Subscribed { session: session.number, filter, subscription }, self.level())
        } else {
            Ticket::default()
        };
        debug!(client = %session.client_id, filter, qos = ?options.qos, "subscribed");
        Ok((held, wanted, ticket))
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let core = self.core.clone();
        let mut reasons = Vec::new();
        let mut ticket = Ticket::default();
        for filter in unsubscribe.filters.iter() {
            if topic::check_filter(filter).is_err() {
                reasons.push(ReasonCode::TopicFilterInvalid);
                continue;
            }
            let filter = &*mount::filter(self.endpoint.listener.mount_point.as_ref(), filter);
            let level = self.level();
            let Some(removed) = core.remove_subscription(&mut self.owned, filter, level) else {
                reasons.push(ReasonCode::NoSubscriptionExisted);
                continue;
            };
            ticket = ticket.and(removed);
            reasons.push(ReasonCode::Success);
        }
        let packet_id = unsubscribe.packet_id;
        let answer =
            UnsubAck { packet_id, properties: Properties::NONE, reasons: ReasonCodes::new(&reasons) };
        self.send(&Packet::UnsubAck(answer), ticket);
    }
}
