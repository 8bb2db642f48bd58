//! Options of all tools: the broker's address, the client's identity, its will.

use std::net::IpAddr;
use std::path::Path;

use clap::{ArgAction, Args};
use lapwing_protocol::property::PropertyId;
use lapwing_protocol::topic::{self, TopicError};
use lapwing_protocol::{QoS, Version};

use super::failure::Failure;
use super::link::Tls;
use super::properties::{Blocks, Command};

/// Address, identity and will.
#[derive(Debug, Args)]
pub struct ConnectOptions {
    /// The broker's host [default: localhost]
    #[arg(short = 'h', long, value_name = "HOST")]
    host: Option<String>,
    /// Its port [default: 1883; 8883 with TLS, 8083 and 8084 for WebSocket]
    #[arg(short, long)]
    port: Option<u16>,
    /// mqtt://, mqtts://, ws:// or wss://[USER[:PASSWORD]@]HOST[:PORT]; /TOPIC for the first two,
    /// the WebSocket path for the others
    #[arg(short = 'L', long, conflicts_with_all = ["host", "port", "unix"])]
    url: Option<String>,
    /// A Unix socket in place of a host
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix: Option<String>,
    /// Over WebSocket
    #[arg(long)]
    ws: bool,
    /// The path of the WebSocket
    #[arg(long, value_name = "PATH", default_value = "/mqtt")]
    ws_path: String,
    /// The address of this machine to connect from
    #[arg(short = 'A', long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// The client identifier [default: the tool's name and a random number]
    #[arg(short, long)]
    id: Option<String>,
    /// The beginning of the client identifier; the process id is its end
    #[arg(short = 'I', long, value_name = "PREFIX", conflicts_with = "id")]
    id_prefix: Option<String>,
    /// The user name
    #[arg(short, long, allow_hyphen_values = true)]
    username: Option<String>,
    /// The password; every user of this machine can read it there: the environment variable is the
    /// better place
    #[arg(
        short = 'P',
        long = "pw",
        value_name = "PASSWORD",
        env = "LAPWING_PASSWORD",
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    password: Option<String>,
    /// The version of MQTT: 31, 311 or 5, also mqttv31, mqttv311, mqttv5 [default: 311; 5 with -D
    /// or -x]
    #[arg(short = 'V', long, value_name = "VERSION")]
    protocol_version: Option<String>,
    /// Seconds of silence after which the client pings
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    keepalive: u16,
    /// Keep the session: do not begin a new one, and let the broker hold it afterwards
    #[arg(short = 'c', long)]
    disable_clean_session: bool,
    /// MQTT 5: seconds that the session outlives the connection; -1 for ever
    #[arg(short = 'x', long, value_name = "SECONDS", allow_negative_numbers = true)]
    session_expiry_interval: Option<String>,
    /// QoS 1 and 2 messages on their way at once
    #[arg(short = 'M', long, value_name = "MESSAGES", default_value_t = 20)]
    pub max_inflight: u16,
    /// A property of MQTT 5: COMMAND NAME VALUE, such as `-D publish content-type text/plain`, `-D
    /// connect user-property NAME VALUE`
    #[arg(short = 'D', long = "property", num_args = 3..=4, action = ArgAction::Append, value_names = ["COMMAND", "NAME", "VALUE", "VALUE"])]
    properties: Vec<String>,
    /// The topic of the will
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// The payload of the will
    #[arg(
        long,
        value_name = "PAYLOAD",
        requires = "will_topic",
        default_value = "",
        allow_hyphen_values = true
    )]
    will_payload: String,
    /// The QoS of the will
    #[arg(long, value_name = "QOS", requires = "will_topic", default_value = "0", value_parser = qos)]
    will_qos: QoS,
    /// The will is retained
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
    /// TLS: the authorities to trust, PEM
    #[arg(long, value_name = "FILE")]
    cafile: Option<String>,
    /// TLS: a folder of such files
    #[arg(long, value_name = "FOLDER")]
    capath: Option<String>,
    /// TLS: trust what this system trusts
    #[arg(long)]
    tls_use_os_certs: bool,
    /// TLS: our certificate, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<String>,
    /// TLS: its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<String>,
    /// TLS: take a certificate for another host name; its authority must be trusted still
    #[arg(long)]
    insecure: bool,
    /// TLS: the application protocol to offer
    #[arg(long, value_name = "PROTOCOL")]
    tls_alpn: Option<String>,
    /// Print packets sent and received on standard error
    #[arg(short, long)]
    pub debug: bool,
    /// Print no error messages
    #[arg(long)]
    pub quiet: bool,
    /// Accepted, and always so: no packet waits for another
    #[arg(long, hide = true)]
    nodelay: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Parses a QoS.
