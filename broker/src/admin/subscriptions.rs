//! Subscriptions: all of them, or those that match a topic.

use lapwing_protocol::topic;

use super::pattern;
use super::request::{ApiRequest, CURSOR, LIMIT, Parameter};
use super::response::ApiError;
use super::schema::{ListPage, object};
use crate::admin::route::{Route, route};
use crate::router::{self, SubscriptionKey};

pub(super) const ROUTES: &[Route] = &[route!(
    GET "/subscriptions",
    "Lists subscriptions in the order of their topic filters: all, or those that match a topic. Access rules are not applied",
    [
        Parameter::text("topic", "Only subscriptions that match this topic name. Of a shared group one member gets the message."),
        Parameter::text("filter", "A pattern for topic filters: * is anything, ? any one character."),
        Parameter::text("client", "A pattern for client identifiers: * is anything, ? any one character."),
        LIMIT,
        CURSOR
    ],
    list => ListPage<Subscription>
)];

object! {
    /// A subscription.
    Subscription {
        /// The topic filter.
        filter: String,
        /// The share name, where it is shared.
        share: Option<String>,
        /// The client identifier.
        client: std::sync::Arc<str>,
        /// True when the client is connected; otherwise its messages wait.
        connected: bool,
        /// The QoS that was granted.
        qos: u64,
        /// True when its own messages are not delivered to it.
        no_local: bool,
        /// True when RETAIN stays as it was published.
        retain_as_published: bool,
        /// The Subscription Identifier.
        id: Option<u64>,
    }
}

/// Pages of the router that one request takes.
const LOOKS: usize = 200;

fn shown(subscription: router::ListedSubscription) -> Subscription {
    let router::ListedSubscription { key, client_id, qos, no_local, retain_as_published, id, connected } =
        subscription;
    Subscription {
        filter: key.filter,
        share: Some(key.share).filter(|share| !share.is_empty()),
        client: client_id,
        connected,
        qos: qos as u64,
        no_local,
        retain_as_published,
        id: id.map(|id| id.get().into()),
    }
}

async fn list(call: ApiRequest) -> Result<ListPage<Subscription>, ApiError> {
    let (topic, filter, client) = (call.text("topic"), call.text("filter"), call.text("client"));
    if let Some(name) = topic.filter(|name| topic::check_name(name).is_err()) {
        return Err(ApiError::bad(
            format!("'{name}' is not a topic name"),
            "give one without wildcards, as in PUBLISH",
        ));
    }
    let mut next = match call.cursor() {
        Some(text) => Some(SubscriptionKey::from_text(text).ok_or_else(|| {
            ApiError::bad(format!("'{text}' is no cursor"), "give `next` of the page before")
        })?),
        None => None,
    };
    let takes = |found: &router::ListedSubscription| {
        filter.is_none_or(|wanted| pattern::matches(wanted, &found.key.filter))
            && client.is_none_or(|wanted| pattern::matches(wanted, &found.client_id))
    };
    let (router, limit) = (&call.admin.core.router, call.limit());
    let mut items: Vec<Subscription> = Vec::new();
    for _ in 0..LOOKS {
        // The router's page is as long as the rest of this one, so that both end at the same
        // subscription.
        let most = limit - items.len();
        let (found, more) = match topic {
            Some(topic) => router.matching(topic, next.as_ref(), most),
            None => router.browse(next.as_ref(), most),
        };
        items.extend(found.into_iter().filter(takes).map(shown));
        next = more;
        if items.len() >= limit || next.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(ListPage { items, next: next.map(|key| key.to_text()) })
}
