//! Listeners of mosquitto.conf: options behind a line `listener`, and before the first one.

use super::super::Listener;
use super::super::reading::Origin;
use super::super::value::Given;
use super::{Conf, Line};

/// A listener as far as it has been read.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Line where it began.
    begun: Option<Origin>,
    /// Set when an option has changed it.
    pub(super) touched: bool,
    port: Option<u16>,
    host: Option<String>,
    keys: Vec<(&'static str, Given, Origin)>,
    websockets: bool,
    authorities: Option<(String, Origin)>,
    revoked: Option<(String, Origin)>,
    requires_certificate: Option<Origin>,
    /// Option by which the certificate names the user.
    named_by: Option<(&'static str, Origin)>,
    pub(super) anonymous: Option<(bool, Origin)>,
}

impl Side {
    pub(super) fn set(&mut self, key: &'static str, given: Given, origin: Origin) {
        self.touched = true;
        self.keys.push((key, given, origin));
    }

    fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|(name, ..)| *name == key)
    }
}

/// Handles an option that belongs to one listener; returns false for others.
pub(super) fn option(conf: &mut Conf<'_>, name: &str, line: &Line<'_>) -> bool {
    let origin = || line.origin.clone();
    let text = || Given::Text(line.value.to_owned());
    match name {
        "listener" => begin(conf, line),
        "port" => match line.value.parse() {
            Ok(port) => {
                let side = &mut conf.sides[0];
                (side.port, side.touched) = (Some(port), true);
                side.begun.get_or_insert(origin());
            }
            Err(_) => conf.expected(name, line, "0 to 65535"),
        },
        "bind_address" => {
            let side = &mut conf.sides[0];
            (side.host, side.touched) = (Some(line.value.to_owned()), true);
            side.begun.get_or_insert(origin());
        }
        "protocol" => match line.value {
            "mqtt" => {}
            "websockets" => (conf.side().websockets, conf.side().touched) = (true, true),
            "http_api" => conf.warn(
                &line.origin,
                "protocol http_api: this listener is left out; metrics and commands have their own (admin.address)",
            ),
            _ => conf.expected(name, line, "mqtt or websockets"),
        },
        "cafile" | "capath" => {
            if conf.side().authorities.is_some() {
                conf.warn(&line.origin, "cafile and capath: both are set; the last one is used");
            }
            conf.side().authorities = Some((line.value.to_owned(), origin()));
        }
        "crlfile" => conf.side().revoked = Some((line.value.to_owned(), origin())),
        "certfile" => conf.side().set("certificate_file", text(), origin()),
        "keyfile" => conf.side().set("key_file", text(), origin()),
        "require_certificate" => {
            let required = conf.truth(name, line);
            conf.side().requires_certificate = required.then(origin);
        }
        "use_identity_as_username" | "use_subject_as_username" => {
            let used = conf.truth(name, line);
            let template = if name.contains("subject") { "{subject}" } else { "{cn}" };
            if used {
                conf.side().named_by = Some((template, origin()));
            }
        }
        _ => return false,
    }
    true
}

/// Handles `listener PORT [HOST]`, or `listener 0 PATH`.
fn begin(conf: &mut Conf<'_>, line: &Line<'_>) {
    conf.bridge = false;
    let mut words = line.value.splitn(2, [' ', '\t']);
    let port = words.next().and_then(|port| port.parse::<u16>().ok());
    let host = words.next().map(str::trim).filter(|host| !host.is_empty());
    let mut side = Side { begun: Some(line.origin.clone()), touched: true, ..Side::default() };
    match (port, host) {
        (Some(0), Some(path)) if path.starts_with('/') => {
            side.set("path", Given::Text(path.to_owned()), line.origin.clone());
        }
        (Some(port), host) => (side.port, side.host) = (Some(port), host.map(str::to_owned)),
        (None, _) => {
            conf.expected("listener", line, "PORT and perhaps an address, or 0 and the path of a Unix socket")
        }
    }
    conf.sides.push(side);
}

