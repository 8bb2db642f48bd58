//! Who a client is and what it may do: the points where the broker asks.
//!
//! One [`Policy`] answers both. The default lets everybody do everything, which is right for a listener on loopback; passwords,
//! certificates and access lists come as policies of their own. Enhanced authentication (`4.12`) is a [`AuthMethod`] for each
//! method name.

use std::sync::Arc;

use lapwing_protocol::ReasonCode;

use crate::net::Peer;

/// A client that was let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user, if there is one. A session belongs to its user.
    pub user: Option<Arc<str>>,
}

/// What a client brings to be let in.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Where it comes from, and its certificates.
    pub peer: &'a Peer,
    /// The client identifier; empty when the server is to choose one.
    pub client_id: &'a str,
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

/// The one place that decides.
pub trait Policy: Send + Sync {
    /// Lets a client in.
    ///
    /// # Errors
    /// The reason code for CONNACK.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, ReasonCode>;

    /// Whether a client may do this.
    fn allows(&self, identity: &Identity, client_id: &str, action: Action, topic: &str) -> bool;

    /// Whether [`Action::Receive`] has to be asked at each delivery.
    fn restricts_delivery(&self) -> bool {
        true
    }
}

/// Everybody may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Policy for Open {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, ReasonCode> {
        Ok(Identity { user: credentials.user_name.map(Arc::from) })
    }

    fn allows(&self, _: &Identity, _: &str, _: Action, _: &str) -> bool {
        true
    }

    fn restricts_delivery(&self) -> bool {
        false
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
        Auth { policy: Arc::new(Open), methods: Vec::new() }
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
