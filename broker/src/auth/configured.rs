//! The policy that the configuration describes. The methods of a listener are tried in their order,
//! and their result becomes one [`Identity`] with its groups and rights.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use lapwing_protocol::ReasonCode;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use super::acl::{Acl, Rights};
use super::jwt::Tokens;
use super::kept::KnownParts;
use super::methods::{MethodResult, WRONG};
use super::password::{AuthState, Passwords};
use super::scram::{Scram, Verifier};
use super::{
    Action, Auth, AuthError, AuthFuture, AuthMethod, Credentials, Identity, Policy, certificate, template,
};
use crate::config::{self, Method};
use crate::net::Peer;
use crate::net::endpoint::EndpointId;

/// Authentication of one listener.
#[derive(Debug)]
pub struct EndpointAuth {
    /// Identifier of the listener.
    pub number: EndpointId,
    /// Its name in errors and rules.
    pub name: Arc<str>,
    /// Methods to try, in this order.
    pub methods: Vec<Method>,
    /// Set when clients without credentials are accepted.
    pub anonymous: bool,
    /// Verifier of client certificates.
    pub verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// File of the authorities that certificates are verified with.
    pub authority: Option<Arc<str>>,
    /// Templates that make a user of a certificate.
    pub certificate_user: Vec<String>,
    /// Set when the user replaces the client identifier.
    pub client_id_is_user: bool,
    /// Set when the configuration refuses clients without credentials.
    pub closed: bool,
    /// Users of the listener.
    pub passwords: Option<Arc<Passwords>>,
    /// Rules of the listener.
    pub acl: Option<Arc<Acl>>,
}

impl EndpointAuth {
    /// Returns the realm of the users that a method vouches for. A token names its issuer itself.
    pub(super) fn realm(&self, method: Method) -> Option<Arc<str>> {
        match method {
            Method::Password => {
                self.passwords.as_ref().map(|users| format!("password:{}", users.path.display()).into())
            }
            Method::Certificate => self.authority.as_ref().map(|file| format!("certificate:{file}").into()),
            Method::Jwt => None,
            Method::Http => Some("http".into()),
        }
    }

    /// Returns `true` when a user of this realm, or of an unknown one, can log in here.
    fn vouches(&self, realm: Option<&str>, user: &str) -> bool {
        let is_realm = |method: Method| {
            realm.is_none_or(|realm| match self.realm(method) {
                Some(own) => *own == *realm,
                None => method == Method::Jwt && realm.starts_with("jwt:"),
            })
        };
        self.methods.iter().any(|method| match method {
            _ if !is_realm(*method) => false,
            Method::Password => self.passwords.as_ref().is_some_and(|users| users.get(user).is_some()),
            Method::Certificate | Method::Jwt | Method::Http => true,
        })
    }
}

/// The policy of the configuration: endpoints, users and rules.
#[derive(Debug)]
pub struct ConfiguredPolicy {
    pub(super) config: config::Auth,
    pub(super) lasting: Arc<AuthState>,
    /// Set when any listener has rules.
    pub(super) any_rules: bool,
    /// Authentication of each listener, in the order of the configuration.
    pub(super) endpoints: Vec<EndpointAuth>,
    pub(super) tokens: Option<Tokens>,
    #[cfg(feature = "http")]
    pub(super) service: Option<super::http::Service>,
}

impl ConfiguredPolicy {
    /// Returns the policy with its methods of enhanced authentication.
    pub fn into_auth(self) -> Auth {
        let policy = Arc::new(self);
        let passwords = policy.endpoints.iter().any(|endpoint| endpoint.passwords.is_some());
        let scram = passwords.then(|| Arc::new(Scram::new(policy.clone())) as Arc<dyn AuthMethod>);
        Auth { policy, methods: scram.into_iter().collect() }
    }

