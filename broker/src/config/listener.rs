//! One `[[listener]]`: where clients connect, and how.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::value::{self, Given, Unit};
use crate::auth::certificate::check_template;
use crate::store::Durability;

/// A network, or one address.
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// MQTT over TCP.
    #[default]
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
    /// MQTT over a Unix socket.
    Unix,
}

impl Transport {
    /// As it stands in the name of a listener.
    pub const fn scheme(self) -> &'static str {
        match self {
            Transport::Tcp => "mqtt",
            Transport::Tls => "mqtts",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
            Transport::Unix => "unix",
        }
    }

    /// Whether TLS is part of it.
    pub const fn has_tls(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// Whether WebSocket is part of it.
    pub const fn has_websocket(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// They are not asked.
    #[default]
    None,
    /// One that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// What tells who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The client certificate.
    Certificate,
    /// A token as password, by keys.
    Jwt,
    /// User name and password, by the password file.
    Password,
    /// Whatever it is, by a service over HTTP.
    Http,
}

impl Method {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Method; 4] = [Method::Certificate, Method::Jwt, Method::Password, Method::Http];

    /// As it is called in the configuration and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Certificate => "certificate",
            Method::Jwt => "jwt",
            Method::Password => "password",
            Method::Http => "http",
        }
    }

    /// The key that it needs.
    pub(super) const fn needs(self) -> &'static str {
        match self {
            Method::Certificate => "client_certificate = \"optional\" or \"required\"",
            Method::Jwt => "auth.jwt_key_file, auth.jwks_file or auth.jwt_secret_file",
            Method::Password => "auth.password_file",
            Method::Http => "auth.http_url",
        }
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // Each field is a key of `KEYS`, which says what it is.
pub struct Listener {
    pub label: Option<String>,
    pub address: String,
    pub transport: Transport,
    pub path: Option<PathBuf>,
    pub socket_mode: u32,
    pub open: bool,
    pub authentication: Option<Vec<Method>>,
    pub allow_anonymous: Option<bool>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub client_ca_file: Option<PathBuf>,
    pub client_certificate: ClientCertificate,
    pub client_crl_file: Option<PathBuf>,
    pub certificate_user: Vec<String>,
    pub websocket_paths: Vec<String>,
    pub websocket_origins: Vec<String>,
    pub proxy_protocol_from: Vec<IpNet>,
    pub alpn: Vec<String>,
    pub nodelay: bool,
    pub tcp_keep_alive_s: u32,
    pub tcp_user_timeout_s: u32,
    pub durability: Option<Durability>,
}

impl Default for Listener {
    fn default() -> Self {
        Listener {
            label: None,
            address: "localhost:1883".to_owned(),
            transport: Transport::Tcp,
            path: None,
            socket_mode: 0o660,
            open: false,
            authentication: None,
            allow_anonymous: None,
            certificate_file: None,
            key_file: None,
            client_ca_file: None,
            client_certificate: ClientCertificate::None,
            client_crl_file: None,
            certificate_user: Vec::new(),
            websocket_paths: vec!["/mqtt".to_owned(), "/".to_owned()],
            websocket_origins: Vec::new(),
            proxy_protocol_from: Vec::new(),
            alpn: Vec::new(),
            nodelay: true,
            tcp_keep_alive_s: 60,
            tcp_user_timeout_s: 30,
            durability: None,
        }
    }
}

