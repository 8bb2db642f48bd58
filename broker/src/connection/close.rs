//! The end of a connection: what becomes of the session, and the last words to the client.
//!
//! The session first, since another connection may be waiting for it; the client, who may not be
//! reading, after that and for a bounded time.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::ReasonCode;
use lapwing_protocol::packet::{Disconnect, Packet};
use lapwing_protocol::property::{Property, PropertyWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Connection, Exit, Negotiated};
use crate::auth::audit;
use crate::auth::log_pace::LogLine;
use crate::clients::CloseSignal;
use crate::clients::owned::{ConnectionNumber, OwnedSession};
use crate::connection::output::Output;
use crate::core::Core;
use crate::core::will::PendingWill;
use crate::message::Durability;
use crate::net::Stream;
use crate::session::SharedMessages;

/// Time in which the last bytes have to be written, and the client has to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that a client may still send while it is being disconnected.
const LINGER_BYTES: u64 = 256 * 1024;

impl Connection {
    /// Hands the session over, then closes the client's stream.
    pub(super) async fn finish(self: Box<Self>, exit: Exit) {
        self.log(&exit);
        let Connection {
            core,
            stream,
            handle,
            mut owned,
            number,
            negotiated,
            close: signal,
            outbound,
            permit,
            mut pacing,
            ..
        } = *self;
        let mut output = outbound.output;
        // A client that closed or sent DISCONNECT sends nothing more. With nothing left to write,
        // the socket is closed at once.
        let over = matches!(exit, Exit::Gone(_) | Exit::Disconnected) && stream.is_bare();
        let finish = match &exit {
            Exit::Gone(_) | Exit::Disconnected => None,
            Exit::Violation(reason, text) => Some((*reason, text.clone())),
            Exit::Told(CloseSignal::TakenOver { by, .. }) => Some((
                ReasonCode::SessionTakenOver,
                format!("another connection uses this client identifier: {by}"),
            )),
            Exit::Told(CloseSignal::Closed(reason)) => Some((*reason, reason.text().to_owned())),
            Exit::Expelled(_) => {
                Some((ReasonCode::AdministrativeAction, "disconnected by an operator".to_owned()))
            }
        };
        let (told, leave) = match exit {
            Exit::Told(end) => (Some(end), None),
            Exit::Expelled(leave) => (pacing.close_requested.take(), Some(leave)),
            _ => (pacing.close_requested.take(), None),
        };
        if leave.as_ref().is_some_and(|leave| leave.with_session) {
            owned.session.expiry_s = 0;
        }
        hand_over_session(&core, number, owned, signal, told);
        // After the hand-over: a caller whose command is dropped here finds the session at its new
        // owner.
        handle.close();
        if let Some(leave) = leave {
            let _ = leave.done.send(());
        }
        if let Some((reason, text)) = finish.filter(|_| negotiated.version.has_properties()) {
            disconnect(&mut output, reason, &text, &negotiated);
        }
        if !(over && output.len() == 0) {
            close(stream, output).await;
        }
        drop(permit);
    }

    fn log(&self, exit: &Exit) {
        let (client, peer) = (audit::client(&self.owned.session.client_id), &self.handle.peer.address);
        if matches!(exit, Exit::Violation(..)) {
            self.endpoint.traffic.refused.add(1);
        }
        let Some(more_before) = self.core.log_pace.may(LogLine::Closed, peer.ip(), self.core.now()) else {
            return;
        };
        match exit {
            Exit::Gone(None) => {
                info!(%client, %peer, more_before, "connection closed by the client without DISCONNECT")
            }
            Exit::Gone(Some(error)) => info!(%client, %peer, %error, more_before, "connection lost"),
            Exit::Disconnected => info!(%client, %peer, more_before, "disconnected by the client"),
            Exit::Violation(reason, text) => {
                warn!(%client, %peer, user = %audit::user(&self.owned.identity), %reason, more_before,
                    "connection closed: {}", audit::text(text));
            }
            Exit::Told(CloseSignal::TakenOver { by, .. }) => {
                info!(%client, %peer, %by, more_before, "session taken over by another connection with the same client identifier");
            }
            Exit::Told(CloseSignal::Closed(reason)) => info!(%client, %peer, %reason, "connection closed"),
            Exit::Expelled(_) => info!(%client, %peer, "connection closed by an operator"),
        }
    }
}

