//! Reload of the configuration and its files: on request (SIGHUP), or when one of the files has
//! changed.
//!
//! Everything is read first, then new listeners are opened, then all is replaced at once. After any
//! error, nothing is replaced. Files are checked by their metadata every [`CHECK_FILES_EVERY`]. A
//! change counts once the files have been unchanged for [`QUIET_PERIOD`], so that no half-written
//! file is read.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::auth::password::AuthState;
use crate::auth::{self, Auth, audit, ban};
use crate::config::{Config, ConfigErrors, Listener};
use crate::core::Core;
use crate::core::control::{ControlRequest, Reloaded, SetLogLevel};
use crate::core::settings::{FileStamp, FileStamps, Snapshot};
use crate::net;
use crate::net::endpoint::{Endpoint, EndpointId};
use crate::outbox::QueueLimits;
use crate::server::listeners::Listeners;

/// Interval between two checks of the files.
const CHECK_FILES_EVERY: Duration = Duration::from_secs(2);
/// Time for which the files must stay unchanged before they are read.
const QUIET_PERIOD: Duration = Duration::from_millis(300);
/// Number of checks after which files that keep changing are read anyway.
const QUIET_CHECKS_MAX: usize = 20;
/// Offline sessions that are checked in one go.
const SLICE: usize = 1_000;

/// Function that reads the configuration from its source again.
pub(crate) type ConfigReader = Arc<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>;

fn stamp(path: &Path) -> FileStamp {
    let m = std::fs::metadata(path).ok()?;
    Some((m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.len(), m.ino()))
}

