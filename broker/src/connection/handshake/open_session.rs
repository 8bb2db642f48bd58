//! A client that may come in gets its session and CONNACK.

use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::keepalive::ServerKeepAlive;
use lapwing_protocol::packet::{ConnAck, Packet};
use lapwing_protocol::property::{Properties, Property, PropertyWriter};
use lapwing_protocol::{EncodeError, ReasonCode};
use tokio::sync::oneshot;
use tracing::debug;

use super::{AuthenticatedClient, ConnectError, ConnectRequest, Rejection};
use crate::auth::log_pace::LogLine;
use crate::auth::{Identity, audit};
use crate::clients::handle::ClientHandle;
use crate::clients::owned::{OfflineGeneration, OwnedSession};
use crate::clients::{Claim, ClaimRequest};
use crate::connection::Connection;
use crate::connection::commit_queue::CommitQueue;
use crate::connection::delivery::Outbound;
use crate::connection::inbound::Inbound;
use crate::connection::output::Output;
use crate::connection::pacing::Pacing;
use crate::connection::publisher::Publisher;
use crate::connection::stats::Stats;
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::message::Durability;
use crate::net::endpoint::Endpoint;
use crate::session::Session;
use crate::store::{Record, RecordBatch, Ticket};

/// Claims the session and makes the connection, CONNACK first in its output.
pub(crate) async fn open_session(
    core: &Arc<Core>,
    client: AuthenticatedClient,
) -> Result<Box<Connection>, Box<Rejection>> {
    let AuthenticatedClient { stream, peer, permit, input, identity, endpoint, snapshot, mut request } =
        client;
    let (number, identity) = (core.next_number(), Arc::new(identity));
    let (end_sender, end) = oneshot::channel();
    let client_id = request.client_id.clone();
    let handle = Arc::new(ClientHandle::new(identity.clone(), peer, core.now()));
    if endpoint.limits.takeovers_damped {
        damp_takeover(core, &client_id, &handle.label).await;
    }
    let claim_request = ClaimRequest {
        connection: number,
        any_user: !snapshot.config.auth.sessions_belong_to_users,
        abandoned: abandoned(core, &snapshot, &client_id, &identity),
        close: end_sender,
        handle: handle.clone(),
    };
    let earlier = match claim(core, &client_id, &identity, claim_request).await {
        Ok(earlier) => earlier,
        Err(ClaimRefusal { reason, text, client_text }) => {
            let mut output = Output::default();
            let refusal = ConnectError::new(request.negotiated.version, reason, text.clone());
            ConnectError { client_text, ..refusal }.write(&mut output);
            return Err(Box::new(Rejection {
                stream,
                output,
                text: Some(text),
                slow: false,
                _permit: permit,
            }));
        }
    };
    let level = endpoint.listener.durability.unwrap_or(snapshot.config.store.durability);
    let expires_at = identity.expires_at(core.now());
    let (mut owned, session_present, ended) = owned(core, &request, identity, &snapshot, earlier, level);
    owned.session.will = request.will.take();
    owned.outbox.connect(&handle.waker);
    let _ = handle.outbox.set(owned.outbox.clone());
    core.record_connected(&mut owned);
    let resumed = if owned.outbox.is_stored() && owned.session.outgoing.in_flight() > 0 {
        core.store.append(Record::Nothing, level)
    } else {
        Ticket::default()
    };
    let (peer, now) = (&handle.peer, core.now());
    if let Some(more_before) = core.log_pace.may(LogLine::Connected, peer.address.ip(), now) {
        let version = &request.negotiated.version;
        audit::connected(peer, &client_id, &owned.identity, version, session_present, more_before);
    }
    let keep_alive = ServerKeepAlive::new(request.negotiated.keep_alive_s, core.now() as u32);
    let mut outbound = Outbound::default();
    let rates = core.user_rates.rate_limits(owned.identity.user.as_ref(), &endpoint.limits);
    let mut commits = CommitQueue::new(RecordBatch::of(&core.store), resumed);
    match connack(&endpoint, &request, session_present) {
        // CONNACK waits until the end of the old session is on record: the client relies on it.
        Ok(bytes) if !ended.is_free() => commits.hold(&bytes, ended),
        Ok(bytes) => outbound.output.extend(&bytes),
        Err(error) => {
            debug!(client = %client_id, %error, "CONNACK does not fit into the client's maximum packet size");
        }
    }
    endpoint.traffic.packets_sent.add(1);
    Ok(Box::new(Connection {
        core: core.clone(),
        stream,
        permit,
        number,
        owned,
        negotiated: request.negotiated,
        close: end,
        handle,
        snapshot,
        endpoint,
        expires_at,
        reauth: None,
        inbound: Inbound::new(input, rates),
        publisher: Publisher::default(),
        outbound,
        commits,
        pacing: Pacing::new(keep_alive),
        stats: Stats::new(core.now()),
    }))
}

