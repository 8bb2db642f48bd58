//! The first packet: limits, authentication, takeover, CONNACK.
//!
//! Everything up to the claim of the client identifier happens within `limits.connect_timeout_s`, counted from the accept; the
//! claim itself is never cut short, since a session is on its way then. Nothing of the size that a packet announces is
//! allocated: the buffer grows with the bytes that have come, up to `limits.packet_bytes_before_connect`.

use std::future::poll_fn;
use std::sync::Arc;

use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::keepalive::ServerKeepAlive;
use lapwing_protocol::packet::{ConnAck, Connect, Packet};
use lapwing_protocol::property::{Properties, Property, PropertyWriter};
use lapwing_protocol::{EncodeError, PacketType, QoS, ReasonCode, Remedy, Version, limits, topic};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use crate::auth::{Action, AuthStep, Credentials, Identity};
use crate::budget::Place;
use crate::connection::{
    AUTH_BYTES_MAX, AUTH_ROUNDS_MAX, Agreement, Connection, auth_packet, user_properties_fit,
};
use crate::core::Core;
use crate::net::{Peer, Stream};
use crate::output::Output;
use crate::registry::{Claim, Resident};
use crate::session::{Session, Terms, Will};
use crate::store::Record;

/// The first byte of a TLS ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;

/// A client that may come in, its session not yet claimed.
pub(crate) struct Guest {
    stream: Stream,
    peer: Peer,
    place: Place,
    /// What came behind CONNECT.
    input: Vec<u8>,
    identity: Identity,
    request: Request,
}

/// What is kept of CONNECT.
struct Request {
    client_id: Arc<str>,
    assigned: bool,
    clean_start: bool,
    terms: Terms,
    /// The client asked for more than it gets.
    expiry_capped: bool,
    agreement: Agreement,
    keep_alive_set: bool,
    response_information: bool,
    will: Option<Will>,
    auth_data: Option<Vec<u8>>,
}

/// Why a client is not let in.
pub(crate) struct Refusal {
    stream: Stream,
    output: Output,
    /// For the log.
    text: String,
}

impl Refusal {
    /// Tells the client what there is to tell, and the log.
    pub(crate) async fn answer(self, core: &Core, peer: &str) {
        core.metrics.refused.add(1);
        warn!(peer, "connection refused: {}", self.text);
        crate::connection::close(self.stream, self.output).await;
    }
}

/// What to do about a CONNECT that is not accepted.
struct Refuse {
    version: Version,
    remedy: Remedy,
    text: String,
    server_reference: Option<String>,
}

impl Refuse {
    fn new(version: Version, reason: ReasonCode, text: impl Into<String>) -> Refuse {
        Refuse { version, remedy: Remedy::Refuse(reason), text: text.into(), server_reference: None }
    }

    fn close(text: impl Into<String>) -> Refuse {
        Refuse { version: Version::V311, remedy: Remedy::Close, text: text.into(), server_reference: None }
    }

    fn write(&self, output: &mut Output) {
        let mut buffer = [0; 1024];
        let mut properties = PropertyWriter::new(&mut buffer);
        let _ = properties.push(Property::ReasonString(&self.text));
        if let Some(server) = &self.server_reference {
            let _ = properties.push(Property::ServerReference(server));
        }
        let properties = properties.finish();
        let packet = match self.remedy {
            Remedy::Close => return,
            Remedy::Refuse(reason) => Packet::ConnAck(ConnAck { session_present: false, reason, properties }),
            Remedy::Disconnect(reason) => {
                Packet::Disconnect(lapwing_protocol::packet::Disconnect { reason, properties })
            }
        };
        if let Ok(len) = packet.encoded_len(self.version, limits::PACKET_BYTES_MAX) {
            let _ = output.append(len, |out| packet.encode(self.version, limits::PACKET_BYTES_MAX, out));
        }
    }
}

/// Reads CONNECT and decides.
pub(crate) async fn receive(
    core: &Core,
    mut stream: Stream,
    peer: Peer,
    place: Place,
) -> Result<Guest, Box<Refusal>> {
    let mut input = Vec::new();
    match admit(core, &mut stream, &peer, &mut input).await {
        Ok((identity, request)) => Ok(Guest { stream, peer, place, input, identity, request }),
        Err(refuse) => {
            let mut output = Output::default();
            refuse.write(&mut output);
            Err(Box::new(Refusal { stream, output, text: refuse.text }))
        }
    }
}

