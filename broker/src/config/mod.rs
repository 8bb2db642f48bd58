//! The configuration. Each key is declared once, in [`keys`] or [`listener`], with its name,
//! default, range, words and reload behavior.
//!
//! The file is TOML. The parser, the checks and `docs/CONFIGURATION.md` derive from the
//! declarations. An error names file and line. All errors of a file are reported at once, a
//! misspelt key with the nearest one.

mod check;
mod declare;
mod file;
mod files;
mod keys;
mod listener;
mod mosquitto;
pub(crate) mod mount;
mod print;
mod reading;
mod secret;
mod source;
pub(crate) mod template;
mod value;

use std::path::{Path, PathBuf};

pub(crate) use check::why_no_token;
#[cfg(feature = "internals")]
pub use declare::{ConfigKey, Reload};
pub(crate) use files::{text_of, why_not_readable, why_not_secret};
#[cfg(feature = "internals")]
pub use keys::LogFormat;
pub use keys::{
    Admin, Auth, DeniedPublish, Limits, Log, Mqtt, OnCorruption, QueuePolicy, Store, Telemetry,
    WideSubscriptions,
};
pub use listener::{
    ClientCertificate, Listener, Method, MountPoint, Transport, is_loopback_host, network, network_of,
};
#[cfg(feature = "internals")]
pub use listener::{Family, Mode, Templates};
#[cfg(feature = "internals")]
pub use reading::Origin;
pub use reading::Reading;
pub use secret::Secret;
pub use source::Source;
#[cfg(feature = "internals")]
pub use source::{Flags, Format};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Listeners for clients.
    pub listeners: Vec<Listener>,
    /// Features that the broker offers.
    pub mqtt: Mqtt,
    /// Limits.
    pub limits: Limits,
    /// Authentication and access rules.
    pub auth: Auth,
    /// Location and durability of the state.
    pub store: Store,
    /// HTTP endpoint for operators.
    pub admin: Admin,
    /// Export of traces.
    pub telemetry: Telemetry,
    /// The log.
    pub log: Log,
}

impl Default for Config {
    /// Loopback, port 1883, IPv4 and IPv6; every limit at its default.
    fn default() -> Self {
        Config {
            listeners: vec![Listener::default()],
            mqtt: Mqtt::default(),
            limits: Limits::default(),
            auth: Auth::default(),
            store: Store::default(),
            admin: Admin::default(),
            telemetry: Telemetry::default(),
            log: Log::default(),
        }
    }
}