/// Refusal of a client identifier.
struct ClaimRefusal {
    reason: ReasonCode,
    /// Text for the log.
    text: String,
    /// Text for the client, where the log says more.
    client_text: Option<&'static str>,
}

/// A session at rest whose owner cannot come in any more does not lock others out: the same name
/// has it, and what nobody owned goes to whoever comes. Another user's is ended.
fn abandoned(
    core: &Arc<Core>,
    snapshot: &Snapshot,
    client_id: &Arc<str>,
    identity: &Identity,
) -> Option<OfflineGeneration> {
    let (owner, rest) = core.registry.offline(client_id)?;
    if owner.is_owner(identity) || snapshot.auth.policy.can_return(&owner) {
        return None;
    }
    let passes_on = owner.user.is_none() || owner.user == identity.user;
    audit::abandoned(client_id, &owner, identity, passes_on);
    if !passes_on {
        core.end_offline(client_id, rest);
    }
    passes_on.then_some(rest)
}

/// Claims the client identifier, and takes its session over from whoever has it.
///
/// # Errors
/// [`ClaimRefusal`]
async fn claim(
    core: &Arc<Core>,
    client_id: &Arc<str>,
    identity: &Identity,
    request: ClaimRequest,
) -> Result<Option<OwnedSession>, ClaimRefusal> {
    let peer = request.handle.peer.clone();
    match core.registry.claim(client_id, request) {
        Claim::Fresh => Ok(None),
        Claim::Offline(owned, generation) => {
            if let Some(due) = owned.session.due_at() {
                core.timers.remove(due, client_id, generation);
            }
            Ok(Some(owned))
        }
        Claim::Live(from) => {
            audit::takeover(&core.log_pace, core.now(), &peer, client_id, identity);
            Ok(from.await.ok().flatten())
        }
        Claim::ForeignUser(owner) => {
            let realm = owner.realm.as_deref().map_or_else(String::new, |realm| format!(" ({realm})"));
            let text = format!(
                "the client identifier '{client_id}' belongs to user {}{realm} (auth.sessions_belong_to_users); \
                 `lapwing ctl session delete '{client_id}'` ends that session",
                audit::user(&owner)
            );
            Err(ClaimRefusal {
                reason: ReasonCode::ClientIdentifierNotValid,
                text,
                client_text: Some("the client identifier belongs to another user"),
            })
        }
        Claim::Full => {
            let text = "limits.sessions_max is reached, or the broker stops".to_owned();
            Err(ClaimRefusal { reason: ReasonCode::QuotaExceeded, text, client_text: None })
        }
    }
}

/// Time in which the end of a connection that its client closed is noticed.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(50);

/// Delays a takeover in a fight: two clients with one client identifier would disconnect each other
/// without end.
async fn damp_takeover(core: &Core, client_id: &Arc<str>, by: &str) {
    let Some(holder) = core.registry.holder(client_id) else { return };
    let fight = core.flapping.takes_over(client_id, core.now());
    if fight.wait.is_zero() {
        return;
    }
    // A client that reconnects at once closes its old connection itself: this is no fight of two
    // clients.
    if wait_released(core, client_id, RELEASE_TIMEOUT).await {
        core.flapping.undo(client_id, core.now(), fight);
        return;
    }
    if fight.log {
        audit::takeover_fight(client_id, &holder, by);
    }
    wait_released(core, client_id, fight.wait).await;
}

/// Returns `true` when the client identifier is released within this time.
async fn wait_released(core: &Core, client_id: &Arc<str>, within: Duration) -> bool {
    let (mut waited, mut pause) = (Duration::ZERO, Duration::from_millis(2));
    while waited < within {
        tokio::time::sleep(pause).await;
        if core.registry.holder(client_id).is_none() {
            return true;
        }
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(100)).min(within.saturating_sub(waited));
    }
    false
}

