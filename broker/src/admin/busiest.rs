//! The clients with the most traffic, as `lapwing ctl top` shows them.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::clients::Rates;
use super::request::{ApiRequest, LIMIT, Parameter};
use super::response::ApiError;
use super::schema::object;
use crate::admin::route::{Route, route};
use crate::clients::handle::{ClientHandle, Command};
use crate::clients::{self, report};

pub(super) const ROUTES: &[Route] = &[route!(
    GET "/busiest",
    "Lists the connected clients with the most traffic, the busiest first",
    [Parameter::choice("by", &["messages", "bytes"], "The figure to order by; messages by default."), LIMIT],
    list => Busiest
)];

object! {
    /// The busiest clients.
    Busiest {
        /// The clients, the busiest first.
        clients: Vec<Busy>,
        /// Number of connected clients.
        connected: u64,
        /// Number of clients that were asked; fewer than `connected` where there are very many.
        asked: u64,
    }
}

object! {
    /// A client and its rates.
    Busy {
        /// The client identifier.
        client: Arc<str>,
        /// The user of the client.
        user: Option<Arc<str>>,
        /// Remote address with the port; "unix" for a Unix socket.
        address: Arc<str>,
        /// The listener that it is connected by.
        listener: Arc<str>,
        /// Its rates.
        per_second: Rates,
        /// Messages in its session queue.
        queued_messages: u64,
        /// Messages to it or from it that were dropped.
        dropped_messages: u64,
    }
}

/// Clients that are asked at most; each is woken for it.
const ASKED_MAX: usize = 10_000;
/// Clients that one look at the registry passes.
const VISITS: usize = 1_000;
/// Time that all clients have to answer; later ones are left out.
const ANSWER_TIME: Duration = Duration::from_secs(3);

async fn list(call: ApiRequest) -> Result<Busiest, ApiError> {
    let (core, limit) = (&call.admin.core, call.limit());
    let by_bytes = call.text("by") == Some("bytes");
    let mut contacts: Vec<(Arc<str>, Arc<ClientHandle>)> = Vec::new();
    let mut connected = 0;
    let mut next: Option<Arc<str>> = None;
    loop {
        next = core.registry.page(next.as_deref(), VISITS, |client_id, client| {
            let clients::ClientView::Live(handle) = client else { return };
            connected += 1;
            if contacts.len() < ASKED_MAX {
                contacts.push((client_id.clone(), handle.clone()));
            }
        });
        if next.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let answers: Vec<_> = contacts
        .into_iter()
        .map(|(client_id, handle)| {
            let (to, answer) = oneshot::channel();
            handle.send(Command::Report(0, to));
            (client_id, handle, answer)
        })
        .collect();
    let (asked, until) = (answers.len() as u64, Instant::now() + ANSWER_TIME);
    let mut clients = Vec::new();
    for (client, handle, answer) in answers {
        let Ok(Ok(account)) = timeout_at(until, answer).await else { continue };
        let Some(report::ConnectionReport { rates, .. }) = account.connection else { continue };
        let [messages_received, messages_sent, bytes_received, bytes_sent] = rates;
        let outbox = handle.outbox.get();
        clients.push(Busy {
            client,
            user: handle.user.clone(),
            address: handle.label.clone(),
            listener: handle.peer.listener.clone(),
            per_second: Rates { messages_received, messages_sent, bytes_received, bytes_sent },
            queued_messages: outbox.map_or(0, |outbox| outbox.waiting().0),
            dropped_messages: outbox.map_or(0, |outbox| outbox.recipient().dropped()),
        });
    }
    let weight = |busy: &Busy| {
        let Rates { messages_received, messages_sent, bytes_received, bytes_sent } = &busy.per_second;
        let sum = if by_bytes { bytes_received + bytes_sent } else { messages_received + messages_sent };
        // A rate is not negative, and a thousandth of a message is precise enough.
        (sum * 1_000.0) as u64
    };
    // Equally busy clients keep the order of their identifiers.
    clients.sort_by_key(|busy| Reverse(weight(busy)));
    clients.truncate(limit);
    Ok(Busiest { clients, connected, asked })
}
