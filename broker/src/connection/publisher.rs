//! PUBLISH: the checks, the descent to the router, and the batch of messages that nobody waits for.

use std::task::Waker;

use lapwing_protocol::alias::{self, AliasError};
use lapwing_protocol::packet::Publish;
use lapwing_protocol::{QoS, ReasonCode};

use super::negotiated::AliasedTopic;
use super::{Connection, Exit};
use crate::auth::Action;
use crate::config::{DeniedPublish, mount};
use crate::connection::refusals::refusal;
use crate::core::publish::published_by;
use crate::core::publish_rules;
use crate::message::{Durability, Message, MessageParts, Millis, TraceId, forwarded};
use crate::router::{Batch, BatchResult, RouteCache};
use crate::session::{Acknowledgement, Violation};
use crate::store::Ticket;
use crate::store::publish_record::PublishRecord;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::trace::{Step, TraceSubject};

/// The publishing half of a connection.
#[derive(Default)]
pub(crate) struct Publisher {
    pub(super) cache: RouteCache,
    /// QoS 0 messages that are routed together.
    pub(super) batch: Batch,
    /// Wakers of subscribers, woken once this read is handled.
    pub(super) wakers: Vec<Waker>,
    /// Buffer for forwarded properties, and for packets that wait.
    pub(super) scratch: Vec<u8>,
}

impl Connection {
    /// Checks a message, routes and acknowledges it.
    #[inline]
    pub(super) fn on_publish(
        &mut self,
        publish: &Publish<'_>,
        acknowledgement: Option<Acknowledgement>,
        now: Millis,
    ) -> Result<(), Exit> {
        self.stats.counters.publish_received += 1;
        self.stats.counters.publish_bytes_received += publish.payload.len() as u64;
        // Taken out of `self`, since the topic name borrows from it.
        let mut aliases = std::mem::take(&mut self.inbound.aliases);
        let topic = self.as_agreed(publish).and_then(|()| self.topic_name(publish, &mut aliases));
        let outcome = topic.map(|topic| self.accept(publish, topic, now));
        self.inbound.aliases = aliases;
        let outcome = outcome.inspect_err(|_| self.core.outcomes.drops.add(Reason::Violation, 1))?;
        match (outcome, acknowledgement) {
            (Ok((reason, ticket)), Some(acknowledgement)) => {
                self.reply(Acknowledgement { reason, ..acknowledgement }, None, ticket);
                Ok(())
            }
            (Ok(_), None) => Ok(()),
            (Err(reason), acknowledgement) => self.refuse(reason, acknowledgement),
        }
    }

    /// Answers a PUBLISH that is not taken in, or ends the connection. MQTT 3 has no reason codes:
    /// without an answer, the client keeps what cannot be stored and sends it again.
    #[cold]
    fn refuse(&mut self, reason: Reason, acknowledgement: Option<Acknowledgement>) -> Result<(), Exit> {
        let closes = (reason == Reason::StoreRefused && acknowledgement.is_some())
            || (reason == Reason::DeniedPublish
                && self.snapshot.config.auth.denied_publish == DeniedPublish::Close);
        let refusal = refusal(reason);
        if closes && !self.negotiated.version.has_properties() {
            return Err(refusal.into());
        }
        if let Some(acknowledgement) = acknowledgement {
            let reply = self.owned.session.refuse(acknowledgement, refusal.reason);
            self.reply(reply, Some(refusal.text), Ticket::default());
        }
        Ok(())
    }

    /// Checks a PUBLISH against the limits that CONNACK has announced.
    fn as_agreed(&self, publish: &Publish<'_>) -> Result<(), Exit> {
        if publish.qos as u8 > self.negotiated.announced.qos_max {
            return Err(Violation::new(ReasonCode::QoSNotSupported, "a QoS above mqtt.qos_max").into());
        }
        if publish.retain && !self.negotiated.announced.retain_available {
            return Err(
                Violation::new(ReasonCode::RetainNotSupported, "mqtt.retain_available is false").into()
            );
        }
        Ok(())
    }

    /// Routes a message; counts, logs and traces a refusal.
    fn accept(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        now: Millis,
    ) -> Result<(ReasonCode, Ticket), Reason> {
        if self.core.outcomes.traces.is_on() {
            return self.take_followed(publish, topic, now);
        }
        let outcome = self.route(publish, topic, now, None);
        if let Err(reason) = outcome {
            self.not_taken(publish, topic, reason, None, now);
        }
        outcome
    }