/// Returns the session of this connection (`[MQTT-3.1.2-4]`, `[MQTT-3.1.2-5]`): the earlier one or
/// a new one, whether it is the earlier one, and the ticket of the end of one that was discarded.
fn owned(
    core: &Arc<Core>,
    request: &ConnectRequest,
    identity: Arc<Identity>,
    snapshot: &Snapshot,
    earlier: Option<OwnedSession>,
    level: Durability,
) -> (OwnedSession, bool, Ticket) {
    let over = |owned: &OwnedSession| owned.session.ends_at.is_some_and(|at| at <= core.now());
    match earlier {
        Some(mut owned) if !request.clean_start && !over(&owned) => {
            owned.session.resume(&request.terms);
            // A will whose client is back before it was due is not published (`[MQTT-3.1.3-9]`).
            owned.session.will = None;
            // Rights may have changed while the session was offline.
            owned.session.user = identity.user.clone();
            owned.identity = identity;
            core.revoke(&*snapshot.auth.policy, &mut owned);
            (owned, true, Ticket::default())
        }
        earlier => {
            let ended = earlier.map(|owned| core.end_session(owned, level)).unwrap_or_default();
            let number = core.next_number();
            let stored = request.terms.expiry_s > 0 && core.store.is_durable();
            let (client_id, user) = (request.client_id.clone(), identity.user.clone());
            let outbox = core.outbox(number, client_id.clone(), stored);
            let session = Session::new(number, client_id, user, &request.terms, stored);
            (OwnedSession { session: Box::new(session), outbox, identity }, false, ended)
        }
    }
}

/// Largest size in bytes of CONNACK's properties, apart from texts of the client and the
/// configuration.
const CONNACK_FIXED_BYTES: usize = 64;

fn connack(
    config: &Endpoint,
    request: &ConnectRequest,
    session_present: bool,
) -> Result<Vec<u8>, EncodeError> {
    let negotiated = &request.negotiated;
    // No larger than needed: the buffer is zeroed for each client.
    let texts = [
        request.client_id.len(),
        config.mqtt.response_information.as_ref().map_or(0, String::len),
        negotiated.auth_method.as_ref().map_or(0, |method| method.len()),
        request.auth_data.as_ref().map_or(0, Vec::len),
    ];
    let mut buffer = vec![0; CONNACK_FIXED_BYTES + texts.iter().sum::<usize>()];
    let mut p = PropertyWriter::new(&mut buffer);
    if negotiated.version.has_properties() {
        if request.expiry_capped {
            p.push(Property::SessionExpiryInterval(request.terms.expiry_s))?;
        }
        p.push(Property::ReceiveMaximum(request.terms.receive_maximum))?;
        if config.mqtt.qos_max < 2 {
            p.push(Property::MaximumQoS(config.mqtt.qos_max))?;
        }
        if !config.mqtt.retain_available {
            p.push(Property::RetainAvailable(0))?;
        }
        p.push(Property::MaximumPacketSize(config.limits.packet_bytes_max))?;
        if request.assigned {
            p.push(Property::AssignedClientIdentifier(&request.client_id))?;
        }
        p.push(Property::TopicAliasMaximum(config.limits.topic_aliases_in_max))?;
        if request.keep_alive_set {
            p.push(Property::ServerKeepAlive(negotiated.keep_alive_s))?;
        }
        if let Some(information) =
            config.mqtt.response_information.as_ref().filter(|_| request.response_information)
        {
            p.push(Property::ResponseInformation(information))?;
        }
        if let Some(method) = &negotiated.auth_method {
            p.push(Property::AuthenticationMethod(method))?;
        }
        if let Some(data) = &request.auth_data {
            p.push(Property::AuthenticationData(data))?;
        }
    }
    let properties: Properties<'_> = p.finish();
    let packet = Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::Success, properties });
    let len = packet.encoded_len(negotiated.version, negotiated.packet_bytes_max)?;
    let mut bytes = vec![0; len];
    packet.encode(negotiated.version, negotiated.packet_bytes_max, &mut bytes)?;
    Ok(bytes)
}
