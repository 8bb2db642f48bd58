//! A client that may come in gets its session and CONNACK.

use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::keepalive::ServerKeepAlive;
use lapwing_protocol::packet::{ConnAck, Packet};
use lapwing_protocol::property::{Properties, Property, PropertyWriter};
use lapwing_protocol::{EncodeError, ReasonCode};
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::{AuthenticatedClient, ConnectError, ConnectRequest, Rejection};
use crate::auth::{Identity, audit};
use crate::clients::handle::ClientHandle;
use crate::clients::owned::OwnedSession;
use crate::clients::{Claim, ClaimRequest};
use crate::connection::output::Output;
use crate::connection::{Connection, State};
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::message::Durability;
use crate::net::endpoint::Endpoint;
use crate::session::Session;
use crate::store::{Record, RecordBatch, Ticket};

/// Claims the session and makes the connection, CONNACK first in its output.
pub(crate) async fn welcome(
    core: &Arc<Core>,
    guest: AuthenticatedClient,
) -> Result<Box<Connection>, Box<Rejection>> {
    let AuthenticatedClient { stream, peer, place, input, identity, gate, snapshot, mut request } = guest;
    let (number, identity) = (core.next_number(), Arc::new(identity));
    let (end_sender, end) = oneshot::channel();
    let client_id = request.client_id.clone();
    let contact = Arc::new(ClientHandle::new(identity.clone(), peer, core.now()));
    if gate.limits.takeovers_damped {
        calm(core, &client_id, &contact.by).await;
    }
    let claimant = ClaimRequest {
        connection: number,
        any_user: !snapshot.config.auth.sessions_belong_to_users,
        end: end_sender,
        contact: contact.clone(),
    };
    let earlier = match core.registry.claim(&client_id, claimant) {
        Claim::Fresh => None,
        Claim::Resting(resident, rest) => {
            if let Some(due) = resident.session.due_at() {
                core.agenda.remove(due, &client_id, rest);
            }
            Some(resident)
        }
        Claim::Live(from) => {
            audit::takeover(&client_id, &identity, &contact.by);
            from.await.ok().flatten()
        }
        claim @ (Claim::ForeignUser | Claim::Full) => {
            let (reason, text) = match claim {
                Claim::ForeignUser => (
                    ReasonCode::ClientIdentifierNotValid,
                    format!("the client identifier '{client_id}' belongs to another user"),
                ),
                _ => (
                    ReasonCode::QuotaExceeded,
                    "limits.sessions_max is reached, or the broker stops".to_owned(),
                ),
            };
            let mut output = Output::default();
            ConnectError::new(request.agreement.version, reason, text.clone()).write(&mut output);
            return Err(Box::new(Rejection { stream, output, text: Some(text), slow: false, _place: place }));
        }
    };
    let level = gate.listener.durability.unwrap_or(snapshot.config.store.durability);
    let expires_at = identity.expires_at(core.now());
    let (mut resident, session_present, ended) =
        resident(core, &request, identity, &snapshot, earlier, level);
    resident.session.will = request.will.take();
    resident.outbox.connect(&contact.waker);
    let _ = contact.outbox.set(resident.outbox.clone());
    core.record_session(&mut resident, true);
    let resumed = if resident.outbox.is_stored() && resident.session.outgoing.in_flight() > 0 {
        core.store.append(Record::Nothing, level)
    } else {
        Ticket::default()
    };
    info!(client = %client_id, peer = %contact.peer.address, listener = %contact.peer.listener, user = ?resident.identity.user,
        version = %request.agreement.version, session_present, "connected");
    let keep_alive = ServerKeepAlive::new(request.agreement.keep_alive_s, core.now() as u32);
    let mut output = Output::default();
    let allowances = core.users.allowances(resident.identity.user.as_ref(), &gate.limits);
    let mut state = State::new(!input.is_empty(), resumed, allowances, core.now());
    match connack(&gate, &request, session_present) {
        // The client may rely on its old session being gone.
        Ok(bytes) if !ended.is_free() => state.hold(&bytes, ended, false),
        Ok(bytes) => output.extend(&bytes),
        Err(error) => {
            debug!(client = %client_id, %error, "CONNACK does not fit into the client's maximum packet size");
        }
    }
    gate.traffic.packets_sent.add(1);
    Ok(Box::new(Connection {
        core: core.clone(),
        stream,
        place,
        number,
        resident,
        agreement: request.agreement,
        end,
        contact,
        snapshot,
        gate,
        expires_at,
        state,
        input,
        output,
        records: RecordBatch::of(&core.store),
        keep_alive,
    }))
}

