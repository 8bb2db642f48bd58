//! Authentication and authorization: the points where the broker asks.
//!
//! One [`Policy`] answers both. The default allows everything, which is right for a listener on
//! loopback. A program that embeds the broker can bring its own. Enhanced authentication (`4.12`)
//! is an [`AuthMethod`] for each method name.

pub mod acl;
pub mod audit;
pub mod ban;
pub mod certificate;
mod configured;
#[cfg(feature = "http")]
pub mod http;
pub mod jwt;
mod kept;
pub(crate) mod load;
pub mod log_pace;
mod methods;
pub mod password;
pub mod scram;
pub mod template;
pub(crate) mod throttle;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "internals")]
pub use configured::ConfiguredPolicy;
use lapwing_protocol::ReasonCode;
#[cfg(feature = "internals")]
pub use load::configured;

use self::kept::KnownParts;
use crate::message::Millis;
use crate::net::Peer;
use crate::net::endpoint::EndpointId;

/// Identity of an authenticated client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user, if there is one. A session belongs to its user in its realm.
    pub user: Option<Arc<str>>,
    /// Realm of the user: the password file, authority or issuer of tokens that vouched. `None`:
    /// nobody did, or it is not known.
    pub realm: Option<Arc<str>>,
    /// Groups of the user.
    pub groups: Arc<[Box<str>]>,
    /// The listener that the client came by.
    pub listener: Arc<str>,
    /// Method that authenticated it, like `password`; empty: none did.
    pub method: &'static str,
    /// End of the credentials, in seconds since the Unix epoch: the client is disconnected then.
    pub expires_at_s: Option<u64>,
    /// The client identifier of the credentials, in place of none or another.
    pub client_id: Option<Arc<str>>,
    /// The groups that came with the credentials; the others are as the rules say.
    pub(crate) from_credentials: Arc<[Box<str>]>,
    /// Rules that came with the credentials.
    pub(crate) grants: Option<Arc<[acl::Rule]>>,
    /// Rights of this client, computed from the rules.
    pub(crate) rights: Option<Arc<acl::Rights>>,
    /// Number of the listener, while the broker knows it.
    pub(crate) endpoint: Option<EndpointId>,
    /// Its known parts.
    pub(crate) known: KnownParts,
    /// Reason in words why its rights cannot be computed: nothing is allowed then, and nothing is
    /// removed.
    pub(crate) unresolved: Option<Arc<str>>,
    /// Its packed form, once it was needed.
    pub(crate) packed: OnceLock<Arc<[u8]>>,
}

impl Identity {
    /// Returns the time at which the credentials end, on the broker's clock; `now` is its present.
    /// The wall clock says how long they are good for.
    pub(crate) fn expires_at(&self, now: Millis) -> Option<Millis> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = self.expires_at_s?.saturating_mul(1000).saturating_sub(wall.as_millis() as u64);
        Some(now.saturating_add(left))
    }

    /// Returns true if a session of `other` belongs to this client, too. An unknown realm is any.
    pub(crate) fn is_owner(&self, other: &Identity) -> bool {
        let same = |a: &Option<Arc<str>>, b: &Option<Arc<str>>| a.is_none() || b.is_none() || a == b;
        self.user == other.user && same(&self.realm, &other.realm)
    }

    /// Returns the identity of a user known by name and nothing else.
    pub fn of(user: &str) -> Identity {
        Identity { user: Some(user.into()), ..Identity::default() }
    }
}

/// Reason that a client is refused, or may not stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError {
    /// Reason code for CONNACK or DISCONNECT.
    pub reason: ReasonCode,
    /// Text for the log: cause and remedy.
    pub text: String,
    /// Text for the client, where the log says more than the client should know.
    pub client_text: Option<&'static str>,
    /// Set when the client may be guessing: the answer is delayed by a second.
    pub slow: bool,
}

impl AuthError {
    /// Creates an error with the same text for log and client.
    pub fn new(reason: ReasonCode, text: impl Into<String>) -> AuthError {
        AuthError { reason, text: text.into(), client_text: None, slow: false }
    }
}