/// Hands the session over: to the connection that has claimed it, or to the registry as offline. A
/// session that does not outlive its connection ends.
pub(crate) fn hand_over_session(
    core: &Arc<Core>,
    number: ConnectionNumber,
    mut owned: OwnedSession,
    mut end: oneshot::Receiver<CloseSignal>,
    told: Option<CloseSignal>,
) {
    let now = core.now();
    // Messages of shared groups go to members that are connected.
    owned.outbox.disconnect(&core.outcomes);
    core.reassign_shared(&mut owned, SharedMessages::All);
    let mut claimed = |told: Option<CloseSignal>| match told.or_else(|| end.try_recv().ok()) {
        Some(CloseSignal::TakenOver { to, .. }) => Some(to),
        _ => None,
    };
    let session = &mut owned.session;
    let client_id = session.client_id.clone();
    let ends = session.expiry_s == 0;
    let due = session.go_offline(now);
    for (reason, message) in session.outgoing.lost.drain(..) {
        core.outcomes.dropped(reason, &message, owned.outbox.recipient());
    }
    // The store has these messages: they leave memory until the client is back.
    owned.outbox.spill(&mut session.outgoing.pending);
    owned.sync_counts();
    let session = &mut owned.session;
    if ends {
        // The session ends, and its will is published, before the client identifier is free.
        core.end_session(owned, Durability::None);
        if !core.registry.release(&client_id, number)
            && let Some(to) = claimed(told)
        {
            let _ = to.send(None);
        }
        return;
    }
    // A will with a delay stays with the offline session.
    let word = if session.will_at == Some(now) { PendingWill::take(session, &owned.identity) } else { None };
    if word.is_some() {
        session.will_at = None;
    }
    let due = if word.is_some() { session.due_at() } else { due };
    // The will is published before its removal is on record: a crash between both publishes it
    // twice, not never.
    if let Some(word) = word {
        core.publish_will(&word);
    }
    core.record_offline(&mut owned);
    match core.registry.go_offline(number, owned) {
        Ok(generation) => {
            if let Some(due) = due {
                core.timers.add(due, client_id, generation);
            }
        }
        Err(owned) => {
            if let Some(to) = claimed(told)
                && let Err(Some(owned)) = to.send(Some(owned))
            {
                warn!(client = %client_id, "nobody took the session over; it ends here");
                core.end_session(owned, Durability::None);
            }
        }
    }
}

/// Writes DISCONNECT, with a reason string if that fits.
fn disconnect(output: &mut Output, reason: ReasonCode, text: &str, negotiated: &Negotiated) {
    let Negotiated { version, packet_bytes_max, .. } = *negotiated;
    let mut buffer = [0; 512];
    let mut properties = PropertyWriter::new(&mut buffer);
    let _ = properties.push(Property::ReasonString(text));
    let packet = Packet::Disconnect(Disconnect { reason, properties: properties.finish() });
    if let Ok(len) = packet.encoded_len(version, packet_bytes_max) {
        let _ = output.append(len, |out| packet.encode(version, packet_bytes_max, out));
    }
}

/// Writes the rest of the output, shuts the stream down and waits a bounded time for the client's
/// end. A socket that is closed with unread bytes is reset, and its written bytes are lost.
pub(crate) async fn close(mut stream: Stream, mut output: Output) {
    let last_bytes = async {
        poll_fn(|cx| output.poll_write(&mut stream, cx)).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, last_bytes).await;
}