    /// Returns the topic name of a PUBLISH, after topic aliases (`3.3.2.3.4`).
    fn topic_name<'a>(
        &self,
        publish: &Publish<'a>,
        aliases: &'a mut Vec<AliasedTopic>,
    ) -> Result<&'a str, Exit> {
        let Some(alias) = publish.properties.topic_alias() else { return Ok(publish.topic) };
        if aliases.is_empty() {
            aliases
                .resize_with(usize::from(self.negotiated.announced.topic_aliases_max), AliasedTopic::default);
        }
        let violation = match alias::resolve(aliases, alias, publish.topic.as_bytes()) {
            Ok(topic) => return Ok(std::str::from_utf8(topic).unwrap_or("")),
            Err(AliasError::OutOfRange) => Violation::new(
                ReasonCode::TopicAliasInvalid,
                "a topic alias above limits.topic_aliases_in_max",
            ),
            Err(AliasError::Unknown | AliasError::TopicTooLong) => {
                Violation::new(ReasonCode::ProtocolError, "a topic alias that was never introduced")
            }
        };
        Err(violation.into())
    }

    /// Checks a message and routes it. Returns the reason code and ticket of its acknowledgement.
    ///
    /// # Errors
    /// The reason why the message is not taken.
    pub(super) fn route(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        now: Millis,
        trace: Option<TraceId>,
    ) -> Result<(ReasonCode, Ticket), Reason> {
        let endpoint = &self.endpoint;
        publish_rules::check(topic, &publish.properties, publish.payload, &endpoint.limits, &endpoint.mqtt)?;
        let topic = &*mount::name(self.endpoint.listener.mount_point.as_ref(), topic);
        let (number, client_id) = (self.owned.session.number, &self.owned.session.client_id);
        if !self.snapshot.auth.policy.allows(&self.owned.identity, client_id, Action::Publish, topic) {
            return Err(Reason::DeniedPublish);
        }
        if trace.is_some() {
            self.tell_accepted(publish, topic, trace, now);
        }
        let message = self.message(publish, topic, now, trace);
        // No acknowledgement or trace needs the result of this message alone.
        if publish.qos == QoS::AtMostOnce && !publish.retain && trace.is_none() {
            self.push_to_batch(message);
            return Ok((ReasonCode::Success, Ticket::default()));
        }
        let durability = self.snapshot.config.store.durability_of(topic, self.endpoint.listener.durability);
        let received =
            publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce && self.owned.outbox.is_stored());
        let received = received.map(|packet_id| (number, packet_id));
        self.flush();
        let core = &self.core;
        let (cache, wakers) = (&mut self.publisher.cache, &mut self.publisher.wakers);
        let record = PublishRecord::in_batch(&mut self.commits.records, durability);
        let published = core.publish(&message, record, received, cache, wakers);
        self.pacing.slice.spend(u32::try_from(published.routed.matched).unwrap_or(u32::MAX));
        self.stats.counters.no_local += published.routed.no_local as u64;
        if let Some(reason) = published.refused() {
            return Err(reason);
        }
        if published.routed.matched > 0 {
            message.recycle();
            return Ok((ReasonCode::Success, published.ticket));
        }
        if published.found_nobody(&message) {
            self.stats.counters.no_subscriber += 1;
            if trace.is_some() {
                self.core.outcomes.traces.record(
                    &TraceSubject::of(&message),
                    None,
                    Step::Dropped(Reason::NoSubscriber),
                );
            }
        }
        Ok((ReasonCode::NoMatchingSubscribers, published.ticket))
    }

    /// Makes the message of a PUBLISH; `topic` has the mount point.
    #[inline]
    fn message(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        now: Millis,
        trace: Option<TraceId>,
    ) -> Message {
        let expires_at = publish.properties.message_expiry_interval_s().map(|s| now + u64::from(s) * 1000);
        let session = &self.owned.session;
        let source = published_by(&self.snapshot.config, &self.owned.identity, &session.client_id)
            .filter(|_| publish.retain);
        let content = MessageParts {
            topic,
            properties: forwarded(&publish.properties, &mut self.publisher.scratch),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            publisher: session.number,
            published_at: now,
            expires_at,
        };
        let message = Message::from_source(&content, source);
        match trace {
            Some(id) => message.with_trace(id),
            None => message,
        }
    }

    fn push_to_batch(&mut self, message: Message) {
        let Publisher { cache, batch, .. } = &mut self.publisher;
        if let Err(message) = batch.push(message, &self.core.router, cache) {
            self.flush();
            let Publisher { cache, batch, .. } = &mut self.publisher;
            // An empty batch takes any message.
            let _ = batch.push(message, &self.core.router, cache);
        }
    }

    /// Routes the batch.
    pub(super) fn flush(&mut self) {
        let Publisher { batch, wakers, .. } = &mut self.publisher;
        if batch.is_empty() {
            return;
        }
        let BatchResult { messages, routed, refused } = self.core.flush(batch, wakers);
        self.pacing.slice.spend(u32::try_from(routed.matched).unwrap_or(u32::MAX));
        self.stats.counters.no_local += routed.no_local as u64;
        if routed.matched + routed.no_local == 0 {
            self.stats.counters.no_subscriber += messages as u64;
        }
        for message in refused.into_values() {
            let reason = Reason::SessionQueueRefused;
            self.log_refusal("PUBLISH", message.topic_str(), &refusal(reason));
            let subject =
                TraceSubject { from: Some(&self.owned.session.client_id), ..TraceSubject::of(&message) };
            self.core.outcomes.refused(reason, reason.text(), &subject, Some(self.owned.outbox.recipient()));
        }
    }

    /// Returns the durability of the session's own records.
    pub(super) fn level(&self) -> Durability {
        self.endpoint.listener.durability.unwrap_or(self.snapshot.config.store.durability)
    }
}
