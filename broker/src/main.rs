//! The program: what is asked of it, and who does it. Everything else is the library.

mod arguments;
mod commands;
mod serve;

use std::path::Path;
use std::process::ExitCode;

<<<<<<< HEAD
use clap::{ArgAction, Parser, Subcommand};
use lapwing::Broker;
use lapwing::config::{Config, ConfigErrors, LogFormat};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// An MQTT 3.1, 3.1.1 and 5.0 broker. Without arguments it listens on this machine only, port 1883.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, TOML (every key: docs/CONFIGURATION.md, or --reference)
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The port to listen on, on this machine only; 0 for any free one
    #[arg(short, long)]
    port: Option<u16>,
    /// The folder of the state, made if it is not there [default: lapwing-data]
    #[arg(short, long, value_name = "FOLDER", global = true)]
    data_dir: Option<String>,
    /// Keep everything in memory only: a restart forgets it
    #[arg(long, conflicts_with = "data_dir")]
    in_memory: bool,
    /// The address to listen on, like 0.0.0.0:1883, in place of this machine only; needs authentication
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
    test_config: bool,
    /// Print all configuration keys as Markdown, then stop
    #[arg(long)]
    reference: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look after the state on disk
    #[command(subcommand)]
    Store(commands::store::StoreCommand),
    /// Look after the users and their passwords
    #[command(subcommand)]
    User(commands::user::User),
    /// Look after who is not let in
    #[command(subcommand)]
    Ban(commands::ban::BanCommand),
    /// Make certificates to try TLS with, and for devices
    Cert(commands::cert::Cert),
    /// Say what a client may do, and which rule decides
    Explain(commands::explain::Explain),
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
}
=======
use arguments::{Arguments, Command};
use clap::Parser;
use lapwing::config::Source;
>>>>>>> config

fn main() -> ExitCode {
    if let Some(code) = commands::tools::run(std::env::args_os()) {
        return code;
    }
    let arguments = Arguments::parse();
    let source = arguments.source();
    match arguments.command {
        Some(command) => run(&command, &source).unwrap_or_else(|error| fail(&error)),
        None if arguments.test_config => test(&source).unwrap_or_else(|error| fail(&error)),
        None => match read(&source) {
            Ok(reading) => serve::run(source, reading),
            Err(error) => fail(&error),
        },
    }
<<<<<<< HEAD
    let config = match configure(&arguments) {
        Ok(config) => config,
        Err(errors) => return fail(&errors),
    };
    match &arguments.command {
        Some(Command::Store(command)) => {
            return commands::store::run(command, Path::new(&config.store.data_dir))
                .unwrap_or_else(|error| fail(&error));
        }
        Some(Command::User(command)) => {
            return commands::user::run(command, &config).unwrap_or_else(|error| fail(&error));
        }
        Some(Command::Ban(command)) => {
            return commands::ban::run(command, &config).unwrap_or_else(|error| fail(&error));
        }
        Some(Command::Cert(cert)) => return commands::cert::run(cert).unwrap_or_else(|error| fail(&error)),
        Some(Command::Explain(explain)) => {
            return commands::explain::run(explain, &config).unwrap_or_else(|error| fail(&error));
        }
        // The tools have arguments of their own and were run above.
        Some(Command::Pub | Command::Sub | Command::Rr | Command::Top) | None => {}
    }
    if arguments.test_config {
        if let Err(error) = lapwing::check_files(&config) {
            return fail(&error);
        }
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    if let Err(error) = start_log(&arguments, &config) {
        return fail(&format!("log.level: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
=======
>>>>>>> config
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lapwing: {error}");
    ExitCode::FAILURE
}

/// A configuration that makes sense.
fn read(source: &Source) -> Result<lapwing::config::Reading, String> {
    let reading = source.read().map_err(|errors| errors.to_string())?;
    reading.config.check().map_err(|errors| errors.to_string())?;
    Ok(reading)
}

fn run(command: &Command, source: &Source) -> Result<ExitCode, String> {
    let config = || read(source).map(|reading| reading.config);
    match command {
        Command::Store(command) => {
            let folder = config()?.store.data_dir;
            commands::store::run(command, Path::new(&folder)).map_err(|error| error.to_string())
        }
        Command::User(command) => commands::user::run(command, &config()?),
        Command::Ban(command) => commands::ban::run(command, &config()?),
        Command::Cert(cert) => commands::cert::run(cert),
        Command::Explain(explain) => commands::explain::run(explain, &config()?),
        Command::Convert(convert) => commands::config::convert(convert).map_err(|error| error.to_string()),
        Command::Config(command) => commands::config::run(command, source).map_err(|error| error.to_string()),
    }
}

fn test(source: &Source) -> Result<ExitCode, String> {
    let reading = read(source)?;
    lapwing::check_files(&reading.config)?;
    reading.warnings.iter().for_each(|text| eprintln!("lapwing: {text}"));
    println!("the configuration is good");
    Ok(ExitCode::SUCCESS)
}
