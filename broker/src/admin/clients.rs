//! Clients: connected ones and those with an offline session, in short and in detail.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::limits::SESSION_NEVER_EXPIRES_S;
use tokio::sync::oneshot;

use super::pattern;
use super::request::{ApiRequest, CURSOR, LIMIT, Parameter};
use super::response::ApiError;
use super::schema::{ListPage, object};
use crate::admin::route::{Route, route};
use crate::clients::handle::{ClientHandle, Command, DisconnectCommand};
use crate::clients::report::{self, SessionReport};
use crate::clients::{self};
use crate::config::network;
use crate::core::Core;
use crate::net::endpoint::EndpointId;
use crate::outbox::Outbox;
use crate::session;
use crate::telemetry::drop_reason::Reason;

pub(super) const ROUTES: &[Route] = &[
    route!(
    GET "/clients",
    "Lists clients in the order of their identifiers",
    [
        Parameter::text("client", "A pattern for client identifiers: * is anything, ? any one character."),
        Parameter::text("user", "Only clients of this user."),
        Parameter::text("address", "Only clients connected from this address or network, like 192.0.2.0/24."),
        Parameter::text("listener", "Only clients connected by this listener: its name, or its URL."),
        Parameter::choice("state", &["connected", "offline"], "Only these."),
        LIMIT,
        CURSOR
    ],
    list => ListPage<Client>
    ),
    route!(GET "/clients/{client}", "One client in detail", [], one => Detail),
    route!(
        POST "/clients/{client}/disconnect",
        "Disconnects a client (0x98); it may reconnect, and its session waits until its expiry",
        [],
        disconnect => Disconnected
    ),
];

object! {
    /// A client in short.
    Client {
        /// The client identifier.
        client: Arc<str>,
        /// The user of the client.
        user: Option<Arc<str>>,
        /// True when it is connected; otherwise its session is offline.
        connected: bool,
        /// Remote address with the port; "unix" for a Unix socket.
        address: Option<Arc<str>>,
        /// The listener that it is connected by.
        listener: Option<Arc<str>>,
        /// Age of its connection, in milliseconds.
        connected_for_ms: Option<u64>,
        /// Messages in its session queue, those on disk included.
        queued_messages: u64,
        /// Bytes of those messages.
        queued_bytes: u64,
        /// Messages to it or from it that were dropped, since its session began or the broker
        /// started.
        dropped_messages: u64,
    }
}

object! {
    /// A client in detail.
    Detail {
        /// The client in short.
        client: Client,
        /// Protocol version of its connection.
        protocol_version: Option<String>,
        /// Keep-alive in force, in seconds; 0 is none.
        keep_alive_s: Option<u64>,
        /// Seconds that its session outlives its connection; none: for ever.
        session_expiry_s: Option<u64>,
        /// While its session is offline: milliseconds until it ends; none: never.
        session_ends_in_ms: Option<u64>,
        /// Method that authenticated it, like "password"; none: it is anonymous.
        authentication: Option<String>,
        /// Groups of its user.
        groups: Vec<String>,
        /// Will that is published if its connection ends badly.
        will: Option<Will>,
        /// Messages of QoS 1 and 2 on their way to it, not acknowledged.
        in_flight_to_client: u64,
        /// Messages of QoS 1 and 2 that came from it and are not acknowledged, or not released.
        in_flight_from_client: u64,
        /// Traffic of its connection since CONNECT.
        flow: Option<Flow>,
        /// Rates of its connection.
        per_second: Option<Rates>,
        /// Messages to it or from it that were dropped or skipped, by reason.
        outcomes: Vec<Ended>,
        /// Number of subscriptions of its session.
        subscriptions_count: u64,
        /// The first thousand of them, in their order.
        subscriptions: Vec<Subscription>,
    }
}

