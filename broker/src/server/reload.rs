//! Reading everything anew: the configuration and its files on request (SIGHUP), the files when one
//! of them has changed.
//!
//! Everything is read first, new listeners are opened, then it replaces what there was at once;
//! where anything is wrong, nothing is replaced. Files are looked at by their metadata every
//! [`LOOK_EVERY`]; a change counts once the files have been still for a moment, so that a file that
//! is being written is not read by halves.

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

/// How often the files are looked at.
const CHECK_FILES_EVERY: Duration = Duration::from_secs(2);
/// How long they have to be still.
const QUIET_PERIOD: Duration = Duration::from_millis(300);
/// How often a file that never is still is looked at before it is read anyway.
const QUIET_LOOKS_MAX: usize = 20;
/// Resting sessions that are looked through in one go.
const SLICE: usize = 1_000;

/// Reads the configuration anew from where it came.
pub(crate) type ConfigReader = Arc<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>;

fn stamp(path: &Path) -> FileStamp {
    let m = std::fs::metadata(path).ok()?;
    Some((m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.len(), m.ino()))
}

fn stamps(config: &Config) -> FileStamps {
    config.files().into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

/// Reads all files as a start does. `numbers` are those of the listeners, `before` is what is in
/// force.
///
/// # Errors
/// All that is wrong with them.
pub(crate) fn load(
    config: Config,
    numbers: &[EndpointId],
    own: &ReloadContext,
    before: Option<&Snapshot>,
) -> Result<Snapshot, String> {
    // Before any is read: one that changes meanwhile is another then, and is read again.
    let files = stamps(&config);
    let endpoint = |(listener, number): (&Listener, &EndpointId)| {
        let tls = net::prepare(listener).map_err(|error| error.to_string())?;
        let before = before.and_then(|before| before.endpoint(*number)).map(|endpoint| &**endpoint);
        Ok(Arc::new(Endpoint::new(*number, &config, listener, tls, before)))
    };
    let gates: Result<Vec<_>, String> = config.listeners.iter().zip(numbers).map(endpoint).collect();
    let auth = match &own.auth {
        Some(auth) => Ok(auth.clone()),
        None => auth::load::load(&config, numbers, &own.auth_state).map_err(|errors| errors.join("\n")),
    };
    let bans = auth::load::bans(&config).map_err(|errors| errors.join("\n"));
    let token = auth::load::admin_token(&config.admin);
    match (auth, gates, bans, token) {
        (Ok(auth), Ok(gates), Ok(bans), Ok(admin_token)) => {
            Ok(Snapshot { config, files, auth, bans, admin_token, endpoints: gates, since: 0, generation: 0 })
        }
        (auth, gates, bans, token) => {
            let errors = [auth.err(), gates.err(), bans.err(), token.err()];
            Err(errors.into_iter().flatten().collect::<Vec<_>>().join("\n"))
        }
    }
}

/// What reloads leave in place.
pub(crate) struct ReloadContext {
    /// The policy of the program that embeds the broker, in place of the configuration's.
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
            None => Err("this program does not let its log be changed".to_owned()),
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
    // What an operator has set, until `log.level` is another.
    let mut level: Option<String> = None;
    let mut look = tokio::time::interval(CHECK_FILES_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                        // What it wrote itself is no news.
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
            // Where there is nothing to look at, an idle broker is not woken for it.
            _ = look.tick(), if watches => {
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

/// The files as they were when they were last looked at, for a reload that was refused as they were
/// `before` it.
fn seen(core: &Core, reloaded: &Result<Reloaded, String>, before: FileStamps) -> FileStamps {
    if reloaded.is_ok() { core.settings.get().files.clone() } else { before }
}

/// Puts another list of bans in force, in its file and here; whether that was another than before.
async fn change_bans(core: &Arc<Core>, change: ban::Change) -> Result<bool, ban::NotChanged> {
    let snapshot = core.settings.get();
    let path = snapshot.config.auth.ban_file.as_ref().map(PathBuf::from).ok_or(ban::NotChanged::NoList)?;
    let changed = blocking(move || change.carry_out(&path)).await;
    let Some(bans) = changed.map_err(ban::NotChanged::List)? else { return Ok(false) };
    core.settings.replace(snapshot.with_bans(bans));
    core.registry.wake_all();
    Ok(true)
}

/// The stamps once they do not change any more.
async fn when_still(config: &Config, mut last: FileStamps) -> FileStamps {
    for _ in 0..QUIET_LOOKS_MAX {
        tokio::time::sleep(QUIET_PERIOD).await;
        let now = stamps(config);
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// Replaces everything, or leaves all as it is, and says so.
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

/// Reads everything and puts it in place; the keys that need a restart.
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

/// Files and names of hosts are looked at on a thread of their own.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// What the new rules take from sessions that rest: they would go on to collect messages that
/// nobody may have.
async fn revise_offline(core: &Arc<Core>) {
    let snapshot = core.settings.get();
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
}
