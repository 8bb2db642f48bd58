//! Start and stop of the broker, and the tasks that run beside the connections.

pub(crate) mod accept;
pub(crate) mod drain;
pub(crate) mod housekeeping;
pub(crate) mod listeners;
pub(crate) mod reload;
pub(crate) mod sys_topics;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::ReasonCode;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::admin::{Admin, AdminListener};
use crate::auth::{Auth, AuthMethod, Policy};
use crate::config::{self, Config};
use crate::core::control::{self, ListenerName, Reloaded};
use crate::core::local::Local;
use crate::core::settings::{Settings, Snapshot};
use crate::core::{Core, recovery};
use crate::net::{self, BindError, ControlSocket};
#[cfg(feature = "otlp")]
use crate::otlp;
use crate::server::drain::TaskCounter;
use crate::server::listeners::Listeners;
use crate::server::reload::ReloadContext;
use crate::server::sys_topics::SysTopics;
use crate::store::{self, DurableStore, MemoryStore, Options, Store};
use crate::workers::WorkerPool;

/// A running broker. Dropping it ends it at once; [`stop`](Broker::stop) shuts it down in order.
#[derive(Debug)]
pub struct Broker {
    core: Arc<Core>,
    listeners: watch::Receiver<Vec<ListenerName>>,
    /// True when no new connection is to be accepted.
    stopping: watch::Sender<bool>,
    acceptors: Arc<TaskCounter>,
    background: JoinSet<()>,
    connections: Arc<TaskCounter>,
    workers: Arc<WorkerPool>,
    reloads: mpsc::Sender<control::ControlRequest>,
    admin: Option<SocketAddr>,
    control: Option<PathBuf>,
    #[cfg(feature = "otlp")]
    telemetry: Option<otlp::Telemetry>,
}

