//! Receivers of a message, and the reasons of those that do not get it.

use lapwing_protocol::{QoS, topic};

use super::request::{ApiRequest, CURSOR, LIMIT, Parameter, ParameterKind};
use super::response::ApiError;
use super::schema::object;
use crate::admin::route::{Route, route};
use crate::core::explain::{self, Question};

pub(super) const ROUTES: &[Route] = &[route!(
    GET "/explain",
    "Lists the receivers of a message on a topic, with the reasons of those that do not get it",
    [
        Parameter::text("topic", "The topic name, mount point included.").required(),
        Parameter::text("from", "The client that would publish it: checks its rights, and No Local."),
        Parameter::choice("qos", &["0", "1", "2"], "The QoS of the message; 1 by default."),
        Parameter {
            name: "bytes",
            kind: ParameterKind::Number(0, 268_435_455),
            required: false,
            doc: "The size of its payload; 0 by default.",
        },
        LIMIT,
        CURSOR
    ],
    explain => Explanation
)];

object! {
    /// Fate of a message.
    Explanation {
        /// The topic name.
        topic: String,
        /// The publisher, if the request names one.
        publisher: Option<Publisher>,
        /// The size of the retained message of the topic; null: there is none.
        retained_bytes: Option<u64>,
        /// Number of sessions with a matching subscription, each member of a shared group included.
        sessions: u64,
        /// Number of matching shared groups.
        shared_groups: u64,
        /// The sessions, in the order in which they began.
        receivers: Vec<Receiver>,
        /// Value for `cursor` to get the next page; null: this is the last page.
        next: Option<String>,
    }
}

object! {
    /// Right of a client to publish.
    Publisher {
        /// The client identifier.
        client: String,
        /// True when it is connected or has a session; otherwise the client is unknown.
        known: bool,
        /// Reason that its message would be refused; null: it would be accepted.
        reason: Option<String>,
        /// The deciding rule.
        detail: String,
    }
}

object! {
    /// A session that has a subscription to the topic.
    Receiver {
        /// The client identifier.
        client: std::sync::Arc<str>,
        /// The user of the client.
        user: Option<std::sync::Arc<str>>,
        /// True when it is connected; otherwise its session is offline.
        connected: bool,
        /// The highest QoS of its matching subscriptions.
        qos: u64,
        /// Topic filters of those, sixteen at most.
        filters: Vec<String>,
        /// Number of those.
        filters_count: u64,
        /// The share name, where it is a member of a shared group.
        share: Option<String>,
        /// Messages in its session queue.
        queued_messages: u64,
        /// Bytes of those messages.
        queued_bytes: u64,
        /// True when it would get the message, now or once it is back.
        gets: bool,
        /// "sent", "kept", "not_its_turn", or the reason as in docs/MONITORING.md.
        verdict: String,
        /// The verdict in words.
        detail: String,
    }
}

async fn explain(call: ApiRequest) -> Result<Explanation, ApiError> {
    let name = call.text("topic").unwrap_or_default().to_owned();
    if topic::check_name(&name).is_err() {
        return Err(ApiError::bad(
            format!("{name:?} is not a topic name"),
            "give a name as a message has it: not empty, and without + and #",
        ));
    }
    let after = match call.cursor() {
        None => 0,
        Some(cursor) => cursor.parse().map_err(|_| {
            ApiError::bad(format!("{cursor:?} is no cursor"), "give `next` of the page before, or none")
        })?,
    };
    let from = call.text("from").map(str::to_owned);
    let number = |name: &str| call.text(name).and_then(|value| value.parse::<usize>().ok());
    let qos = number("qos").and_then(|qos| QoS::from_u8(qos as u8)).unwrap_or(QoS::AtLeastOnce);
    let (bytes, most, core) = (number("bytes").unwrap_or(0), call.limit(), call.admin.core.clone());
    // It takes long where there are many subscriptions.
    let explained = tokio::task::spawn_blocking(move || {
        let from = from.as_deref();
        let found = core.explain(&Question { topic: &name, from, qos, bytes, after, most });
        shaped(&name, from, found)
    });
    explained.await.map_err(|error| ApiError::unavailable(error.to_string(), "try again"))
}

fn shaped(topic: &str, from: Option<&str>, found: explain::Explanation) -> Explanation {
    Explanation {
        topic: topic.to_owned(),
        publisher: found.publisher.map(|publisher| Publisher {
            client: from.unwrap_or_default().to_owned(),
            known: publisher.known,
            reason: publisher.refused.map(|reason| reason.name().to_owned()),
            detail: publisher.rule,
        }),
        retained_bytes: found.retained_bytes,
        sessions: found.sessions as u64,
        shared_groups: found.groups as u64,
        receivers: found.receivers.into_iter().map(receiver).collect(),
        next: found.next.map(|next| next.to_string()),
    }
}

fn receiver(receiver: explain::Receiver) -> Receiver {
    Receiver {
        gets: receiver.verdict.gets(),
        verdict: receiver.verdict.name().to_owned(),
        detail: receiver.verdict.text().to_owned(),
        client: receiver.client_id,
        user: receiver.user,
        connected: receiver.connected,
        qos: receiver.granted as u64,
        filters: receiver.filters.into_iter().map(String::from).collect(),
        filters_count: receiver.filter_count as u64,
        share: receiver.share.map(|share| share.name.into()),
        queued_messages: receiver.waiting.0,
        queued_bytes: receiver.waiting.1,
    }
}
