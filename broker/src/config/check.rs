//! Checks for problems that would make a start fail, before any port is opened.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use lapwing_protocol::topic;
use rustix::fs::{Access, access};

use super::{Admin, Config, ConfigErrors, Listener, Method, Telemetry, Transport};

/// Shortest accepted token, in bytes.
const TOKEN_BYTES_MIN: usize = 16;

impl Config {
    /// Checks the configuration, and the files that it names.
    ///
    /// # Errors
    /// All problems that would make the start fail.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        if self.listeners.is_empty() {
            errors.push("no listener is configured; add a [[listener]] with an address".to_owned());
        }
        for listener in &self.listeners {
            errors.extend(listener.check(self.authenticates(listener)));
            errors.extend(self.check_methods(listener));
        }
        errors.extend(self.check_labels());
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.level) {
            errors.push(format!("log.level = \"{}\": {error}", self.log.level));
        }
        for (key, given) in [("http_url", &self.auth.http_url), ("jwks_url", &self.auth.jwks_url)] {
            if given.is_some() && !cfg!(feature = "http") {
                errors.push(format!(
                    "auth.{key}: this program was built without HTTP; build it with --features http"
                ));
            }
        }
        if self.auth.psk_file.is_some() {
            let text = "auth.psk_file: pre-shared keys (TLS-PSK) are not supported, since rustls has none; use client \
                        certificates: client_certificate = \"required\" of a listener";
            errors.push(text.to_owned());
        }
        errors.extend(self.admin.check());
        errors.extend(self.admin.check_token());
        errors.extend(self.telemetry.check());
        let store = &self.store;
        for (key, filters) in [
            ("topics_always", &store.topics_always),
            ("topics_interval", &store.topics_interval),
            ("topics_none", &store.topics_none),
        ] {
            let wrong = filters.iter().filter(|filter| topic::check_filter(filter).is_err());
            errors.extend(wrong.map(|filter| format!("store.{key}: '{filter}' is not a valid topic filter")));
        }
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }

    /// Checks the requirements on this machine: writable folders, network interfaces.
    ///
    /// # Errors
    /// All missing requirements.
    pub fn check_machine(&self) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        if !self.store.in_memory {
            let why = why_not_writable(Path::new(&self.store.data_dir));
            errors.extend(why.map(|why| format!("store.data_dir {}: {why}", self.store.data_dir)));
        }
        if let Some(path) = self.control_socket().filter(|_| self.admin.socket.is_some()) {
            errors.extend(lacks_folder(&path).map(|why| format!("admin.socket: {why}")));
        }
        for listener in &self.listeners {
            errors.extend(lacks(listener).map(|why| format!("listener {}: {why}", listener.title())));
        }
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }

    /// Rules and kept sessions know a listener by its label, so each has one of its own. Without a
    /// name, listeners of port 0 cannot be told apart by anybody.
    fn check_labels(&self) -> Vec<String> {
        let mut labels = BTreeSet::new();
        let named =
            self.listeners.iter().filter(|listener| listener.name.is_some() || !listener.is_any_port());
        let twice = named.map(Listener::label).filter(|label| !labels.insert(label.clone()));
        twice
            .map(|label| {
                format!(
                    "listener {label}: another listener has the same name or address; rules and sessions know a \
                     listener by it, so give one of them a name = \"…\" of its own"
                )
            })
            .collect()
    }

    fn check_methods(&self, listener: &Listener) -> Vec<String> {
        let named = listener.authentication.iter().flatten();
        let lacking = named.filter(|method| !self.has(**method, listener));
        let text = |method: &Method| {
            format!(
                "listener {}: authentication by {} needs {}",
                listener.title(),
                method.name(),
                method.needs()
            )
        };
        lacking.map(text).collect()
    }
}

