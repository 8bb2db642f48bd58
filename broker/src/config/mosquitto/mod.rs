//! Reader of mosquitto.conf. Its options become keys of ours; an option without meaning here is
//! reported with its replacement, an unknown one is an error. `docs/MOSQUITTO.md` lists the
//! remaining differences.

mod listener;
mod options;

use std::path::Path;

use listener::Side;
use options::OPTIONS;

use super::reading::{Origin, Reading, nearest};
use super::source::text_of;
use super::value::Given;

/// Meaning of an option here.
#[derive(Clone, Copy)]
enum Meaning {
    /// A key of a section.
    Global(&'static str, &'static str, Value),
    /// A key of the current listener.
    Listener(&'static str, Value),
    /// No meaning; the text names the replacement.
    Idle(&'static str),
    /// An option of a bridge.
    Bridge,
    /// More than one key.
    Special,
}

/// Type of an option's value.
#[derive(Clone, Copy)]
enum Value {
    Text,
    Boolean,
    Number,
    /// A number of which 0 or less means unlimited: the text, or the default, replaces it.
    Count(Option<&'static str>),
    /// A time like 2m (months).
    Time,
    /// A word that is the same here.
    Worded,
}

/// One line, without the option's name.
struct Line<'t> {
    value: &'t str,
    origin: Origin,
}

/// State of the reader until all lines are known.
struct Conf<'r> {
    reading: &'r mut Reading,
    /// The first one holds the options before any listener.
    sides: Vec<Side>,
    per_listener: bool,
    anonymous: Option<(bool, Origin)>,
    persistence: bool,
    location: Option<(String, Origin)>,
    bridge: bool,
    plugin: Option<Origin>,
    log_level: Option<(u8, Origin)>,
    nodelay: Option<(bool, Origin)>,
}

/// True when a text is mosquitto.conf rather than TOML; `None` if that is unclear.
pub(super) fn looks_like(text: &str) -> Option<bool> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines().next()?;
    let name = first.split([' ', '\t', '=']).next().unwrap_or_default();
    let rest = first.get(name.len()..).unwrap_or_default().trim_start();
    let toml = first.starts_with('[') || rest.starts_with('=');
    let known = OPTIONS.iter().any(|(option, _)| *option == name) || options::of_plugin(name).is_some();
    match (toml, known) {
        (true, _) => Some(false),
        (false, true) => Some(true),
        (false, false) => None,
    }
}