async fn admit(
    core: &Core,
    stream: &mut Stream,
    peer: &Peer,
    input: &mut Vec<u8>,
) -> Result<(Identity, Request), Refuse> {
    let len = read_packet(core, stream, input, Version::V5, |first| match first {
        // A TLS handshake begins with what would be CONNECT with wrong flags.
        first if first >> 4 == PacketType::Connect as u8 && first != TLS_HANDSHAKE => Ok(()),
        first => Err(not_connect(first)),
    })
    .await?;
    let rest = input.split_off(len);
    let bytes = std::mem::replace(input, rest);
    let connect = match frame::split(&bytes, Version::V5, u32::MAX) {
        Ok(Split::Frame { frame, .. }) => Packet::decode(frame, Version::V5),
        Ok(Split::Incomplete { .. }) => return Err(Refuse::close("CONNECT is not whole")),
        Err(error) => Err(error),
    };
    let connect = match connect {
        Ok(Packet::Connect(connect)) => connect,
        Ok(_) => return Err(Refuse::close("the first packet is not CONNECT")),
        Err(error) => {
            // An unknown protocol level is answered in the form that every version can read.
            let text = format!("CONNECT: {error}");
            return Err(Refuse {
                version: Version::V311,
                remedy: error.remedy_for_connect(),
                text,
                server_reference: None,
            });
        }
    };
    core.metrics.packets_received.add(1);
    let mut request = check(core, &connect)?;
    let credentials = Credentials {
        peer,
        client_id: connect.client_id,
        user_name: connect.user_name,
        password: connect.password,
    };
    let identity = match connect.properties.authentication_method() {
        None => core.auth.policy.authenticate(&credentials).map_err(|reason| {
            let text = format!("{reason}: client '{}', user {:?}", connect.client_id, connect.user_name);
            Refuse::new(connect.version, reason, text)
        })?,
        Some(method) => {
            let (identity, data) = exchange(core, stream, input, &connect, method, &credentials).await?;
            request.auth_data = data;
            request.agreement.auth_method = Some(method.into());
            identity
        }
    };
    let client_id = &request.client_id;
    if let Some(will) = &connect.will
        && !core.auth.policy.allows(&identity, client_id, Action::Publish, will.topic)
    {
        let text = format!("client '{client_id}' may not publish to its will topic '{}'", will.topic);
        return Err(Refuse::new(connect.version, ReasonCode::NotAuthorized, text));
    }
    Ok((identity, request))
}

/// What a first byte that is not CONNECT looks like, for those who connected the wrong program or to the wrong port.
fn not_connect(first: u8) -> String {
    match first {
        TLS_HANDSHAKE => "this looks like TLS on a listener for plain MQTT: use the port of a TLS listener".to_owned(),
        b'G' | b'P' | b'H' | b'O' => {
            "this looks like HTTP or WebSocket on a listener for plain MQTT: use the port of a WebSocket listener".to_owned()
        }
        _ => format!("the first packet is not CONNECT (first byte 0x{first:02x})"),
    }
}

/// Reads until one whole packet stands at the front of `input`; its length.
async fn read_packet(
    core: &Core,
    stream: &mut Stream,
    input: &mut Vec<u8>,
    version: Version,
    judge: impl Fn(u8) -> Result<(), String>,
) -> Result<usize, Refuse> {
    let most = core.config.limits.packet_bytes_before_connect;
    loop {
        if let Some(first) = input.first() {
            judge(*first).map_err(Refuse::close)?;
        }
        match frame::split(input, version, u32::try_from(most).unwrap_or(u32::MAX)) {
            Ok(Split::Frame { len, .. }) => return Ok(len),
            Ok(Split::Incomplete { .. }) => {}
            Err(error) => return Err(Refuse::close(format!("the first packet: {error}"))),
        }
        let mut buffer = [0; 2048];
        match stream.read(&mut buffer).await {
            Ok(0) => return Err(Refuse::close("closed by the client before CONNECT was whole")),
            Ok(n) => {
                core.metrics.bytes_received.add(n as u64);
                input.extend_from_slice(buffer.get(..n).unwrap_or(&[]));
            }
            Err(error) => return Err(Refuse::close(format!("before CONNECT was whole: {error}"))),
        }
    }
}

