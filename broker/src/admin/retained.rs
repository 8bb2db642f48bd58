//! Retained messages: listed, counted, deleted by a filter.

use std::collections::HashMap;

use lapwing_protocol::topic;

use super::request::{ApiRequest, CURSOR, LIMIT, Parameter};
use super::response::ApiError;
use super::schema::{ListPage, object};
use super::sessions::not_kept;
use crate::admin::route::{Route, route};
use crate::message::Message;

const FILTER: Parameter = Parameter::text(
    "filter",
    "A topic filter; # by default. As in SUBSCRIBE, # does not match topics that begin with $.",
);

pub(super) const ROUTES: &[Route] = &[
    route!(GET "/retained", "Lists retained messages in the order of their topic levels", [FILTER, LIMIT, CURSOR], list => ListPage<Retained>),
    route!(GET "/retained/count", "Counts retained messages", [FILTER], count => Count),
    route!(
        DELETE "/retained",
        "Deletes retained messages as an empty retained message on each of their topics would: subscribers get that. Answered once that is \
         on disk. What the broker says of itself ($SYS) stays",
        [Parameter::text("filter", "A topic filter.").required()],
        delete => Deleted
    ),
];

object! {
    /// A retained message.
    Retained {
        /// The topic name.
        topic: String,
        /// The QoS that it was published with.
        qos: u64,
        /// The size of its payload.
        payload_bytes: u64,
        /// The first 1,024 bytes of its payload; bytes that are not UTF-8 are replaced.
        payload: String,
        /// Milliseconds since it was published.
        age_ms: u64,
        /// Milliseconds until it expires; none: never.
        expires_in_ms: Option<u64>,
        /// The client that published it, where that was kept (auth.retained_source_checked).
        publisher: Option<String>,
    }
}

object! {
    /// Number of retained messages.
    Count {
        /// Number of messages.
        messages: u64,
        /// Their bytes, topics and properties included.
        bytes: u64,
    }
}

object! {
    /// Retained messages were deleted.
    Deleted {
        /// Number of deleted messages.
        messages: u64,
    }
}

/// Bytes of a payload that are shown.
const PAYLOAD_SHOWN: usize = 1_024;
/// Messages that are deleted before other tasks have a turn.
const DELETED_AT_ONCE: usize = 64;

fn filter(call: &ApiRequest) -> Result<&str, ApiError> {
    let filter = call.text("filter").unwrap_or("#");
    match topic::check_filter(filter).is_ok() && topic::shared(filter).is_none() {
        true => Ok(filter),
        false => Err(ApiError::bad(
            format!("'{filter}' is not a topic filter"),
            "give one like sensors/%2B/state or sensors/%23",
        )),
    }
}

async fn list(call: ApiRequest) -> Result<ListPage<Retained>, ApiError> {
    let (filter, limit, core) = (filter(&call)?, call.limit(), &call.admin.core);
    let now = core.now();
    let mut next: Option<Box<str>> = call.cursor().map(Box::from);
    // In order; messages that only the store has are fetched for the whole page.
    let mut found: Vec<(Box<str>, Option<Message>)> = Vec::new();
    loop {
        next = core.router.retained.browse(filter, next, limit - found.len(), now, |shown| {
            found.push((shown.topic.into(), shown.message.cloned()));
        });
        if found.len() >= limit || next.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let missing: Vec<Box<str>> =
        found.iter().filter(|(_, message)| message.is_none()).map(|(topic, _)| topic.clone()).collect();
    let mut fetched: HashMap<Box<str>, Message> = HashMap::new();
    if !missing.is_empty() {
        let messages = core.store.retained(missing).await;
        let messages =
            messages.map_err(|_| ApiError::unavailable("the store cannot be read", "see the log"))?;
        fetched.extend(messages.into_iter().map(|message| (message.topic_str().into(), message)));
    }
    let message =
        |(topic, message): (Box<str>, Option<Message>)| message.or_else(|| fetched.get(&topic).cloned());
    let items = found.into_iter().filter_map(message).map(|message| shown(&message, now)).collect();
    Ok(ListPage { items, next: next.map(String::from) })
}

fn shown(message: &Message, now: u64) -> Retained {
    let payload = message.payload();
    let first = payload.get(..PAYLOAD_SHOWN).unwrap_or(payload);
    Retained {
        topic: message.topic_str().to_owned(),
        qos: message.qos() as u64,
        payload_bytes: payload.len() as u64,
        payload: String::from_utf8_lossy(first).into_owned(),
        age_ms: now.saturating_sub(message.published_at()),
        expires_in_ms: message.expires_at().map(|at| at.saturating_sub(now)),
        publisher: message.source().map(|source| source.client_id.to_owned()),
    }
}

async fn count(call: ApiRequest) -> Result<Count, ApiError> {
    let (filter, core) = (filter(&call)?, &call.admin.core);
    let (mut count, mut next) = (Count { messages: 0, bytes: 0 }, None);
    loop {
        next = core.router.retained.browse(filter, next, usize::MAX, core.now(), |shown| {
            count.messages += 1;
            count.bytes += shown.bytes;
        });
        if next.is_none() {
            return Ok(count);
        }
        tokio::task::yield_now().await;
    }
}

async fn delete(call: ApiRequest) -> Result<Deleted, ApiError> {
    let (filter, core) = (filter(&call)?, &call.admin.core);
    call.audit(&format!("delete retained messages of {filter}"));
    let (mut messages, mut next) = (0, None);
    loop {
        let mut topics: Vec<Box<str>> = Vec::new();
        next = core.router.retained.browse(filter, next, DELETED_AT_ONCE, core.now(), |shown| {
            if !shown.is_own {
                topics.push(shown.topic.into());
            }
        });
        for topic in topics {
            if !core.clear_retained(&topic) {
                return Err(ApiError::unavailable(
                    format!("{messages} were deleted, then the store failed"),
                    "make room on its disk, or see the log",
                ));
            }
            messages += 1;
        }
        if next.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    core.durable().await.map_err(|_| not_kept())?;
    Ok(Deleted { messages })
}
