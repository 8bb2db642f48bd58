//! The program: arguments, configuration, log, signals. Everything else is the library.

mod commands;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

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

fn main() -> ExitCode {
    if let Some(code) = commands::tools::run(std::env::args_os()) {
        return code;
    }
    let arguments = Arguments::parse();
    if arguments.reference {
        print!("{}", Config::reference());
        return ExitCode::SUCCESS;
    }
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
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lapwing: {error}");
    ExitCode::FAILURE
}

fn configure(arguments: &Arguments) -> Result<Config, ConfigErrors> {
    let mut config = match &arguments.config {
        Some(file) => Config::from_file(file)?,
        None => Config::default(),
    };
    config.apply_environment(std::env::vars())?;
    if let Some(port) = arguments.port {
        let first = config.listeners.first_mut();
        let first = first.ok_or_else(|| ConfigErrors(vec!["-p needs a listener".to_owned()]))?;
        let host = first.address.rsplit_once(':').map_or("localhost", |(host, _)| host).to_owned();
        first.address = format!("{host}:{port}");
    }
    if let Some(address) = &arguments.listen {
        let first = config.listeners.first_mut();
        first
            .ok_or_else(|| ConfigErrors(vec!["--listen needs a listener".to_owned()]))?
            .address
            .clone_from(address);
    }
    if let Some(file) = &arguments.password_file {
        config.auth.password_file = Some(file.clone());
    }
    if let Some(folder) = &arguments.data_dir {
        config.store.data_dir.clone_from(folder);
    }
    config.store.in_memory |= arguments.in_memory;
    config.check()?;
    Ok(config)
}

fn start_log(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let level = match (arguments.quiet, arguments.verbose) {
        (true, _) => "warn",
        (_, 0) => &config.log.level,
        (_, 1) => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
    let coloured = config.log.format == LogFormat::Text && std::io::stderr().is_terminal();
    let writer = move || commands::log::Lines::new(coloured);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match config.log.format {
        LogFormat::Json => log.json().with_timer(SystemTime).init(),
        LogFormat::Text => log.with_timer(SystemTime).with_ansi(coloured).init(),
    }
    Ok(())
}

async fn serve(config: Config) -> ExitCode {
    let listen =
        |kind: SignalKind| signal(kind).map_err(|error| warn!(%error, "a signal cannot be listened to")).ok();
    let (mut terminate, mut interrupt, mut hangup) =
        (listen(SignalKind::terminate()), listen(SignalKind::interrupt()), listen(SignalKind::hangup()));
    let local = config.is_local();
    let broker = match Broker::builder().config(config).start().await {
        Ok(broker) => broker,
        Err(error) => return fail(&error),
    };
    let scope = if local {
        " (this machine only; to open it to your network: lapwing user add NAME --password-file users && lapwing --listen 0.0.0.0:1883 --password-file users)"
    } else {
        ""
    };
    info!(
        "Lapwing {} serves MQTT 3.1, 3.1.1 and 5.0 on {}{scope}",
        lapwing::VERSION,
        broker.listeners().join(", ")
    );
    if let Some(port) = broker.listeners().iter().find_map(|name| name.strip_prefix("mqtt://127.0.0.1:")) {
        info!(
            "try it: mosquitto_sub -p {port} -t 'hello/#' -v    and then    mosquitto_pub -p {port} -t hello/world -m hi"
        );
    }
    loop {
        tokio::select! {
            () = next(&mut terminate) => break,
            () = next(&mut interrupt) => break,
            () = next(&mut hangup) => {
                info!("SIGHUP: reading users, rules, keys and certificates anew; changed keys of the configuration need a restart");
                // How it went is in the log.
                let _ = broker.reload().await;
            }
        }
    }
    info!("stopping: clients are told, and have limits.shutdown_timeout_s to read it");
    tokio::select! {
        () = broker.stop() => ExitCode::SUCCESS,
        () = next(&mut terminate) => fail(&"stopped at once by a second signal"),
        () = next(&mut interrupt) => fail(&"stopped at once by a second signal"),
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
