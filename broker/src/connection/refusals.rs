//! Refusals: what the client is told, and how often the log has a line about it.

use lapwing_protocol::packet::Publish;
use lapwing_protocol::{ReasonCode, topic};
use tracing::warn;

use super::{Connection, Exit};
use crate::auth::{Action, audit};
use crate::config::mount;
use crate::message::{Millis, TraceId};
use crate::session::Violation;
use crate::telemetry::drop_reason::Reason;

/// Refusals by the access rules.
const DENIED_PUBLISH: Violation = Violation::new(ReasonCode::NotAuthorized, Reason::DeniedPublish.text());

pub(super) const DENIED_SUBSCRIBE: Violation =
    Violation::new(ReasonCode::NotAuthorized, "this client may not subscribe to this filter");

const DENIED_DELIVERY: Violation = Violation::new(ReasonCode::NotAuthorized, Reason::DeniedDelivery.text());

const DENIED_SOURCE: Violation = Violation::new(ReasonCode::NotAuthorized, Reason::DeniedSource.text());

/// Time between two lines of the log about one client's refusals, in milliseconds.
const COMPLAIN_EVERY_MS: Millis = 1_000;

impl From<Violation> for Exit {
    fn from(violation: Violation) -> Exit {
        Exit::Violation(violation.reason, violation.text.to_owned())
    }
}

impl Connection {
    #[cold]
    pub(super) fn not_taken(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        reason: Reason,
        id: Option<TraceId>,
        at: Millis,
    ) {
        self.log_refusal("PUBLISH", topic, &refusal(reason));
        let topic = &*mount::name(self.endpoint.listener.mount_point.as_ref(), topic);
        let rule = (reason == Reason::DeniedPublish && self.core.outcomes.traces.is_followed())
            .then(|| self.rule(Action::Publish, topic));
        let text = rule.as_deref().unwrap_or(reason.text());
        let subject = self.subject(publish, topic, id, at);
        self.core.outcomes.refused(reason, text, &subject, Some(self.owned.outbox.recipient()));
    }

    /// Logs a refusal, at most one line a second for each client. The next line has the number of
    /// suppressed ones.
    pub(super) fn log_refusal(&mut self, packet: &str, topic: &str, refusal: &Violation) {
        let asked = match *refusal {
            DENIED_PUBLISH => Some(Action::Publish),
            DENIED_SUBSCRIBE => Some(Action::Subscribe),
            DENIED_DELIVERY => Some(Action::Receive),
            DENIED_SOURCE => None,
            _ => return self.complain_of_limit(packet, topic, refusal),
        };
        self.core.metrics.denied.add(1);
        let Some(more_before) = self.may_complain() else { return };
        let (client_id, identity) = (&self.owned.session.client_id, &self.owned.identity);
        let rule = asked.map_or_else(
            || refusal.text.to_owned(),
            |action| {
                let mount = self.endpoint.listener.mount_point.as_ref().filter(|_| action != Action::Receive);
                let topic = topic::shared(topic).map_or(topic, |(_, inner)| inner);
                self.rule(action, &mount::name(mount, topic))
            },
        );
        audit::denied(packet, client_id, identity, topic, &rule, more_before);
    }

    /// Returns the number of suppressed lines, if a line may be written now.
    fn may_complain(&mut self) -> Option<u64> {
        let now = self.core.now();
        let stats = &mut self.stats;
        if stats.last_refusal_log.is_some_and(|at| now < at + COMPLAIN_EVERY_MS) {
            stats.suppressed += 1;
            return None;
        }
        stats.last_refusal_log = Some(now);
        Some(std::mem::take(&mut stats.suppressed))
    }

    fn complain_of_limit(&mut self, packet: &str, topic: &str, refusal: &Violation) {
        let Some(hushed) = self.may_complain() else { return };
        warn!(client = %audit::client(&self.owned.session.client_id), peer = %self.handle.peer.address, user = %audit::user(&self.owned.identity),
            topic = %audit::client(topic), reason = %refusal.reason, more_before = hushed, "{packet} refused: {}", refusal.text);
    }
}

/// Returns reason code and text for a message that is not taken, or not delivered.
pub(in crate::connection) const fn refusal(reason: Reason) -> Violation {
    let code = match reason {
        Reason::TopicLimit => ReasonCode::TopicNameInvalid,
        Reason::PayloadFormat => ReasonCode::PayloadFormatInvalid,
        Reason::UserProperties
        | Reason::RetainedFull
        | Reason::StoreRefused
        | Reason::SessionQueueRefused => ReasonCode::QuotaExceeded,
        _ => ReasonCode::NotAuthorized,
    };
    Violation::new(code, reason.text())
}