/// Reads a mosquitto.conf text; `name` is the file's name in errors.
pub(super) fn read(text: &str, name: &str, reading: &mut Reading) {
    let mut conf = Conf {
        reading,
        sides: vec![Side::default()],
        per_listener: false,
        anonymous: None,
        persistence: false,
        location: None,
        bridge: false,
        plugin: None,
        log_level: None,
        nodelay: None,
    };
    conf.lines(text, name);
    conf.finish(&Origin::File(name.to_owned(), 1));
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

impl Value {
    /// Converts the text to a value of our keys; `None` counts as not given.
    fn given(self, text: &str) -> Result<Option<Given>, String> {
        let number = || text.parse::<i64>().map_err(|_| "a number".to_owned());
        Ok(Some(match self {
            Value::Text | Value::Worded => Given::Text(text.to_owned()),
            Value::Boolean => Given::Boolean(boolean(text).ok_or("true or false")?),
            Value::Number => Given::Integer(number()?),
            Value::Count(most) => match number()? {
                ..=0 => return Ok(most.map(|most| Given::Text(most.to_owned()))),
                number => Given::Integer(number),
            },
            Value::Time => {
                let wrong = || "a number with h, d, w, m or y behind it".to_owned();
                let (count, unit) = text.split_at(text.len().saturating_sub(1));
                let unit_s: i64 = match unit {
                    "h" => 3_600,
                    "d" => 86_400,
                    "w" => 7 * 86_400,
                    "m" => 30 * 86_400,
                    "y" => 365 * 86_400,
                    _ => return Err(wrong()),
                };
                let seconds = count.parse::<i64>().ok().and_then(|count| count.checked_mul(unit_s));
                Given::Integer(seconds.ok_or_else(wrong)?.min(u32::MAX.into()))
            }
        }))
    }
}

impl Conf<'_> {
    fn lines(&mut self, text: &str, file: &str) {
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let origin = Origin::File(file.to_owned(), n + 1);
            self.option(name, Line { value: value.trim(), origin });
        }
    }

    fn warn(&mut self, origin: &Origin, text: impl std::fmt::Display) {
        self.reading.warnings.push(format!("{origin}: {text}"));
    }

    fn side(&mut self) -> &mut Side {
        // The first one always exists.
        let last = self.sides.len() - 1;
        &mut self.sides[last]
    }

    fn option(&mut self, name: &str, line: Line<'_>) {
        let Some((_, option)) = OPTIONS.iter().find(|(option, _)| *option == name) else {
            if let Some(instead) = options::of_plugin(name) {
                return self.warn(&line.origin, format!("{name} has no effect: {instead}"));
            }
            let hint = nearest(name, OPTIONS.iter().map(|(option, _)| *option));
            let hint = hint.map_or_else(String::new, |nearest| format!("; did you mean '{nearest}'?"));
            return self.reading.wrong(&line.origin, format!("unknown option '{name}'{hint}"));
        };
        match *option {
            Meaning::Bridge if self.bridge => {}
            Meaning::Bridge => {
                self.reading.wrong(
                    &line.origin,
                    format!("'{name}' is an option of a bridge; write it below a line 'connection NAME'"),
                );
            }
            Meaning::Idle(instead) => self.warn(&line.origin, format!("{name} has no effect: {instead}")),
            _ if line.value.is_empty() => {
                self.reading.wrong(&line.origin, format!("'{name}' needs a value"));
            }
            Meaning::Global(section, key, value) => match value.given(line.value) {
                Ok(Some(given)) => self.reading.set(section, key, &given, line.origin),
                Ok(None) => {}
                Err(expected) => self.expected(name, &line, &expected),
            },
            Meaning::Listener(key, value) => match value.given(line.value) {
                Ok(Some(given)) => self.side().set(key, given, line.origin),
                Ok(None) => self.side().touched = true,
                Err(expected) => self.expected(name, &line, &expected),
            },
            Meaning::Special => self.special(name, line),
        }
    }

    fn expected(&mut self, name: &str, line: &Line<'_>, expected: &str) {
        self.reading
            .wrong(&line.origin, format!("{name} {} is not allowed: expected {expected}", line.value));
    }

    /// Parses a boolean value.
    fn truth(&mut self, name: &str, line: &Line<'_>) -> bool {
        boolean(line.value).unwrap_or_else(|| {
            self.expected(name, line, "true or false");
            false
        })
    }

    /// Sets several keys to the same value.
    fn set_all(&mut self, name: &str, line: &Line<'_>, value: Value, keys: &[(&str, &str)]) {
        match value.given(line.value) {
            Ok(Some(given)) => {
                keys.iter()
                    .for_each(|(section, key)| self.reading.set(section, key, &given, line.origin.clone()));
            }
            Ok(None) => {}
            Err(expected) => self.expected(name, line, &expected),
        }
    }

    fn special(&mut self, name: &str, line: Line<'_>) {
        if listener::option(self, name, &line) {
            return;
        }
        match name {
            "per_listener_settings" => self.per_listener = self.truth(name, &line),
            "allow_anonymous" | "listener_allow_anonymous" => {
                let allowed = (self.truth(name, &line), line.origin);
                if self.per_listener || name.starts_with("listener") {
                    self.side().anonymous = Some(allowed);
                } else {
                    self.anonymous = Some(allowed);
                }
            }
            "password_file" | "acl_file" => {
                let given = Given::Text(line.value.to_owned());
                let key = if name == "acl_file" { "acl_file" } else { "password_file" };
                if key == "acl_file" {
                    // Mosquitto accepts every subscription and filters its messages.
                    let filter = Given::Text("filter".to_owned());
                    self.reading.set("auth", "wide_subscriptions", &filter, line.origin.clone());
                }
                if self.per_listener {
                    self.side().set(key, given, line.origin);
                } else {
                    self.reading.set("auth", key, &given, line.origin);
                }
            }
            "plugin" | "auth_plugin" | "global_plugin" => {
                self.warn(&line.origin, format!("{name} has no effect: {}", options::PLUGINS));
                self.plugin = Some(line.origin);
            }
            "clientid_prefixes" => {
                let given = Given::Text(format!("{}*", line.value));
                self.reading.set("auth", "client_id_template", &given, line.origin);
            }
            "allow_zero_length_clientid" if !self.truth(name, &line) => self.warn(
                &line.origin,
                "allow_zero_length_clientid false has no effect: a client without an identifier gets one, as MQTT 3.1.1 requires",
            ),
            "max_inflight_messages" | "max_queued_messages" | "max_queued_bytes" => {
                self.queue_limit(name, &line)
            }
            "message_size_limit" => self.message_size(&line),
            "set_tcp_nodelay" => self.nodelay = Some((self.truth(name, &line), line.origin)),
            "persistence" => self.persistence = self.truth(name, &line),
            "persistence_location" => self.location = Some((line.value.to_owned(), line.origin)),
            "include_dir" => self.include(&line),
            "log_type" => self.log_type(&line),
            "log_dest" if !matches!(line.value, "stderr" | "stdout") => {
                self.warn(&line.origin, format!("log_dest {}: {}", line.value, options::LOGS));
            }
            "connection_messages" if !self.truth(name, &line) => {
                self.warn(&line.origin, "connection_messages false has no effect: log.level = \"warn\" leaves such lines out");
            }
            "connection" => {
                self.bridge = true;
                let text = format!(
                    "bridges are not supported yet: 'connection {}' is left out, and nothing is forwarded; use another program until then",
                    line.value
                );
                self.warn(&line.origin, text);
            }
            _ => {}
        }
    }

    fn queue_limit(&mut self, name: &str, line: &Line<'_>) {
        let (value, keys) = match name {
            "max_inflight_messages" => {
                (options::IN_FLIGHT, [("limits", "in_flight_max"), ("limits", "receive_maximum")])
            }
            "max_queued_messages" => (
                options::QUEUED_MESSAGES,
                [("limits", "queued_messages_max"), ("store", "queue_messages_max")],
            ),
            _ => (options::QUEUED_BYTES, [("limits", "queued_bytes_max"), ("store", "queue_bytes_max")]),
        };
        self.set_all(name, line, value, &keys);
    }

    /// Sets the packet limit for a limit of payloads.
    fn message_size(&mut self, line: &Line<'_>) {
        match line.value.parse::<u32>() {
            Ok(0) => {}
            Ok(most) => {
                // Bytes around a payload: header, topic.
                let given = Given::Integer(i64::from(most.saturating_add(65_536)));
                let text = "limits.packet_bytes_max is for whole packets and is set 64 KiB higher; a larger packet ends the connection";
                self.warn(&line.origin, format!("message_size_limit: {text}"));
                self.reading.set("limits", "packet_bytes_max", &given, line.origin.clone());
            }
            Err(_) => self.expected("message_size_limit", line, "a number of bytes"),
        }
    }

    fn include(&mut self, line: &Line<'_>) {
        let folder = Path::new(line.value);
        if !folder.is_dir() {
            return self
                .reading
                .wrong(&line.origin, format!("include_dir {} is not a folder that can be read", line.value));
        }
        for path in self.reading.files_of(folder, "conf", &line.origin) {
            let mut text = String::new();
            text_of(&path, self.reading, Some(&line.origin), |content, _, _| text.push_str(content));
            self.lines(&text, &path.display().to_string());
        }
    }

    /// Our log has one level: the lowest that shows all requested types.
    fn log_type(&mut self, line: &Line<'_>) {
        let level = match line.value {
            "none" | "error" => 0,
            "warning" => 1,
            "notice" | "information" => 2,
            "all" | "debug" | "websockets" | "subscribe" | "unsubscribe" | "internal" => 3,
            _ => return self.expected("log_type", line, "error, warning, notice, information, debug or all"),
        };
        if self.log_level.as_ref().is_none_or(|(before, _)| *before < level) {
            self.log_level = Some((level, line.origin.clone()));
        }
    }

    fn finish(mut self, start: &Origin) {
        let given = |text: &str| Given::Text(text.to_owned());
        if let Some((level, origin)) = self.log_level.take() {
            let level = ["error", "warn", "info", "debug"].get(usize::from(level)).copied().unwrap_or("info");
            self.reading.set("log", "level", &given(level), origin);
        }
        // Mosquitto keeps nothing by default.
        if self.persistence {
            if let Some((folder, origin)) = self.location.take() {
                let folder = Path::new(&folder).join("lapwing");
                self.reading.set("store", "data_dir", &given(&folder.display().to_string()), origin);
            }
        } else {
            self.reading.set("store", "in_memory", &Given::Boolean(true), start.clone());
        }
        listener::finish(&mut self, start);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClientCertificate, Config, Method, Transport};
    use super::*;

    fn reading(text: &str) -> Reading {
        let mut reading = Reading::default();
        read(text, "m.conf", &mut reading);
        reading
    }

    fn config(text: &str) -> Config {
        reading(text).finish().unwrap().config
    }

    #[test]
    fn every_option_of_mosquitto_is_known() {
        let text = "per_listener_settings false\nlistener 1\nprotocol mqtt\nsocket_domain ipv6\nbind_interface lo\nallow_anonymous true\n\
            password_file p\nacl_file a\npersistence true\npersistence_location /x/\nautosave_interval 1\nlog_dest syslog\nlog_type all\n\
            cafile c\ncapath d\ncertfile e\nkeyfile f\nrequire_certificate true\nuse_identity_as_username true\n\
            use_subject_as_username false\ncrlfile g\npsk_file h\nmax_queued_messages 1\nmax_queued_bytes 5000\n\
            max_inflight_messages 1\nmax_inflight_bytes 1\nmax_connections 1\nmax_packet_size 200\nmessage_size_limit 1\n\
            max_keepalive 1\nmax_qos 1\nmax_topic_alias 1\nqueue_qos0_messages true\nretain_available true\n\
            persistent_client_expiration 2m\nsys_interval 1\nmount_point m/\nconnection c\naddress a\naddresses a b\n\
            topic # both 0 x/ y/\nremote_clientid r\nremote_username u\nremote_password p\nbridge_cafile c\nbridge_certfile c\n\
            bridge_keyfile k\nbridge_protocol_version mqttv50\ncleansession true\ntry_private true\nstart_type lazy\n\
            notifications true\nkeepalive_interval 60\nrestart_timeout 5 30\nbridge_insecure true\n";
        let reading = reading(text);
        assert_eq!(reading.errors, [""; 0]);
        assert!(
            reading.warnings.iter().any(|text| text.starts_with("m.conf:38: bridges are not supported yet")),
            "{:#?}",
            reading.warnings
        );
        let (config, listener) = (&reading.config, &reading.config.listeners[0]);
        assert_eq!((listener.transport, &*listener.address), (Transport::Tls, "*:1"));
        assert_eq!(listener.authentication, Some(vec![Method::Certificate]));
        assert_eq!(listener.client_certificate, ClientCertificate::Required);
        assert_eq!(
            (listener.qos_max, listener.connections_max, listener.topic_aliases_in_max),
            (Some(1), Some(1), Some(1))
        );
        assert_eq!(config.limits.session_expiry_max_s, 60 * 86_400);
        assert_eq!(config.store.data_dir, "/x/lapwing");
    }

    #[test]
    fn listeners_and_anonymous_clients_default_as_in_mosquitto() {
        let alone = config("log_type error\n");
        assert_eq!((alone.listeners.len(), alone.is_local()), (1, true));
        assert_eq!(alone.listeners[0].allow_anonymous, Some(true));
        let network = config("listener 1883\n");
        assert_eq!(
            (&*network.listeners[0].address, network.listeners[0].allow_anonymous),
            ("*:1883", Some(false))
        );
        assert!(!network.listeners[0].open);
        let old = config("port 1884\nbind_address ::1\nlistener 1885 10.0.0.1\n");
        let addresses: Vec<_> = old.listeners.iter().map(|listener| &*listener.address).collect();
        assert_eq!(addresses, ["[::1]:1884", "10.0.0.1:1885"]);
    }

    #[test]
    fn unlimited_becomes_the_highest_limit() {
        let unbound = config(
            "max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 0\nmax_connections -1\n",
        );
        assert_eq!(unbound.limits.queued_messages_max, 100_000_000);
        assert_eq!(unbound.limits.queued_bytes_max, 1 << 40);
        assert_eq!(unbound.limits.in_flight_max, 65_535);
        assert_eq!(unbound.listeners[0].connections_max, None);
    }

    #[test]
    fn settings_of_a_listener_stay_with_it() {
        let text = "per_listener_settings true\nlistener 1\npassword_file a\nlistener 2\nacl_file b\nallow_anonymous true\n";
        let config = config(text);
        let [one, two] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
        assert_eq!(
            (one.password_file.as_deref(), one.acl_file.as_deref(), one.allow_anonymous),
            (Some("a"), None, Some(false))
        );
        assert_eq!(
            (two.password_file.as_deref(), two.acl_file.as_deref(), two.allow_anonymous),
            (None, Some("b"), Some(true))
        );
        assert_eq!((&config.auth.password_file, &config.auth.acl_file), (&None, &None));
    }
}