object! {
    /// Traffic of a connection.
    Flow {
        /// PUBLISH packets from the client.
        messages_received: u64,
        /// PUBLISH packets to the client.
        messages_sent: u64,
        /// Bytes of MQTT from the client.
        bytes_received: u64,
        /// Bytes of MQTT to the client.
        bytes_sent: u64,
    }
}

object! {
    /// Traffic of a connection per second, as a mean of the last ten to twenty seconds.
    Rates {
        /// PUBLISH packets from the client.
        messages_received: f64,
        /// PUBLISH packets to the client.
        messages_sent: f64,
        /// Bytes of MQTT from the client.
        bytes_received: f64,
        /// Bytes of MQTT to the client.
        bytes_sent: f64,
    }
}

object! {
    /// A client was disconnected.
    Disconnected {
        /// The client identifier.
        client: String,
    }
}

object! {
    /// Messages that were dropped or skipped.
    Ended {
        /// Reason, as in docs/MONITORING.md.
        reason: String,
        /// Number of messages.
        messages: u64,
    }
}

object! {
    /// A will, without its payload.
    Will {
        /// The topic name.
        topic: String,
        /// Its QoS.
        qos: u64,
        /// True when it is retained.
        retain: bool,
        /// Delay after the end of the connection, in seconds.
        delay_s: u64,
        /// The size of its payload.
        payload_bytes: u64,
    }
}

