//! The configuration as text: the effective values with their sources, as TOML, and the reference
//! of all keys.

use super::declare::{ConfigKey, NONE, Reload};
use super::keys::{KEYS, SECTIONS};
#[cfg(feature = "internals")]
use super::reading::KeyScope;
use super::reading::Reading;
use super::{Config, listener};

/// Text in place of a secret.
#[cfg(feature = "internals")]
const HIDDEN: &str = "\"(hidden)\"";

/// A value for output: secrets, and passwords in URLs, are hidden.
#[cfg(feature = "internals")]
fn shown(name: &str, value: String) -> String {
    if ["password", "token", "secret", "headers"].iter().any(|secret| name.ends_with(secret)) && value != NONE
    {
        return HIDDEN.to_owned();
    }
    match value.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, host))) => format!("{scheme}://(hidden)@{host}"),
        None => value,
    }
}

impl Reading {
    /// The effective configuration as TOML, each line with the source of its value.
    #[cfg(feature = "internals")]
    pub fn effective(&self) -> String {
        let mut out = String::new();
        for section in SECTIONS {
            out.push_str(&format!("[{section}]\n"));
            let keys = KEYS.iter().filter(|key| key.section == *section);
            keys.for_each(|key| self.line(&mut out, key, &self.config, KeyScope::Section(section)));
            out.push('\n');
        }
        for (number, of) in self.config.listeners.iter().enumerate() {
            out.push_str("[[listener]]\n");
            listener::KEYS.iter().for_each(|key| self.line(&mut out, key, of, KeyScope::Listener(number)));
            out.push('\n');
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    #[cfg(feature = "internals")]
    fn line<T>(&self, out: &mut String, key: &ConfigKey<T>, target: &T, scope: KeyScope) {
        let value = shown(key.name, (key.show)(target));
        let why = self.origin(scope, key.name).map_or_else(|| "default".to_owned(), ToString::to_string);
        let line = match value.as_str() {
            NONE if why == "default" && (key.default)() == NONE => format!("# {} is not set", key.name),
            NONE if why == "default" => format!("# {} is not set: {}", key.name, (key.default)()),
            NONE => format!("# {} is not set: {why}", key.name),
            value => format!("{} = {value}  # {why}", key.name),
        };
        out.push_str(&line);
        out.push('\n');
    }
}

impl Config {
    /// TOML of all values that differ from the defaults.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let default = Config::default();
        for section in SECTIONS {
            let keys: Vec<_> = KEYS.iter().filter(|key| key.section == *section).collect();
            let lines = differing(&keys, self, &default);
            if !lines.is_empty() {
                out.push_str(&format!("[{section}]\n{lines}\n"));
            }
        }
        let keys: Vec<_> = listener::KEYS.iter().collect();
        for of in &self.listeners {
            let address = format!("address = {}\n", super::declare::quoted(&of.address));
            let lines = differing(&keys, of, &super::Listener::default());
            let address = if lines.contains(&address) || of.path.is_some() { "" } else { &address };
            out.push_str(&format!("[[listener]]\n{address}{lines}\n"));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    /// Takes over from the running configuration the keys that need a restart; returns those that
    /// differ.
    pub(crate) fn keep_restart(&mut self, running: &Config) -> Vec<String> {
        let all = KEYS.iter().filter(|key| key.reload == Reload::Restart);
        let changed: Vec<_> = all.filter(|key| (key.show)(self) != (key.show)(running)).collect();
        changed.iter().for_each(|key| (key.copy)(self, running));
        changed.iter().map(|key| format!("{}.{}", key.section, key.name)).collect()
    }

    /// Keys whose values differ, and `listener` if listeners differ.
    pub(crate) fn differs(&self, before: &Config) -> Vec<String> {
        let changed = KEYS.iter().filter(|key| (key.show)(self) != (key.show)(before));
        let mut changed: Vec<_> = changed.map(|key| format!("{}.{}", key.section, key.name)).collect();
        if self.listeners != before.listeners {
            changed.push("[[listener]]".to_owned());
        }
        changed
    }

    /// Markdown reference of all keys.
    pub fn reference() -> String {
        let mut out = String::from(
            "# Configuration\n\nMade by `lapwing config --reference` from the declarations in `broker/src/config/`; a test compares. \
             `lapwing -c FILE` reads TOML, or a mosquitto.conf ([`MOSQUITTO.md`](MOSQUITTO.md)); `lapwing config` prints what is in force and where each value came from.\n\n\
             Times may be written as \"30s\", \"10m\", \"2h\", \"7d\", sizes as \"64KiB\", \"16MiB\", \"1GiB\". A file can name others that are read behind it, \
             and folders of them: `include = [\"conf.d\"]` at its top.\n\n\
             Every key can be set by the environment, which wins over the file: `LAPWING_LIMITS__RECEIVE_MAXIMUM=100`, \
             `LAPWING_LISTENER__0__ADDRESS=0.0.0.0:1883` (counted from 0). `…_FILE` names a file that holds the value, as secrets come in containers: \
             `LAPWING_AUTH__HTTP_URL_FILE=/run/secrets/url`. The command line wins over both.\n\n\
             SIGHUP reads all of it anew. The last column but one says when a change of a key counts then: at once, for clients that connect \
             from then on (the others were told another value), or with the next start, which the log says.\n",
        );
        let table = "| key | default | range | reload | what it does |\n|---|---|---|---|---|\n";
        for section in SECTIONS {
            out.push_str(&format!("\n## [{section}]\n\n{table}"));
            KEYS.iter().filter(|key| key.section == *section).for_each(|key| out.push_str(&row(key)));
        }
        out.push_str(&format!(
            "\n## [[listener]]\n\nOne table each; without any, `localhost:1883`. A reload opens those that are new and closes those that are gone, with \
             their clients; the clients of the others notice nothing.\n\n{table}"
        ));
        listener::KEYS.iter().for_each(|key| out.push_str(&row(key)));
        out
    }
}

fn differing<T>(keys: &[&ConfigKey<T>], target: &T, default: &T) -> String {
    let all = keys.iter().map(|key| (key.name, (key.show)(target), (key.show)(default)));
    let lines = all.filter(|(_, value, default)| value != default && value != NONE);
    lines.map(|(name, value, _)| format!("{name} = {value}\n")).collect()
}

fn row<T>(key: &ConfigKey<T>) -> String {
    let range = match key.range {
        "ANY" => String::new(),
        range => range.replace("..=", " to ").replace('_', ""),
    };
    let (default, reload) = ((key.default)(), key.reload.text());
    format!("| `{}` | {default} | {range} | {reload} | {} |\n", key.name, key.doc.trim())
}
