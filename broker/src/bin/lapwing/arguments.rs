//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use lapwing::internals::config::{Flags, Format, Source};

use crate::commands;

/// An MQTT 3.1, 3.1.1 and 5.0 broker. Without arguments it listens on this machine only, port 1883.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The configuration: TOML (every key: `lapwing config --reference`), or a mosquitto.conf
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The kind of that file, where name and content do not tell
    #[arg(long, value_enum, global = true, requires = "config")]
    format: Option<Kind>,
    /// The port to listen on, on this machine only; 0 for any free one
    #[arg(short, long)]
    port: Option<u16>,
    /// The folder of the state, created if it is missing [default: lapwing-data]
    #[arg(short, long, value_name = "FOLDER", global = true)]
    data_dir: Option<String>,
    /// Keep everything in memory only: a restart loses it
    #[arg(long, conflicts_with = "data_dir")]
    in_memory: bool,
    /// The address to listen on, like 0.0.0.0:1883, in place of this machine only; needs
    /// authentication
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "port")]
    listen: Option<String>,
    /// The users and their passwords (auth.password_file); `lapwing user add` makes it
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<String>,
    /// More log: -v debug, -vv trace
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Warnings and errors only
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Check the configuration and everything it names, then stop
    #[arg(long)]
    pub test_config: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check, export, import or back up the state on disk
    #[command(subcommand)]
    Store(commands::store::StoreCommand),
    /// Manage users and their passwords
    #[command(subcommand)]
    User(commands::user::User),
    /// Ban clients, users and addresses
    #[command(subcommand)]
    Ban(commands::ban::BanCommand),
    /// Inspect a running broker, and act on it
    Ctl(commands::ctl::Ctl),
    /// Make certificates to try TLS with, and for devices
    Cert(commands::cert::Cert),
    /// Say what a client may do, and which rule decides
    ///
    /// Reads the configuration and its files, without a broker. `lapwing ctl explain` names the
    /// receivers of a message in a running broker.
    Explain(commands::explain::Explain),
    /// Print the configuration that is in force, and where each value came from
    Config(commands::config::ConfigCommand),
    /// Print a mosquitto.conf as TOML
    Convert(commands::config::Convert),
    /// Publish messages to a broker (lapwing pub --help)
    #[command(disable_help_flag = true)]
    Pub,
    /// Print the messages of topic filters (lapwing sub --help)
    #[command(disable_help_flag = true)]
    Sub,
    /// Publish a request and print its response (lapwing rr --help)
    #[command(disable_help_flag = true)]
    Rr,
    /// Watch which topics are busy (lapwing top --help)
    #[command(disable_help_flag = true)]
    Top,
    /// Print shell completions
    Completions(commands::manual::Completions),
    /// Print the manual page, or write one for each command into a folder
    Man(commands::manual::Man),
}

/// The format of a configuration file, see [`Format`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    Toml,
    Mosquitto,
}

impl Kind {
    fn format(self) -> Format {
        match self {
            Kind::Toml => Format::Toml,
            Kind::Mosquitto => Format::Mosquitto,
        }
    }
}

impl Arguments {
    /// Returns the source of the configuration.
    pub fn source(&self) -> Source {
        let level = match (self.quiet, self.verbose) {
            (true, _) => Some(("warn", "--quiet")),
            (_, 0) => None,
            (_, 1) => Some(("debug", "--verbose")),
            _ => Some(("trace", "--verbose")),
        };
        Source {
            file: self.config.clone(),
            format: self.format.map(Kind::format),
            environment: std::env::vars().collect(),
            flags: Flags {
                port: self.port,
                listen: self.listen.clone(),
                password_file: self.password_file.clone(),
                data_dir: self.data_dir.clone(),
                in_memory: self.in_memory,
                level,
            },
        }
    }
}