pub fn qos(text: &str) -> Result<QoS, String> {
    text.parse().ok().and_then(QoS::from_u8).ok_or_else(|| "0, 1 or 2".to_owned())
}

/// Checks a topic name to publish to.
pub fn check_name(topic: &str) -> Result<(), Failure> {
    topic::check_name(topic).map_err(|error| wrong_topic(topic, error))
}

/// Checks a topic filter.
pub fn check_filter(filter: &str) -> Result<(), Failure> {
    topic::check_filter(filter).map_err(|error| wrong_topic(filter, error))
}

fn wrong_topic(topic: &str, error: TopicError) -> Failure {
    let why = match error {
        TopicError::Empty => "a topic has at least one character",
        TopicError::Nul => "a topic has no U+0000",
        TopicError::TooLong => "a topic has at most 65,535 bytes",
        TopicError::Wildcard => "+ and # are for topic filters, not for the topic of a message",
        TopicError::MultiLevelPlace | TopicError::SingleLevelPlace => {
            "+ stands for one whole level, # for all at the end"
        }
        TopicError::Share => "a shared subscription is $share/NAME/FILTER",
    };
    Failure::new(format!("'{topic}': {why}"))
}

/// Parses a time limit.
pub fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    std::time::Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Address of a broker.
#[derive(Clone, Debug, Default)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub unix: Option<String>,
    pub bind: Option<IpAddr>,
    pub tls: Option<Tls>,
    pub websocket_path: Option<String>,
}

impl Target {
    /// Returns `HOST:PORT`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            return format!("[{}]:{}", self.host, self.port);
        }
        format!("{}:{}", self.host, self.port)
    }
}

/// The will.
#[derive(Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
}

/// Everything that CONNECT needs.
#[derive(Debug)]
pub struct Client {
    pub target: Target,
    pub version: Version,
    pub id: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub keep_alive_s: u16,
    pub clean: bool,
    pub max_inflight: u16,
    pub will: Option<Will>,
    pub blocks: Blocks,
    pub debug: bool,
    /// The topic of a URL.
    pub topic: Option<String>,
}

/// A URL in parts.
struct Url<'u> {
    tls: bool,
    websocket: bool,
    user: Option<String>,
    password: Option<String>,
    host: &'u str,
    port: Option<u16>,
    path: &'u str,
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn parse_url(url: &str) -> Result<Url<'_>, Failure> {
    let wrong = |why: &str| Failure::new(format!("-L {url}: {why}"));
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| wrong("no mqtt://, mqtts://, ws:// or wss://"))?;
    let (tls, websocket) = match scheme {
        "mqtt" => (false, false),
        "mqtts" => (true, false),
        "ws" => (false, true),
        "wss" => (true, true),
        _ => return Err(wrong("the scheme must be mqtt, mqtts, ws or wss")),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (login, host) =
        authority.rsplit_once('@').map_or((None, authority), |(login, host)| (Some(login), host));
    let (user, password) = match login {
        None => (None, None),
        Some(login) => {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, pw)| (user, Some(pw)));
            let bad = || wrong("a wrong %-code in the user or the password");
            (Some(decode(user).ok_or_else(bad)?), password.map(|pw| decode(pw).ok_or_else(bad)).transpose()?)
        }
    };
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => host.rsplit_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse().map_err(|_| wrong("the port is not a number"))).transpose()?;
    if host.is_empty() {
        return Err(wrong("no host"));
    }
    Ok(Url { tls, websocket, user, password, host, port, path })
}

impl ConnectOptions {
    /// Returns the client of these options; `tool` begins the client identifier.
    pub fn client(&self, tool: &str, version: Version) -> Result<Client, Failure> {
        let mut blocks = Blocks::default();
        for words in self.property_words() {
            blocks.add(words)?;
        }
        let version = self.version(version, &blocks)?;
        if version.has_properties() {
            let expiry = match self.session_expiry_interval.as_deref() {
                Some("-1" | "∞") => Some(u32::MAX),
                Some(text) => {
                    Some(text.parse().map_err(|_| Failure::new("-x is a number of seconds, or -1"))?)
                }
                None => self.disable_clean_session.then_some(u32::MAX),
            };
            if let Some(expiry) = expiry {
                blocks.default_number(Command::Connect, PropertyId::SessionExpiryInterval, expiry)?;
            }
        }
        if self.disable_clean_session && self.id.is_none() {
            return Err(Failure::new("-c keeps the session of a client identifier: name it with -i"));
        }
        let url = self.url.as_deref().map(parse_url).transpose()?;
        let target = self.target(url.as_ref())?;
        let topic = url.as_ref().filter(|url| !url.websocket).and_then(|url| url.path.strip_prefix('/'));
        let topic = topic.filter(|topic| !topic.is_empty()).map(str::to_owned);
        let (user, password) = url.map_or((None, None), |url| (url.user, url.password));
        let will = self.will_topic.clone().map(|topic| Will {
            topic,
            payload: self.will_payload.clone().into_bytes(),
            qos: self.will_qos,
            retain: self.will_retain,
        });
        Ok(Client {
            target,
            version,
            id: self.identifier(tool)?,
            user: self.username.clone().or(user),
            password: self.password.clone().or(password),
            keep_alive_s: self.keepalive,
            clean: !self.disable_clean_session,
            max_inflight: self.max_inflight.max(1),
            will,
            blocks,
            debug: self.debug,
            topic,
        })
    }

