//! One `[[listener]]`: address, transport and its own settings.

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

/// Parses a network, or one address. An IPv4 network that is written as IPv6, like
/// `::ffff:192.0.2.0/120`, is that IPv4 network: addresses of clients have that form.
pub fn network(text: &str) -> Option<IpNet> {
    let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(len)) if net.addr().is_ipv6() => IpNet::new(address.into(), len).ok(),
        _ => Some(net),
    }
}

/// Returns `true` when a host, perhaps with a port, is this machine by its loopback address or as
/// `localhost`. No other name counts: whoever owns it decides what it means.
pub fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The address, or the network of an IPv6 address: whoever has one such address has billions. All
/// bounds per address count by it.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

/// Transport of a listener.
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
    /// Scheme in the name of a listener.
    pub const fn scheme(self) -> &'static str {
        match self {
            Transport::Tcp => "mqtt",
            Transport::Tls => "mqtts",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
            Transport::Unix => "unix",
        }
    }

    /// True when TLS is part of it.
    pub const fn has_tls(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// True when WebSocket is part of it.
    pub const fn has_websocket(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }
}

/// Client certificate policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Clients are not asked for one.
    #[default]
    None,
    /// A certificate is verified if the client has one.
    Optional,
    /// A valid certificate is required.
    Required,
}

/// Authentication method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The client certificate.
    Certificate,
    /// A token as password, verified by keys.
    Jwt,
    /// User name and password, by the password file.
    Password,
    /// Any credentials, by a service over HTTP.
    Http,
}

impl Method {
    /// All methods, in the order in which they are tried.
    pub const ALL: [Method; 4] = [Method::Certificate, Method::Jwt, Method::Password, Method::Http];

    /// Name in the configuration and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Certificate => "certificate",
            Method::Jwt => "jwt",
            Method::Password => "password",
            Method::Http => "http",
        }
    }

    /// Key that the method needs.
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

/// Address families of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All families that the host has.
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

/// Templates that make user names from certificates.
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

/// Prefix of the topics of a listener; the trailing slash is optional.
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
        /// Settings of a listener.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Listener { $($(#[doc = $doc])+ pub $name: $t,)+ }

        impl Default for Listener {
            fn default() -> Self {
                Listener { $($name: $default,)+ }
            }
        }

        /// All keys of a listener.
        pub(super) const KEYS: &[ConfigKey<Listener>] = &[$(
            ConfigKey {
                $(default: || $shown.to_owned(),)?
                ..key!(Listener, "listener", [$name], $name: $t = $default, $range, [$($reload)?], concat!($($doc),+))
            },
        )+];
    };
}

listener! {
    /// Name in access rules and authentication logs.
    name: Option<String> = None, ANY => "its address";
    /// Host and port. `localhost` is IPv4 and IPv6 of this machine, `*` every address of it, port 0
    /// any free one. For a reload, another address is another listener.
    address: String = "localhost:1883".to_owned(), ANY;
    /// Address families to listen on, if the host has several: "any", "ipv4" or "ipv6".
    address_family: Family = Family::Any, ANY;
    /// Network interface to accept connections from, like "eth0"; none: all.
    interface: Option<String> = None, ANY;
    /// "tcp", "tls", "ws", "wss" or "unix".
    transport: Transport = Transport::Tcp, ANY, Connect;
    /// Path of the Unix socket.
    path: Option<PathBuf> = None, ANY;
    /// Permissions of the Unix socket, in octal.
    socket_mode: Mode = Mode(0o660), ANY;
    /// Accept everybody who can reach the address. Required for any address but loopback, as long
    /// as there is no authentication.
    open: bool = false, ANY;
    /// Authentication methods, in the order in which they are tried: a list of "certificate",
    /// "jwt", "password", "http"; empty: none.
    authentication: Option<Vec<Method>> = None, ANY => "all that is configured";
    /// Accept clients without credentials beside those with. If false on a listener without any
    /// authentication, nobody can connect.
    allow_anonymous: Option<bool> = None, ANY => "auth.allow_anonymous";
    /// Users of this listener and their passwords.
    password_file: Option<String> = None, ANY => "auth.password_file";
    /// Access rules of this listener.
    acl_file: Option<String> = None, ANY => "auth.acl_file";
    /// Use the user name as client identifier, whatever the client sends.
    client_id_is_user: bool = false, ANY, Connect;
    /// Prefix of every topic name and filter of the listener's clients, removed again from messages
    /// to them. They see only the topics below it, without $SYS. Access rules apply to whole names.
    /// A change does not move subscriptions of existing sessions.
    mount_point: Option<MountPoint> = None, ANY;
    /// Maximum number of connections of the listener.
    connections_max: Option<u32> = None, 1..=100_000_000 => "any number within limits.connections_max";
    /// Highest QoS of the listener.
    qos_max: Option<u8> = None, 0..=2, Connect => "mqtt.qos_max";
    /// Largest packet, in bytes.
    packet_bytes_max: Option<u32> = None, 128..=268_435_460, Connect => "limits.packet_bytes_max";
    /// Number of topic aliases that a client may use.
    topic_aliases_in_max: Option<u16> = None, 0..=65_535, Connect => "limits.topic_aliases_in_max";
    /// Longest keep-alive, in seconds; 0: no limit.
    keep_alive_max_s: Option<u32> = None, 0..=65_535, Connect => "limits.keep_alive_max_s";
    /// Certificate chain of the server, PEM.
    certificate_file: Option<PathBuf> = None, ANY, Connect;
    /// Private key of the server, PEM.
    key_file: Option<PathBuf> = None, ANY, Connect;
    /// Certificate authorities of clients, PEM; a folder: all of its files.
    client_ca_file: Option<PathBuf> = None, ANY;
    /// Client certificates: "none", "optional" or "required".
    client_certificate: ClientCertificate = ClientCertificate::None, ANY, Connect;
    /// Revocation lists of those authorities, PEM: one for each authority of the chain, and none
    /// overdue.
    client_crl_file: Option<PathBuf> = None, ANY;
    /// Templates that make the user name from a client certificate; the first that can be filled
    /// counts. They use the alternative names (URI, DNS, e-mail), the common name, or the whole
    /// subject ({subject}, like CN=a,O=b), with other text around. Set it to let certificates name
    /// users beside other methods.
    certificate_user: Templates = Templates::default(), ANY => "[\"{uri}\", \"{dns}\", \"{email}\", \"{cn}\"] without other authentication";
    /// Paths of the WebSocket; "*" is any.
    websocket_paths: Vec<String> = vec!["/mqtt".to_owned(), "/".to_owned()], ANY, Connect;
    /// Origins whose pages may connect, like "https://example.org"; empty: all. On a loopback
    /// listener without authentication, empty means pages of this machine. Clients other than
    /// browsers may always connect.
    websocket_origins: Vec<String> = Vec::new(), ANY, Connect;
    /// Addresses or networks of proxies, like "10.0.0.0/8". A connection from there must begin with
    /// a PROXY protocol header, version 1 or 2, which names the client. The header is not accepted
    /// from other addresses.
    proxy_protocol_from: Vec<IpNet> = Vec::new(), ANY, Connect;
    /// Protocols that TLS offers by ALPN, like ["mqtt", "x-amzn-mqtt-ca"]; a client that offers
    /// only others is refused. Empty: ALPN is ignored.
    alpn: Vec<String> = Vec::new(), ANY, Connect;
    /// Send small packets at once (TCP_NODELAY).
    nodelay: bool = true, ANY, Connect;
    /// Seconds of silence after which the kernel probes the peer; 0 turns it off.
    tcp_keep_alive_s: u32 = 60, 0..=32_767, Connect;
    /// Seconds without an answer from the peer's kernel after which the connection ends; 0: the
    /// system's default.
    tcp_user_timeout_s: u32 = 30, 0..=2_147_483, Connect;
    /// Guarantee behind an acknowledgement of a stored message to clients of this listener:
    /// "always", "interval" or "none".
    durability: Option<Durability> = None, ANY => "store.durability";
}

