//! What a connection tells those who trace; nothing of it runs while nobody does.

use lapwing_protocol::PacketType;
use lapwing_protocol::packet::{Packet, Publish};

use super::{Connection, mount};
use crate::auth::Action;
use crate::trace::{Step, Subject, TraceId};

impl Connection {
    /// The rule that decides what this client may do with a topic of the broker.
    pub(super) fn rule(&self, action: Action, topic: &str) -> String {
        let (client_id, identity) = (&self.resident.session.client_id, &self.resident.identity);
        self.snapshot.auth.policy.rule(identity, client_id, action, topic)
    }

    pub(super) fn subject<'a>(
        &'a self,
        publish: &Publish<'_>,
        topic: &'a str,
        id: Option<TraceId>,
    ) -> Subject<'a> {
        let from = Some(&self.resident.session.client_id);
        Subject { id, from, topic, qos: publish.qos, bytes: publish.payload.len() }
    }

    /// A number for a message to this topic, if it may be wanted.
    #[cold]
    pub(super) fn follow(&self, topic: &str) -> Option<TraceId> {
        let topic = mount::name(self.gate.listener.mount_point.as_ref(), topic);
        let client_id = &self.resident.session.client_id;
        self.core.ends.traces.number(client_id, &topic, || self.core.next_number())
    }

    #[cold]
    pub(super) fn tell_accepted(&self, publish: &Publish<'_>, topic: &str, id: Option<TraceId>) {
        let rule = self.rule(Action::Publish, topic);
        self.core.ends.traces.tell(&self.subject(publish, topic, id), None, Step::Accepted(rule.into()));
    }

    /// The client has answered a message that it was sent.
    #[cold]
    pub(super) fn tell_acknowledged(&self, packet: &Packet<'_>) {
        let (packet_type, ack) = match packet {
            Packet::PubAck(ack) => (PacketType::PubAck, ack),
            Packet::PubRec(ack) => (PacketType::PubRec, ack),
            _ => return,
        };
        let session = &self.resident.session;
        if let Some(message) = session.outgoing.message(ack.packet_id) {
            let step = Step::Acknowledged(packet_type, ack.reason);
            self.core.ends.traces.tell(&Subject::of(message), Some(&session.client_id), step);
        }
    }
}
