//! The first packet: limits, authentication, takeover, CONNACK.
//!
//! Everything up to the claim of the client identifier happens within `limits.connect_timeout_s`,
//! counted from the accept; the claim itself is never cut short, since a session is on its way
//! then. Nothing of the size that a packet announces is allocated: the buffer grows with the bytes
//! that have come, up to `limits.packet_bytes_before_connect`.

mod exchange;
mod terms;
mod welcome;

use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{ConnAck, Connect, Disconnect, Packet};
use lapwing_protocol::property::{Property, PropertyWriter};
use lapwing_protocol::{DecodeError, PacketType, ReasonCode, Remedy, Version, limits};
use tokio::io::AsyncReadExt;
use tracing::warn;
pub(crate) use welcome::open_session;
use zeroize::{Zeroize, Zeroizing};

use crate::auth::{Action, AuthError, Credentials, Identity, audit, ban};
use crate::connection::Negotiated;
use crate::connection::output::Output;
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::limits::budget::ConnectionPermit;
use crate::net::endpoint::Endpoint;
use crate::net::{Peer, PeerAddress, Stream};
use crate::session::{Terms, Will};
use crate::telemetry::metrics::Traffic;

/// CONNECT is framed alike in all versions.
const ANY: Version = Version::V5;
/// A refusal that every version can read.
const OLDEST: Version = Version::V311;
/// The first byte of a TLS ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;

/// A client that may come in, its session not yet claimed.
pub(crate) struct AuthenticatedClient {
    stream: Stream,
    peer: Peer,
    place: ConnectionPermit,
    /// Bytes that came behind CONNECT.
    input: Vec<u8>,
    identity: Identity,
    /// Endpoint that it came in by, and the snapshot that let it.
    endpoint: Arc<Endpoint>,
    snapshot: Arc<Snapshot>,
    request: ConnectRequest,
}

/// Parts of CONNECT that are kept.
struct ConnectRequest {
    client_id: Arc<str>,
    assigned: bool,
    clean_start: bool,
    terms: Terms,
    /// The client asked for more than it gets.
    expiry_capped: bool,
    negotiated: Negotiated,
    keep_alive_set: bool,
    response_information: bool,
    will: Option<Will>,
    auth_data: Option<Vec<u8>>,
}

/// Why a client is not let in.
pub(crate) struct Rejection {
    stream: Stream,
    output: Output,
    /// For the log; `None`: the audit has it.
    text: Option<String>,
    /// It may be guessing: it waits for the answer.
    slow: bool,
    /// It counts as a connection until it is closed, since it waits.
    _place: ConnectionPermit,
}

/// Delay of the answer to a client that may be guessing.
const SLOW: Duration = Duration::from_secs(1);

impl Rejection {
    /// Tells the client what there is to tell, and the log.
    pub(crate) async fn answer(self, peer: PeerAddress) {
        if let Some(text) = &self.text {
            warn!(%peer, "connection refused: {text}");
        }
        if self.slow {
            tokio::time::sleep(SLOW).await;
        }
        crate::connection::close(self.stream, self.output).await;
    }
}

/// Answer to a CONNECT that is not accepted.
struct ConnectError {
    version: Version,
    remedy: Remedy,
    text: String,
    server_reference: Option<String>,
    /// For the client, in place of `text`.
    told: Option<&'static str>,
    slow: bool,
    audited: bool,
}

impl ConnectError {
    fn new(version: Version, reason: ReasonCode, text: impl Into<String>) -> ConnectError {
        ConnectError {
            version,
            remedy: Remedy::Refuse(reason),
            text: text.into(),
            server_reference: None,
            told: None,
            slow: false,
            audited: false,
        }
    }

    fn close(text: impl Into<String>) -> ConnectError {
        ConnectError {
            version: OLDEST,
            remedy: Remedy::Close,
            text: text.into(),
            server_reference: None,
            told: None,
            slow: false,
            audited: false,
        }
    }

    fn refused(version: Version, refused: AuthError) -> ConnectError {
        let AuthError { reason, text, told, slow } = refused;
        ConnectError { told, slow, ..ConnectError::new(version, reason, text) }
    }

    fn write(&self, output: &mut Output) {
        let mut buffer = [0; 1024];
        let mut properties = PropertyWriter::new(&mut buffer);
        let _ = properties.push(Property::ReasonString(self.told.unwrap_or(&self.text)));
        if let Some(server) = &self.server_reference {
            let _ = properties.push(Property::ServerReference(server));
        }
        let properties = properties.finish();
        let packet = match self.remedy {
            Remedy::Close => return,
            Remedy::Refuse(reason) => Packet::ConnAck(ConnAck { session_present: false, reason, properties }),
            Remedy::Disconnect(reason) => Packet::Disconnect(Disconnect { reason, properties }),
        };
        if let Ok(len) = packet.encoded_len(self.version, limits::PACKET_BYTES_MAX) {
            let _ = output.append(len, |out| packet.encode(self.version, limits::PACKET_BYTES_MAX, out));
        }
    }
}