/// Name, default and words of each key.
pub(super) const KEYS: &[(&str, &str, &str)] = &[
    ("name", "its address", "What rules and logs of authentication call it."),
    ("address", "\"localhost:1883\"", "Host and port; `localhost` is IPv4 and IPv6, port 0 any free one."),
    ("transport", "\"tcp\"", "\"tcp\", \"tls\", \"ws\", \"wss\" or \"unix\"."),
    ("path", "none", "The Unix socket."),
    ("socket_mode", "\"660\"", "The permissions of the Unix socket, in octal."),
    (
        "open",
        "false",
        "Everybody who can reach the address may connect. Needed for any address but loopback, as long as there is no authentication.",
    ),
    (
        "authentication",
        "all that is configured",
        "What tells who a client is, in the order in which it is tried: a list of \"certificate\", \"jwt\", \"password\", \"http\"; empty: nothing.",
    ),
    (
        "allow_anonymous",
        "auth.allow_anonymous",
        "Whether clients without credentials are let in beside those with.",
    ),
    ("certificate_file", "none", "The certificate chain of the server, PEM."),
    ("key_file", "none", "Its private key, PEM."),
    ("client_ca_file", "none", "The certificate authorities of clients, PEM."),
    (
        "client_certificate",
        "\"none\"",
        "Whether clients show a certificate: \"none\", \"optional\" or \"required\".",
    ),
    (
        "client_crl_file",
        "none",
        "The revocation lists of those authorities, PEM; one for each authority of the chain, and none that is overdue.",
    ),
    (
        "certificate_user",
        "[\"{uri}\", \"{dns}\", \"{email}\", \"{cn}\"] without other authentication",
        "How the user is taken from a client certificate: the first of these that it can fill, from its alternative names (URI, DNS, e-mail) or its common name; other text may stand around. Set it to let certificates name users beside other methods.",
    ),
    ("websocket_paths", "[\"/mqtt\", \"/\"]", "The paths of the WebSocket."),
    (
        "websocket_origins",
        "[]",
        "The origins whose pages may connect, like \"https://example.org\"; empty: all, and clients that are no browser in any case.",
    ),
    (
        "proxy_protocol_from",
        "[]",
        "Addresses or networks of proxies, like \"10.0.0.0/8\": a connection from there must begin with a header of the PROXY protocol, version 1 or 2, and is its client's. From elsewhere no such header is believed.",
    ),
    (
        "alpn",
        "[]",
        "The protocols that TLS offers by ALPN, like [\"mqtt\", \"x-amzn-mqtt-ca\"]; a client that names only others is refused. Empty: it is not looked at.",
    ),
    ("nodelay", "true", "Small packets leave at once (TCP_NODELAY)."),
    (
        "tcp_keep_alive_s",
        "60",
        "After so many seconds of silence the kernel asks whether the peer is there; 0 turns it off.",
    ),
    (
        "tcp_user_timeout_s",
        "30",
        "After so many seconds without an answer from the peer's kernel the connection is over; 0: the system's default.",
    ),
    (
        "durability",
        "store.durability",
        "What an acknowledgement of a stored message means to clients of this listener: \"always\", \"interval\" or \"none\".",
    ),
];

const TRANSPORTS: &[(&str, Transport)] = &[
    ("tcp", Transport::Tcp),
    ("tls", Transport::Tls),
    ("ws", Transport::Ws),
    ("wss", Transport::Wss),
    ("unix", Transport::Unix),
];

const CLIENT_CERTIFICATES: &[(&str, ClientCertificate)] = &[
    ("none", ClientCertificate::None),
    ("optional", ClientCertificate::Optional),
    ("required", ClientCertificate::Required),
];

impl Listener {
    /// Sets a key by name; the error says what was expected. `None`: there is no such key.
    pub(super) fn set(&mut self, name: &str, given: &Given) -> Option<Result<(), String>> {
        let text = || value::text(given);
        let file = || text().map(|text| Some(PathBuf::from(text)));
        let seconds = |name| {
            value::number(given, Unit::of(name))
                .and_then(|n| u32::try_from(n).map_err(|_| "fewer".to_owned()))
        };
        Some(match name {
            "address" => text().map(|text| self.address = text),
            "name" => text().map(|text| self.label = Some(text)),
            "authentication" => value::list(given).and_then(|names| {
                let named = |name: &String| Method::ALL.into_iter().find(|method| method.name() == name);
                let all = Method::ALL.map(|method| format!("\"{}\"", method.name())).join(", ");
                let methods: Option<Vec<_>> = names.iter().map(named).collect();
                methods
                    .map(|methods| self.authentication = Some(methods))
                    .ok_or_else(|| format!("a list of {all}"))
            }),
            "allow_anonymous" => value::boolean(given).map(|allow| self.allow_anonymous = Some(allow)),
            "path" => file().map(|path| self.path = path),
            "open" => value::boolean(given).map(|open| self.open = open),
            "nodelay" => value::boolean(given).map(|nodelay| self.nodelay = nodelay),
            "certificate_file" => file().map(|path| self.certificate_file = path),
            "key_file" => file().map(|path| self.key_file = path),
            "client_ca_file" => file().map(|path| self.client_ca_file = path),
            "client_crl_file" => file().map(|path| self.client_crl_file = path),
            "certificate_user" => value::list(given).and_then(|templates| {
                templates.iter().try_for_each(|template| check_template(template))?;
                self.certificate_user = templates;
                Ok(())
            }),
            "websocket_paths" => value::list(given).map(|paths| self.websocket_paths = paths),
            "proxy_protocol_from" => value::list(given).and_then(|names| {
                let networks: Option<Vec<IpNet>> = names.iter().map(|name| network(name)).collect();
                networks
                    .map(|networks| self.proxy_protocol_from = networks)
                    .ok_or_else(|| "a list of addresses or networks like \"10.0.0.0/8\"".to_owned())
            }),
            "alpn" => value::list(given).map(|protocols| self.alpn = protocols),
            "websocket_origins" => value::list(given).map(|origins| self.websocket_origins = origins),
            "tcp_keep_alive_s" => seconds(name).map(|s| self.tcp_keep_alive_s = s),
            "tcp_user_timeout_s" => seconds(name).map(|s| self.tcp_user_timeout_s = s),
            "durability" => {
                super::keys::durability(given).map(|durability| self.durability = Some(durability))
            }
            "socket_mode" => text()
                .and_then(|text| u32::from_str_radix(&text, 8).map_err(|_| String::new()))
                .map(|mode| self.socket_mode = mode)
                .map_err(|_| "an octal text like \"660\"".to_owned()),
            "transport" => value::choice(given, TRANSPORTS).map(|transport| self.transport = transport),
            "client_certificate" => {
                value::choice(given, CLIENT_CERTIFICATES).map(|wanted| self.client_certificate = wanted)
            }
            _ => return None,
        })
    }