    /// Returns the SCRAM verifier of a user, where the listener takes passwords.
    pub(super) fn scram(&self, user: &str, peer: &Peer) -> Option<Verifier> {
        let endpoint = self.endpoint(peer)?;
        let entry = endpoint.passwords.as_ref()?.get(user)?;
        entry.scram.clone().filter(|_| endpoint.methods.contains(&Method::Password))
    }

    /// Returns the authentication of the listener that a client came by.
    pub(super) fn endpoint(&self, peer: &Peer) -> Option<&EndpointAuth> {
        self.endpoints.iter().find(|endpoint| endpoint.number == peer.endpoint)
    }

    /// Returns the authentication for a client that may be offline: that of its listener, by its
    /// number or its label. Where all listeners have the same rules, any of them will do.
    ///
    /// # Errors
    /// Returns the reason in words why its rules are not known.
    fn endpoint_of(&self, identity: &Identity) -> Result<&EndpointAuth, String> {
        let by_number =
            identity.endpoint.and_then(|number| self.endpoints.iter().find(|e| e.number == number));
        if let Some(endpoint) = by_number {
            return Ok(endpoint);
        }
        let by_label: Vec<&EndpointAuth> =
            self.endpoints.iter().filter(|endpoint| endpoint.name == identity.listener).collect();
        let all: Vec<&EndpointAuth> = self.endpoints.iter().collect();
        let alike = |of: &[&EndpointAuth], by_listener: bool| {
            let rules = |endpoint: &&EndpointAuth| endpoint.acl.as_ref().map(|acl| acl.file().to_owned());
            let asks =
                of.iter().filter_map(|endpoint| endpoint.acl.as_ref()).any(|acl| acl.names_listeners());
            let first = of.first().map(rules);
            first.is_some() && of.iter().all(|e| Some(rules(e)) == first) && (by_listener || !asks)
        };
        if alike(&by_label, true) || alike(&all, false) {
            return by_label.into_iter().chain(all).next().ok_or_else(|| "there is no listener".to_owned());
        }
        Err(match &*identity.listener {
            "" => {
                "an older version kept it without the listener that it came by, and listeners have different \
                   rules; it is known again once the client has connected"
                    .to_owned()
            }
            label => format!(
                "the listener '{label}' that it came by is not in the configuration, and listeners have different \
                 rules; a listener with name = '{label}' gives it that one's"
            ),
        })
    }

    /// Returns the salt of an unknown user: the same each time, and not to be told from a real one.
    pub(super) fn decoy_salt(&self, user: &str) -> [u8; 32] {
        self.lasting.verified.keyed(user)
    }

    /// Returns `Ok` unless an address has failed too often.
    ///
    /// # Errors
    /// Returns the reason code for the client.
    pub(super) fn may_attempt(&self, peer: &Peer) -> Result<(), ReasonCode> {
        let most = self.config.failures_per_address_max;
        match self.lasting.throttle.is_shut(peer.address.ip(), most, Instant::now()) {
            true => Err(ReasonCode::ConnectionRateExceeded),
            false => Ok(()),
        }
    }

