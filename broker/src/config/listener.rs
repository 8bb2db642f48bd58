//! One `[[listener]]`: where clients connect, and how.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use lapwing_protocol::topic;

use super::declare::{ANY, ConfigKey, Parse, key, listed, quoted, words};
use super::value::{self, Given};
use crate::config::template::check_template;
use crate::config::why_not_readable;
use crate::message::Durability;

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

words! { Transport { Tcp = "tcp", Tls = "tls", Ws = "ws", Wss = "wss", Unix = "unix", } }
words! { ClientCertificate { None = "none", Optional = "optional", Required = "required", } }
words! { Method { Certificate = "certificate", Jwt = "jwt", Password = "password", Http = "http", } }
words! { Family { Any = "any", Ipv4 = "ipv4", Ipv6 = "ipv6", } }

/// The address families of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Those that its host has.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Parse for Vec<Method> {
    fn parse(given: &Given, name: &str, range: RangeInclusive<u64>) -> Result<Self, String> {
        let one = |text: String| Method::parse(&Given::Text(text), name, range.clone());
        let all = || format!("a list of {}", listed(&Method::ALL.map(Method::name)));
        value::list(given)?.into_iter().map(one).collect::<Result<_, _>>().map_err(|_| all())
    }
    fn show(&self) -> String {
        listed(&self.iter().map(|method| method.name()).collect::<Vec<_>>())
    }
}

impl Parse for Vec<IpNet> {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        let networks: Option<Self> = value::list(given)?.iter().map(|name| network(name)).collect();
        networks.ok_or_else(|| "a list of addresses or networks like \"10.0.0.0/8\"".to_owned())
    }
    fn show(&self) -> String {
        listed(&self.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// Permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Parse for Mode {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        let mode = value::text(given).ok().and_then(|text| u32::from_str_radix(&text, 8).ok());
        mode.map(Mode).ok_or_else(|| "an octal text like \"660\"".to_owned())
    }
    fn show(&self) -> String {
        format!("\"{:o}\"", self.0)
    }
}

/// How names are taken from certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Templates(pub Vec<String>);

impl Parse for Templates {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        let templates = value::list(given)?;
        templates.iter().try_for_each(|template| check_template(template))?;
        Ok(Templates(templates))
    }
    fn show(&self) -> String {
        listed(&self.0)
    }
}

/// What is put before the topics of a listener; ends with a slash or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint(pub String);

impl Parse for MountPoint {
    fn parse(given: &Given, _: &str, _: RangeInclusive<u64>) -> Result<Self, String> {
        let text = value::text(given)?;
        let good = topic::check_name(&text).is_ok() && !text.starts_with('$');
        good.then_some(MountPoint(text)).ok_or_else(|| {
            "the beginning of topic names, like \"house1/\", without wildcards or $ in front".to_owned()
        })
    }
    fn show(&self) -> String {
        quoted(&self.0)
    }
}

