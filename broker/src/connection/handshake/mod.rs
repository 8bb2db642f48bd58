//! The first packet: limits, authentication, takeover, CONNACK.
//!
//! Everything up to the claim of the client identifier happens within `limits.connect_timeout_s`,
//! counted from the accept; the claim itself is never cut short, since a session is on its way
//! then. Nothing of the size that a packet announces is allocated: the buffer grows with the bytes
//! that have come, up to `limits.packet_bytes_before_connect`.

mod exchange;
mod open_session;
mod terms;

use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{ConnAck, Connect, Disconnect, Packet};
use lapwing_protocol::property::{Property, PropertyWriter};
use lapwing_protocol::{DecodeError, PacketType, ReasonCode, Remedy, Version, limits};
pub(crate) use open_session::open_session;
use tokio::io::AsyncReadExt;
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use crate::auth::log_pace::LogLine;
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

/// Version to frame CONNECT by: all versions frame it alike.
const ANY: Version = Version::V5;
/// Version to write a refusal in that every version can read.
const OLDEST: Version = Version::V311;
/// The first byte of a TLS ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;

/// A client that was let in and has not claimed its session yet.
pub(crate) struct AuthenticatedClient {
    stream: Stream,
    peer: Peer,
    permit: ConnectionPermit,
    /// Bytes that came behind CONNECT.
    input: Vec<u8>,
    identity: Identity,
    /// Endpoint that the client came in by, and the snapshot that let it in.
    endpoint: Arc<Endpoint>,
    snapshot: Arc<Snapshot>,
    request: ConnectRequest,
}

/// The parts of CONNECT that are kept.
struct ConnectRequest {
    client_id: Arc<str>,
    assigned: bool,
    clean_start: bool,
    terms: Terms,
    /// Set when the client asked for a longer session expiry than it gets.
    expiry_capped: bool,
    negotiated: Negotiated,
    keep_alive_set: bool,
    response_information: bool,
    will: Option<Will>,
    auth_data: Option<Vec<u8>>,
}

/// Refusal of a client, with its stream.
pub(crate) struct Rejection {
    stream: Stream,
    output: Output,
    /// Text for the log; `None` when the audit has a line already.
    text: Option<String>,
    /// Set when the client may be guessing: the answer is delayed.
    slow: bool,
    /// Counts the connection until it is closed.
    _permit: ConnectionPermit,
}

/// Delay of the answer to a client that may be guessing.
const SLOW: Duration = Duration::from_secs(1);

impl Rejection {
    /// Logs the refusal, answers the client and closes the stream.
    pub(crate) async fn answer(self, core: &Core, peer: PeerAddress) {
        if let Some(text) = &self.text
            && let Some(more_before) = core.log_pace.may(LogLine::Refused, peer.ip(), core.now())
        {
            warn!(%peer, more_before, "connection refused: {}", audit::text(text));
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
    /// Text for the client, where `text` is only for the log.
    client_text: Option<&'static str>,
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
            client_text: None,
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
            client_text: None,
            slow: false,
            audited: false,
        }
    }

    fn refused(version: Version, refused: AuthError) -> ConnectError {
        let AuthError { reason, text, client_text, slow } = refused;
        ConnectError { client_text, slow, ..ConnectError::new(version, reason, text) }
    }

