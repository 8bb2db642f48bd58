//! Makes a policy of the configuration and the files that it names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;
use zeroize::Zeroizing;

use super::acl::Acl;
use super::ban::Bans;
use super::configured::{ConfiguredPolicy, EndpointAuth};
use super::jwt::{self, Tokens};
use super::password::{AuthState, Passwords};
use super::{AllowAll, Auth, certificate};
use crate::config::{self, Config, Listener, Secret, text_of, why_not_secret};
use crate::net::endpoint::EndpointId;
use crate::net::tls;

/// Reads everything that `[auth]` and the listeners name.
///
/// # Errors
/// Returns everything that is wrong with it.
pub fn load(config: &Config, numbers: &[EndpointId], lasting: &Arc<AuthState>) -> Result<Auth, Vec<String>> {
    match configured(config, numbers, lasting)? {
        Some(policy) => Ok(policy.into_auth()),
        None => Ok(Auth { policy: Arc::new(AllowAll), methods: Vec::new() }),
    }
}

/// Makes the policy; `None` where the configuration asks for none. `numbers` are those of the
/// listeners.
///
/// # Errors
/// Returns everything that is wrong with the files.
pub fn configured(
    config: &Config,
    numbers: &[EndpointId],
    lasting: &Arc<AuthState>,
) -> Result<Option<ConfiguredPolicy>, Vec<String>> {
    let mut errors = Vec::new();
    let auth = &config.auth;
    let mut passwords = Files::default();
    let mut rules = Files::default();
    for listener in &config.listeners {
        passwords.read(config.password_file(listener), "password_file", &mut errors, Passwords::parse);
        rules.read(config.acl_file(listener), "acl_file", &mut errors, Acl::parse);
    }
    let keys = keys(auth, lasting, &mut errors);
    #[cfg(feature = "http")]
    let service = auth
        .http_url
        .as_ref()
        .and_then(|url| super::http::Service::new(auth, url).map_err(|error| errors.push(error)).ok());
    if !errors.is_empty() {
        return Err(errors);
    }
    let tokens = (!keys.is_empty()).then_some(Tokens { keys });
    passwords.all().for_each(|passwords| warn_of(passwords, auth.password_rehash));
    for (path, _) in rules.0.iter().filter(|(_, acl)| acl.is_empty()) {
        warn!("{path} holds no rule: every publish and subscribe is denied until it does");
    }
    let endpoint = |(index, listener): (usize, &Listener)| {
        let number = numbers.get(index).copied().unwrap_or(index as EndpointId);
        let (passwords, acl) =
            (passwords.get(config.password_file(listener)), rules.get(config.acl_file(listener)));
        endpoint_auth(config, listener, number, passwords, acl)
    };
    let endpoints: Result<Vec<EndpointAuth>, String> =
        config.listeners.iter().enumerate().map(endpoint).collect();
    let endpoints = endpoints.map_err(|error| vec![error])?;
    let any_rules = endpoints.iter().any(|endpoint| endpoint.acl.is_some());
    let open = |endpoint: &EndpointAuth| {
        endpoint.methods.is_empty() && !endpoint.closed && !endpoint.client_id_is_user
    };
    if !any_rules && endpoints.iter().all(open) {
        return Ok(None);
    }
    if any_rules && endpoints.iter().all(open) {
        warn!(
            "there are rules (acl_file) and no authentication: user names are not believed, so only rules for everybody and \
               for clients without a user apply"
        );
    }
    Ok(Some(ConfiguredPolicy {
        config: auth.clone(),
        lasting: lasting.clone(),
        any_rules,
        endpoints,
        tokens,
        #[cfg(feature = "http")]
        service,
    }))
}

/// Reads the keys that verify tokens: of the files, and of `auth.jwks_url`.
fn keys(auth: &config::Auth, lasting: &AuthState, errors: &mut Vec<String>) -> Vec<jwt::TokenKey> {
    let mut keys = Vec::new();
    let mut take = |path: &Option<String>, key, parse: fn(&str) -> Result<Vec<jwt::TokenKey>, String>| {
        keys.extend(
            read(path.as_deref(), key, errors, |text, name| {
                parse(text).map_err(|error| vec![format!("{key} {name}: {error}")])
            })
            .into_iter()
            .flatten(),
        );
    };
    take(&auth.jwt_key_file, "auth.jwt_key_file", jwt::pem);
    take(&auth.jwks_file, "auth.jwks_file", jwt::jwks);
    take(&auth.jwt_secret_file, "auth.jwt_secret_file", |text| {
        jwt::secret(text.as_bytes()).map(|key| vec![key])
    });
    let secrets = [("auth.jwt_secret_file", &auth.jwt_secret_file)];
    errors.extend(secrets.iter().filter_map(|(key, path)| why_not_secret(key, Path::new(path.as_ref()?))));
    #[cfg(feature = "http")]
    if let Some(url) = &auth.jwks_url {
        match super::http::keys(auth, url, &lasting.published) {
            Ok(published) => keys.extend(published),
            Err(error) => errors.push(error),
        }
    }
    #[cfg(not(feature = "http"))]
    let _ = lasting;
    keys
}