/// The rules that need no identity.
fn check(core: &Core, connect: &Connect<'_>) -> Result<Request, Refuse> {
    let (config, version) = (&core.config, connect.version);
    let refuse = |reason, text: String| Err(Refuse::new(version, reason, text));
    if let Some(server) = &config.mqtt.server_reference {
        let reason =
            if config.mqtt.server_moved { ReasonCode::ServerMoved } else { ReasonCode::UseAnotherServer };
        let mut refuse = Refuse::new(version, reason, format!("mqtt.server_reference: use {server}"));
        refuse.server_reference = Some(server.clone());
        return Err(refuse);
    }
    if connect.client_id.len() > config.limits.client_id_bytes_max as usize {
        let text = format!(
            "a client identifier of {} bytes, limits.client_id_bytes_max is {}",
            connect.client_id.len(),
            config.limits.client_id_bytes_max
        );
        return refuse(ReasonCode::ClientIdentifierNotValid, text);
    }
    // `[MQTT-3.1.3-8]` of 3.1.1; MQTT 3.1 has no empty client identifiers.
    let empty = connect.client_id.is_empty();
    if empty && (version == Version::V31 || (version == Version::V311 && !connect.clean_start)) {
        let text = "an empty client identifier needs clean session and MQTT 3.1.1 or later".to_owned();
        return refuse(ReasonCode::ClientIdentifierNotValid, text);
    }
    if !user_properties_fit(&connect.properties, &config.limits)
        || connect.will.is_some_and(|will| !user_properties_fit(&will.properties, &config.limits))
    {
        return refuse(
            ReasonCode::QuotaExceeded,
            "more user properties than limits.user_properties_max".to_owned(),
        );
    }
    if let Some(will) = &connect.will {
        check_will(core, version, will)?;
    }
    let limits = &config.limits;
    let p = &connect.properties;
    let asked_expiry_s = match version {
        Version::V5 => p.session_expiry_interval_s().unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => limits.session_expiry_max_s,
    };
    let keep_alive_max = u16::try_from(limits.keep_alive_max_s).unwrap_or(u16::MAX);
    let keep_alive_set =
        keep_alive_max > 0 && (connect.keep_alive_s == 0 || connect.keep_alive_s > keep_alive_max);
    // MQTT 3 has no Receive Maximum: such a client may have all identifiers open, at two bytes or a bit each.
    let receive_maximum = if version == Version::V5 { limits.receive_maximum } else { u16::MAX };
    Ok(Request {
        client_id: if empty { assigned_client_id(version)? } else { connect.client_id.into() },
        assigned: empty,
        clean_start: connect.clean_start,
        terms: Terms {
            receive_maximum,
            in_flight_max: p
                .receive_maximum()
                .unwrap_or(limits::RECEIVE_MAXIMUM_DEFAULT)
                .min(limits.in_flight_max),
            expiry_s: asked_expiry_s.min(limits.session_expiry_max_s),
            message_expiry_max_s: limits.message_expiry_max_s,
        },
        expiry_capped: asked_expiry_s > limits.session_expiry_max_s,
        agreement: Agreement {
            version,
            packet_bytes_max: p.maximum_packet_size().unwrap_or(limits::PACKET_BYTES_MAX),
            problem_information: p.request_problem_information() != Some(0),
            topic_alias_max: p.topic_alias_maximum().unwrap_or(0).min(limits.topic_aliases_out_max),
            keep_alive_s: if keep_alive_set { keep_alive_max } else { connect.keep_alive_s },
            auth_method: None,
        },
        keep_alive_set,
        response_information: p.request_response_information() == Some(1),
        will: connect.will.map(|will| Will::new(&will, limits.will_delay_max_s)),
        auth_data: None,
    })
}

fn check_will(
    core: &Core,
    version: Version,
    will: &lapwing_protocol::packet::Will<'_>,
) -> Result<(), Refuse> {
    let config = &core.config;
    let refuse = |reason, text: &str| Err(Refuse::new(version, reason, format!("the will: {text}")));
    if will.qos > QoS::from_u8(config.mqtt.qos_max).unwrap_or_default() {
        return refuse(ReasonCode::QoSNotSupported, "a QoS above mqtt.qos_max");
    }
    if will.retain && !config.mqtt.retain_available {
        return refuse(ReasonCode::RetainNotSupported, "mqtt.retain_available is false");
    }
    if will.topic.starts_with('$') {
        return refuse(ReasonCode::NotAuthorized, "topics that start with $ are the broker's own");
    }
    if topic::level_count(will.topic) > config.limits.topic_levels_max as usize
        || will.topic.len() > config.limits.topic_bytes_max as usize
    {
        return refuse(ReasonCode::TopicNameInvalid, "the topic is longer than the limits allow");
    }
    if config.mqtt.payload_format_checked
        && will.properties.payload_format_indicator() == Some(1)
        && std::str::from_utf8(will.payload).is_err()
    {
        return refuse(
            ReasonCode::PayloadFormatInvalid,
            "the payload is not the UTF-8 text it is said to be",
        );
    }
    Ok(())
}

