//! Requests of operators to the running broker: reload, log level, bans. `server/reload.rs` carries
//! them out.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::auth::ban;
use crate::config::Config;
use crate::net::endpoint::EndpointId;

/// A request of an operator. Requests are handled one after the other.
pub(crate) enum ControlRequest {
    /// Apply this configuration; `None` reads it from its source.
    Reload(Option<Box<Config>>, oneshot::Sender<Result<Reloaded, String>>),
    /// Change the list of bans.
    Ban(ban::Change, oneshot::Sender<Result<bool, ban::NotChanged>>),
    /// Set the log level; `None` only asks. The answer is the level in force.
    Level(Option<String>, oneshot::Sender<Result<String, String>>),
}

const STOPS: &str = "the broker stops";

/// Result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Changed keys that take effect with the next start only, like `store.data_dir`.
    pub restart: Vec<String>,
}

/// Sets what is logged.
pub(crate) type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Sends a request and waits for its answer.
pub(crate) async fn ask(
    requests: &mpsc::Sender<ControlRequest>,
    config: Option<Config>,
) -> Result<Reloaded, String> {
    let (reply, answer) = oneshot::channel();
    let request = ControlRequest::Reload(config.map(Box::new), reply);
    requests.send(request).await.map_err(|_| STOPS.to_owned())?;
    answer.await.map_err(|_| STOPS.to_owned())?
}

/// Sets the log level, or only asks for it. Returns the level in force.
pub(crate) async fn level(
    requests: &mpsc::Sender<ControlRequest>,
    level: Option<String>,
) -> Result<String, String> {
    let (reply, answer) = oneshot::channel();
    requests.send(ControlRequest::Level(level, reply)).await.map_err(|_| STOPS.to_owned())?;
    answer.await.map_err(|_| STOPS.to_owned())?
}

/// Changes the list of bans. Returns `true` when that made a difference.
pub(crate) async fn change(
    requests: &mpsc::Sender<ControlRequest>,
    change: ban::Change,
) -> Result<bool, ban::NotChanged> {
    let stops = || ban::NotChanged::List(STOPS.to_owned());
    let (reply, answer) = oneshot::channel();
    requests.send(ControlRequest::Ban(change, reply)).await.map_err(|_| stops())?;
    answer.await.map_err(|_| stops())?
}

/// An open socket: its listener, and its name, like `mqtt://127.0.0.1:1883`.
pub(crate) type ListenerName = (EndpointId, Arc<str>);
