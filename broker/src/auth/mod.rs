//! Who a client is and what it may do: the points where the broker asks.
//!
//! One [`Policy`] answers both. The default lets everybody do everything, which is right for a
//! listener on loopback; a program that embeds the broker can bring its own. Enhanced
//! authentication (`4.12`) is a [`AuthMethod`] for each method name.

pub mod acl;
pub mod audit;
pub mod ban;
pub mod certificate;
mod configured;
#[cfg(feature = "http")]
pub mod http;
pub mod jwt;
pub(crate) mod load;
mod methods;
pub mod password;
pub mod scram;
pub mod template;
mod throttle;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "internals")]
pub use configured::ConfiguredPolicy;
use lapwing_protocol::ReasonCode;
#[cfg(feature = "internals")]
pub use load::configured;

use crate::message::Millis;
use crate::net::Peer;

/// A client that was let in: all that is known of who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user, if there is one. A session belongs to its user.
    pub user: Option<Arc<str>>,
    /// The groups that the user is in.
    pub groups: Arc<[Box<str>]>,
    /// The listener it came by.
    pub listener: Arc<str>,
    /// How it was recognized, like `password`; empty: it was not.
    pub method: &'static str,
    /// When the credentials end, in seconds since the Unix epoch: the client is disconnected then.
    pub expires_at_s: Option<u64>,
    /// The client identifier that goes with the credentials, in place of none or another.
    pub client_id: Option<Arc<str>>,
    /// The groups among them that came with the credentials; the others are as the rules say.
    pub(crate) from_credentials: Arc<[Box<str>]>,
    /// Rules that came with the credentials.
    pub(crate) grants: Option<Arc<[acl::Rule]>>,
    /// What the rules come to for this client.
    pub(crate) rights: Option<Arc<acl::Rights>>,
}

impl Identity {
    /// Moment at which the credentials end, on the broker's clock; `now` is its present. The wall
    /// clock says how long they are good for.
    pub(crate) fn expires_at(&self, now: Millis) -> Option<Millis> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = self.expires_at_s?.saturating_mul(1000).saturating_sub(wall.as_millis() as u64);
        Some(now.saturating_add(left))
    }

    /// A user known by name and nothing else.
    pub fn of(user: &str) -> Identity {
        Identity { user: Some(user.into()), ..Identity::default() }
    }
}

/// Why a client is not let in, or not any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError {
    /// For CONNACK or DISCONNECT.
    pub reason: ReasonCode,
    /// For the log: cause and remedy.
    pub text: String,
    /// For the client, where the log says more than it should know.
    pub told: Option<&'static str>,
    /// It may be guessing: the answer waits a second.
    pub slow: bool,
}

impl AuthError {
    /// With the same words for the log and for the client.
    pub fn new(reason: ReasonCode, text: impl Into<String>) -> AuthError {
        AuthError { reason, text: text.into(), told: None, slow: false }
    }
}

/// What a client brings to be let in.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Where it comes from, and its certificates.
    pub peer: &'a Peer,
    /// The client identifier; empty when the server is to choose one.
    pub client_id: &'a str,
    /// The one that the server has chosen for that case; else the same.
    pub assigned_client_id: &'a str,
    /// The user name of CONNECT.
    pub user_name: Option<&'a str>,
    /// The password of CONNECT. Never printed.
    pub password: Option<&'a [u8]>,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("password", &self.password.map(|_| "…"))
            .finish_non_exhaustive()
    }
}

/// What a client wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish to this topic name, a will included.
    Publish,
    /// Subscribe to this topic filter (the inner one of a shared subscription).
    Subscribe,
    /// Be sent a message of this topic name.
    Receive,
}

/// An answer that may take a while: hashing a password, asking somebody.
pub type AuthFuture<'a> = Pin<Box<dyn Future<Output = Result<Identity, AuthError>> + Send + 'a>>;

/// The one place that decides.
pub trait Policy: Send + Sync {
    /// Lets a client in, or says why not. The caller bounds the time.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> AuthFuture<'a>;

    /// Whether a client may do this.
    fn allows(&self, identity: &Identity, client_id: &str, action: Action, topic: &str) -> bool;

    /// Whether [`Action::Receive`] has to be asked at each delivery to this client.
    fn restricts_delivery(&self, _identity: &Identity) -> bool {
        true
    }

    /// The rule that decides, for people.
    fn rule(&self, _identity: &Identity, _client_id: &str, _action: Action, _topic: &str) -> String {
        "the policy of this program".to_owned()
    }

    /// What has become of a client that an earlier policy let in: asked when this one takes its
    /// place, and when a session is back that nobody has claimed since.
    ///
    /// # Errors
    /// Why it may not stay.
    fn renew(
        &self,
        identity: &Identity,
        _client_id: &str,
        _peer: Option<&Peer>,
    ) -> Result<Identity, AuthError> {
        Ok(identity.clone())
    }
}

/// Everybody may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> AuthFuture<'a> {
        let (user, listener) = (credentials.user_name.map(Arc::from), credentials.peer.listener.clone());
        Box::pin(std::future::ready(Ok(Identity { user, listener, ..Identity::default() })))
    }

    fn allows(&self, _: &Identity, _: &str, _: Action, _: &str) -> bool {
        true
    }

    fn restricts_delivery(&self, _: &Identity) -> bool {
        false
    }

    fn rule(&self, _: &Identity, _: &str, _: Action, _: &str) -> String {
        "there are no rules: everybody may do everything".to_owned()
    }
}

/// An enhanced authentication method (`4.12`), known by its name.
pub trait AuthMethod: Send + Sync {
    /// As it stands in the Authentication Method property.
    fn name(&self) -> &str;

    /// Begins an exchange, at CONNECT or for a re-authentication.
    fn begin(&self, credentials: &Credentials<'_>) -> Box<dyn AuthExchange>;
}

/// One exchange of a method.
pub trait AuthExchange: Send {
    /// Takes the client's Authentication Data and says what comes next.
    fn step(&mut self, data: Option<&[u8]>) -> AuthStep;
}

/// What comes next in an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// Send AUTH with this data and wait for the client's.
    Continue(Vec<u8>),
    /// The client is let in; the data goes with CONNACK, or with AUTH after a re-authentication.
    Accept {
        /// Who it is.
        identity: Identity,
        /// For the client.
        data: Option<Vec<u8>>,
    },
    /// It is not.
    Reject(ReasonCode),
}

/// Everything that a broker asks.
#[derive(Clone)]
pub struct Auth {
    /// Decides.
    pub policy: Arc<dyn Policy>,
    /// Enhanced authentication methods.
    pub methods: Vec<Arc<dyn AuthMethod>>,
}

impl Default for Auth {
    fn default() -> Self {
        Auth { policy: Arc::new(AllowAll), methods: Vec::new() }
    }
}

impl Auth {
    /// The method of this name.
    pub fn method(&self, name: &str) -> Option<&Arc<dyn AuthMethod>> {
        self.methods.iter().find(|method| method.name() == name)
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let methods: Vec<&str> = self.methods.iter().map(|method| method.name()).collect();
        f.debug_struct("Auth").field("methods", &methods).finish_non_exhaustive()
    }
}