    /// Returns the words of each `-D`: the parser has them in one list.
    fn property_words(&self) -> Vec<&[String]> {
        let (mut all, mut rest) = (Vec::new(), self.properties.as_slice());
        while !rest.is_empty() {
            let pair = rest.get(1).is_some_and(|name| name == "user-property");
            let (words, more) = rest.split_at(rest.len().min(if pair { 4 } else { 3 }));
            all.push(words);
            rest = more;
        }
        all
    }

    fn version(&self, default: Version, blocks: &Blocks) -> Result<Version, Failure> {
        let wants_five = !blocks.is_empty() || self.session_expiry_interval.is_some();
        let version = match self.protocol_version.as_deref().map(|text| text.trim_start_matches("mqttv")) {
            None if wants_five => Version::V5,
            None => default,
            Some("31") => Version::V31,
            Some("311") => Version::V311,
            Some("5") => Version::V5,
            Some(other) => return Err(Failure::new(format!("-V {other}: 31, 311 or 5"))),
        };
        if wants_five && version != Version::V5 {
            return Err(Failure::new("-D and -x need MQTT 5: leave -V out, or use -V 5"));
        }
        Ok(version)
    }

    fn target(&self, url: Option<&Url<'_>>) -> Result<Target, Failure> {
        let wanted = self.cafile.is_some()
            || self.capath.is_some()
            || self.cert.is_some()
            || self.tls_use_os_certs
            || self.insecure;
        let tls = url.map_or(wanted || self.port == Some(8883), |url| url.tls);
        if wanted && !tls {
            return Err(Failure::new("the URL has no TLS: use mqtts:// or wss://"));
        }
        for file in [&self.cafile, &self.cert, &self.key].into_iter().flatten() {
            if !Path::new(file).exists() {
                return Err(Failure::new(format!("{file}: there is no such file")));
            }
        }
        let websocket = url.map_or(self.ws, |url| url.websocket);
        let usual = match (websocket, tls) {
            (false, false) => 1883,
            (false, true) => 8883,
            (true, false) => 8083,
            (true, true) => 8084,
        };
        let path =
            url.map_or(self.ws_path.as_str(), |url| if url.path.is_empty() { "/mqtt" } else { url.path });
        Ok(Target {
            host: url.map_or(self.host.as_deref().unwrap_or("localhost"), |url| url.host).to_owned(),
            port: url.map_or(self.port, |url| url.port).unwrap_or(usual),
            unix: self.unix.clone(),
            bind: self.bind,
            tls: tls.then(|| Tls {
                ca_file: self.cafile.clone(),
                ca_folder: self.capath.clone(),
                certificate: self.cert.clone(),
                key: self.key.clone(),
                any_host_name: self.insecure,
                alpn: self.tls_alpn.clone(),
            }),
            websocket_path: websocket.then(|| path.to_owned()),
        })
    }

    fn identifier(&self, tool: &str) -> Result<String, Failure> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        if let Some(prefix) = &self.id_prefix {
            return Ok(format!("{prefix}{}", std::process::id()));
        }
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| Failure::of("a random number", error))?;
        Ok(format!("lapwing-{tool}-{:08x}", u32::from_ne_bytes(random)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url = parse_url("mqtts://ann:p%40ss@broker.example:9000/a/b").ok().unwrap();
        assert_eq!(
            (url.tls, url.websocket, url.host, url.port, url.path),
            (true, false, "broker.example", Some(9000), "/a/b")
        );
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("ann"), Some("p@ss")));
        let url = parse_url("ws://[::1]/mqtt").ok().unwrap();
        assert_eq!((url.websocket, url.host, url.port, url.path), (true, "::1", None, "/mqtt"));
        for wrong in ["broker", "http://x", "mqtt://", "mqtt://host:port/", "mqtt://%zz@host"] {
            assert!(parse_url(wrong).is_err(), "{wrong}");
        }
    }
}
