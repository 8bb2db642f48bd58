//! The verdict of each authentication method on a client's credentials.

use std::time::{SystemTime, UNIX_EPOCH};

use lapwing_protocol::ReasonCode;

use super::configured::ConfiguredPolicy;
use super::password::Checked;
use super::{AuthError, Credentials, Identity, certificate, jwt};
use crate::config::Method;
use crate::net::Peer;

/// Verdict of a method on credentials.
pub(super) enum MethodResult {
    /// The credentials prove this identity.
    Identity(Box<Identity>),
    /// The credentials are for another method.
    Nothing,
    /// The credentials are for this method, and wrong.
    Wrong(AuthError),
    /// No other method is to be tried.
    Stop(AuthError),
}

/// Text for a client with wrong credentials; it must not help an attacker.
pub(super) const WRONG: &str = "the user name or the password is wrong";

impl ConfiguredPolicy {
    /// Tries one method.
    pub(super) async fn try_method(&self, method: Method, credentials: &Credentials<'_>) -> MethodResult {
        match method {
            Method::Certificate => self.by_certificate(credentials.peer),
            Method::Jwt => self.by_token(credentials),
            Method::Password => self.by_password(credentials).await,
            Method::Http => self.by_service(credentials).await,
        }
    }

    fn by_certificate(&self, peer: &Peer) -> MethodResult {
        let own = peer.certificates.as_ref().and_then(|chain| chain.first());
        let (Some(own), Some(endpoint)) = (own, self.endpoint(peer)) else {
            return MethodResult::Nothing;
        };
        match certificate::user(own, &endpoint.certificate_user) {
            Ok(user) => MethodResult::Identity(Box::new(Identity {
                method: Method::Certificate.name(),
                realm: endpoint.realm(Method::Certificate),
                ..Identity::of(&user)
            })),
            Err(refused) => MethodResult::Wrong(refused),
        }
    }

    #[cfg(not(feature = "http"))]
    async fn by_service(&self, _: &Credentials<'_>) -> MethodResult {
        MethodResult::Stop(AuthError::new(ReasonCode::NotAuthorized, "this program was built without HTTP"))
    }

    #[cfg(feature = "http")]
    async fn by_service(&self, credentials: &Credentials<'_>) -> MethodResult {
        use super::http::ServiceVerdict;
        let has_credentials = credentials.user_name.is_some() || credentials.password.is_some();
        let Some(service) = self.service.as_ref().filter(|_| has_credentials) else {
            return MethodResult::Nothing;
        };
        if self.may_attempt(credentials.peer).is_err() {
            return MethodResult::Stop(self.locked_out());
        }
        match service.ask(credentials, |text| self.lasting.verified.keyed(text)).await {
            ServiceVerdict::Allow(identity) => MethodResult::Identity(identity),
            ServiceVerdict::Deny => {
                self.attempt_failed(credentials.peer);
                MethodResult::Wrong(AuthError {
                    reason: ReasonCode::BadUserNameOrPassword,
                    text: "the service at auth.http_url refused the client".to_owned(),
                    client_text: Some(WRONG),
                    slow: true,
                })
            }
            ServiceVerdict::Busy => MethodResult::Stop(AuthError::new(
                ReasonCode::ServerBusy,
                "too many requests to the service at auth.http_url",
            )),
            ServiceVerdict::Failed(error) => MethodResult::Stop(AuthError {
                client_text: Some("authentication service unavailable, try again later"),
                ..AuthError::new(
                    ReasonCode::ServerUnavailable,
                    format!(
                        "no answer from the service at auth.http_url, so its clients are refused: {error}"
                    ),
                )
            }),
        }
    }

    fn locked_out(&self) -> AuthError {
        AuthError {
            slow: true,
            ..AuthError::new(
                ReasonCode::ConnectionRateExceeded,
                format!(
                    "more than auth.failures_per_address_max ({}) wrong passwords or tokens within a minute from this \
                     address",
                    self.config.failures_per_address_max
                ),
            )
        }
    }

    fn by_token(&self, credentials: &Credentials<'_>) -> MethodResult {
        let (Some(tokens), Some(token)) =
            (&self.tokens, credentials.password.filter(|token| jwt::looks_like(token)))
        else {
            return MethodResult::Nothing;
        };
        if self.may_attempt(credentials.peer).is_err() {
            return MethodResult::Stop(self.locked_out());
        }
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match tokens.identity(token, &self.config, now_s) {
            Ok(identity) => MethodResult::Identity(Box::new(identity)),
            // No user can have such a password, so it is not hashed.
            Err(error) => {
                self.attempt_failed(credentials.peer);
                MethodResult::Stop(AuthError {
                    reason: ReasonCode::BadUserNameOrPassword,
                    text: format!("the token is invalid: {error}"),
                    client_text: Some("the token is invalid or has expired"),
                    slow: true,
                })
            }
        }
    }

    async fn by_password(&self, credentials: &Credentials<'_>) -> MethodResult {
        let endpoint = self.endpoint(credentials.peer);
        let passwords = endpoint.and_then(|endpoint| endpoint.passwords.as_ref());
        let (Some(passwords), Some(user)) = (passwords, credentials.user_name) else {
            return MethodResult::Nothing;
        };
        let address = credentials.peer.address.ip();
        let password = credentials.password.unwrap_or_default();
        match self.lasting.check(&self.config, passwords, user, password, address).await {
            Checked::Right => MethodResult::Identity(Box::new(Identity {
                method: Method::Password.name(),
                realm: endpoint.and_then(|endpoint| endpoint.realm(Method::Password)),
                ..Identity::of(user)
            })),
            Checked::Wrong => {
                let known = passwords.get(user).is_some();
                let text = match (known, credentials.password) {
                    (false, _) => format!("there is no user '{user}' in {}", passwords.path.display()),
                    (true, None) => "no password was sent".to_owned(),
                    (true, Some(_)) => "the password is wrong".to_owned(),
                };
                MethodResult::Wrong(AuthError {
                    reason: ReasonCode::BadUserNameOrPassword,
                    text,
                    client_text: Some(WRONG),
                    slow: true,
                })
            }
            Checked::LockedOut => MethodResult::Stop(self.locked_out()),
            Checked::Busy => MethodResult::Stop(AuthError::new(
                ReasonCode::ServerBusy,
                "more passwords wait to be checked than auth.password_queue_max, try again soon",
            )),
        }
    }
}
