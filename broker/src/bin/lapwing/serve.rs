//! The broker as a program: its log, its signals, its first and last lines.

use std::io::IsTerminal;
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use lapwing::Broker;
use lapwing::internals::config::{LogFormat, Reading, Source};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::systemd::{self, Watchdog};
use crate::{commands, fail};

/// Handle that changes the level of the log.
type Level = reload::Handle<EnvFilter, Registry>;

/// Serves until a signal ends it.
pub fn run(source: Source, reading: Reading) -> ExitCode {
    let level = match start_log(&reading) {
        Ok(level) => level,
        Err(error) => return fail(&format!("log.level: {error}")),
    };
    reading.warnings.iter().for_each(|text| warn!("{text}"));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let result = runtime.block_on(serve(source, reading, level));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn start_log(reading: &Reading) -> Result<Level, String> {
    let log = &reading.config.log;
    let filter = EnvFilter::try_new(&log.level).map_err(|error| error.to_string())?;
    let (filter, level) = reload::Layer::new(filter);
    let coloured = log.format == LogFormat::Text && std::io::stderr().is_terminal();
    let writer = move || commands::log::Lines::new(coloured);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(writer).with_target(false).with_timer(SystemTime);
    let lines = match log.format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text => lines.with_ansi(coloured).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(level)
}

async fn serve(source: Source, reading: Reading, level: Level) -> ExitCode {
    let listen =
        |kind: SignalKind| signal(kind).map_err(|error| warn!(%error, "failed to listen for a signal")).ok();
    let (mut terminate, mut interrupt, mut hangup) =
        (listen(SignalKind::terminate()), listen(SignalKind::interrupt()), listen(SignalKind::hangup()));
    let local = reading.config.is_local();
    let anew = move || {
        let reading = source.read()?;
        reading.warnings.iter().for_each(|text| warn!("{text}"));
        Ok(reading.config)
    };
    let set_level = move |text: &str| {
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        level.reload(filter).map_err(|error| error.to_string())
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let builder = Broker::builder().config(reading.config).source(anew).log_level(set_level).threads(threads);
    let broker = match builder.start().await {
        Ok(broker) => broker,
        Err(error) => return fail(&error),
    };
    greet(&broker, local);
    systemd::ready(&broker.listeners());
    let mut watchdog = Watchdog::new();
    loop {
        tokio::select! {
            () = watchdog.alive(&broker) => {}
            () = next(&mut terminate) => break,
            () = next(&mut interrupt) => break,
            () = next(&mut hangup) => {
                info!("SIGHUP: reading configuration, users, rules, keys and certificates again");
                // The log has the result.
                systemd::reloading();
                let _ = broker.reload().await;
                systemd::ready(&broker.listeners());
            }
        }
    }
    systemd::stopping();
    info!("stopping: clients are disconnected within limits.shutdown_timeout_s");
    tokio::select! {
        () = broker.stop() => ExitCode::SUCCESS,
        () = next(&mut terminate) => fail(&"stopped at once by a second signal"),
        () = next(&mut interrupt) => fail(&"stopped at once by a second signal"),
    }
}

fn greet(broker: &Broker, local: bool) {
    let scope = if local {
        " (this machine only; to open it to your network: lapwing user add NAME --password-file users && lapwing --listen 0.0.0.0:1883 --password-file users)"
    } else {
        ""
    };
    let listeners = broker.listeners();
    info!("Lapwing {} serves MQTT 3.1, 3.1.1 and 5.0 on {}{scope}", lapwing::VERSION, listeners.join(", "));
    if let Some(port) = listeners.iter().find_map(|name| name.strip_prefix("mqtt://127.0.0.1:")) {
        info!(
            "try it: mosquitto_sub -p {port} -t 'hello/#' -v    and then    mosquitto_pub -p {port} -t hello/world -m hi"
        );
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
