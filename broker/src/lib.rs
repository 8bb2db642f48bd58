//! Lapwing: an MQTT 3.1, 3.1.1 and 5.0 broker, as a library. The binary `lapwing` is a thin shell around it.
//!
//! ```no_run
//! # async fn example() -> Result<(), lapwing::StartError> {
//! let broker = lapwing::Broker::builder().start().await?;
//! println!("listening on {:?}", broker.listeners());
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! The house is described in `docs/ARCHITECTURE.md`: net → handshake → connection → session → router → outbox, and back.

mod accept;
pub mod auth;
mod budget;
pub mod config;
mod connection;
mod core;
mod handshake;
mod janitor;
pub mod message;
mod metrics;
pub mod net;
pub mod outbox;
mod output;
mod registry;
pub mod router;
pub mod session;
pub mod store;
mod sys;

use std::sync::Arc;
use std::time::Duration;

pub use lapwing_protocol::{QoS, ReasonCode, Version};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::auth::{Auth, AuthMethod, Policy};
use crate::config::Config;
use crate::core::Core;
use crate::store::{MemoryStore, Store};

/// The version of this broker.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A running broker. Dropping it ends it at once; [`stop`](Broker::stop) ends it well.
#[derive(Debug)]
pub struct Broker {
    core: Arc<Core>,
    listeners: Vec<Arc<str>>,
    /// Closed when no new connection is to be accepted.
    stopping: watch::Sender<bool>,
    acceptors: JoinSet<()>,
    background: JoinSet<()>,
    connections: Arc<accept::Connections>,
}

/// Why a broker did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is wrong.
    Config(config::ConfigErrors),
    /// A listener could not be opened.
    Bind(net::BindError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Config(error) => error.fmt(f),
            StartError::Bind(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// What a broker is started with.
#[derive(Debug)]
pub struct Builder {
    config: Config,
    auth: Auth,
    store: Arc<dyn Store>,
}

impl Builder {
    /// The configuration; the default listens on loopback, port 1883.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Who may do what; the default lets everybody do everything.
    #[must_use]
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.auth.policy = Arc::new(policy);
        self
    }

    /// Adds an enhanced authentication method.
    #[must_use]
    pub fn auth_method(mut self, method: impl AuthMethod + 'static) -> Self {
        self.auth.methods.push(Arc::new(method));
        self
    }

    /// Where the state is kept; the default is memory only.
    #[must_use]
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Arc::new(store);
        self
    }

    /// Opens the listeners and serves, on the tokio runtime of the caller.
    ///
    /// # Errors
    /// [`StartError`]; no port stays open then.
    pub async fn start(self) -> Result<Broker, StartError> {
        self.config.check().map_err(StartError::Config)?;
        let listeners = net::bind_all(&self.config).await.map_err(StartError::Bind)?;
        let core = Arc::new(Core::new(self.config, self.auth, self.store));
        let (stopping, stopped) = watch::channel(false);
        let connections = Arc::new(accept::Connections::default());
        let mut acceptors = JoinSet::new();
        let mut names = Vec::new();
        for listener in listeners {
            info!("listening on {}", listener.name());
            names.push(listener.name().clone());
            acceptors.spawn(accept::run(core.clone(), listener, stopped.clone(), connections.clone()));
        }
        let mut background = JoinSet::new();
        background.spawn(janitor::run(core.clone()));
        background.spawn(sys::run(core.clone()));
        Ok(Broker { core, listeners: names, stopping, acceptors, background, connections })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.core.registry.close(ReasonCode::ServerShuttingDown);
    }
}

impl Broker {
    /// What to start a broker with.
    pub fn builder() -> Builder {
        Builder { config: Config::default(), auth: Auth::default(), store: Arc::new(MemoryStore) }
    }

    /// The listeners with their real ports, as `mqtt://127.0.0.1:1883`.
    pub fn listeners(&self) -> &[Arc<str>] {
        &self.listeners
    }

    /// Accepts no more, tells every client (DISCONNECT with 0x8B in MQTT 5), writes what is under way, and ends within
    /// `limits.shutdown_timeout_s`.
    pub async fn stop(mut self) {
        let timeout = Duration::from_secs(u64::from(self.core.config.limits.shutdown_timeout_s));
        self.stopping.send_replace(true);
        while self.acceptors.join_next().await.is_some() {}
        self.core.registry.close(ReasonCode::ServerShuttingDown);
        if tokio::time::timeout(timeout, self.connections.none()).await.is_err() {
            warn!(
                left = self.connections.count(),
                "clients that did not read were cut off after limits.shutdown_timeout_s"
            );
        }
        self.background.shutdown().await;
        info!("stopped");
    }
}
