//! Explanation of a message before it is published: who would get it, who would not, and why. It
//! asks the questions that a message meets on its way, without one.

use std::sync::Arc;

use lapwing_protocol::QoS;

use crate::auth::{Action, Identity};
use crate::config::mount;
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::message::SessionNumber;
use crate::net::endpoint::EndpointId;
use crate::router::{Match, ShareMatch};
use crate::telemetry::drop_reason::Reason;

/// A message to explain, which is not published.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// A valid topic name, as the broker knows it.
    pub topic: &'a str,
    /// Client identifier of the publisher.
    pub from: Option<&'a str>,
    /// QoS it is published with.
    pub qos: QoS,
    /// Its size, in bytes.
    pub bytes: usize,
    /// The page begins behind this session.
    pub after: SessionNumber,
    /// The most sessions on a page.
    pub most: usize,
}

/// Explanation of a message.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Rights of the publisher, if one was named.
    pub publisher: Option<ExplainedPublisher>,
    /// The size of what is retained on the topic.
    pub retained_bytes: Option<u64>,
    /// Number of sessions with a matching subscription, each member of a group included.
    pub sessions: usize,
    /// Number of shared groups among them.
    pub groups: usize,
    /// A page of the sessions.
    pub receivers: Vec<Receiver>,
    /// Session that the next page begins behind, if there is one.
    pub next: Option<SessionNumber>,
}

/// Publisher of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedPublisher {
    /// Set when the broker knows it: connected, or with an offline session.
    pub known: bool,
    /// Why it would not be taken.
    pub refused: Option<Reason>,
    /// The rule that decides.
    pub rule: String,
}

/// A session with a subscription that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Number of the session.
    pub session: SessionNumber,
    /// The client identifier.
    pub client_id: Arc<str>,
    /// The user.
    pub user: Option<Arc<str>>,
    /// Set when the client is connected.
    pub connected: bool,
    /// Granted QoS: the highest of all matching subscriptions.
    pub granted: QoS,
    /// The filters that match, a few at most.
    pub filters: Vec<Box<str>>,
    /// Number of filters that match.
    pub filter_count: usize,
    /// The shared group that it is in.
    pub share: Option<ShareMatch>,
    /// Messages and bytes that wait for it.
    pub waiting: (u64, u64),
    /// Fate of the message for this session.
    pub verdict: Verdict,
}

/// Fate of a message for one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Sent,
    /// It waits until the client is back.
    Kept,
    /// Another member of the group has the turn.
    NotItsTurn,
    /// It does not get it; with the rule, where one says so.
    Not(Reason, String),
}

impl Verdict {
    /// As JSON and people read it; the name of the reason where there is one.
    pub const fn name(&self) -> &'static str {
        match self {
            Verdict::Sent => "sent",
            Verdict::Kept => "kept",
            Verdict::NotItsTurn => "not_its_turn",
            Verdict::Not(reason, _) => reason.name(),
        }
    }

    /// Returns the verdict as text.
    pub fn text(&self) -> &str {
        match self {
            Verdict::Sent => "would be sent to it",
            Verdict::Kept => "would wait until it is back",
            Verdict::NotItsTurn => "another member of the group has the turn",
            Verdict::Not(_, text) => text,
        }
    }

    /// Returns `true` when the session would get the message, now or later.
    pub const fn gets(&self) -> bool {
        matches!(self, Verdict::Sent | Verdict::Kept)
    }
}