object! {
    /// A subscription of a session.
    Subscription {
        /// The topic filter, a share name included.
        filter: String,
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

/// Clients that one look at the registry passes.
const VISITS: usize = 1_000;
/// Looks that one request takes.
const LOOKS: usize = 100;

/// Filter of a list of clients.
struct ClientFilter {
    client: Option<String>,
    user: Option<String>,
    network: Option<ipnet::IpNet>,
    /// By URL, or by the endpoints that have this name.
    listener: Option<(String, Vec<EndpointId>)>,
    connected: Option<bool>,
}

impl ClientFilter {
    fn of(call: &ApiRequest) -> Result<ClientFilter, ApiError> {
        let text = |name: &str| call.text(name).map(str::to_owned);
        let net = |text: &str| {
            network(text).ok_or_else(|| {
                ApiError::bad(
                    format!("'{text}' is no address"),
                    "give one like 192.0.2.7, or a network like 192.0.2.0/24",
                )
            })
        };
        Ok(ClientFilter {
            client: text("client"),
            user: text("user"),
            network: call.text("address").map(net).transpose()?,
            listener: text("listener").map(|name| {
                let snapshot = call.admin.core.settings.get();
                let named = snapshot.endpoints.iter().filter(|endpoint| endpoint.listener.label() == name);
                let numbers = named.map(|endpoint| endpoint.number).collect();
                (name, numbers)
            }),
            connected: call.text("state").map(|state| state == "connected"),
        })
    }

    fn takes(&self, client_id: &str, client: &clients::ClientView<'_>) -> bool {
        let (user, handle) = match client {
            clients::ClientView::Live(handle) => (handle.user.as_deref(), Some(&**handle)),
            clients::ClientView::Offline(owned, _) => (owned.session.user.as_deref(), None),
        };
        let within = |net: &ipnet::IpNet| {
            let ip = handle.and_then(|handle| handle.peer.address.ip());
            ip.is_some_and(|ip: IpAddr| net.contains(&ip.to_canonical()))
        };
        let by = |(url, numbers): &(String, Vec<EndpointId>)| {
            handle.is_some_and(|handle| {
                *handle.peer.listener == **url || numbers.contains(&handle.peer.endpoint)
            })
        };
        self.connected.is_none_or(|connected| connected == handle.is_some())
            && self.user.as_deref().is_none_or(|wanted| user == Some(wanted))
            && self.network.as_ref().is_none_or(within)
            && self.listener.as_ref().is_none_or(by)
            && self.client.as_ref().is_none_or(|wanted| pattern::matches(wanted, client_id))
    }
}

/// A client before its queue was looked at, which is done without the registry's lock.
type ListedClient = (Client, Option<Arc<Outbox>>);

fn found(client_id: &Arc<str>, client: &clients::ClientView<'_>, now: u64) -> ListedClient {
    let blank = Client {
        client: client_id.clone(),
        user: None,
        connected: false,
        address: None,
        listener: None,
        connected_for_ms: None,
        queued_messages: 0,
        queued_bytes: 0,
        dropped_messages: 0,
    };
    match client {
        clients::ClientView::Live(handle) => {
            let client = Client {
                user: handle.user.clone(),
                connected: true,
                address: Some(handle.label.clone()),
                listener: Some(handle.peer.listener.clone()),
                connected_for_ms: Some(now.saturating_sub(handle.since)),
                ..blank
            };
            (client, handle.outbox.get().cloned())
        }
        clients::ClientView::Offline(owned, _) => {
            let client = Client { user: owned.session.user.clone(), ..blank };
            (client, Some(owned.outbox.clone()))
        }
    }
}

fn counted((mut client, outbox): ListedClient) -> Client {
    if let Some(outbox) = outbox {
        (client.queued_messages, client.queued_bytes) = outbox.waiting();
        client.dropped_messages = outbox.recipient().dropped();
    }
    client
}

async fn list(call: ApiRequest) -> Result<ListPage<Client>, ApiError> {
    let (filter, limit, core) = (ClientFilter::of(&call)?, call.limit(), &call.admin.core);
    let mut next: Option<Arc<str>> = call.cursor().map(Arc::from);
    let mut clients: Vec<ListedClient> = Vec::new();
    for _ in 0..LOOKS {
        let (mut last, now) = (None, core.now());
        let more = core.registry.page(next.as_deref(), VISITS, |client_id, client| {
            if clients.len() < limit && filter.takes(client_id, &client) {
                clients.push(found(client_id, &client, now));
                last = Some(client_id.clone());
            }
        });
        next = if clients.len() >= limit { last } else { more };
        if clients.len() >= limit || next.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(ListPage {
        items: clients.into_iter().map(counted).collect(),
        next: next.map(|next| next.to_string()),
    })
}

/// Returns the dropped and skipped messages of a client, by reason.
fn ended(outbox: &Outbox) -> Vec<Ended> {
    let Some(drops) = outbox.recipient().drops() else { return Vec::new() };
    let all = Reason::ALL.into_iter().map(|reason| (reason, drops.get(reason)));
    all.filter(|(_, messages)| *messages > 0)
        .map(|(reason, messages)| Ended { reason: reason.name().to_owned(), messages })
        .collect()
}

/// Subscriptions of a client that are shown.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Time that a connection has to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Returns the error for an unknown client.
pub(super) fn unknown(client_id: &str) -> ApiError {
    let error = format!("there is no client '{client_id}', connected or with a session");
    ApiError::missing(error, "GET /api/v1/clients lists all of them, as `lapwing ctl clients` does")
}

/// Attempts to find a client that connects and disconnects meanwhile.
pub(super) const TRIES: usize = 5;

/// Returns the state of a session: its connection reports it, or it is looked up while offline.
async fn account(core: &Core, client_id: &str) -> Result<(ListedClient, SessionReport), ApiError> {
    for _ in 0..TRIES {
        let now = core.now();
        let (short, looked) = core
            .registry
            .with(client_id, |key, client| {
                let account = match client {
                    clients::ClientView::Live(handle) => Err(handle.clone()),
                    clients::ClientView::Offline(owned, _) => Ok(SessionReport::of(owned, SUBSCRIPTIONS_MAX)),
                };
                (found(key, &client, now), account)
            })
            .ok_or_else(|| unknown(client_id))?;
        let handle = match looked {
            Ok(account) => return Ok((short, account)),
            Err(handle) => handle,
        };
        let (to, answer) = oneshot::channel();
        handle.send(Command::Report(SUBSCRIPTIONS_MAX, to));
        match tokio::time::timeout(ANSWER_TIME, answer).await {
            Ok(Ok(account)) => return Ok((short, account)),
            // The connection is gone, and the session has moved.
            Ok(Err(_)) => {}
            Err(_) => break,
        }
    }
    Err(ApiError::unavailable(
        format!("client '{client_id}' does not answer, or reconnects all the time"),
        "try again",
    ))
}

async fn one(call: ApiRequest) -> Result<Detail, ApiError> {
    let core = &call.admin.core;
    let (found, account) = account(core, call.name()).await?;
    let outcomes = found.1.as_deref().map(ended).unwrap_or_default();
    let connection = account.connection;
    Ok(Detail {
        client: counted(found),
        outcomes,
        protocol_version: connection.as_ref().map(|connection| connection.version.clone()),
        keep_alive_s: connection.as_ref().map(|connection| connection.keep_alive_s.into()),
        session_expiry_s: (account.expiry_s != SESSION_NEVER_EXPIRES_S).then_some(account.expiry_s.into()),
        session_ends_in_ms: account.ends_at.map(|at| at.saturating_sub(core.now())),
        authentication: (!account.method.is_empty()).then(|| account.method.to_owned()),
        groups: account.groups.into_iter().map(String::from).collect(),
        will: account.will.map(|will| Will {
            topic: will.topic.into(),
            qos: will.qos as u64,
            retain: will.retain,
            delay_s: will.delay_s.into(),
            payload_bytes: will.payload_bytes as u64,
        }),
        in_flight_to_client: account.in_flight.0 as u64,
        in_flight_from_client: account.in_flight.1 as u64,
        flow: connection.as_ref().map(|report::ConnectionReport { flow, .. }| Flow {
            messages_received: flow.messages_received,
            messages_sent: flow.messages_sent,
            bytes_received: flow.bytes_received,
            bytes_sent: flow.bytes_sent,
        }),
        per_second: connection.map(|report::ConnectionReport { rates, .. }| {
            let [messages_received, messages_sent, bytes_received, bytes_sent] = rates;
            Rates { messages_received, messages_sent, bytes_received, bytes_sent }
        }),
        subscriptions_count: account.subscriptions_count as u64,
        subscriptions: account
            .subscriptions
            .into_iter()
            .map(|(filter, held)| subscription(filter, &held))
            .collect(),
    })
}

fn subscription(filter: Box<str>, held: &session::Subscription) -> Subscription {
    Subscription {
        filter: filter.into(),
        qos: held.options.qos as u64,
        no_local: held.options.no_local,
        retain_as_published: held.options.retain_as_published,
        id: held.id.map(u64::from),
    }
}

async fn disconnect(call: ApiRequest) -> Result<Disconnected, ApiError> {
    let (core, client_id) = (&call.admin.core, call.name());
    call.audit(&format!("disconnect client {client_id}"));
    let handle = core.registry.with(client_id, |_, client| match client {
        clients::ClientView::Live(handle) => Some(handle.clone()),
        clients::ClientView::Offline(..) => None,
    });
    let handle = handle.ok_or_else(|| unknown(client_id))?.ok_or_else(|| {
        let error = format!("client '{client_id}' is not connected; its session is offline");
        ApiError::conflict(error, "to end its session, use `lapwing ctl session delete`")
    })?;
    leave(&handle, false).await?;
    Ok(Disconnected { client: client_id.to_owned() })
}

/// Ends a connection, and its session if asked to, and waits for that. Returns `false` when the
/// connection was ending already.
pub(super) async fn leave(handle: &ClientHandle, with_session: bool) -> Result<bool, ApiError> {
    let (done, gone) = oneshot::channel();
    handle.send(Command::Disconnect(DisconnectCommand { with_session, done }));
    match tokio::time::timeout(ANSWER_TIME, gone).await {
        Ok(done) => Ok(done.is_ok()),
        Err(_) => Err(ApiError::unavailable(
            "the client was asked to disconnect, and is still connected",
            "try again",
        )),
    }
}