/// A connection that its client has closed is noticed within this time.
const FAREWELL: Duration = Duration::from_millis(50);

/// Two clients with one client identifier would throw each other out without end.
async fn calm(core: &Core, client_id: &Arc<str>, by: &str) {
    let Some(holder) = core.registry.holder(client_id) else { return };
    let quarrel = core.arrivals.takes_over(client_id, core.now());
    if quarrel.wait.is_zero() {
        return;
    }
    // One client that comes again and again at once has no quarrel with itself.
    if has_left(core, client_id, FAREWELL).await {
        core.arrivals.makes_up(client_id, core.now(), quarrel);
        return;
    }
    if quarrel.tell {
        audit::quarrel(client_id, &holder, by);
    }
    has_left(core, client_id, quarrel.wait).await;
}

/// Whether nobody has this client identifier any more, within this time.
async fn has_left(core: &Core, client_id: &Arc<str>, within: Duration) -> bool {
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

/// The session of this connection (`[MQTT-3.1.2-4]`, `[MQTT-3.1.2-5]`): the one there was, or a new one.
fn resident(
    core: &Arc<Core>,
    request: &ConnectRequest,
    identity: Arc<Identity>,
    snapshot: &Snapshot,
    earlier: Option<OwnedSession>,
    level: Durability,
) -> (OwnedSession, bool, Ticket) {
    let over = |resident: &OwnedSession| resident.session.ends_at.is_some_and(|at| at <= core.now());
    match earlier {
        Some(mut resident) if !request.clean_start && !over(&resident) => {
            resident.session.resume(&request.terms);
            // The client is back before its will was due (`[MQTT-3.1.3-9]`).
            resident.session.will = None;
            // Rights may have changed while the session rested.
            resident.identity = identity;
            core.revoke(&*snapshot.auth.policy, &mut resident);
            (resident, true, Ticket::default())
        }
        earlier => {
            let ended = earlier.map(|resident| core.end_session(resident, level)).unwrap_or_default();
            let number = core.next_number();
            let stored = request.terms.expiry_s > 0 && core.store.keeps();
            let (client_id, user) = (request.client_id.clone(), identity.user.clone());
            let outbox = core.outbox(number, client_id.clone(), stored);
            let session = Session::new(number, client_id, user, &request.terms, stored);
            (OwnedSession { session: Box::new(session), outbox, identity }, false, ended)
        }
    }
}

/// What the properties of CONNACK take at most, apart from texts of the client and the configuration.
const CONNACK_FIXED_BYTES: usize = 64;

fn connack(
    config: &Endpoint,
    request: &ConnectRequest,
    session_present: bool,
) -> Result<Vec<u8>, EncodeError> {
    let agreement = &request.agreement;
    // Not a page more than that: it is zeroed for each client.
    let texts = [
        request.client_id.len(),
        config.mqtt.response_information.as_ref().map_or(0, String::len),
        agreement.auth_method.as_ref().map_or(0, |method| method.len()),
        request.auth_data.as_ref().map_or(0, Vec::len),
    ];
    let mut buffer = vec![0; CONNACK_FIXED_BYTES + texts.iter().sum::<usize>()];
    let mut p = PropertyWriter::new(&mut buffer);
    if agreement.version.has_properties() {
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
            p.push(Property::ServerKeepAlive(agreement.keep_alive_s))?;
        }
        if let Some(information) =
            config.mqtt.response_information.as_ref().filter(|_| request.response_information)
        {
            p.push(Property::ResponseInformation(information))?;
        }
        if let Some(method) = &agreement.auth_method {
            p.push(Property::AuthenticationMethod(method))?;
        }
        if let Some(data) = &request.auth_data {
            p.push(Property::AuthenticationData(data))?;
        }
    }
    let properties: Properties<'_> = p.finish();
    let packet = Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::Success, properties });
    let len = packet.encoded_len(agreement.version, agreement.packet_bytes_max)?;
    let mut bytes = vec![0; len];
    packet.encode(agreement.version, agreement.packet_bytes_max, &mut bytes)?;
    Ok(bytes)
}