macro_rules! listener {
    ($($(#[doc = $doc:literal])+ $name:ident: $t:ty = $default:expr, $range:expr $(, $reload:ident)? $(=> $shown:literal)?;)+) => {
        /// A listener.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Listener { $($(#[doc = $doc])+ pub $name: $t,)+ }

        impl Default for Listener {
            fn default() -> Self {
                Listener { $($name: $default,)+ }
            }
        }

        /// Every key of a listener.
        pub(super) const KEYS: &[ConfigKey<Listener>] = &[$(
            ConfigKey {
                $(default: || $shown.to_owned(),)?
                ..key!(Listener, "listener", [$name], $name: $t = $default, $range, [$($reload)?], concat!($($doc),+))
            },
        )+];
    };
}

listener! {
    /// What rules and logs of authentication call it.
    name: Option<String> = None, ANY => "its address";
    /// Host and port; `localhost` is IPv4 and IPv6 of this machine, `*` every address that it has,
    /// port 0 any free one. Another address is another listener, to a reload as well.
    address: String = "localhost:1883".to_owned(), ANY;
    /// The address families that it listens on, if its host has several: "any", "ipv4" or "ipv6".
    address_family: Family = Family::Any, ANY;
    /// The network interface that it takes connections from, like "eth0"; none: all.
    interface: Option<String> = None, ANY;
    /// "tcp", "tls", "ws", "wss" or "unix".
    transport: Transport = Transport::Tcp, ANY, Connect;
    /// The Unix socket.
    path: Option<PathBuf> = None, ANY;
    /// The permissions of the Unix socket, in octal.
    socket_mode: Mode = Mode(0o660), ANY;
    /// Everybody who can reach the address may connect. Needed for any address but loopback, as
    /// long as there is no authentication.
    open: bool = false, ANY;
    /// What tells who a client is, in the order in which it is tried: a list of "certificate",
    /// "jwt", "password", "http"; empty: nothing.
    authentication: Option<Vec<Method>> = None, ANY => "all that is configured";
    /// Whether clients without credentials are let in beside those with. Said to be false on a
    /// listener without any authentication, it lets nobody in.
    allow_anonymous: Option<bool> = None, ANY => "auth.allow_anonymous";
    /// The users of this listener and their passwords.
    password_file: Option<String> = None, ANY => "auth.password_file";
    /// The access rules of this listener.
    acl_file: Option<String> = None, ANY => "auth.acl_file";
    /// Whether the user is the client identifier, whatever the client calls itself.
    client_id_is_user: bool = false, ANY, Connect;
    /// What is put before every topic name and filter of its clients, and taken away from what they
    /// are sent: they live in a world of their own, without $SYS. Rules are asked about the whole
    /// names. A change of it leaves subscriptions of kept sessions where they were.
    mount_point: Option<MountPoint> = None, ANY;
    /// How many connections it has.
    connections_max: Option<u32> = None, 1..=100_000_000 => "any number within limits.connections_max";
    /// The highest QoS that is offered on it.
    qos_max: Option<u8> = None, 0..=2, Connect => "mqtt.qos_max";
    /// The largest packet, in bytes.
    packet_bytes_max: Option<u32> = None, 128..=268_435_460, Connect => "limits.packet_bytes_max";
    /// The topic aliases that a client may use.
    topic_aliases_in_max: Option<u16> = None, 0..=65_535, Connect => "limits.topic_aliases_in_max";
    /// The longest keep-alive, in seconds; 0: no cap.
    keep_alive_max_s: Option<u32> = None, 0..=65_535, Connect => "limits.keep_alive_max_s";
    /// The certificate chain of the server, PEM.
    certificate_file: Option<PathBuf> = None, ANY, Connect;
    /// Its private key, PEM.
    key_file: Option<PathBuf> = None, ANY, Connect;
    /// The certificate authorities of clients, PEM; a folder: all of its files.
    client_ca_file: Option<PathBuf> = None, ANY;
    /// Whether clients show a certificate: "none", "optional" or "required".
    client_certificate: ClientCertificate = ClientCertificate::None, ANY, Connect;
    /// The revocation lists of those authorities, PEM; one for each authority of the chain, and
    /// none that is overdue.
    client_crl_file: Option<PathBuf> = None, ANY;
    /// How the user is taken from a client certificate: the first of these that it can fill, from
    /// its alternative names (URI, DNS, e-mail), its common name or all of its subject ({subject},
    /// as CN=a,O=b); other text may stand around. Set it to let certificates name users beside
    /// other methods.
    certificate_user: Templates = Templates::default(), ANY => "[\"{uri}\", \"{dns}\", \"{email}\", \"{cn}\"] without other authentication";
    /// The paths of the WebSocket; "*" is any.
    websocket_paths: Vec<String> = vec!["/mqtt".to_owned(), "/".to_owned()], ANY, Connect;
    /// The origins whose pages may connect, like "https://example.org"; empty: all, and clients
    /// that are no browser in any case.
    websocket_origins: Vec<String> = Vec::new(), ANY, Connect;
    /// Addresses or networks of proxies, like "10.0.0.0/8": a connection from there must begin with
    /// a header of the PROXY protocol, version 1 or 2, and is its client's. From elsewhere no such
    /// header is believed.
    proxy_protocol_from: Vec<IpNet> = Vec::new(), ANY, Connect;
    /// The protocols that TLS offers by ALPN, like ["mqtt", "x-amzn-mqtt-ca"]; a client that names
    /// only others is refused. Empty: it is not looked at.
    alpn: Vec<String> = Vec::new(), ANY, Connect;
    /// Small packets leave at once (TCP_NODELAY).
    nodelay: bool = true, ANY, Connect;
    /// After so many seconds of silence the kernel asks whether the peer is there; 0 turns it off.
    tcp_keep_alive_s: u32 = 60, 0..=32_767, Connect;
    /// After so many seconds without an answer from the peer's kernel the connection is over; 0:
    /// the system's default.
    tcp_user_timeout_s: u32 = 30, 0..=2_147_483, Connect;
    /// What an acknowledgement of a stored message means to clients of this listener: "always",
    /// "interval" or "none".
    durability: Option<Durability> = None, ANY => "store.durability";
}

impl Listener {
    /// As errors and logs call it.
    pub fn title(&self) -> String {
        match (&self.path, self.transport) {
            (Some(path), Transport::Unix) => format!("unix:{}", path.display()),
            _ => format!("{}://{}", self.transport.scheme(), self.address),
        }
    }

    /// What it listens on: two listeners of the same site cannot be open at once, unless the port
    /// is any free one.
    pub(crate) fn site(&self) -> String {
        match (&self.path, self.transport) {
            (Some(path), Transport::Unix) => format!("unix:{}", path.display()),
            _ => format!("{} {:?} {:?}", self.address, self.address_family, self.interface),
        }
    }

    /// Whether clients of this machine only can connect.
    pub fn is_local(&self) -> bool {
        self.transport == Transport::Unix
            || self.interface.as_deref() == Some("lo")
            || self.addresses().unwrap_or_default().iter().all(|address| address.ip().is_loopback())
    }

    /// What it listens on. `localhost` may be known for one family only; it means both, as `*`
    /// does.
    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let port = |host: &str| self.address.strip_prefix(host)?.parse::<u16>().ok();
        let both = |port, four: Ipv4Addr, six: Ipv6Addr| vec![(four, port).into(), (six, port).into()];
        let mut addresses = if let Some(port) = port("localhost:") {
            both(port, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
        } else if let Some(port) = port("*:") {
            both(port, Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
        } else {
            self.address.to_socket_addrs()?.collect()
        };
        addresses.dedup();
        addresses.retain(|address| match self.address_family {
            Family::Any => true,
            Family::Ipv4 => address.is_ipv4(),
            Family::Ipv6 => address.is_ipv6(),
        });
        Ok(addresses)
    }

    /// As rules and logs of authentication call it.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.title())
    }

    /// What would make it fail, as far as can be told without opening the port. `authenticates`:
    /// nobody gets in who has not shown who it is.
    pub(super) fn check(&self, authenticates: bool) -> Vec<String> {
        let mut errors = Vec::new();
        let mut wrong = |text: String| errors.push(format!("listener {}: {text}", self.title()));
        if self.transport == Transport::Unix {
            if self.path.is_none() {
                wrong("a Unix socket needs a path: add path = \"/run/lapwing/mqtt.sock\"".to_owned());
            }
        } else {
            match self.addresses() {
                Err(error) => wrong(format!("the address is not HOST:PORT: {error}")),
                Ok(addresses)
                    if !self.open
                        && !authenticates
                        && !self.is_local()
                        && !addresses.iter().all(|a| a.ip().is_loopback()) =>
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
                Some(path) if path.is_dir() => {}
                Some(path) => why_not_readable("client_ca_file", path).into_iter().for_each(&mut wrong),
            }
            if let Some(path) = &self.client_crl_file {
                why_not_readable("client_crl_file", path).into_iter().for_each(&mut wrong);
            }
        } else if self.client_crl_file.is_some() || !self.certificate_user.0.is_empty() {
            wrong(
                "client_crl_file and certificate_user need client_certificate = \"optional\" or \"required\""
                    .to_owned(),
            );
        }
        errors
    }
}
