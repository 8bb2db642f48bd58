//! Source of a configuration: a file with its includes, the environment, the command line, in this
//! order. The program keeps it, so that a reload reads the same places again.

use std::path::{Path, PathBuf};

use super::reading::{Origin, Reading};
use super::value::Given;
use super::{ConfigErrors, file, mosquitto};

/// The places that a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Main file.
    pub file: Option<PathBuf>,
    /// Format of the main file; `None`: it is detected.
    pub format: Option<Format>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Command line options.
    pub flags: Flags,
}

/// File formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// lapwing.toml.
    Toml,
    /// mosquitto.conf.
    Mosquitto,
}

impl Format {
    /// Detects the format by the content, or else by the extension.
    fn of(text: &str, path: &Path) -> Format {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match mosquitto::looks_like(text) {
            Some(true) if extension != Some("toml") => Format::Mosquitto,
            None if extension == Some("conf") => Format::Mosquitto,
            _ => Format::Toml,
        }
    }
}

/// Keys that the command line sets.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Port of the first listener.
    pub port: Option<u16>,
    /// Address of the first listener.
    pub listen: Option<String>,
    /// `auth.password_file`.
    pub password_file: Option<String>,
    /// `store.data_dir`.
    pub data_dir: Option<String>,
    /// `store.in_memory`.
    pub in_memory: bool,
    /// `log.level`, with the flag that set it.
    pub level: Option<(&'static str, &'static str)>,
}

impl Source {
    /// Reads all sources.
    ///
    /// # Errors
    /// All errors in them.
    pub fn read(&self) -> Result<Reading, ConfigErrors> {
        let mut reading = Reading::default();
        if let Some(path) = &self.file {
            text_of(path, &mut reading, None, |text, name, reading| {
                match self.format.unwrap_or_else(|| Format::of(text, path)) {
                    Format::Toml => file::read(text, name, reading),
                    Format::Mosquitto => mosquitto::read(text, name, reading),
                }
            });
            for (path, origin) in std::mem::take(&mut reading.includes) {
                for path in reading.files_of(&path, "toml", &origin) {
                    text_of(&path, &mut reading, Some(&origin), file::read);
                }
            }
            if let Some((_, origin)) = reading.includes.pop() {
                reading.wrong(&origin, "include is allowed in the main file only");
            }
        }
        reading.environment(self.environment.iter().cloned());
        self.flags.set(&mut reading);
        reading.finish()
    }
}

/// Passes the text of a file to the reader of its format.
pub(super) fn text_of(
    path: &Path,
    reading: &mut Reading,
    named_at: Option<&Origin>,
    read: impl FnOnce(&str, &str, &mut Reading),
) {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => read(&text, &name, reading),
        Err(error) => {
            let at = named_at.map_or_else(String::new, |origin| format!("{origin}: "));
            reading.errors.push(format!("{at}{name}: cannot be read: {error}"));
        }
    }
}

impl Flags {
    fn set(&self, reading: &mut Reading) {
        if let Some(port) = self.port {
            let first = reading.config.listeners.first();
            let host =
                first.and_then(|first| first.address.rsplit_once(':')).map_or("localhost", |(host, _)| host);
            let address = Given::Text(format!("{host}:{port}"));
            reading.set_listener(0, "address", &address, Origin::Flag("--port"));
        }
        if let Some(address) = &self.listen {
            reading.set_listener(0, "address", &Given::Text(address.clone()), Origin::Flag("--listen"));
        }
        let mut set = |section, name, given, flag| reading.set(section, name, &given, Origin::Flag(flag));
        if let Some(file) = &self.password_file {
            set("auth", "password_file", Given::Text(file.clone()), "--password-file");
        }
        if let Some(folder) = &self.data_dir {
            set("store", "data_dir", Given::Text(folder.clone()), "--data-dir");
        }
        if self.in_memory {
            set("store", "in_memory", Given::Boolean(true), "--in-memory");
        }
        if let Some((level, flag)) = self.level {
            set("log", "level", Given::Text(level.to_owned()), flag);
        }
    }
}