/// Converts the listeners to ours.
pub(super) fn finish(conf: &mut Conf<'_>, start: &Origin) {
    let sides = std::mem::take(&mut conf.sides);
    let local_only = !sides.iter().any(|side| side.touched);
    let nodelay = conf.nodelay.take();
    for (n, mut side) in sides.into_iter().enumerate() {
        if !(side.touched || n == 0 && local_only) {
            continue;
        }
        if let Some((nodelay, origin)) = &nodelay {
            side.set("nodelay", Given::Boolean(*nodelay), origin.clone());
        }
        one(conf, side, local_only, start);
    }
}

fn one(conf: &mut Conf<'_>, mut side: Side, local_only: bool, start: &Origin) {
    let at = side.begun.clone().unwrap_or_else(|| start.clone());
    let text = |text: &str| Given::Text(text.to_owned());
    let unix = side.has("path");
    let port = side.port.unwrap_or(1883);
    // Without an address it is every address; without any listener, only this machine.
    let host = side.host.clone().unwrap_or_else(|| if local_only { "localhost" } else { "*" }.to_owned());
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    if !unix {
        side.set("address", text(&format!("{host}:{port}")), at.clone());
    }
    let tls = side.has("certificate_file") && side.has("key_file");
    let transport = match (unix, tls, side.websockets) {
        (true, ..) => "unix",
        (_, false, false) => "tcp",
        (_, true, false) => "tls",
        (_, false, true) => "ws",
        (_, true, true) => "wss",
    };
    side.set("transport", text(transport), at.clone());
    if side.websockets {
        // Mosquitto accepts any path.
        side.set("websocket_paths", Given::List(vec!["*".to_owned()]), at.clone());
    }
    let certified = tls && require_certificate(&mut side);
    authenticate(conf, &mut side, certified, local_only, &at);
    let number = conf.reading.add_listener(Listener::default());
    for (key, given, origin) in side.keys {
        conf.reading.set_listener(number, key, &given, origin);
    }
}

/// Sets the keys of client certificates; returns true if they are required.
fn require_certificate(side: &mut Side) -> bool {
    let Some(origin) = side.requires_certificate.clone() else { return false };
    side.set("client_certificate", Given::Text("required".to_owned()), origin);
    for (key, file) in [("client_ca_file", side.authorities.take()), ("client_crl_file", side.revoked.take())]
    {
        if let Some((path, origin)) = file {
            side.set(key, Given::Text(path), origin);
        }
    }
    true
}

/// Sets the authentication methods and anonymous access of a listener.
fn authenticate(conf: &mut Conf<'_>, side: &mut Side, certified: bool, local_only: bool, at: &Origin) {
    let named = side.named_by.take();
    if let Some((_, origin)) = named.as_ref().filter(|_| !certified) {
        conf.reading.wrong(
            origin,
            "a certificate can name the user only where it is required; add require_certificate true",
        );
    }
    let by_password = side.has("password_file") || conf.reading.config.auth.password_file.is_some();
    let methods: &[&str] = match (&named, by_password) {
        (Some(_), _) => &["certificate"],
        (None, true) => &["password"],
        (None, false) => &[],
    };
    if let Some((template, origin)) = named.filter(|_| certified) {
        side.set("certificate_user", Given::List(vec![template.to_owned()]), origin);
    }
    side.set(
        "authentication",
        Given::List(methods.iter().map(|method| (*method).to_owned()).collect()),
        at.clone(),
    );
    let (anonymous, said) = match side.anonymous.take().or_else(|| conf.anonymous.clone()) {
        Some((anonymous, origin)) => (anonymous, origin),
        None => (local_only, at.clone()),
    };
    side.set("allow_anonymous", Given::Boolean(anonymous), said.clone());
    if anonymous {
        side.set("open", Given::Boolean(true), said);
        if let Some(origin) = &conf.plugin {
            let text = "the plugin is not loaded, and allow_anonymous true would let every client in; remove one of the two";
            conf.reading.wrong(origin, text);
        }
    }
}