/// Reason why a broker did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is wrong.
    Config(config::ConfigErrors),
    /// A file that the configuration names cannot be used.
    Files(String),
    /// A listener could not be opened.
    Bind(net::BindError),
    /// The state could not be opened.
    Store(store::OpenError),
    /// A thread could not be started.
    Threads(std::io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Config(error) => error.fmt(f),
            StartError::Files(error) => error.fmt(f),
            StartError::Bind(error) => error.fmt(f),
            StartError::Store(error) => error.fmt(f),
            StartError::Threads(error) => write!(f, "a thread could not be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Options that a broker is started with.
pub struct Builder {
    config: Config,
    auth: Option<Auth>,
    store: Option<Arc<dyn Store>>,
    source: Option<reload::ConfigReader>,
    level: Option<control::SetLogLevel>,
    threads: usize,
}

impl Builder {
    /// Sets the configuration; the default listens on loopback, port 1883.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets an access policy in place of the `[auth]` section's.
    #[must_use]
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.auth.get_or_insert_default().policy = Arc::new(policy);
        self
    }

    /// Adds an enhanced authentication method.
    #[must_use]
    pub fn auth_method(mut self, method: impl AuthMethod + 'static) -> Self {
        self.auth.get_or_insert_default().methods.push(Arc::new(method));
        self
    }

    /// Sets a store in place of the `[store]` section's.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets the function that [`Broker::reload`] reads the configuration with; without it the
    /// configuration of the start stays.
    #[must_use]
    pub fn source(
        mut self,
        source: impl Fn() -> Result<Config, config::ConfigErrors> + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Sets the function that a reload calls when `log.level` has changed; without it the level of
    /// the start stays.
    #[must_use]
    pub fn log_level(mut self, set: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.level = Some(Arc::new(set));
        self
    }

    /// Sets the number of connection threads. The caller's runtime (ideally current-thread) is the
    /// first; the broker starts the rest. The default is 1.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Opens the listeners and serves them, on the tokio runtime of the caller.
    ///
    /// # Errors
    /// [`StartError`]; no port stays open then.
    pub async fn start(self) -> Result<Broker, StartError> {
        self.config.check().map_err(StartError::Config)?;
        self.config.check_machine().map_err(StartError::Config)?;
        let own = ReloadContext::new(&self.config, self.auth, self.source, self.level);
        let workers = Arc::new(WorkerPool::start(self.threads).map_err(StartError::Threads)?);
        let (stopping, stopped) = watch::channel(false);
        let (acceptors, connections) = <(Arc<TaskCounter>, Arc<TaskCounter>)>::default();
        let mut listeners =
            Listeners::new(stopped.clone(), acceptors.clone(), connections.clone(), workers.clone());
        let numbers = listeners.numbers(&self.config);
        let snapshot = reload::load(self.config, &numbers, &own, None).map_err(StartError::Files)?;
        let fresh = listeners.bind(None, &snapshot.config, &numbers).await.map_err(StartError::Bind)?;
        #[cfg(feature = "otlp")]
        let collector = otlp::Collector::new(&snapshot.config.telemetry).map_err(StartError::Files)?;
        let admin_socket = net::bind_admin(&snapshot.config.admin).map_err(StartError::Bind)?;
        let own_store = self.store.is_some();
        let store = match self.store {
            Some(store) => store,
            None => open_store(&snapshot.config.store).map_err(StartError::Store)?,
        };
        let control = bind_control(&snapshot.config, own_store).map_err(StartError::Bind)?;
        let live = Settings::new(Snapshot { since: store.clock().now(), ..snapshot });
        let core = Arc::new(Core::new(live, store));
        #[cfg(feature = "otlp")]
        let telemetry = collector.map(|collector| otlp::Telemetry::start(collector, &core)).transpose();
        #[cfg(feature = "otlp")]
        let telemetry = telemetry.map_err(StartError::Files)?;
        let names = listeners.names();
        let mut background = JoinSet::new();
        let admin = admin_socket.as_ref().and_then(|socket| socket.local_addr().ok());
        if let Some(address) = admin {
            info!("listening on http://{address}");
        }
        let (reloads, requests) = mpsc::channel(4);
        let control_path = control.as_ref().map(|socket| socket.path().to_owned());
        let doors = [admin_socket.map(AdminListener::Address), control.map(AdminListener::Socket)];
        let operators = Admin::new(core.clone(), names.clone(), stopped, reloads.clone());
        // From here on this socket answers that the broker is not ready yet.
        doors.into_iter().flatten().for_each(|door| drop(background.spawn(operators.clone().run(door))));
        recovery::restore(&core).map_err(StartError::Store)?;
        let mut sys_topics = SysTopics::new(&core);
        sys_topics.announce();
        listeners.replace(&core, &numbers, fresh).await;
        background.spawn(housekeeping::run(core.clone()));
        background.spawn({
            let core = core.clone();
            async move { reload::revise_offline(&core).await }
        });
        background.spawn(sys_topics.run());
        background.spawn(reload::run(core.clone(), own, listeners, requests));
        Ok(Broker {
            core,
            listeners: names,
            stopping,
            acceptors,
            background,
            connections,
            workers,
            reloads,
            admin,
            control: control_path,
            #[cfg(feature = "otlp")]
            telemetry,
        })
    }
}

/// Reads all files that a configuration names, and checks everything else that a start needs of
/// this machine.
///
/// # Errors
/// All problems.
pub fn check_files(config: &Config) -> Result<(), String> {
    config.check_machine().map_err(|errors| errors.to_string())?;
    let numbers: Vec<_> = (0u64..).take(config.listeners.len()).collect();
    #[cfg(feature = "otlp")]
    otlp::Collector::new(&config.telemetry)?;
    reload::load(config.clone(), &numbers, &ReloadContext::new(config, None, None, None), None).map(drop)
}

/// Opens the socket of `lapwing ctl`. A failure is only logged when the path is the default.
fn bind_control(config: &Config, own_store: bool) -> Result<Option<ControlSocket>, BindError> {
    let meant = config.admin.socket.is_some();
    let path = config.control_socket().filter(|_| meant || !own_store);
    let Some(path) = path else {
        if config.store.in_memory && !meant {
            info!("no socket for `lapwing ctl`: nothing is kept on disk; set admin.socket for one");
        }
        return Ok(None);
    };
    match net::bind_control(&path) {
        Ok(socket) => {
            info!("`lapwing ctl` reaches this broker by the socket {}", path.display());
            Ok(Some(socket))
        }
        Err(error) if meant => Err(error),
        Err(error) => {
            warn!("no socket for `lapwing ctl`: {error}");
            Ok(None)
        }
    }
}

/// Opens the store of the `[store]` section.
fn open_store(config: &config::Store) -> Result<Arc<dyn Store>, store::OpenError> {
    if config.in_memory {
        return Ok(Arc::new(MemoryStore::default()));
    }
    let milliseconds = |ms: u32| Duration::from_millis(u64::from(ms));
    let options = Options {
        sync_interval: milliseconds(config.sync_interval_ms),
        min_sync_interval: milliseconds(config.min_sync_interval_ms),
        window_bytes: config.window_bytes,
        cache_bytes: usize::try_from(config.cache_bytes).unwrap_or(usize::MAX),
        on_corruption: config.on_corruption,
        ..Options::default()
    };
    let store = DurableStore::open(Path::new(&config.data_dir), options)?;
    let behind_s = store.clock().ahead_ms() / 1000;
    if behind_s > 60 {
        warn!(
            "the wall clock is {behind_s} s behind the last run's: expiries are counted from there until it has caught up"
        );
    }
    Ok(Arc::new(store))
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.core.registry.close(ReasonCode::ServerShuttingDown);
    }
}

impl Broker {
    /// Returns the options to start a broker with.
    pub fn builder() -> Builder {
        Builder { config: Config::default(), auth: None, store: None, source: None, level: None, threads: 1 }
    }

    /// Listeners with their real ports, as `mqtt://127.0.0.1:1883`.
    pub fn listeners(&self) -> Vec<Arc<str>> {
        self.listeners.borrow().iter().map(|(_, name)| name.clone()).collect()
    }

    /// Opens a session inside this process, to publish and to subscribe without a socket. Its name
    /// tells it from others in traces.
    pub fn local(&self, name: &str) -> Local {
        Local::open(&self.core, name)
    }

    /// The figures of now, in the text format of Prometheus: those of `/metrics`
    /// (`docs/MONITORING.md`).
    pub fn figures(&self) -> String {
        crate::admin::exposition(&self.core)
    }

    /// Address of `[admin]`, with its real port.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Path of the socket of `lapwing ctl`.
    pub fn control_socket(&self) -> Option<&Path> {
        self.control.as_deref()
    }

    /// Reads the configuration from its source again ([`Builder::source`]), and its files: users,
    /// rules, keys and certificates. The broker also does that when one of the files changes. The
    /// whole configuration is replaced, or nothing.
    ///
    /// # Errors
    /// All problems; nothing has changed then.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        control::ask(&self.reloads, None).await
    }

    /// Puts another configuration in force. Listeners are opened, changed and closed without
    /// touching the clients of others.
    ///
    /// # Errors
    /// All problems; nothing has changed then.
    pub async fn reload_with(&self, config: Config) -> Result<Reloaded, String> {
        control::ask(&self.reloads, Some(config)).await
    }

    /// Waits until every thread that serves clients has had a turn for this; a stalled thread makes
    /// it wait forever.
    pub async fn heartbeat(&self) {
        self.workers.heartbeat().await;
    }

    /// Shuts down: accepts no more, sends DISCONNECT (0x8B in MQTT 5) to every client, writes
    /// pending data, and ends within `limits.shutdown_timeout_s`.
    pub async fn stop(mut self) {
        #[cfg(feature = "otlp")]
        let began = std::time::Instant::now();
        let timeout =
            Duration::from_secs(u64::from(self.core.settings.get().config.limits.shutdown_timeout_s));
        self.stopping.send_replace(true);
        self.acceptors.none().await;
        self.core.registry.close(ReasonCode::ServerShuttingDown);
        if tokio::time::timeout(timeout, self.connections.none()).await.is_err() {
            warn!(
                left = self.connections.count(),
                "clients that did not read were cut off after limits.shutdown_timeout_s"
            );
        }
        self.background.shutdown().await;
        // The last records are written while this thread waits.
        self.core.store.close();
        #[cfg(feature = "otlp")]
        if let Some(telemetry) = self.telemetry.take() {
            telemetry.stop(timeout.saturating_sub(began.elapsed())).await;
        }
        info!("stopped");
    }
}