/// Errors of a configuration, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads a TOML text; `name` is the file's name in errors.
    ///
    /// # Errors
    /// All errors in it.
    pub fn from_toml(text: &str, name: &str) -> Result<Config, ConfigErrors> {
        let mut reading = Reading::default();
        file::read(text, name, &mut reading);
        reading.finish().map(|reading| reading.config)
    }

    /// Reads a file, and its includes.
    ///
    /// # Errors
    /// The reason why it cannot be read, or all errors in it.
    pub fn from_file(path: &Path) -> Result<Config, ConfigErrors> {
        let source = Source { file: Some(path.to_owned()), ..Source::default() };
        source.read().map(|reading| reading.config)
    }

    /// Authentication methods of a listener, in the order in which they are tried: those of the
    /// listener, or all that are configured.
    pub fn methods(&self, listener: &Listener) -> Vec<Method> {
        match &listener.authentication {
            Some(methods) => methods.clone(),
            None => {
                let others = Method::ALL.into_iter().filter(|method| *method != Method::Certificate);
                let mut methods: Vec<Method> = others.filter(|method| self.has(*method, listener)).collect();
                // Beside other methods a certificate only allows the connection, unless templates
                // make it name users, too.
                let names = methods.is_empty() || !listener.certificate_user.0.is_empty();
                if names && self.has(Method::Certificate, listener) {
                    methods.insert(0, Method::Certificate);
                }
                methods
            }
        }
    }

    /// True when the keys that a method needs are set.
    fn has(&self, method: Method, listener: &Listener) -> bool {
        match method {
            Method::Certificate => listener.client_certificate != ClientCertificate::None,
            Method::Jwt => self.auth.jwt_files().next().is_some() || self.auth.jwks_url.is_some(),
            Method::Http => self.auth.http_url.is_some(),
            Method::Password => self.password_file(listener).is_some(),
        }
    }

    /// Password file of a listener.
    pub(crate) fn password_file<'a>(&'a self, listener: &'a Listener) -> Option<&'a str> {
        listener.password_file.as_deref().or(self.auth.password_file.as_deref())
    }

    /// Access rules of a listener.
    pub(crate) fn acl_file<'a>(&'a self, listener: &'a Listener) -> Option<&'a str> {
        listener.acl_file.as_deref().or(self.auth.acl_file.as_deref())
    }

    /// True when every client of a listener must authenticate.
    pub(crate) fn authenticates(&self, listener: &Listener) -> bool {
        let anonymous = listener.allow_anonymous.unwrap_or(self.auth.allow_anonymous);
        listener.client_certificate == ClientCertificate::Required
            || listener.allow_anonymous == Some(false)
            || (!self.methods(listener).is_empty() && !anonymous)
    }

    /// Path of the socket of `lapwing ctl`; `None` without one.
    pub fn control_socket(&self) -> Option<PathBuf> {
        match self.admin.socket.as_deref() {
            Some("off") => None,
            Some(path) => Some(PathBuf::from(path)),
            None if self.store.in_memory => None,
            None => Some(Path::new(&self.store.data_dir).join("lapwing.sock")),
        }
    }

    /// True when only clients of this machine can connect.
    pub fn is_local(&self) -> bool {
        self.listeners.iter().all(Listener::is_local)
    }

    /// Files that a reload reads again.
    pub fn files(&self) -> Vec<PathBuf> {
        let of_listeners = self.listeners.iter().flat_map(|listener| {
            [
                &listener.certificate_file,
                &listener.key_file,
                &listener.client_ca_file,
                &listener.client_crl_file,
            ]
        });
        let of_auth = [
            &self.auth.password_file,
            &self.auth.acl_file,
            &self.auth.ban_file,
            &self.auth.http_ca_file,
            &self.admin.token_file,
        ];
        let rules = |listener| [self.password_file(listener), self.acl_file(listener)];
        let rules = self.listeners.iter().flat_map(rules).flatten().map(PathBuf::from);
        let of_auth = of_auth.into_iter().flatten();
        let of_auth = of_auth.chain(self.auth.jwt_files()).map(PathBuf::from);
        of_listeners.flatten().cloned().chain(of_auth).chain(rules).collect()
    }
}

impl Auth {
    fn jwt_files(&self) -> impl Iterator<Item = &String> {
        [&self.jwt_key_file, &self.jwks_file, &self.jwt_secret_file].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        Config::from_toml(text, "x.toml").unwrap_err().0
    }

