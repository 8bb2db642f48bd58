//! Authentication over HTTP: a service that knows the clients, and published keys.
//!
//! The service gets one POST for each CONNECT. A client is refused unless the service allows it: an
//! answer that is late, broken or an error lets no client in. Positive answers are cached for a
//! while, by a keyed hash of the request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::warn;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::{Credentials, Identity, jwt};
use crate::config::{self, Secret};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Concurrent requests; further clients are refused as the server is busy.
const QUESTIONS_MAX: usize = 64;
/// Answers that are cached.
const ANSWERS_MAX: usize = 100_000;
/// Name of the method in identities and logs.
pub const METHOD: &str = "http";

fn agent(config: &config::Auth) -> Result<ureq::Agent, String> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = &config.http_ca_file {
        let text = crate::config::text_of("auth.http_ca_file", Path::new(path))?;
        let roots: Vec<_> = parse_pem(text.as_bytes())
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if roots.is_empty() {
            return Err(format!("auth.http_ca_file {path}: no certificate in it"));
        }
        tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
    }
    let builder = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_millis(config.http_timeout_ms.into())))
        .max_redirects(0)
        .http_status_as_error(false)
        .tls_config(tls.build());
    Ok(builder.build().into())
}

/// Fetches the key set of `auth.jwks_url`. Blocks. Where that fails, the last good key set `last`
/// stays in force.
///
/// # Errors
/// The key set is missing or invalid, and there was no earlier one.
pub fn keys(
    config: &config::Auth,
    url: &str,
    last: &Mutex<Option<String>>,
) -> Result<Vec<jwt::TokenKey>, String> {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    match fetch(config, url).and_then(|text| jwt::jwks(&text).map(|keys| (text, keys))) {
        Ok((text, keys)) => {
            *last = Some(text);
            Ok(keys)
        }
        Err(error) => match &*last {
            Some(text) => {
                warn!("auth.jwks_url {url}: {error}; the keys fetched last stay in force");
                jwt::jwks(text)
            }
            None => Err(format!("auth.jwks_url {url}: {error}")),
        },
    }
}

fn fetch(config: &config::Auth, url: &str) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    let mut response = agent(config)?.get(url).call().map_err(|error| wrong(&error))?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(wrong(&format!("status {status}")));
    }
    response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(|error| wrong(&error))
}

/// Verdict of the service.
pub enum ServiceVerdict {
    /// Accept the client with this identity.
    Allow(Box<Identity>),
    /// Refuse the client.
    Deny,
    /// Too many requests are under way.
    Busy,
    /// The service could not be asked.
    Failed(String),
}

/// The service at `auth.http_url`.
pub struct Service {
    url: String,
    agent: ureq::Agent,
    permits: Arc<Semaphore>,
    remember: Duration,
    known: Mutex<HashMap<[u8; 32], (Instant, Identity)>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Service {
    /// Creates the service of the configuration, without a request.
    ///
    /// # Errors
    /// Returns the mistake in the configuration.
    pub fn new(config: &config::Auth, url: &str) -> Result<Service, String> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(format!("auth.http_url '{url}' must begin with http:// or https://"));
        }
        Ok(Service {
            url: url.to_owned(),
            agent: agent(config)?,
            permits: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            remember: Duration::from_secs(config.http_cache_s.into()),
            known: Mutex::default(),
        })
    }

    /// Asks about a client; `tag` makes a keyed hash of the request.
    pub async fn ask(&self, credentials: &Credentials<'_>, tag: impl Fn(&str) -> [u8; 32]) -> ServiceVerdict {
        let password = credentials.password.map(|bytes| String::from_utf8_lossy(bytes));
        let question = json!({
            "user": credentials.user_name,
            "password": password,
            "client_id": credentials.client_id,
            "address": credentials.peer.address.to_string(),
            "listener": &*credentials.peer.listener,
        });
        // The port of the client differs each time.
        let what = [credentials.user_name, password.as_deref(), Some(credentials.client_id)];
        let tag = tag(&format!("{what:?} {:?} {}", credentials.peer.address.ip(), credentials.peer.listener));
        let now = Instant::now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&tag).cloned();
        if let Some((_, identity)) = known.filter(|(since, _)| now.duration_since(*since) < self.remember) {
            return ServiceVerdict::Allow(Box::new(identity));
        }
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return ServiceVerdict::Busy };
        let (agent, url, body) =
            (self.agent.clone(), self.url.clone(), Secret::new(question.to_string().as_bytes()));
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let request = agent.post(&url).header("content-type", "application/json");
            let mut response = request.send(body.reveal()).map_err(|error| error.to_string())?;
            let bytes = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
            Ok::<_, String>((response.status().as_u16(), bytes.map_err(|error| error.to_string())?))
        });
        let user = credentials.user_name.unwrap_or_default();
        let answer = match asked.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok((200, body)) => judge(&body, user),
            Ok((401 | 403, _)) => Ok(None),
            Ok((status, _)) => Err(format!("status {status}")),
            Err(error) => Err(error),
        };
        match answer {
            Ok(Some(identity)) => {
                if !self.remember.is_zero() {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    if known.len() >= ANSWERS_MAX {
                        known.retain(|_, (since, _)| now.duration_since(*since) < self.remember);
                        if known.len() >= ANSWERS_MAX {
                            known.clear();
                        }
                    }
                    known.insert(tag, (now, identity.clone()));
                }
                ServiceVerdict::Allow(Box::new(identity))
            }
            Ok(None) => ServiceVerdict::Deny,
            Err(error) => ServiceVerdict::Failed(error),
        }
    }
}

/// Reads `{"allow": true, "user": …, "client_id": …, "groups": […], "acl": {…}, "expires_at": …}`;
/// all but the first may be missing.
fn judge(body: &[u8], asked: &str) -> Result<Option<Identity>, String> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|error| format!("its answer is no JSON: {error}"))?;
    match answer["allow"].as_bool() {
        None => return Err("its answer has no \"allow\"".to_owned()),
        Some(false) => return Ok(None),
        Some(true) => {}
    }
    let user = match &answer["user"] {
        Value::Null if asked.is_empty() => None,
        Value::Null => Some(asked.to_owned()),
        user => Some(jwt::name(user, "user")?),
    };
    let client_id = match &answer["client_id"] {
        Value::Null => None,
        id => Some(Arc::from(jwt::name(id, "client_id")?)),
    };
    let groups: Arc<[Box<str>]> = jwt::texts(&answer["groups"], "groups")?.into();
    let grants = jwt::grants(&answer["acl"], "acl", user.as_deref().unwrap_or_default())?;
    let expires_at_s = match &answer["expires_at"] {
        Value::Null => None,
        at => Some(at.as_u64().ok_or("its \"expires_at\" is no number of seconds")?),
    };
    let user = user.map(Arc::from);
    Ok(Some(Identity {
        user,
        client_id,
        groups: groups.clone(),
        from_credentials: groups,
        grants,
        expires_at_s,
        method: METHOD,
        realm: Some("http".into()),
        ..Identity::default()
    }))
}