    fn write(&self, output: &mut Output) {
        let mut buffer = [0; 1024];
        let mut properties = PropertyWriter::new(&mut buffer);
        let _ = properties.push(Property::ReasonString(self.client_text.unwrap_or(&self.text)));
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

/// A client whose transport is ready for MQTT.
pub(crate) struct Established {
    pub(crate) stream: Stream,
    /// Bytes that were read already.
    pub(crate) input: Vec<u8>,
    pub(crate) peer: Peer,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// Reads CONNECT, of which a part may have been read already, and lets the client in or refuses it.
pub(crate) async fn read_connect(
    core: &Core,
    established: Established,
    mut permit: ConnectionPermit,
) -> Result<AuthenticatedClient, Box<Rejection>> {
    let Established { mut stream, mut input, peer, endpoint } = established;
    endpoint.traffic.bytes_received.add(input.len() as u64);
    let mut handshake =
        Handshake { core, peer: &peer, stream: &mut stream, permit: &mut permit, input: &mut input };
    match handshake.authenticate(&endpoint).await {
        Ok((identity, endpoint, snapshot, request)) => {
            Ok(AuthenticatedClient { stream, peer, permit, input, identity, endpoint, snapshot, request })
        }
        Err(refuse) => {
            let mut output = Output::default();
            refuse.write(&mut output);
            Err(Box::new(Rejection {
                stream,
                output,
                text: Some(refuse.text).filter(|_| !refuse.audited),
                slow: refuse.slow,
                _permit: permit,
            }))
        }
    }
}

/// A handshake that is under way: CONNECT is received, decoded, judged by the limits, identified,
/// and judged by bans and rights, in this order.
struct Handshake<'a> {
    core: &'a Core,
    peer: &'a Peer,
    stream: &'a mut Stream,
    permit: &'a mut ConnectionPermit,
    /// Bytes that were read and not used.
    input: &'a mut Vec<u8>,
}

/// Result of a handshake that was accepted.
type Authenticated = (Identity, Arc<Endpoint>, Arc<Snapshot>, ConnectRequest);

impl Handshake<'_> {
    async fn authenticate(&mut self, endpoint: &Endpoint) -> Result<Authenticated, ConnectError> {
        let bytes = self.receive(endpoint).await?;
        let connect = decode(&bytes)?;
        endpoint.traffic.packets_received.add(1);
        self.permit.handshake_done();
        // Since the connection was accepted, a reload may have changed or removed the listener.
        let snapshot = self.core.settings.get();
        let Some(endpoint) = snapshot.endpoint(self.peer.endpoint).cloned() else {
            return Err(ConnectError::close("the listener was taken out of the configuration"));
        };
        let mut request = terms::check(&endpoint, &connect)?;
        let identity = self.identify(&endpoint, &snapshot, &connect, &mut request).await?;
        if let Some(client_id) = &identity.client_id {
            request.assigned |= **client_id != *connect.client_id;
            request.client_id = client_id.clone();
        }
        self.check_bans(&endpoint, &snapshot, &connect, &identity, &request.client_id)?;
        self.check_will(&snapshot, &identity, &request)?;
        Ok((identity, endpoint, snapshot, request))
    }

    /// Reads the bytes of CONNECT. They may contain a password, and are overwritten when dropped.
    async fn receive(&mut self, endpoint: &Endpoint) -> Result<Zeroizing<Vec<u8>>, ConnectError> {
        let judge = |first| match first {
            // The first byte of a TLS handshake is that of a CONNECT with wrong flags.
            first if first >> 4 == PacketType::Connect as u8 && first != TLS_HANDSHAKE => Ok(()),
            first => Err(not_connect(first)),
        };
        let framing = Framing { version: ANY, packet_bytes_max: endpoint.limits.packet_bytes_before_connect };
        let len = read_packet(&endpoint.traffic, self.stream, self.input, framing, judge).await?;
        let bytes = Zeroizing::new(self.input.drain(..len).collect::<Vec<u8>>());
        let left = self.input.len();
        // `drain` moved the bytes behind CONNECT to the front. A copy of CONNECT's end is left
        // behind them, and is overwritten.
        self.input.resize(left + len, 0);
        if let Some(behind) = self.input.get_mut(left..) {
            behind.fill(0);
        }
        self.input.truncate(left);
        Ok(bytes)
    }

    /// Asks the policy, or an enhanced authentication method, for the client's identity.
    async fn identify(
        &mut self,
        endpoint: &Endpoint,
        snapshot: &Snapshot,
        connect: &Connect<'_>,
        request: &mut ConnectRequest,
    ) -> Result<Identity, ConnectError> {
        let chosen = request.client_id.clone();
        let credentials = Credentials {
            peer: self.peer,
            client_id: connect.client_id,
            assigned_client_id: &chosen,
            user_name: connect.user_name,
            password: connect.password,
        };
        let identified = match connect.properties.authentication_method() {
            None => {
                let identified = snapshot.auth.policy.authenticate(&credentials).await;
                identified.map_err(|refused| ConnectError::refused(connect.version, refused))
            }
            Some(method) => {
                let (stream, input) = (&mut *self.stream, &mut *self.input);
                exchange::exchange(&endpoint.traffic, snapshot, stream, input, connect, &credentials)
                    .await
                    .map(|(identity, data)| {
                        request.auth_data = data;
                        request.negotiated.auth_method = Some(method.into());
                        identity
                    })
            }
        };
        identified.map_err(|refuse| {
            self.core.metrics.authentication_failures.add(1);
            self.audit(connect, &refuse.text);
            ConnectError { audited: true, ..refuse }
        })
    }

    fn check_bans(
        &self,
        endpoint: &Endpoint,
        snapshot: &Snapshot,
        connect: &Connect<'_>,
        identity: &Identity,
        client_id: &Arc<str>,
    ) -> Result<(), ConnectError> {
        let (user, address) = (identity.user.as_deref(), self.peer.address.ip());
        if let Some(ban) = snapshot.bans.of(client_id, user, address, ban::now_s()) {
            return Err(self.banned(connect, &format!("{} is banned ({})", ban.whom, ban.reason)));
        }
        self.core.flapping.connects(client_id, &endpoint.limits, self.core.now()).map_err(|left| {
            let text = format!(
                "client '{client_id}' comes more often than limits.flapping_connects_max and is banned for {} s",
                left.as_secs()
            );
            self.banned(connect, &text)
        })
    }

    /// Asks the policy for the will's topic, below the mount point where there is one.
    fn check_will(
        &self,
        snapshot: &Snapshot,
        identity: &Identity,
        request: &ConnectRequest,
    ) -> Result<(), ConnectError> {
        let (policy, client_id) = (&snapshot.auth.policy, &request.client_id);
        let Some(will) = &request.will else { return Ok(()) };
        if policy.allows(identity, client_id, Action::Publish, &will.topic) {
            return Ok(());
        }
        self.core.metrics.denied.add(1);
        let rule = policy.rule(identity, client_id, Action::Publish, &will.topic);
        let (now, ip) = (self.core.now(), self.peer.address.ip());
        if let Some(more_before) = self.core.log_pace.may(LogLine::Denied, ip, now) {
            audit::denied("CONNECT with a will", client_id, identity, &will.topic, &rule, more_before);
        }
        let text = format!("client '{client_id}' may not publish to its will topic '{}': {rule}", will.topic);
        let client_text = Some("this client may not publish to its will topic");
        let version = request.negotiated.version;
        Err(ConnectError {
            client_text,
            audited: true,
            ..ConnectError::new(version, ReasonCode::NotAuthorized, text)
        })
    }

    /// Makes the refusal of a banned client; the cause is only logged.
    fn banned(&self, connect: &Connect<'_>, text: &str) -> ConnectError {
        self.audit(connect, text);
        let client_text = Some("this client is banned");
        ConnectError {
            client_text,
            audited: true,
            ..ConnectError::new(connect.version, ReasonCode::Banned, text)
        }
    }

    fn audit(&self, connect: &Connect<'_>, text: &str) {
        let (log, now) = (&self.core.log_pace, self.core.now());
        audit::refused(log, now, self.peer, connect.client_id, connect.user_name, text);
    }
}

/// Decodes CONNECT of any version.
fn decode(bytes: &[u8]) -> Result<Connect<'_>, ConnectError> {
    let mut names_v5 = false;
    let packet = match frame::split(bytes, ANY, u32::MAX) {
        Ok(Split::Frame { frame, .. }) => {
            names_v5 = frame.body.starts_with(b"\0\x04MQTT\x05");
            Packet::decode(frame, ANY)
        }
        Ok(Split::Incomplete { .. }) => return Err(ConnectError::close("CONNECT is not whole")),
        Err(error) => Err(error),
    };
    match packet {
        Ok(Packet::Connect(connect)) => Ok(connect),
        Ok(_) => Err(ConnectError::close("the first packet is not CONNECT")),
        Err(error) => {
            let text = format!("CONNECT: {error}");
            // `[MQTT-4.13.1-1]`: MQTT 5 has a reason code for an error in the rest of CONNECT.
            if names_v5 {
                return Err(ConnectError::new(Version::V5, error.reason(), text));
            }
            // The client's version is unknown: the answer has the form that every version can read.
            Err(ConnectError { remedy: error.remedy_for_connect(), ..ConnectError::close(text) })
        }
    }
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

/// Makes room for `more` bytes. The old buffer is overwritten, since it may contain a password;
/// growing in place would leave a copy.
fn grow(input: &mut Vec<u8>, more: usize) {
    if input.capacity() - input.len() < more {
        let mut larger = Vec::with_capacity((2 * input.len()).max(input.len() + more));
        larger.extend_from_slice(input);
        std::mem::replace(input, larger).zeroize();
    }
}

/// Version by which a packet of the handshake is framed, and the limit on its length.
#[derive(Clone, Copy)]
struct Framing {
    version: Version,
    packet_bytes_max: u64,
}

/// Reads until one whole packet stands at the front of `input`; returns its length.
async fn read_packet(
    traffic: &Traffic,
    stream: &mut Stream,
    input: &mut Vec<u8>,
    framing: Framing,
    judge: impl Fn(u8) -> Result<(), String>,
) -> Result<usize, ConnectError> {
    let Framing { version, packet_bytes_max } = framing;
    loop {
        if let Some(first) = input.first() {
            judge(*first).map_err(ConnectError::close)?;
        }
        match frame::split(input, version, u32::try_from(packet_bytes_max).unwrap_or(u32::MAX)) {
            Ok(Split::Frame { len, .. }) => return Ok(len),
            Ok(Split::Incomplete { .. }) => {}
            Err(DecodeError::PacketTooLarge) => {
                let text = format!(
                    "the first packet is larger than limits.packet_bytes_before_connect ({packet_bytes_max} bytes)"
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
                // It may contain a password.
                came.zeroize();
            }
            Err(error) => return Err(ConnectError::close(format!("before CONNECT was whole: {error}"))),
        }
    }
}
