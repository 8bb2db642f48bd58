//! Traces of one connection's messages; nothing of it runs while nobody traces.

use std::time::SystemTime;

use lapwing_protocol::packet::{Packet, Publish};
use lapwing_protocol::{PacketType, ReasonCode};

use super::Connection;
use crate::auth::Action;
use crate::config::mount;
use crate::message::{Millis, TraceId};
use crate::store::Ticket;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::trace::{Step, TraceSubject};

impl Connection {
    /// Returns the rule that decides what this client may do with a topic of the broker.
    pub(super) fn rule(&self, action: Action, topic: &str) -> String {
        let (client_id, identity) = (&self.owned.session.client_id, &self.owned.identity);
        self.snapshot.auth.policy.rule(identity, client_id, action, topic)
    }

    pub(super) fn subject<'a>(
        &'a self,
        publish: &Publish<'a>,
        topic: &'a str,
        id: Option<TraceId>,
        at: Millis,
    ) -> TraceSubject<'a> {
        let from = Some(&self.owned.session.client_id);
        let properties = publish.properties.as_bytes();
        TraceSubject { id, from, topic, qos: publish.qos, bytes: publish.payload.len(), properties, at }
    }

    /// Routes a message that a trace may want.
    #[cold]
    pub(super) fn take_followed(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        now: Millis,
    ) -> Result<(ReasonCode, Ticket), Reason> {
        let id = self.follow(publish, topic);
        let since = id.map(|_| SystemTime::now());
        let outcome = self.route(publish, topic, now, id);
        if let Err(reason) = outcome {
            self.not_taken(publish, topic, reason, id, now);
        }
        if let Some(since) = since {
            let topic = mount::name(self.endpoint.listener.mount_point.as_ref(), topic);
            let subject = self.subject(publish, &topic, id, now);
            self.core.outcomes.traces.routed(&subject, since, outcome.err());
        }
        outcome
    }

    /// Returns a trace number for a message to this topic, if a trace may want it.
    fn follow(&self, publish: &Publish<'_>, topic: &str) -> Option<TraceId> {
        let topic = mount::name(self.endpoint.listener.mount_point.as_ref(), topic);
        let (client_id, properties) = (&self.owned.session.client_id, publish.properties.as_bytes());
        self.core.outcomes.traces.number(client_id, &topic, properties, || self.core.next_number())
    }

    #[cold]
    pub(super) fn tell_accepted(&self, publish: &Publish<'_>, topic: &str, id: Option<TraceId>, at: Millis) {
        if self.core.outcomes.traces.is_followed() {
            let (subject, rule) = (self.subject(publish, topic, id, at), self.rule(Action::Publish, topic));
            self.core.outcomes.traces.record(&subject, None, Step::Accepted(rule.into()));
        }
    }

    /// Traces that the client acknowledged a message.
    #[cold]
    pub(super) fn tell_acknowledged(&self, packet: &Packet<'_>) {
        let (packet_type, ack) = match packet {
            Packet::PubAck(ack) => (PacketType::PubAck, ack),
            Packet::PubRec(ack) => (PacketType::PubRec, ack),
            _ => return,
        };
        let session = &self.owned.session;
        let message = session.outgoing.message(ack.packet_id);
        if let Some(message) = message.filter(|message| self.core.outcomes.traces.wants(message)) {
            let step = Step::Acknowledged(packet_type, ack.reason);
            self.core.outcomes.traces.record(&TraceSubject::of(message), Some(&session.client_id), step);
        }
    }
}
