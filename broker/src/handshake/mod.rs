//! The first packet: limits, authentication, takeover, CONNACK.
//!
//! Everything up to the claim of the client identifier happens within `limits.connect_timeout_s`, counted from the accept; the
//! claim itself is never cut short, since a session is on its way then. Nothing of the size that a packet announces is
//! allocated: the buffer grows with the bytes that have come, up to `limits.packet_bytes_before_connect`.

mod exchange;
mod terms;
mod welcome;

pub(crate) use welcome::welcome;

use std::sync::Arc;

use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{ConnAck, Disconnect, Packet};
use lapwing_protocol::property::{Property, PropertyWriter};
use lapwing_protocol::{DecodeError, PacketType, ReasonCode, Remedy, Version, limits};
use tokio::io::AsyncReadExt;
use tracing::warn;

use crate::auth::{Action, Credentials, Identity};
use crate::budget::Place;
use crate::connection::Agreement;
use crate::core::Core;
use crate::net::{Peer, Stream};
use crate::output::Output;
use crate::session::{Terms, Will};

/// CONNECT is framed alike in all versions.
const ANY: Version = Version::V5;
/// A refusal that every version can read.
const OLDEST: Version = Version::V311;
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
        Refuse { version: OLDEST, remedy: Remedy::Close, text: text.into(), server_reference: None }
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
            Remedy::Disconnect(reason) => Packet::Disconnect(Disconnect { reason, properties }),
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
    let len = read_packet(core, stream, input, ANY, |first| match first {
        // A TLS handshake begins with what would be CONNECT with wrong flags.
        first if first >> 4 == PacketType::Connect as u8 && first != TLS_HANDSHAKE => Ok(()),
        first => Err(not_connect(first)),
    })
    .await?;
    let rest = input.split_off(len);
    let bytes = std::mem::replace(input, rest);
    let connect = match frame::split(&bytes, ANY, u32::MAX) {
        Ok(Split::Frame { frame, .. }) => Packet::decode(frame, ANY),
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
                version: OLDEST,
                remedy: error.remedy_for_connect(),
                text,
                server_reference: None,
            });
        }
    };
    core.metrics.packets_received.add(1);
    let mut request = terms::check(core, &connect)?;
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
            let (identity, data) =
                exchange::exchange(core, stream, input, &connect, method, &credentials).await?;
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
            Err(DecodeError::PacketTooLarge) => {
                let text = format!(
                    "the first packet is larger than limits.packet_bytes_before_connect ({most} bytes)"
                );
                return Err(Refuse::close(text));
            }
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