/// A client identifier that nobody can guess (`[MQTT-3.1.3-6]`, `[MQTT-3.1.3-7]`): 128 random bits.
fn assigned_client_id(version: Version) -> Result<Arc<str>, Refuse> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| {
        Refuse::new(version, ReasonCode::ServerUnavailable, format!("no randomness: {error}"))
    })?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("auto-{hex}").into())
}

/// Enhanced authentication (`4.12`): AUTH back and forth until the method decides.
async fn exchange(
    core: &Core,
    stream: &mut Stream,
    input: &mut Vec<u8>,
    connect: &Connect<'_>,
    name: &str,
    credentials: &Credentials<'_>,
) -> Result<(Identity, Option<Vec<u8>>), Refuse> {
    let refuse = |reason, text: String| Refuse::new(Version::V5, reason, text);
    let method = core.auth.method(name).ok_or_else(|| {
        refuse(
            ReasonCode::BadAuthenticationMethod,
            format!("the authentication method '{name}' is not known here"),
        )
    })?;
    let mut exchange = method.begin(credentials);
    let mut step = exchange.step(connect.properties.authentication_data());
    for _ in 0..AUTH_ROUNDS_MAX {
        let data = match step {
            AuthStep::Accept { identity, data } => return Ok((identity, data)),
            AuthStep::Reject(reason) => {
                return Err(refuse(reason, format!("authentication by '{name}' failed")));
            }
            AuthStep::Continue(data) => data,
        };
        let mut buffer = vec![0; AUTH_BYTES_MAX];
        let mut output = Output::default();
        let sent: Result<(), EncodeError> =
            auth_packet(ReasonCode::ContinueAuthentication, name, Some(&data), &mut buffer).and_then(
                |packet| {
                    let len = packet.encoded_len(Version::V5, limits::PACKET_BYTES_MAX)?;
                    output.append(len, |out| packet.encode(Version::V5, limits::PACKET_BYTES_MAX, out))
                },
            );
        sent.map_err(|error| {
            refuse(ReasonCode::UnspecifiedError, format!("AUTH could not be written: {error}"))
        })?;
        poll_fn(|cx| output.poll_write(stream, cx))
            .await
            .map_err(|error| Refuse::close(error.to_string()))?;
        // `[MQTT-3.1.2-30]`: nothing but AUTH and DISCONNECT until the exchange is over.
        let len = read_packet(core, stream, input, Version::V5, |first| match first >> 4 {
            14 | 15 => Ok(()),
            _ => Err("a packet other than AUTH during the authentication".to_owned()),
        })
        .await
        .map_err(|refuse| Refuse {
            version: Version::V5,
            remedy: Remedy::Refuse(ReasonCode::ProtocolError),
            ..refuse
        })?;
        let rest = input.split_off(len);
        let bytes = std::mem::replace(input, rest);
        let Ok(Split::Frame { frame, .. }) = frame::split(&bytes, Version::V5, u32::MAX) else {
            return Err(Refuse::close("AUTH is not whole"));
        };
        step = match Packet::decode(frame, Version::V5) {
            Ok(Packet::Auth(auth)) if auth.properties.authentication_method() != Some(name) => {
                return Err(refuse(
                    ReasonCode::BadAuthenticationMethod,
                    "the method changed on the way".to_owned(),
                ));
            }
            Ok(Packet::Auth(auth)) if auth.reason == ReasonCode::ContinueAuthentication => {
                exchange.step(auth.properties.authentication_data())
            }
            Ok(Packet::Disconnect(_)) => return Err(Refuse::close("the client gave up")),
            Ok(_) => {
                return Err(refuse(
                    ReasonCode::ProtocolError,
                    "AUTH with a reason code out of turn".to_owned(),
                ));
            }
            Err(error) => return Err(refuse(error.reason(), format!("AUTH: {error}"))),
        };
    }
    Err(refuse(ReasonCode::NotAuthorized, format!("authentication by '{name}' takes too many steps")))
}