impl Listener {
    /// Name in errors and logs.
    pub fn title(&self) -> String {
        match (&self.path, self.transport) {
            (Some(path), Transport::Unix) => format!("unix:{}", path.display()),
            _ => format!("{}://{}", self.transport.scheme(), self.address),
        }
    }

    /// The address or path that it binds. Two listeners of the same site cannot be open at once,
    /// unless the port is 0.
    pub(crate) fn site(&self) -> String {
        match (&self.path, self.transport) {
            (Some(path), Transport::Unix) => format!("unix:{}", path.display()),
            _ => format!("{} {:?} {:?}", self.address, self.address_family, self.interface),
        }
    }

    /// True when the system chooses the port.
    pub(super) fn is_any_port(&self) -> bool {
        self.transport != Transport::Unix && self.address.ends_with(":0")
    }

    /// True when only clients of this machine can connect.
    pub fn is_local(&self) -> bool {
        self.transport == Transport::Unix
            || self.interface.as_deref() == Some("lo")
            || self.addresses().unwrap_or_default().iter().all(|address| address.ip().is_loopback())
    }

    /// Addresses to bind. `localhost` may resolve to one family only; it means both, as `*` does.
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

    /// Name in access rules and authentication logs.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.title())
    }

    /// Problems that can be found without opening the port. `authenticates`: every client must
    /// authenticate.
    pub(super) fn check(&self, authenticates: bool) -> Vec<String> {
        let mut errors = Vec::new();
        let mut wrong = |text: String| errors.push(format!("listener {}: {text}", self.title()));
        if self.transport == Transport::Unix {
            if self.path.is_none() {
                wrong("a Unix socket needs a path; add path = \"/run/lapwing/mqtt.sock\"".to_owned());
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
                        "without authentication, everyone who can reach this address could connect; add users (`lapwing user add \
                         NAME`, then [auth] password_file), listen on localhost, or add open = true to this [[listener]] to \
                         allow that"
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
            wrong("proxy_protocol_from: a Unix socket has no addresses; remove it".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_network_that_is_written_as_ipv6_is_that_network() {
        for (written, address) in [
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("::ffff:192.0.2.0/120", "192.0.2.9"),
            ("192.0.2.0/24", "192.0.2.9"),
            ("2001:db8::/32", "2001:db8:1::1"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(network(written).unwrap().contains(&address), "{written}");
        }
        // Wider than all of IPv4 it is what it says.
        assert!(network("::/0").unwrap().contains(&"2001:db8::1".parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn only_loopback_hosts_are_this_machine() {
        let local = ["localhost", "LOCALHOST:8080", "127.0.0.1:1883", "127.9.9.9", "[::1]:80", "[::1]"];
        assert!(local.into_iter().all(is_loopback_host));
        let others =
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1", "null"];
        assert!(!others.into_iter().any(is_loopback_host));
    }

    #[test]
    fn an_ipv6_address_counts_with_its_network_and_others_as_themselves() {
        for (address, network) in [
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "192.0.2.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(network_of(address.parse().unwrap()), network.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