impl Telemetry {
    fn check(&self) -> Vec<String> {
        let mut errors = Vec::new();
        if let Some(url) = &self.otlp_endpoint {
            if !cfg!(feature = "otlp") {
                let text = "telemetry.otlp_endpoint: this program was built without OpenTelemetry; build it with --features otlp";
                errors.push(text.to_owned());
            }
            if !url.starts_with("http://") && !url.starts_with("https://") {
                errors.push(format!(
                    "telemetry.otlp_endpoint: '{url}' does not begin with http:// or https://; use the collector's \
                     address for OTLP over HTTP, like http://127.0.0.1:4318"
                ));
            }
        }
        if self.otlp_headers.is_some() && self.otlp_headers_file.is_some() {
            errors.push(
                "telemetry.otlp_headers and telemetry.otlp_headers_file: both are set; remove one".to_owned(),
            );
        }
        errors
    }
}

impl Admin {
    fn check(&self) -> Option<String> {
        let address = self.address.as_ref()?;
        let site = Listener { address: address.clone(), ..Listener::default() };
        match site.addresses() {
            Err(error) => Some(format!(
                "admin.address = \"{address}\": {error}; expected HOST:PORT, like 127.0.0.1:9883"
            )),
            Ok(_) if self.open || self.has_token() || site.is_local() => None,
            Ok(_) => Some(format!(
                "admin.address = \"{address}\": other machines can reach it, and could read the broker's figures without a \
                 token; use 127.0.0.1, set admin.token_file, or add open = true to [admin] to allow that"
            )),
        }
    }

    fn check_token(&self) -> Vec<String> {
        let mut errors = Vec::new();
        if let Some(token) = &self.token {
            errors.extend(why_no_token(token.reveal()).map(|why| format!("admin.token {why}")));
            if self.token_file.is_some() {
                errors.push("admin.token and admin.token_file: both are set; remove one".to_owned());
            }
        }
        errors
    }

    /// True when a token is configured.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }

    /// True when only this machine can reach the address.
    pub(crate) fn is_local(&self) -> bool {
        let site = |address: &String| Listener { address: address.clone(), ..Listener::default() };
        self.address.as_ref().is_none_or(|address| site(address).is_local())
    }
}

/// Reason why a token is not acceptable; it does not show the token.
pub(crate) fn why_no_token(token: &[u8]) -> Option<String> {
    let remedy = "make one with: openssl rand -hex 32";
    if !token.iter().all(u8::is_ascii_graphic) {
        return Some(format!(
            "contains characters that a header of HTTP cannot have (no spaces, ASCII only); {remedy}"
        ));
    }
    (token.len() < TOKEN_BYTES_MIN)
        .then(|| format!("is shorter than {TOKEN_BYTES_MIN} characters and could be guessed; {remedy}"))
}

/// Missing requirement of a listener, if any.
fn lacks(listener: &Listener) -> Option<String> {
    if let Some(name) = &listener.interface
        && !Path::new("/sys/class/net").join(name).exists()
    {
        return Some(format!("the network interface {name} does not exist on this machine"));
    }
    let path = listener.path.as_ref().filter(|_| listener.transport == Transport::Unix)?;
    lacks_folder(path)
}

/// Reason why the path of a socket cannot be used, if any.
fn lacks_folder(path: &Path) -> Option<String> {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.file_type().is_socket()) {
        return Some(format!(
            "{} exists and is not a socket; remove it, or use another path",
            path.display()
        ));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    match folder.is_dir() {
        true => why_not_writable(folder).map(|why| format!("the folder {}: {why}", folder.display())),
        false => Some(format!("the folder {} of its socket does not exist; create it", folder.display())),
    }
}

/// Reason why files cannot be created in a folder, or the folder itself.
fn why_not_writable(folder: &Path) -> Option<String> {
    // Nearest ancestor that exists.
    let absolute = std::path::absolute(folder).ok()?;
    let there = absolute.ancestors().find(|path| std::fs::symlink_metadata(path).is_ok())?;
    if !there.is_dir() {
        return Some(format!("{} is a file, not a folder", there.display()));
    }
    let error = access(there, Access::WRITE_OK | Access::EXEC_OK).err()?;
    let user = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(there)
        .map_or_else(|_| String::new(), |m| format!(" (owner {}, mode {:o})", m.uid(), m.mode() & 0o777));
    Some(format!("{} cannot be written as user id {user}: {error}{owner}", there.display()))
}
