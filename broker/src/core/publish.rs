//! Publishing: the steps that all publishers share, from connections to wills and the broker's own
//! messages.

use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use lapwing_protocol::{PacketId, QoS};
use tracing::{debug, warn};

use crate::auth::{Action, Identity, audit};
use crate::config::Config;
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::core::will::PendingWill;
use crate::message::{Durability, Message, MessageParts, PublishedBy, SessionNumber};
use crate::router::{Batch, BatchResult, RetainResult, RouteCache, Routed};
use crate::store::Ticket;
use crate::store::publish_record::PublishRecord;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::trace::{Step, TraceSubject};

/// Result of a publish.
#[derive(Clone, Copy, Debug)]
pub struct PublishResult {
    /// Result of routing it.
    pub routed: Routed,
    /// Result of retaining it, if it was to be retained.
    pub retained: RetainResult,
    /// Ticket of its acknowledgement.
    pub ticket: Ticket,
    /// Set when the store takes nothing now.
    pub unavailable: bool,
}

impl PublishResult {
    /// Returns the reason why the message was not taken, if it was not.
    pub fn refused(&self) -> Option<Reason> {
        match (self.unavailable, self.retained) {
            (true, _) | (_, RetainResult::Unavailable) => Some(Reason::StoreRefused),
            (false, RetainResult::Full) => Some(Reason::RetainedFull),
            (false, RetainResult::Kept) => self.routed.refused.then_some(Reason::SessionQueueRefused),
        }
    }

    /// Returns `true` when no subscription matched and the message was not retained.
    pub fn found_nobody(&self, message: &Message) -> bool {
        self.routed.matched + self.routed.no_local == 0 && !message.retain()
    }
}

impl Core {
    /// Keeps a message if it is retained, then routes it. In this order, a client that subscribes
    /// meanwhile gets the message at least once. `received` is the QoS 2 packet of a stored session
    /// that brought it.
    pub fn publish(
        &self,
        message: &Message,
        mut record: PublishRecord<'_>,
        received: Option<(SessionNumber, PacketId)>,
        cache: &mut RouteCache,
        wakers: &mut Vec<Waker>,
    ) -> PublishResult {
        if message.retain() && self.router.would_refuse(message, cache) {
            // Before the message replaces the retained one.
            let routed = Routed { refused: true, ..Routed::default() };
            return PublishResult {
                routed,
                retained: RetainResult::Kept,
                ticket: Ticket::default(),
                unavailable: false,
            };
        }
        let retained = message.retain();
        let kept =
            if retained { self.router.retained.keep(message, &mut record) } else { RetainResult::Kept };
        if kept != RetainResult::Kept {
            let unavailable = kept == RetainResult::Unavailable;
            return PublishResult {
                routed: Routed::default(),
                retained: kept,
                ticket: Ticket::default(),
                unavailable,
            };
        }
        if message.trace().is_some() {
            self.record_matches(message);
        }
        let routed = self.router.route(message, cache, wakers, &mut record);
        // No record of a refused message: its publisher may use the identifier again.
        let received = received.filter(|_| !routed.refused && !routed.unavailable);
        let unavailable = routed.unavailable || (received.is_some() && record.reserve().is_err());
        let ticket = record.commit(message, retained, received, None);
        PublishResult { routed, retained: kept, ticket, unavailable }
    }

    /// Routes a publisher's batch.
    pub fn flush(&self, batch: &mut Batch, wakers: &mut Vec<Waker>) -> BatchResult {
        // A batch has QoS 0 only and is not stored. The record is for stored messages that a full
        // queue drops.
        self.router.flush(batch, wakers, &mut PublishRecord::new(&*self.store, Durability::None))
    }