    /// Counts a failed attempt of an address.
    pub(super) fn attempt_failed(&self, peer: &Peer) {
        self.lasting.throttle.failed(peer.address.ip(), Instant::now());
    }

    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        let peer = credentials.peer;
        let Some(endpoint) = self.endpoint(peer) else {
            return Err(AuthError::new(ReasonCode::NotAuthorized, "the listener is not known"));
        };
        let mut wrong = None;
        for method in &endpoint.methods {
            match self.try_method(*method, credentials).await {
                MethodResult::Identity(identity) => return self.welcome(*identity, credentials),
                MethodResult::Nothing => {}
                MethodResult::Wrong(refused) => wrong = Some(refused),
                MethodResult::Stop(refused) => return Err(refused),
            }
        }
        let has_credentials = credentials.user_name.is_some() || credentials.password.is_some();
        match wrong {
            Some(refused) => Err(refused),
            // Without any authentication a user name has no meaning.
            None if (endpoint.methods.is_empty() && !endpoint.closed)
                || (endpoint.anonymous && !has_credentials) =>
            {
                self.welcome(Identity::default(), credentials)
            }
            None => Err(self.nothing_fits(endpoint, has_credentials)),
        }
    }

    /// Checks that the certificate of a connection is still good: its authority may have been
    /// removed, or it may have been revoked.
    fn still_certified(&self, peer: &Peer) -> Result<(), AuthError> {
        let verifier = self.endpoint(peer).and_then(|endpoint| endpoint.verifier.as_ref());
        let chain = peer.certificates.as_deref().and_then(<[_]>::split_first);
        let (Some(verifier), Some((own, others))) = (verifier, chain) else { return Ok(()) };
        verifier.verify_client_cert(own, others, UnixTime::now()).map(drop).map_err(|error| AuthError {
            client_text: Some("the client certificate is no longer valid"),
            ..AuthError::new(
                ReasonCode::AdministrativeAction,
                format!("the client certificate is no longer valid: {error}"),
            )
        })
    }

    fn nothing_fits(&self, endpoint: &EndpointAuth, has_credentials: bool) -> AuthError {
        let methods: Vec<&str> = endpoint.methods.iter().map(|method| method.name()).collect();
        let takes = if methods.is_empty() {
            "there are no users".to_owned()
        } else {
            format!("it takes {}", methods.join(", "))
        };
        if has_credentials {
            let text = format!(
                "listener {}: no method of the listener takes these credentials ({takes})",
                endpoint.name
            );
            return AuthError {
                client_text: Some(WRONG),
                slow: true,
                ..AuthError::new(ReasonCode::BadUserNameOrPassword, text)
            };
        }
        let text = format!(
            "listener {}: no credentials were sent, and clients without are not let in there ({takes}). Either add \
             a user: `lapwing user add NAME`, name its file (auth.password_file), and give the client that name and password; or \
             let everybody in: allow_anonymous = true",
            endpoint.name
        );
        let client_text = Some("no user name and password were sent, and this listener requires them");
        AuthError { client_text, ..AuthError::new(ReasonCode::NotAuthorized, text) }
    }

    fn welcome(&self, identity: Identity, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.complete(identity, credentials.client_id, credentials.assigned_client_id, credentials.peer)
    }

    /// Completes an identity with listener, groups and rights.
    ///
    /// # Errors
    /// Returns the reason that the identity is not enough.
    pub(super) fn complete(
        &self,
        identity: Identity,
        client_id: &str,
        assigned_client_id: &str,
        peer: &Peer,
    ) -> Result<Identity, AuthError> {
        // TLS has judged the certificate, unless it resumed an earlier session: then the
        // certificate was good at that time.
        self.still_certified(peer)
            .map_err(|refused| AuthError { reason: ReasonCode::NotAuthorized, ..refused })?;
        let listener = self.endpoint(peer).map(|endpoint| endpoint.name.clone()).unwrap_or_default();
        let ends = [identity.expires_at_s, certificate::ends_at_s(peer)].into_iter().flatten().min();
        let identity = Identity { listener, endpoint: Some(peer.endpoint), expires_at_s: ends, ..identity };
        let identity = self.with_client_id(identity, client_id)?;
        let identity = self.renamed(identity, peer)?;
        let client_id = if client_id.is_empty() { assigned_client_id } else { client_id };
        let client_id = identity.client_id.clone().unwrap_or_else(|| client_id.into());
        Ok(self.with_rights(identity, &client_id))
    }

    fn with_client_id(&self, mut identity: Identity, client_id: &str) -> Result<Identity, AuthError> {
        let user = identity.user.as_deref();
        if let Some(fixed) = &identity.client_id {
            if !client_id.is_empty() && *client_id != **fixed {
                let text = format!("the credentials are for the client identifier '{fixed}'");
                return Err(AuthError::new(ReasonCode::ClientIdentifierNotValid, text));
            }
            return Ok(identity);
        }
        let Some(wanted) = &self.config.client_id_template else { return Ok(identity) };
        if client_id.is_empty() && !wanted.ends_with('*') {
            let given = user.map_or_else(|| wanted.clone(), |user| wanted.replace("%u", user));
            identity.client_id = Some(given.into());
        } else if !template::allows_client_id(wanted, user, client_id) {
            let text =
                format!("auth.client_id_template does not allow this client identifier: it wants '{wanted}'");
            return Err(AuthError {
                client_text: Some("this user may not have this client identifier"),
                ..AuthError::new(ReasonCode::ClientIdentifierNotValid, text)
            });
        }
        Ok(identity)
    }

    /// Puts the user in place of the client identifier, where the listener wants that.
    fn renamed(&self, mut identity: Identity, peer: &Peer) -> Result<Identity, AuthError> {
        if self.endpoint(peer).is_some_and(|endpoint| endpoint.client_id_is_user) {
            let text = "the user is the client identifier on this listener (client_id_is_user), and there is no user";
            let user = identity.user.clone();
            identity.client_id = Some(user.ok_or_else(|| AuthError::new(ReasonCode::NotAuthorized, text))?);
        }
        Ok(identity)
    }

    fn with_rights(&self, mut identity: Identity, client_id: &str) -> Identity {
        let wide = self.config.wide_subscriptions == config::WideSubscriptions::Filter;
        (identity.rights, identity.unresolved) = (None, None);
        let endpoint = match self.endpoint_of(&identity) {
            Ok(endpoint) => endpoint,
            Err(reason) => {
                identity.unresolved = Some(reason.into());
                return identity;
            }
        };
        if let Some(reason) = self.why_unknown(&identity, endpoint) {
            identity.unresolved = Some(reason.into());
            return identity;
        }
        identity.rights = match &endpoint.acl {
            Some(acl) => {
                identity.groups = acl.groups_of(identity.user.as_deref(), &identity.from_credentials);
                Some(Arc::new(acl.rights(&identity, client_id, wide)))
            }
            None if identity.grants.is_some() => Some(Arc::new(Rights::granted(&identity, client_id, wide))),
            None => None,
        };
        identity
    }

    /// Returns the reason in words why the rights of a client that is away cannot be computed, if
    /// there is one.
    fn why_unknown(&self, identity: &Identity, endpoint: &EndpointAuth) -> Option<&'static str> {
        #[cfg(feature = "http")]
        let service = self.service.is_some();
        #[cfg(not(feature = "http"))]
        let service = false;
        match identity.known {
            KnownParts::All => None,
            KnownParts::NotGrants => Some(
                "its credentials brought rules, which are not kept; they are known again once the client has \
                 connected",
            ),
            KnownParts::User => (endpoint.acl.is_some() && (self.tokens.is_some() || service)).then_some(
                "an older version kept it without the groups of its credentials; they are known again once the \
                 client has connected",
            ),
        }
    }

    /// Returns the identity that an absent client would have, for people who ask.
    ///
    /// # Errors
    /// There is no such listener.
    #[cfg(feature = "internals")]
    pub fn imagine(
        &self,
        user: Option<&str>,
        client_id: &str,
        groups: &[String],
        listener: Option<&str>,
    ) -> Result<Identity, String> {
        let found =
            self.endpoints.iter().find(|endpoint| listener.is_none_or(|name| *endpoint.name == *name));
        let endpoint = found.ok_or_else(|| {
            let names: Vec<&str> = self.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
            format!("there is no such listener; there are {}", names.join(", "))
        })?;
        let brought: Arc<[Box<str>]> = groups.iter().map(|group| Box::from(group.as_str())).collect();
        let (user, listener) = (user.map(Arc::from), endpoint.name.clone());
        let groups = brought.clone();
        Ok(self.with_rights(
            Identity {
                user,
                listener,
                endpoint: Some(endpoint.number),
                from_credentials: groups.clone(),
                groups,
                ..Identity::default()
            },
            client_id,
        ))
    }

    /// Returns the rules that keep a part of a subscription from being delivered.
    #[cfg(feature = "internals")]
    pub fn exceptions(&self, identity: &Identity, filter: &str) -> Vec<String> {
        let rights = identity.rights.iter();
        rights.flat_map(|rights| rights.exceptions(filter)).map(ToString::to_string).collect()
    }

    /// Returns `true` when the user is in the file of its listener, or in that of any where the
    /// listener is unknown.
    fn knows(&self, user: &str, identity: &Identity, peer: Option<&Peer>) -> bool {
        let by_name = || self.endpoints.iter().find(|endpoint| endpoint.name == identity.listener);
        let knows = |endpoint: &EndpointAuth| {
            endpoint.passwords.as_ref().is_some_and(|passwords| passwords.get(user).is_some())
        };
        match peer.and_then(|peer| self.endpoint(peer)).or_else(by_name) {
            Some(endpoint) => knows(endpoint),
            None => self.endpoints.iter().any(knows),
        }
    }

    /// Returns `true` when there are rules that a client without own rights would break.
    fn has_rules(&self, identity: &Identity) -> bool {
        self.any_rules && self.endpoint_of(identity).is_ok_and(|endpoint| endpoint.acl.is_some())
    }
}