/// Credentials of a client.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Its address and certificates.
    pub peer: &'a Peer,
    /// The client identifier; empty when the server is to choose one.
    pub client_id: &'a str,
    /// The client identifier that the server has chosen for that case; else the same.
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

/// Action of a client on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish to this topic name, a will included.
    Publish,
    /// Subscribe to this topic filter (the inner one of a shared subscription).
    Subscribe,
    /// Receive a message of this topic name.
    Receive,
}

/// A verdict that may take a while: hashing a password, asking a service.
pub type AuthFuture<'a> = Pin<Box<dyn Future<Output = Result<Identity, AuthError>> + Send + 'a>>;

/// Decides about identities and actions.
pub trait Policy: Send + Sync {
    /// Authenticates a client. The caller bounds the time.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> AuthFuture<'a>;

    /// Returns `true` when a client may do this.
    fn allows(&self, identity: &Identity, client_id: &str, action: Action, topic: &str) -> bool;

    /// Returns `true` when [`Action::Receive`] has to be asked at each delivery to this client.
    fn restricts_delivery(&self, _identity: &Identity) -> bool {
        true
    }

    /// Returns the deciding rule in words.
    fn rule(&self, _identity: &Identity, _client_id: &str, _action: Action, _topic: &str) -> String {
        "the policy of this program".to_owned()
    }

    /// Renews the identity of a client that an earlier policy accepted.
    ///
    /// The broker asks when this policy replaces another, and when a session is back that no client
    /// has claimed since.
    ///
    /// # Errors
    /// Returns the reason that the client may not stay.
    fn renew(
        &self,
        identity: &Identity,
        _client_id: &str,
        _peer: Option<&Peer>,
    ) -> Result<Identity, AuthError> {
        Ok(identity.clone())
    }

    /// Returns `false` when no client can come in with this identity any more: the user was
    /// removed, say. Then its session may go to whoever comes with the client identifier.
    fn can_return(&self, _identity: &Identity) -> bool {
        true
    }
}

/// Policy that allows everything to every client.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> AuthFuture<'a> {
        let (user, peer) = (credentials.user_name.map(Arc::from), credentials.peer);
        let (listener, endpoint) = (peer.listener.clone(), Some(peer.endpoint));
        Box::pin(std::future::ready(Ok(Identity { user, listener, endpoint, ..Identity::default() })))
    }

    fn allows(&self, _: &Identity, _: &str, _: Action, _: &str) -> bool {
        true
    }

    fn restricts_delivery(&self, _: &Identity) -> bool {
        false
    }

    fn rule(&self, _: &Identity, _: &str, _: Action, _: &str) -> String {
        "there are no rules: every client may do everything".to_owned()
    }
}

/// An enhanced authentication method (`4.12`), known by its name.
pub trait AuthMethod: Send + Sync {
    /// Returns the name in the Authentication Method property.
    fn name(&self) -> &str;

    /// Begins an exchange, at CONNECT or for a re-authentication.
    fn begin(&self, credentials: &Credentials<'_>) -> Box<dyn AuthExchange>;
}

/// One authentication exchange.
pub trait AuthExchange: Send {
    /// Takes the client's Authentication Data and returns the next step.
    fn step(&mut self, data: Option<&[u8]>) -> AuthStep;
}

/// Next step of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// Send AUTH with this data and wait for the client's.
    Continue(Vec<u8>),
    /// Accept the client; the data goes with CONNACK, or with AUTH after a re-authentication.
    Accept {
        /// The proven identity.
        identity: Box<Identity>,
        /// Authentication Data for the client.
        data: Option<Vec<u8>>,
    },
    /// Refuse the client.
    Reject(ReasonCode),
}

/// Policy and methods of a broker.
#[derive(Clone)]
pub struct Auth {
    /// Decides about identities and actions.
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
    /// Returns the method of this name.
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
