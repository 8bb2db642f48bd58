//! Re-authentication (`4.12.1`): AUTH while the connection is up, with the method that CONNECT
//! named.

use lapwing_protocol::packet::{Auth, Packet};
use lapwing_protocol::property::{Property, PropertyWriter};
use lapwing_protocol::{EncodeError, ReasonCode};
use tracing::info;

use super::{Connection, Exit};
use crate::auth::{AuthExchange, AuthStep, Credentials, audit};
use crate::session::Violation;
use crate::store::Ticket;

/// Largest number of steps of an exchange.
pub(crate) const AUTH_ROUNDS_MAX: usize = 8;
/// Largest size of an AUTH's properties, in bytes.
pub(crate) const AUTH_BYTES_MAX: usize = 64 * 1024 + 1024;

/// An exchange of AUTH packets that has begun.
pub(crate) struct Reauth {
    exchange: Box<dyn AuthExchange>,
    rounds: usize,
}

impl Connection {
    pub(super) fn reauthenticate(&mut self, auth: &Auth<'_>) -> Result<(), Exit> {
        let violation = |text| Exit::from(Violation::new(ReasonCode::ProtocolError, text));
        let Some(method) = self.negotiated.auth_method.clone() else {
            return Err(violation("AUTH, but CONNECT named no authentication method"));
        };
        if auth.properties.authentication_method() != Some(&*method) {
            return Err(Violation::new(
                ReasonCode::BadAuthenticationMethod,
                "not the method that CONNECT named",
            )
            .into());
        }
        match auth.reason {
            ReasonCode::ReAuthenticate if self.reauth.is_none() => {
                let Some(method) = self.snapshot.auth.method(&method) else {
                    return Err(violation("the authentication method is gone"));
                };
                let credentials = Credentials {
                    peer: &self.handle.peer,
                    client_id: &self.owned.session.client_id,
                    assigned_client_id: &self.owned.session.client_id,
                    user_name: self.owned.identity.user.as_deref(),
                    password: None,
                };
                self.reauth = Some(Reauth { exchange: method.begin(&credentials), rounds: 0 });
            }
            ReasonCode::ContinueAuthentication if self.reauth.is_some() => {}
            _ => return Err(violation("AUTH out of turn")),
        }
        let Some(reauth) = &mut self.reauth else { return Ok(()) };
        reauth.rounds += 1;
        if reauth.rounds > AUTH_ROUNDS_MAX {
            return Err(violation("the re-authentication takes too many steps"));
        }
        let step = reauth.exchange.step(auth.properties.authentication_data());
        match step {
            AuthStep::Continue(data) => {
                self.send_auth(ReasonCode::ContinueAuthentication, &method, Some(&data))
            }
            AuthStep::Accept { identity, data } => {
                self.reauth = None;
                if !identity.is_owner(&self.owned.identity) {
                    let text = "re-authenticated as another user: a session belongs to its user";
                    return Err(Violation::new(ReasonCode::NotAuthorized, text).into());
                }
                self.expires_at = identity.expires_at(self.core.now());
                self.set_identity(*identity);
                let (client_id, identity) = (&self.owned.session.client_id, &self.owned.identity);
                info!(client = %client_id, user = %audit::user(identity), "re-authenticated");
                audit::reauthenticated(client_id, identity);
                // The new credentials may grant fewer subscriptions.
                let snapshot = self.snapshot.clone();
                self.core.revoke(&*snapshot.auth.policy, &mut self.owned);
                self.send_auth(ReasonCode::Success, &method, data.as_deref());
            }
            AuthStep::Reject(reason) => {
                let reason = match reason {
                    ReasonCode::BadUserNameOrPassword => ReasonCode::NotAuthorized,
                    reason => reason,
                };
                return Err(Exit::Violation(reason, "re-authentication failed".to_owned()));
            }
        }
        Ok(())
    }

    fn send_auth(&mut self, reason: ReasonCode, method: &str, data: Option<&[u8]>) {
        let mut buffer = vec![0; AUTH_BYTES_MAX];
        match auth_packet(reason, method, data, &mut buffer) {
            Ok(packet) => self.send(&packet, Ticket::default()),
            Err(error) => info!(%error, "AUTH not sent"),
        }
    }
}

/// Makes AUTH, with its properties in `buffer`.
pub(crate) fn auth_packet<'a>(
    reason: ReasonCode,
    method: &str,
    data: Option<&[u8]>,
    buffer: &'a mut [u8],
) -> Result<Packet<'a>, EncodeError> {
    let mut properties = PropertyWriter::new(buffer);
    properties.push(Property::AuthenticationMethod(method))?;
    if let Some(data) = data {
        properties.push(Property::AuthenticationData(data))?;
    }
    Ok(Packet::Auth(Auth { reason, properties: properties.finish() }))
}