impl Policy for ConfiguredPolicy {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> AuthFuture<'a> {
        Box::pin(self.identify(credentials))
    }

    fn allows(&self, identity: &Identity, _: &str, action: Action, topic: &str) -> bool {
        match &identity.rights {
            _ if identity.unresolved.is_some() => false,
            Some(rights) => rights.allows(action, topic),
            None => !self.has_rules(identity),
        }
    }

    fn restricts_delivery(&self, identity: &Identity) -> bool {
        match &identity.rights {
            _ if identity.unresolved.is_some() => true,
            Some(rights) => !rights.reads_all(),
            None => self.has_rules(identity),
        }
    }

    fn rule(&self, identity: &Identity, _: &str, action: Action, topic: &str) -> String {
        if let Some(reason) = &identity.unresolved {
            return format!("its rights are not known: {reason}");
        }
        match &identity.rights {
            Some(rights) => rights.explain(action, topic),
            None if self.has_rules(identity) => "the rules were not applied to this client yet".to_owned(),
            None => {
                "there are no rules: auth.acl_file is not set, so every connected client may do everything"
                    .to_owned()
            }
        }
    }

    fn renew(
        &self,
        identity: &Identity,
        client_id: &str,
        peer: Option<&Peer>,
    ) -> Result<Identity, AuthError> {
        peer.map_or(Ok(()), |peer| self.still_certified(peer))?;
        let by_password =
            identity.method == Method::Password.name() || identity.method == super::scram::METHOD;
        // An offline session of an earlier run has only its user. Where all users are in a file,
        // the user must be there.
        let only_passwords = self.endpoints.iter().all(|endpoint| endpoint.methods == [Method::Password]);
        if let (Some(user), true) =
            (&identity.user, by_password || (identity.method.is_empty() && only_passwords))
            && !self.knows(user, identity, peer)
        {
            let text = format!("the user '{user}' was removed");
            return Err(AuthError {
                client_text: Some("this user was removed"),
                ..AuthError::new(ReasonCode::AdministrativeAction, text)
            });
        }
        let mut identity = identity.clone();
        if let Ok(endpoint) = self.endpoint_of(&identity)
            && (peer.is_some() || identity.endpoint == Some(endpoint.number))
            && identity.listener != endpoint.name
        {
            identity.listener = endpoint.name.clone();
            identity.packed = OnceLock::new();
        }
        Ok(self.with_rights(identity, client_id))
    }

    fn can_return(&self, identity: &Identity) -> bool {
        match &identity.user {
            Some(user) => {
                self.endpoints.iter().any(|endpoint| endpoint.vouches(identity.realm.as_deref(), user))
            }
            None => self
                .endpoints
                .iter()
                .any(|endpoint| endpoint.anonymous || (endpoint.methods.is_empty() && !endpoint.closed)),
        }
    }
}