    /// As errors and logs call it.
    pub fn name(&self) -> String {
        match (&self.path, self.transport) {
            (Some(path), Transport::Unix) => format!("unix:{}", path.display()),
            _ => format!("{}://{}", self.transport.scheme(), self.address),
        }
    }

    /// Whether clients of this machine only can connect.
    pub fn is_local(&self) -> bool {
        let addresses = || self.address.to_socket_addrs().map(Vec::from_iter).unwrap_or_default();
        self.transport == Transport::Unix || addresses().iter().all(|address| address.ip().is_loopback())
    }

    /// As rules and logs of authentication call it.
    pub fn label(&self) -> String {
        self.label.clone().unwrap_or_else(|| self.name())
    }

    /// What would make it fail, as far as can be told without opening the port. `authenticates`: nobody gets in who has not
    /// shown who it is.
    pub(super) fn check(&self, authenticates: bool) -> Vec<String> {
        let mut errors = Vec::new();
        let mut wrong = |text: String| errors.push(format!("listener {}: {text}", self.name()));
        if self.transport == Transport::Unix {
            if self.path.is_none() {
                wrong("a Unix socket needs a path: add path = \"/run/lapwing/mqtt.sock\"".to_owned());
            }
        } else {
            match self.address.to_socket_addrs().map(|all| all.collect::<Vec<_>>()) {
                Err(error) => wrong(format!("the address is not HOST:PORT: {error}")),
                Ok(addresses)
                    if !self.open && !authenticates && !addresses.iter().all(|a| a.ip().is_loopback()) =>
                {
                    wrong(
                        "anybody who can reach this address could connect, since there is no authentication on it. Add users \
                         (`lapwing user add NAME`, then [auth] password_file), or listen on localhost, or add open = true to \
                         this [[listener]] if that is what you want"
                            .to_owned(),
                    );
                }
                Ok(_) => {}
            }
        }
        if self.transport.has_tls() {
            for (key, file) in [("certificate_file", &self.certificate_file), ("key_file", &self.key_file)] {
                match file {
                    None => wrong(format!("TLS needs a {key}")),
                    Some(path) => why_not_readable(key, path).into_iter().for_each(&mut wrong),
                }
            }
        } else if self.certificate_file.is_some() || self.client_certificate != ClientCertificate::None {
            wrong("certificates need transport = \"tls\" or \"wss\"".to_owned());
        }
        if !self.alpn.is_empty() && !self.transport.has_tls() {
            wrong("alpn needs transport = \"tls\" or \"wss\"".to_owned());
        }
        if !self.proxy_protocol_from.is_empty() && self.transport == Transport::Unix {
            wrong("proxy_protocol_from is about addresses: a Unix socket has none".to_owned());
        }
        if self.client_certificate != ClientCertificate::None {
            match &self.client_ca_file {
                None => wrong("client_certificate needs a client_ca_file".to_owned()),
                Some(path) => why_not_readable("client_ca_file", path).into_iter().for_each(&mut wrong),
            }
            if let Some(path) = &self.client_crl_file {
                why_not_readable("client_crl_file", path).into_iter().for_each(&mut wrong);
            }
        } else if self.client_crl_file.is_some() || !self.certificate_user.is_empty() {
            wrong(
                "client_crl_file and certificate_user need client_certificate = \"optional\" or \"required\""
                    .to_owned(),
            );
        }
        errors
    }
}

/// Why a file cannot be read: who tried, and what its permissions are.
pub(crate) fn why_not_readable(key: &str, path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let error = match std::fs::File::open(path) {
        Ok(_) if path.is_dir() => return Some(format!("{key} {} is a folder, not a file", path.display())),
        Ok(_) => return None,
        Err(error) => error,
    };
    let user = std::fs::metadata("/proc/self")
        .map_or_else(|_| String::new(), |m| format!(" as user id {}", m.uid()));
    let mode = std::fs::metadata(path)
        .map_or_else(|_| String::new(), |m| format!(" (owner {}, mode {:o})", m.uid(), m.mode() & 0o777));
    Some(format!("{key} {} cannot be read{user}: {error}{mode}", path.display()))
}