impl Core {
    /// Explains a message by the subscriptions, queues and rules of now.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let Question { topic, from, qos, bytes, after, most } = *question;
        let snapshot = self.settings.get();
        let audience = self.router.audience(topic, qos, bytes, after, most);
        let receivers: Vec<Receiver> = audience
            .listeners
            .into_iter()
            .map(|listener| self.receiver(&snapshot, question, listener))
            .collect();
        // A page that is not full is the last one.
        let last = receivers.last().map(|receiver| receiver.session).filter(|_| receivers.len() >= most);
        let more =
            |last: &SessionNumber| !self.router.audience(topic, qos, bytes, *last, 1).listeners.is_empty();
        Explanation {
            publisher: from.map(|from| self.publisher(&snapshot, from, topic)),
            retained_bytes: self.router.retained.size_of(topic, self.now()),
            sessions: audience.sessions,
            groups: audience.groups,
            next: last.filter(more),
            receivers,
        }
    }

    /// Identity by the rules of now, or the reason why the rules do not know it any more.
    fn as_of_now(
        &self,
        snapshot: &Snapshot,
        identity: &Identity,
        client_id: &str,
    ) -> Result<Identity, String> {
        snapshot.auth.policy.renew(identity, client_id, None).map_err(|refused| refused.text)
    }

    fn publisher(&self, snapshot: &Snapshot, client_id: &str, topic: &str) -> ExplainedPublisher {
        let Some((identity, _)) = self.registry.about(client_id) else {
            let rule = "no such client is connected, and it has no offline session".to_owned();
            return ExplainedPublisher { known: false, refused: None, rule };
        };
        let policy = &snapshot.auth.policy;
        let (allowed, rule) = match self.as_of_now(snapshot, &identity, client_id) {
            Ok(now) => (
                policy.allows(&now, client_id, Action::Publish, topic),
                policy.rule(&now, client_id, Action::Publish, topic),
            ),
            Err(text) => (false, text),
        };
        let refused = if topic.starts_with('$') { Some(Reason::BrokerTopic) } else { None };
        let refused = refused.or((!allowed).then_some(Reason::DeniedPublish));
        ExplainedPublisher { known: true, refused, rule }
    }

    fn receiver(&self, snapshot: &Snapshot, question: &Question<'_>, listener: Match) -> Receiver {
        let outbox = listener.subscriber.outbox.clone();
        let about = self.registry.about(outbox.client_id());
        let (identity, endpoint_id) =
            about.map_or((None, None), |(identity, endpoint_id)| (Some(identity), endpoint_id));
        let outlook = outbox.would_accept(question.qos.min(listener.subscriber.qos), question.bytes);
        Receiver {
            session: listener.session(),
            client_id: outbox.client_id().clone(),
            user: identity.as_ref().and_then(|identity| identity.user.clone()),
            connected: endpoint_id.is_some(),
            granted: listener.subscriber.qos,
            waiting: outbox.waiting(),
            verdict: self.verdict(snapshot, question, &listener, identity.as_deref(), endpoint_id).unwrap_or(
                match outlook {
                    Ok(true) => Verdict::Sent,
                    Ok(false) => Verdict::Kept,
                    Err(reason) => Verdict::Not(reason, reason.text().to_owned()),
                },
            ),
            filters: listener.filters,
            filter_count: listener.filter_count,
            share: listener.share,
        }
    }

    /// Reason other than its queue that keeps a message from a session.
    fn verdict(
        &self,
        snapshot: &Snapshot,
        question: &Question<'_>,
        listener: &Match,
        identity: Option<&Identity>,
        endpoint_id: Option<EndpointId>,
    ) -> Option<Verdict> {
        let (topic, client_id) = (question.topic, listener.subscriber.outbox.client_id());
        let not = |reason: Reason| Some(Verdict::Not(reason, reason.text().to_owned()));
        if listener.subscriber.no_local && question.from == Some(&**client_id) {
            return not(Reason::NoLocal);
        }
        if listener.share.as_ref().is_some_and(|share| !share.is_next) {
            return Some(Verdict::NotItsTurn);
        }
        let mount = endpoint_id
            .and_then(|endpoint_id| snapshot.endpoint(endpoint_id))
            .and_then(|endpoint| endpoint.listener.mount_point.as_ref());
        if mount::seen(mount, topic.as_bytes()).is_none() {
            return not(Reason::MountPoint);
        }
        let policy = &snapshot.auth.policy;
        let denied = match self.as_of_now(snapshot, identity?, client_id) {
            Ok(now) if policy.allows(&now, client_id, Action::Receive, topic) => return None,
            Ok(now) => policy.rule(&now, client_id, Action::Receive, topic),
            Err(text) => text,
        };
        Some(Verdict::Not(Reason::DeniedDelivery, denied))
    }
}