    #[test]
    fn a_file_sets_its_keys_and_leaves_the_rest() {
        let text = "[limits]\nreceive_maximum = 10\nsession_expiry_max_s = \"2d\"\nqueued_bytes_max = '64 KiB'\nqueue_policy = 'refuse'\n\
                    [mqtt]\nresponse_information = 'r/'\n[[listener]]\naddress = '127.0.0.1:0'\ntransport = 'ws'\n";
        let config = Config::from_toml(text, "x.toml").unwrap();
        assert_eq!(config.limits.receive_maximum, 10);
        assert_eq!(config.limits.session_expiry_max_s, 172_800);
        assert_eq!(config.limits.queued_bytes_max, 65_536);
        assert_eq!(config.limits.queue_policy, QueuePolicy::Refuse);
        assert_eq!(config.mqtt.response_information.as_deref(), Some("r/"));
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.listeners[0].transport, Transport::Ws);
        assert_eq!(
            Limits {
                receive_maximum: 64,
                session_expiry_max_s: 2_592_000,
                queued_bytes_max: 1 << 20,
                queue_policy: QueuePolicy::DropNewest,
                ..config.limits
            },
            Limits::default()
        );
    }

    #[test]
    fn every_mistake_is_reported_with_its_line_and_the_nearest_key() {
        let found = errors(
            "[limits]\nrecieve_maximum = 1\nin_flight_max = 0\n[mqt]\n[mqtt]\nqos_max = \"two\"\n[[listener]]\nadress = 'x'\n",
        );
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(
            found[0].contains(
                "x.toml:2: unknown key 'recieve_maximum' in [limits]; did you mean 'receive_maximum'?"
            ),
            "{found:#?}"
        );
        assert!(
            found[1].contains("x.toml:3: limits.in_flight_max = 0") && found[1].contains("1 to 65535"),
            "{found:#?}"
        );
        assert!(found[2].contains("x.toml:4: unknown section [mqt]; did you mean [mqtt]?"), "{found:#?}");
        assert!(found[3].contains("x.toml:6:"), "{found:#?}");
        assert!(found[4].contains("x.toml:8:") && found[4].contains("'address'"), "{found:#?}");
    }

    #[test]
    fn a_key_in_the_wrong_section_is_reported_with_the_right_one() {
        let found = errors("[mqtt]\nreceive_maximum = 1\n");
        assert!(found[0].contains("belongs in [limits]"), "{found:?}");
        assert!(errors("receive_maximum = 1\n")[0].contains("belongs in [limits]"));
    }

    #[test]
    fn broken_toml_is_reported_with_its_line() {
        assert!(errors("[limits]\nx = = 1\n")[0].starts_with("x.toml:2: "));
    }

    #[test]
    fn an_open_listener_needs_open_true() {
        let text = "[[listener]]\naddress = '0.0.0.0:1883'\n";
        let refused = Config::from_toml(text, "x.toml").unwrap().check().unwrap_err();
        assert!(refused.0[0].contains("open = true"), "{refused}");
        let meant = format!("{text}open = true\n");
        assert_eq!(Config::from_toml(&meant, "x.toml").unwrap().check(), Ok(()));
    }

    #[test]
    fn traces_need_a_build_with_otlp_and_a_url_and_hide_their_headers() {
        let text = "[telemetry]\notlp_endpoint = 'localhost:4318'\notlp_headers = 'a=hush'\n";
        let config = Config::from_toml(text, "x.toml").unwrap();
        let errors = config.check().unwrap_err().to_string();
        assert_eq!(errors.contains("--features otlp"), !cfg!(feature = "otlp"), "{errors}");
        assert!(errors.contains("http://127.0.0.1:4318") && !errors.contains("hush"), "{errors}");
        let mut reading = Reading::default();
        reading.config = config;
        assert!(!reading.effective().contains("hush"), "{}", reading.effective());
    }

    #[test]
    fn authentication_over_http_needs_a_build_with_http() {
        let config = Config::from_toml("[auth]\nhttp_url = 'http://127.0.0.1:9'\n", "x.toml").unwrap();
        let errors = config.check().err().map(|errors| errors.to_string()).unwrap_or_default();
        assert_eq!(errors.contains("--features http"), !cfg!(feature = "http"), "{errors}");
    }

    fn read(environment: &[(&str, &str)]) -> Result<Reading, ConfigErrors> {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Source { environment, ..Source::default() }.read()
    }

    #[test]
    fn the_environment_sets_keys_and_errors_name_the_variable() {
        let good = read(&[
            ("LAPWING_LIMITS__RECEIVE_MAXIMUM", "9"),
            ("LAPWING_LISTENER__1__TRANSPORT", "ws"),
            ("LAPWING_LISTENER__0__ADDRESS", "127.0.0.1:1"),
            ("LAPWING_LOG__FORMAT", "json"),
            ("PATH", "x"),
        ]);
        let config = good.unwrap().config;
        assert_eq!((config.limits.receive_maximum, config.log.format), (9, LogFormat::Json));
        assert_eq!((config.listeners.len(), &*config.listeners[0].address), (2, "127.0.0.1:1"));
        assert_eq!(config.listeners[1].transport, Transport::Ws);
        let errors = read(&[
            ("LAPWING_LIMITS__RECEIVE_MAXIMUN", "9"),
            ("LAPWING_MQTT__QOS_MAX", "7"),
            ("LAPWING_LISTENER__2__ADDRESS", "x"),
        ]);
        assert_eq!(errors.unwrap_err().0.len(), 3);
    }

    #[test]
    fn every_key_can_be_written_and_read_again() {
        let text = "[limits]\nreceive_maximum = 10\n[store]\ntopics_none = ['a/#', \"b'\"]\n[[listener]]\nname = 'x'\n\
                    authentication = ['password']\nsocket_mode = '600'\nmount_point = 'h/'\nproxy_protocol_from = ['10.0.0.0/8']\n";
        let config = Config::from_toml(text, "x.toml").unwrap();
        assert_eq!(Config::from_toml(&config.to_toml(), "y.toml"), Ok(config.clone()));
        let mut reading = Reading::default();
        reading.config.clone_from(&config);
        assert_eq!(Config::from_toml(&reading.effective(), "z.toml"), Ok(config));
    }

    #[test]
    fn the_reference_is_the_document() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md");
        if std::env::var_os("LAPWING_UPDATE").is_some() {
            std::fs::write(path, Config::reference()).unwrap();
        }
        let document = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            document,
            Config::reference(),
            "run this test with LAPWING_UPDATE=1 to write docs/CONFIGURATION.md"
        );
    }
}