/// Reads CONNECT, of which some may have been read already, and decides.
pub(crate) async fn read_connect(
    core: &Core,
    endpoint: Arc<Endpoint>,
    (mut stream, mut input): (Stream, Vec<u8>),
    peer: Peer,
    mut place: ConnectionPermit,
) -> Result<AuthenticatedClient, Box<Rejection>> {
    endpoint.traffic.bytes_received.add(input.len() as u64);
    match authenticate(core, &endpoint, &mut stream, &peer, &mut place, &mut input).await {
        Ok((identity, endpoint, snapshot, request)) => {
            Ok(AuthenticatedClient { stream, peer, place, input, identity, endpoint, snapshot, request })
        }
        Err(refuse) => {
            let mut output = Output::default();
            refuse.write(&mut output);
            Err(Box::new(Rejection {
                stream,
                output,
                text: Some(refuse.text).filter(|_| !refuse.audited),
                slow: refuse.slow,
                _place: place,
            }))
        }
    }
}

async fn authenticate(
    core: &Core,
    endpoint: &Endpoint,
    stream: &mut Stream,
    peer: &Peer,
    place: &mut ConnectionPermit,
    input: &mut Vec<u8>,
) -> Result<(Identity, Arc<Endpoint>, Arc<Snapshot>, ConnectRequest), ConnectError> {
    let judge = |first| match first {
        // A TLS handshake begins with what would be CONNECT with wrong flags.
        first if first >> 4 == PacketType::Connect as u8 && first != TLS_HANDSHAKE => Ok(()),
        first => Err(not_connect(first)),
    };
    let most = endpoint.limits.packet_bytes_before_connect;
    let len = read_packet(&endpoint.traffic, stream, input, (ANY, most), judge).await?;
    // There may be a password in it: it is overwritten once it was judged.
    let bytes = Zeroizing::new(input.drain(..len).collect::<Vec<u8>>());
    let left = input.len();
    // What was behind it has moved to the front; so has some of it stayed behind that.
    input.resize(left + len, 0);
    if let Some(behind) = input.get_mut(left..) {
        behind.fill(0);
    }
    input.truncate(left);
    let mut names_v5 = false;
    let connect = match frame::split(&bytes, ANY, u32::MAX) {
        Ok(Split::Frame { frame, .. }) => {
            names_v5 = frame.body.starts_with(b"\0\x04MQTT\x05");
            Packet::decode(frame, ANY)
        }
        Ok(Split::Incomplete { .. }) => return Err(ConnectError::close("CONNECT is not whole")),
        Err(error) => Err(error),
    };
    let connect = match connect {
        Ok(Packet::Connect(connect)) => connect,
        Ok(_) => return Err(ConnectError::close("the first packet is not CONNECT")),
        Err(error) => {
            let text = format!("CONNECT: {error}");
            // `[MQTT-4.13.1-1]`: MQTT 5 has words for what is wrong with the rest of it.
            if names_v5 {
                return Err(ConnectError::new(Version::V5, error.reason(), text));
            }
            // An unknown protocol level is answered in the form that every version can read.
            return Err(ConnectError { remedy: error.remedy_for_connect(), ..ConnectError::close(text) });
        }
    };
    endpoint.traffic.packets_received.add(1);
    place.handshake_done();
    // As of now: it may have changed, or gone, since the connection was accepted.
    let snapshot = core.settings.get();
    let Some(endpoint) = snapshot.endpoint(peer.place).cloned() else {
        return Err(ConnectError::close("the listener was taken out of the configuration"));
    };
    let mut request = terms::check(&endpoint, &connect)?;
    let chosen = request.client_id.clone();
    let credentials = Credentials {
        peer,
        client_id: connect.client_id,
        assigned_client_id: &chosen,
        user_name: connect.user_name,
        password: connect.password,
    };
    let policy = &snapshot.auth.policy;
    let identified = match connect.properties.authentication_method() {
        None => policy
            .authenticate(&credentials)
            .await
            .map_err(|refused| ConnectError::refused(connect.version, refused)),
        Some(method) => {
            exchange::exchange(&endpoint.traffic, &snapshot, stream, input, &connect, &credentials).await.map(
                |(identity, data)| {
                    request.auth_data = data;
                    request.negotiated.auth_method = Some(method.into());
                    identity
                },
            )
        }
    };
    let identity = identified.map_err(|refuse| {
        core.metrics.authentication_failures.add(1);
        audit::refused(
            &core.refusal_log,
            core.now(),
            peer,
            connect.client_id,
            connect.user_name,
            &refuse.text,
        );
        ConnectError { audited: true, ..refuse }
    })?;
    if let Some(client_id) = &identity.client_id {
        request.assigned |= **client_id != *connect.client_id;
        request.client_id = client_id.clone();
    }
    let client_id = &request.client_id;
    let (user, address) = (identity.user.as_deref(), peer.address.ip());
    if let Some(ban) = snapshot.bans.of(client_id, user, address, ban::now_s()) {
        return Err(banned(
            core,
            connect.version,
            peer,
            &connect,
            &format!("{} is banned ({})", ban.whom, ban.reason),
        ));
    }
    if let Err(left) = core.flapping.connects(client_id, &endpoint.limits, core.now()) {
        let text = format!(
            "client '{client_id}' comes more often than limits.flapping_connects_max and is banned for {} s",
            left.as_secs()
        );
        return Err(banned(core, connect.version, peer, &connect, &text));
    }
    // Below the mount point, where there is one.
    if let Some(will) = &request.will
        && !policy.allows(&identity, client_id, Action::Publish, &will.topic)
    {
        core.metrics.denied.add(1);
        let rule = policy.rule(&identity, client_id, Action::Publish, &will.topic);
        audit::denied("CONNECT with a will", client_id, &identity, &will.topic, &rule, 0);
        let text = format!("client '{client_id}' may not publish to its will topic '{}': {rule}", will.topic);
        let told = Some("this client may not publish to its will topic");
        return Err(ConnectError {
            told,
            audited: true,
            ..ConnectError::new(connect.version, ReasonCode::NotAuthorized, text)
        });
    }
    Ok((identity, endpoint, snapshot, request))
}