fn stamps(config: &Config) -> FileStamps {
    config.files().into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

/// Reads all files as a start does. `numbers` are the endpoint numbers of the listeners, `before`
/// is the snapshot in force.
///
/// # Errors
/// All problems.
pub(crate) fn load(
    config: Config,
    numbers: &[EndpointId],
    own: &ReloadContext,
    before: Option<&Snapshot>,
) -> Result<Snapshot, String> {
    // Taken before any file is read: a file that changes meanwhile has another stamp and is read
    // again.
    let files = stamps(&config);
    let endpoint = |(listener, number): (&Listener, &EndpointId)| {
        let tls = net::prepare(listener).map_err(|error| error.to_string())?;
        let before = before.and_then(|before| before.endpoint(*number)).map(|endpoint| &**endpoint);
        Ok(Arc::new(Endpoint::new(*number, &config, listener, tls, before)))
    };
    let endpoints: Result<Vec<_>, String> = config.listeners.iter().zip(numbers).map(endpoint).collect();
    let auth = match &own.auth {
        Some(auth) => Ok(auth.clone()),
        None => auth::load::load(&config, numbers, &own.auth_state).map_err(|errors| errors.join("\n")),
    };
    let bans = auth::load::bans(&config).map_err(|errors| errors.join("\n"));
    let token = auth::load::admin_token(&config.admin);
    match (auth, endpoints, bans, token) {
        (Ok(auth), Ok(endpoints), Ok(bans), Ok(admin_token)) => {
            Ok(Snapshot { config, files, auth, bans, admin_token, endpoints, since: 0, generation: 0 })
        }
        (auth, endpoints, bans, token) => {
            let errors = [auth.err(), endpoints.err(), bans.err(), token.err()];
            Err(errors.into_iter().flatten().collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Parts that reloads do not replace.
pub(crate) struct ReloadContext {
    /// Policy of the embedding program, in place of the configuration's.
    auth: Option<Auth>,
    auth_state: Arc<AuthState>,
    source: Option<ConfigReader>,
    level: Option<SetLogLevel>,
}

impl ReloadContext {
    pub(crate) fn new(
        config: &Config,
        auth: Option<Auth>,
        source: Option<ConfigReader>,
        level: Option<SetLogLevel>,
    ) -> ReloadContext {
        ReloadContext { auth, auth_state: Arc::new(AuthState::new(&config.auth)), source, level }
    }

    fn set_level(&self, level: &str) -> Result<(), String> {
        match &self.level {
            Some(set) => set(level),
            None => Err("this program does not support changes of its log level".to_owned()),
        }
    }
}

/// Reloads on request and on change, until the broker stops.
pub(crate) async fn run(
    core: Arc<Core>,
    own: ReloadContext,
    mut listeners: Listeners,
    mut requests: mpsc::Receiver<ControlRequest>,
) {
    let own = Arc::new(own);
    let mut known = core.settings.get().files.clone();
    let mut fetched = Instant::now();
    // Log level that an operator has set, valid until `log.level` changes.
    let mut level: Option<String> = None;
    let mut check = tokio::time::interval(CHECK_FILES_EVERY);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let snapshot = core.settings.get();
        let auth = &snapshot.config.auth;
        let watches = !known.is_empty() || auth.jwks_url.is_some();
        tokio::select! {
            request = requests.recv() => {
                let Some(request) = request else { return };
                match request {
                    ControlRequest::Reload(config, reply) => {
                        let config = config.map(|config| *config);
                        let before = stamps(&snapshot.config);
                        let reloaded = reload(&core, &own, &mut listeners, config, "asked to").await;
                        known = seen(&core, &reloaded, before);
                        let _ = reply.send(reloaded);
                    }
                    ControlRequest::Ban(change, reply) => {
                        let changed = change_bans(&core, change).await;
                        // The broker's own write to the ban file is no change.
                        if let (Ok(true), Some(path)) = (&changed, auth.ban_file.as_ref().map(PathBuf::from)) {
                            let stamp = stamp(&path);
                            known.insert(path, stamp);
                        }
                        let _ = reply.send(changed);
                    }
                    ControlRequest::Level(wanted, reply) => {
                        let set = wanted.map_or(Ok(()), |wanted| own.set_level(&wanted).map(|()| level = Some(wanted)));
                        let configured = &core.settings.get().config.log.level;
                        let _ = reply.send(set.map(|()| level.as_ref().unwrap_or(configured).clone()));
                    }
                }
            }
            // Without files to check, an idle broker does not wake.
            _ = check.tick(), if watches => {
                if let (true, Some(path)) = (own.auth_state.has_rehashed(), auth.password_file.clone()) {
                    let own = own.clone();
                    let _ = tokio::task::spawn_blocking(move || own.auth_state.write_rehashed(path.as_ref())).await;
                }
                let now = stamps(&snapshot.config);
                let same = Some(snapshot.config.clone());
                if auth.jwks_url.is_some() && fetched.elapsed() >= Duration::from_secs(auth.jwks_refresh_s.into()) {
                    fetched = Instant::now();
                    let reloaded = reload(&core, &own, &mut listeners, same, "auth.jwks_refresh_s is over").await;
                    known = seen(&core, &reloaded, known);
                } else if now != known {
                    let still = when_still(&snapshot.config, now).await;
                    let reloaded = reload(&core, &own, &mut listeners, same, "a file has changed").await;
                    known = seen(&core, &reloaded, still);
                }
            }
        }
        if core.settings.get().config.log.level != snapshot.config.log.level {
            level = None;
        }
    }
}

/// Stamps as of the last check. After a refused reload they are those of `before`, so that the
/// files are not read again until they change.
fn seen(core: &Core, reloaded: &Result<Reloaded, String>, before: FileStamps) -> FileStamps {
    if reloaded.is_ok() { core.settings.get().files.clone() } else { before }
}

/// Puts a changed ban list in force, in its file and in memory; returns true when it differs.
async fn change_bans(core: &Arc<Core>, change: ban::Change) -> Result<bool, ban::NotChanged> {
    let snapshot = core.settings.get();
    let path = snapshot.config.auth.ban_file.as_ref().map(PathBuf::from).ok_or(ban::NotChanged::NoList)?;
    let changed = blocking(move || change.carry_out(&path)).await;
    let Some(bans) = changed.map_err(ban::NotChanged::List)? else { return Ok(false) };
    core.settings.replace(snapshot.with_bans(bans));
    core.registry.wake_all();
    Ok(true)
}

/// Waits until the stamps no longer change, and returns them.
async fn when_still(config: &Config, mut last: FileStamps) -> FileStamps {
    for _ in 0..QUIET_CHECKS_MAX {
        tokio::time::sleep(QUIET_PERIOD).await;
        let now = stamps(config);
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// Replaces everything, or nothing, and logs the result.
async fn reload(
    core: &Arc<Core>,
    own: &Arc<ReloadContext>,
    listeners: &mut Listeners,
    config: Option<Config>,
    why: &str,
) -> Result<Reloaded, String> {
    let restart = replace(core, own, listeners, config).await;
    let restart = restart.inspect_err(|error| audit::not_reloaded(why, error))?;
    audit::reloaded(why, core.settings.get().generation);
    if !restart.is_empty() {
        let keys = restart.join(", ");
        warn!("changed, but only a restart can change it, so it stays as it was: {keys}");
    }
    core.registry.wake_all();
    revise_offline(core).await;
    Ok(Reloaded { restart })
}

/// Reads everything and puts it in force; returns the changed keys that need a restart.
async fn replace(
    core: &Arc<Core>,
    own: &Arc<ReloadContext>,
    listeners: &mut Listeners,
    config: Option<Config>,
) -> Result<Vec<String>, String> {
    let before = core.settings.get();
    let (source, running) = (own.source.clone(), before.clone());
    let read = move || {
        let mut config = match (config, source) {
            (Some(config), _) => config,
            (None, Some(source)) => source().map_err(|errors| errors.to_string())?,
            (None, None) => running.config.clone(),
        };
        let restart = config.keep_restart(&running.config);
        config.check().map_err(|errors| errors.to_string())?;
        Ok((config, restart))
    };
    let (config, restart) = blocking(read).await?;
    let numbers = listeners.numbers(&config);
    let changed = config.differs(&before.config);
    let reading = (own.clone(), before.clone(), numbers.clone());
    let load = move || load(config, &reading.2, &reading.0, Some(&reading.1));
    let snapshot = blocking(load).await?;
    let fresh = listeners.bind(Some(core), &snapshot.config, &numbers).await;
    let fresh = fresh.map_err(|error| error.to_string())?;
    core.set_limits(&snapshot.config);
    let after = core.settings.replace(Snapshot { since: core.now(), ..snapshot });
    listeners.replace(core, &numbers, fresh).await;
    net::permit(&after.config.listeners);
    let (level, set) = (&after.config.log.level, own.level.as_ref());
    if let Some(set) = set.filter(|_| *level != before.config.log.level) {
        let _ = set(level).inspect_err(|error| warn!("log.level = \"{level}\": {error}"));
    }
    if !changed.is_empty() {
        info!("changed: {}", changed.join(", "));
    }
    Ok(restart)
}

/// Runs file and DNS operations on a thread of their own.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Applies the rules to offline sessions: otherwise they would collect messages that their clients
/// may no longer receive. After a start the rules may be others than those of the last run.
pub(super) async fn revise_offline(core: &Arc<Core>) {
    let snapshot = core.settings.get();
    let mut unresolved: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    let policy = &*snapshot.auth.policy;
    let bounds = QueueLimits::of(&snapshot.config);
    for (n, (client_id, rest)) in core.registry.all_offline().into_iter().enumerate() {
        if n % SLICE == SLICE - 1 {
            tokio::task::yield_now().await;
        }
        let Some(identity) = core.registry.with_offline(&client_id, rest, |owned| {
            owned.outbox.set_limits(bounds);
            owned.identity.clone()
        }) else {
            continue;
        };
        match policy.renew(&identity, &client_id, None) {
            Ok(now) => {
                if let Some(reason) = &now.unresolved {
                    *unresolved.entry(reason.clone()).or_default() += 1;
                }
                core.registry.with_offline(&client_id, rest, |owned| {
                    owned.identity = Arc::new(now);
                    core.revoke(policy, owned)
                });
            }
            Err(refused) if snapshot.config.auth.removed_users_end_sessions => {
                if core.end_offline(&client_id, rest) {
                    audit::expelled(&client_id, &identity, &format!("session ended: {}", refused.text));
                }
            }
            Err(_) => {}
        }
    }
    unresolved.iter().for_each(|(reason, sessions)| audit::unresolved(*sessions, reason));
}