/// Claims the session and makes the connection, CONNACK first in its output.
pub(crate) async fn welcome(core: &Arc<Core>, guest: Guest) -> Result<Box<Connection>, Box<Refusal>> {
    let Guest { stream, peer, place, input, identity, mut request } = guest;
    let number = core.next_number();
    let (end_sender, end) = oneshot::channel();
    let by: Arc<str> = peer.address.to_string().into();
    let client_id = request.client_id.clone();
    let earlier = match core.registry.claim(&client_id, identity.user.as_ref(), number, end_sender, &by) {
        Claim::Fresh => None,
        Claim::Resting(resident, rest) => {
            if let Some(due) = resident.session.due_at() {
                core.agenda.remove(due, &client_id, rest);
            }
            Some(resident)
        }
        Claim::Live(from) => from.await.ok().flatten(),
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
            Refuse::new(request.agreement.version, reason, text.clone()).write(&mut output);
            return Err(Box::new(Refusal { stream, output, text }));
        }
    };
    let (mut resident, session_present) = resident(core, &mut request, &identity, earlier);
    resident.session.will = request.will.take();
    resident.outbox.connect();
    let session = &resident.session;
    if session.expiry_s > 0 && core.store.keeps() {
        core.store.append(Record::Session {
            session: session.number,
            client_id: client_id.clone(),
            expiry_s: session.expiry_s,
        });
    }
    info!(client = %client_id, peer = %peer.address, listener = %peer.listener, user = ?identity.user,
        version = %request.agreement.version, session_present, "connected");
    let keep_alive = ServerKeepAlive::new(request.agreement.keep_alive_s, core.now() as u32);
    let mut output = Output::default();
    if let Err(error) = connack(core, &request, session_present, &mut output) {
        debug!(client = %client_id, %error, "CONNACK does not fit into the client's maximum packet size");
    }
    core.metrics.packets_sent.add(1);
    Ok(Box::new(Connection {
        core: core.clone(),
        stream,
        peer,
        place,
        number,
        resident,
        identity,
        agreement: request.agreement,
        end,
        state: crate::connection::State::with_input(!input.is_empty()),
        input,
        output,
        keep_alive,
    }))
}

/// The session of this connection (`[MQTT-3.1.2-4]`, `[MQTT-3.1.2-5]`): the one there was, or a new one.
fn resident(
    core: &Core,
    request: &mut Request,
    identity: &Identity,
    earlier: Option<Resident>,
) -> (Resident, bool) {
    let over = |resident: &Resident| resident.session.ends_at.is_some_and(|at| at <= core.now());
    match earlier {
        Some(mut resident) if !request.clean_start && !over(&resident) => {
            resident.session.resume(&request.terms);
            // The client is back before its will was due (`[MQTT-3.1.3-9]`).
            resident.session.will = None;
            recheck(core, &mut resident, identity);
            (resident, true)
        }
        earlier => {
            if let Some(resident) = earlier {
                core.end_session(resident);
            }
            let number = core.next_number();
            let session =
                Session::new(number, request.client_id.clone(), identity.user.clone(), &request.terms);
            (Resident { session: Box::new(session), outbox: core.outbox(number) }, false)
        }
    }
}

/// Rights may have changed while the session rested: what it may no longer subscribe to is gone.
fn recheck(core: &Core, resident: &mut Resident, identity: &Identity) {
    let session = &mut resident.session;
    let revoked: Vec<Box<str>> = session
        .subscriptions
        .iter()
        .map(|(filter, _)| filter)
        .filter(|filter| {
            let inner = topic::shared(filter).map_or(*filter, |(_, inner)| inner);
            !core.auth.policy.allows(identity, &session.client_id, Action::Subscribe, inner)
        })
        .map(Box::from)
        .collect();
    for filter in revoked {
        warn!(client = %session.client_id, %filter, "subscription removed at resume: not authorized any more");
        session.subscriptions.remove(&filter);
        core.router.unsubscribe(&filter, session.number);
    }
}

fn connack(
    core: &Core,
    request: &Request,
    session_present: bool,
    output: &mut Output,
) -> Result<(), EncodeError> {
    let (config, agreement) = (&core.config, &request.agreement);
    let mut buffer = vec![0; AUTH_BYTES_MAX];
    let mut p = PropertyWriter::new(&mut buffer);
    if agreement.version == Version::V5 {
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
    output.append(len, |out| packet.encode(agreement.version, agreement.packet_bytes_max, out))
}