    fn publish_for_nobody(&self, message: &Message, record: PublishRecord<'_>) -> PublishResult {
        let mut wakers = Vec::new();
        let published = self.publish(message, record, None, &mut RouteCache::default(), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        published
    }

    /// Publishes an empty retained message to a topic, which removes the one it has; subscribers
    /// get it. Returns `false` when the store takes nothing now.
    pub fn clear_retained(&self, topic: &str) -> bool {
        let message = Message::new(&MessageParts {
            qos: QoS::AtLeastOnce,
            retain: true,
            published_at: self.now(),
            ..MessageParts::new(topic, &[])
        });
        let record = PublishRecord::new(&*self.store, Durability::Always);
        self.publish_for_nobody(&message, record).retained == RetainResult::Kept
    }

    /// Traces the matches of a message before it is routed.
    #[cold]
    fn record_matches(&self, message: &Message) {
        if !self.outcomes.traces.is_followed() {
            return;
        }
        let subject = TraceSubject::of(message);
        if message.retain() {
            self.outcomes.traces.record(&subject, None, Step::Retained);
        }
        let (sessions, groups) = self.router.count(message.topic_str());
        if sessions + groups > 0 {
            self.outcomes.traces.record(&subject, None, Step::Matched { sessions, groups });
        }
    }

    /// Publishes a will, if its client still may: rights may have changed since CONNECT.
    pub fn publish_will(&self, will: &PendingWill) {
        let PendingWill { will, session, client_id, identity } = will;
        let snapshot = self.settings.get();
        let policy = &snapshot.auth.policy;
        let may = policy.renew(identity, client_id, None).map_err(|refused| refused.text).and_then(|now| {
            let may = policy.allows(&now, client_id, Action::Publish, &will.topic);
            may.then_some(()).ok_or_else(|| policy.rule(&now, client_id, Action::Publish, &will.topic))
        });
        let (traces, since, at) = (&self.outcomes.traces, SystemTime::now(), self.now());
        let (topic, qos, bytes, properties) = (&*will.topic, will.qos, will.payload.len(), &*will.properties);
        let id = || traces.number(client_id, topic, properties, || self.next_number());
        let id = if traces.is_on() { id() } else { None };
        let subject = TraceSubject { id, from: Some(client_id), topic, qos, bytes, properties, at };
        if let Err(rule) = may {
            self.metrics.denied.add(1);
            audit::denied("will", client_id, identity, &will.topic, &rule, 0);
            self.outcomes.refused(Reason::DeniedPublish, &rule, &subject, None);
            traces.routed(&subject, since, Some(Reason::DeniedPublish));
            return;
        }
        debug!(client = %client_id, topic = %will.topic, "publishing the will");
        if traces.is_on() {
            traces.record(&subject, None, Step::Accepted("the will of a client that is gone".into()));
        }
        let record = PublishRecord::new(&*self.store, snapshot.config.store.durability_of(&will.topic, None));
        let source = published_by(&snapshot.config, identity, client_id).filter(|_| will.retain);
        let message = will.message(*session, at, source);
        let message = match id {
            Some(id) => message.with_trace(id),
            None => message,
        };
        let published = self.publish_for_nobody(&message, record);
        traces.routed(&subject, since, published.refused());
        if let Some(reason) = published.refused() {
            warn!(client = %client_id, topic = %will.topic, "the will is lost: {}", reason.text());
            self.outcomes.refused(reason, reason.text(), &subject, None);
        } else if published.found_nobody(&message) {
            self.outcomes.dropped_for_all(Reason::NoSubscriber, &message);
        }
    }

    /// Returns `true` when the publisher of a retained message still may publish it
    /// (CVE-2018-12546). Asked only when the rules have changed since.
    pub fn publisher_may(&self, snapshot: &Snapshot, message: &Message) -> bool {
        let Some(source) = message.source().filter(|_| message.published_at() < snapshot.since) else {
            return true;
        };
        let identity = Identity::unpacked(source.user.map(Arc::from), source.identity);
        let (policy, topic) = (&snapshot.auth.policy, message.topic_str());
        let Ok(identity) = policy.renew(&identity, source.client_id, None) else { return false };
        if let Some(reason) = &identity.unresolved {
            audit::unresolved_publisher(&self.log_pace, self.now(), source.client_id, topic, reason);
        }
        policy.allows(&identity, source.client_id, Action::Publish, topic)
    }
}

/// Returns the publisher, to be kept with a retained message; `None` where no rules can be asked
/// again.
pub fn published_by<'a>(
    config: &Config,
    identity: &'a Identity,
    client_id: &'a str,
) -> Option<PublishedBy<'a>> {
    let asks = config.auth.retained_source_checked && identity.rights.is_some() && identity.grants.is_none();
    asks.then(|| PublishedBy { client_id, user: identity.user.as_deref(), identity: identity.kept() })
}
