//! Enhanced authentication at CONNECT (`4.12`).

use std::future::poll_fn;

use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{Connect, Packet};
use lapwing_protocol::{EncodeError, ReasonCode, Remedy, Version, limits};

use super::{ConnectError, Framing, read_packet};
use crate::auth::{AuthStep, Credentials, Identity};
use crate::connection::output::Output;
use crate::connection::{AUTH_BYTES_MAX, AUTH_ROUNDS_MAX, auth_packet};
use crate::core::settings::Snapshot;
use crate::net::Stream;
use crate::telemetry::metrics::Traffic;

/// AUTH exists in MQTT 5.0 only.
const VERSION: Version = Version::V5;

/// Enhanced authentication (`4.12`): AUTH back and forth until the method decides.
pub(super) async fn exchange(
    traffic: &Traffic,
    snapshot: &Snapshot,
    stream: &mut Stream,
    input: &mut Vec<u8>,
    connect: &Connect<'_>,
    credentials: &Credentials<'_>,
) -> Result<(Identity, Option<Vec<u8>>), ConnectError> {
    let name = connect.properties.authentication_method().unwrap_or_default();
    let refuse = |reason, text: String| ConnectError::new(VERSION, reason, text);
    let method = snapshot.auth.method(name).ok_or_else(|| {
        refuse(
            ReasonCode::BadAuthenticationMethod,
            format!("the authentication method '{name}' is not known here"),
        )
    })?;
    let packet_bytes_max = snapshot.config.limits.packet_bytes_before_connect;
    let framing = Framing { version: VERSION, packet_bytes_max };
    let mut exchange = method.begin(credentials);
    let mut step = exchange.step(connect.properties.authentication_data());
    for _ in 0..AUTH_ROUNDS_MAX {
        let data = match step {
            AuthStep::Accept { identity, data } => return Ok((*identity, data)),
            AuthStep::Reject(reason) => {
                let user = credentials.user_name.unwrap_or_default();
                let text = format!(
                    "authentication by '{name}' failed: client '{}', user '{user}'",
                    connect.client_id
                );
                return Err(ConnectError {
                    slow: true,
                    client_text: Some("authentication failed"),
                    ..refuse(reason, text)
                });
            }
            AuthStep::Continue(data) => data,
        };
        let mut buffer = vec![0; AUTH_BYTES_MAX];
        let mut output = Output::default();
        let sent: Result<(), EncodeError> =
            auth_packet(ReasonCode::ContinueAuthentication, name, Some(&data), &mut buffer).and_then(
                |packet| {
                    let len = packet.encoded_len(VERSION, limits::PACKET_BYTES_MAX)?;
                    output.append(len, |out| packet.encode(VERSION, limits::PACKET_BYTES_MAX, out))
                },
            );
        sent.map_err(|error| {
            refuse(ReasonCode::UnspecifiedError, format!("AUTH could not be written: {error}"))
        })?;
        poll_fn(|cx| output.poll_write(stream, cx))
            .await
            .map_err(|error| ConnectError::close(error.to_string()))?;
        // `[MQTT-3.1.2-30]`: until the exchange is over, only AUTH and DISCONNECT may come.
        let judge = |first: u8| match first >> 4 {
            14 | 15 => Ok(()),
            _ => Err("a packet other than AUTH during the authentication".to_owned()),
        };
        let len = read_packet(traffic, stream, input, framing, judge).await.map_err(|refuse| {
            ConnectError { version: VERSION, remedy: Remedy::Refuse(ReasonCode::ProtocolError), ..refuse }
        })?;
        let rest = input.split_off(len);
        let bytes = std::mem::replace(input, rest);
        let Ok(Split::Frame { frame, .. }) = frame::split(&bytes, VERSION, u32::MAX) else {
            return Err(ConnectError::close("AUTH is not whole"));
        };
        step = match Packet::decode(frame, VERSION) {
            Ok(Packet::Auth(auth)) if auth.properties.authentication_method() != Some(name) => {
                return Err(refuse(
                    ReasonCode::BadAuthenticationMethod,
                    "the method changed on the way".to_owned(),
                ));
            }
            Ok(Packet::Auth(auth)) if auth.reason == ReasonCode::ContinueAuthentication => {
                exchange.step(auth.properties.authentication_data())
            }
            Ok(Packet::Disconnect(_)) => return Err(ConnectError::close("the client gave up")),
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