/// The refusal of a client that is banned; why is not for it to know.
fn banned(core: &Core, version: Version, peer: &Peer, connect: &Connect<'_>, text: &str) -> ConnectError {
    audit::refused(&core.refusal_log, core.now(), peer, connect.client_id, connect.user_name, text);
    let told = Some("this client is banned");
    ConnectError { told, audited: true, ..ConnectError::new(version, ReasonCode::Banned, text) }
}

/// Names a first byte that is not CONNECT, for users who connected the wrong program or to the
/// wrong port.
fn not_connect(first: u8) -> String {
    match first {
        TLS_HANDSHAKE => "this looks like TLS on a listener for plain MQTT: use the port of a TLS listener".to_owned(),
        b'G' | b'P' | b'H' | b'O' => {
            "this looks like HTTP or WebSocket on a listener for plain MQTT: use the port of a WebSocket listener".to_owned()
        }
        _ => format!("the first packet is not CONNECT (first byte 0x{first:02x})"),
    }
}

/// Makes room without leaving a copy behind, as growing in place may: there may be a password in
/// it.
fn grow(input: &mut Vec<u8>, more: usize) {
    if input.capacity() - input.len() < more {
        let mut larger = Vec::with_capacity((2 * input.len()).max(input.len() + more));
        larger.extend_from_slice(input);
        std::mem::replace(input, larger).zeroize();
    }
}

/// Reads until one whole packet stands at the front of `input`; its length.
async fn read_packet(
    traffic: &Traffic,
    stream: &mut Stream,
    input: &mut Vec<u8>,
    (version, most): (Version, u64),
    judge: impl Fn(u8) -> Result<(), String>,
) -> Result<usize, ConnectError> {
    loop {
        if let Some(first) = input.first() {
            judge(*first).map_err(ConnectError::close)?;
        }
        match frame::split(input, version, u32::try_from(most).unwrap_or(u32::MAX)) {
            Ok(Split::Frame { len, .. }) => return Ok(len),
            Ok(Split::Incomplete { .. }) => {}
            Err(DecodeError::PacketTooLarge) => {
                let text = format!(
                    "the first packet is larger than limits.packet_bytes_before_connect ({most} bytes)"
                );
                return Err(ConnectError::close(text));
            }
            Err(error) => return Err(ConnectError::close(format!("the first packet: {error}"))),
        }
        let mut buffer = [0; 2048];
        match stream.read(&mut buffer).await {
            Ok(0) => return Err(ConnectError::close("closed by the client before CONNECT was whole")),
            Ok(n) => {
                traffic.bytes_received.add(n as u64);
                grow(input, n);
                let came = buffer.get_mut(..n).unwrap_or(&mut []);
                input.extend_from_slice(came);
                // There may be a password in it.
                came.zeroize();
            }
            Err(error) => return Err(ConnectError::close(format!("before CONNECT was whole: {error}"))),
        }
    }
}