/// Makes the authentication of one listener.
fn endpoint_auth(
    config: &Config,
    listener: &Listener,
    number: EndpointId,
    passwords: Option<Arc<Passwords>>,
    acl: Option<Arc<Acl>>,
) -> Result<EndpointAuth, String> {
    let defaults = || certificate::DEFAULT.map(str::to_owned).to_vec();
    let verifier =
        tls::verifier(listener).map_err(|error| format!("listener {}: {error}", listener.title()))?;
    Ok(EndpointAuth {
        number,
        name: listener.label().into(),
        methods: config.methods(listener),
        anonymous: listener.allow_anonymous.unwrap_or(config.auth.allow_anonymous),
        verifier,
        authority: listener.client_ca_file.as_ref().map(|file| file.display().to_string().into()),
        certificate_user: Some(listener.certificate_user.0.clone())
            .filter(|t| !t.is_empty())
            .unwrap_or_else(defaults),
        client_id_is_user: listener.client_id_is_user,
        closed: listener.allow_anonymous == Some(false),
        passwords,
        acl,
    })
}

/// Reads the bans. A missing list bans nobody.
///
/// # Errors
/// Returns everything that is wrong with it.
pub(crate) fn bans(config: &Config) -> Result<Bans, Vec<String>> {
    let Some(path) = config.auth.ban_file.as_deref() else { return Ok(Bans::default()) };
    match std::fs::read_to_string(path) {
        Ok(text) => Bans::parse(&text, path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Bans::default()),
        Err(error) => Err(vec![format!("auth.ban_file {path} cannot be read: {error}")]),
    }
}

/// Reads the token for the API of operators.
///
/// # Errors
/// Returns the fault of the file, without its content.
pub(crate) fn admin_token(admin: &config::Admin) -> Result<Option<Secret>, String> {
    let Some(path) = admin.token_file.as_deref() else { return Ok(admin.token.clone()) };
    let key = "admin.token_file";
    if let Some(error) = why_not_secret(key, Path::new(path)) {
        return Err(error);
    }
    let text = Zeroizing::new(text_of(key, Path::new(path))?);
    let token = text.trim_end_matches(['\n', '\r']).as_bytes();
    match config::why_no_token(token) {
        Some(why) => Err(format!("{key} {path}: its content {why}")),
        None => Ok(Some(Secret::new(token))),
    }
}

/// Files that were read, by path: several listeners may share one.
struct Files<T>(BTreeMap<String, Arc<T>>);

impl<T> Default for Files<T> {
    fn default() -> Self {
        Files(BTreeMap::new())
    }
}

impl<T> Files<T> {
    fn read(
        &mut self,
        path: Option<&str>,
        key: &str,
        errors: &mut Vec<String>,
        parse: impl FnOnce(&str, &str) -> Result<T, Vec<String>>,
    ) {
        let Some(path) = path.filter(|path| !self.0.contains_key(*path)) else { return };
        let mut found = Vec::new();
        if let Some(content) = read(Some(path), &format!("auth.{key}"), &mut found, parse) {
            self.0.insert(path.to_owned(), Arc::new(content));
        }
        // An error of a shared file is reported once.
        errors.extend(found.into_iter().filter(|error| !errors.contains(error)).collect::<Vec<_>>());
    }

    fn get(&self, path: Option<&str>) -> Option<Arc<T>> {
        self.0.get(path?).cloned()
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|content| &**content)
    }
}

fn read<T>(
    path: Option<&str>,
    key: &str,
    errors: &mut Vec<String>,
    parse: impl FnOnce(&str, &str) -> Result<T, Vec<String>>,
) -> Option<T> {
    let path = path?;
    match text_of(key, Path::new(path)) {
        Ok(text) => parse(&text, path).map_err(|mut wrong| errors.append(&mut wrong)).ok(),
        Err(error) => {
            errors.push(error);
            None
        }
    }
}

fn warn_of(passwords: &Passwords, rehash: bool) {
    let path = passwords.path.as_path();
    if why_not_secret("", path).is_some() {
        warn!("auth.password_file {}: every user of this machine can read it; run chmod 600", path.display());
    }
    if passwords.is_empty() {
        warn!("auth.password_file {} holds no user: add one with `lapwing user add NAME`", path.display());
    }
    if passwords.is_mixed && !rehash {
        warn!(
            "auth.password_file {} holds hashes of several kinds or costs: the time of an answer may tell which users there \
             are; auth.password_rehash = true makes them alike as users log in",
            path.display()
        );
    }
}
