//! Reading the files of the configuration anew: on request (SIGHUP), and when one of them has changed.
//!
//! Everything is read first, then it replaces what there was at once; where anything is wrong, nothing is replaced. Files are
//! looked at by their metadata every [`LOOK_EVERY`]; a change counts once the files have been still for a moment, so that a
//! file that is being written is not read by halves.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::auth::password::Lasting;
use crate::auth::{self, Auth, audit};
use crate::config::Config;
use crate::core::Core;
use crate::live::Loaded;
use crate::net;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long they have to be still.
const STILL: Duration = Duration::from_millis(300);
/// How often a file that never is still is looked at before it is read anyway.
const STILL_LOOKS: usize = 20;
/// Resting sessions that are looked through in one go.
const SLICE: usize = 1_000;

/// Somebody wants a reload, and to know how it went.
pub(crate) type Request = oneshot::Sender<Result<(), String>>;

/// What tells one content of a file from another: modification and change time, length, inode.
type Stamp = Option<(i64, i64, i64, i64, u64, u64)>;

fn stamps(config: &Config) -> BTreeMap<PathBuf, Stamp> {
    let stamp = |path: &PathBuf| {
        let m = std::fs::metadata(path).ok()?;
        Some((m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.len(), m.ino()))
    };
    config.files().into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

/// Reads all files as a start does.
///
/// # Errors
/// All that is wrong with them.
pub(crate) fn load(config: &Config, own: &Own) -> Result<Loaded, String> {
    let tls = net::prepare(config).map_err(|error| error.to_string());
    let auth = match &own.auth {
        Some(auth) => Ok(auth.clone()),
        None => auth::load::load(config, &own.lasting).map_err(|errors| errors.join("\n")),
    };
    let bans = auth::load::bans(config).map_err(|errors| errors.join("\n"));
    match (auth, tls, bans) {
        (Ok(auth), Ok(tls), Ok(bans)) => Ok(Loaded { auth, tls, bans }),
        (auth, tls, bans) => {
            let errors = [auth.err(), tls.err(), bans.err()];
            Err(errors.into_iter().flatten().collect::<Vec<_>>().join("\n"))
        }
    }
}

/// What reloads leave in place.
#[derive(Debug)]
pub(crate) struct Own {
    /// The policy of the program that embeds the broker, in place of the configuration's.
    auth: Option<Auth>,
    lasting: Arc<Lasting>,
}

impl Own {
    pub(crate) fn new(config: &Config, auth: Option<Auth>) -> Own {
        Own { auth, lasting: Arc::new(Lasting::new(&config.auth)) }
    }
}

/// Reloads on request and on change, until the broker stops.
pub(crate) async fn run(core: Arc<Core>, own: Own, mut requests: mpsc::Receiver<Request>) {
    let own = Arc::new(own);
    let mut known = stamps(&core.config);
    let watches = !known.is_empty() || core.config.auth.jwks_url.is_some();
    let mut fetched = Instant::now();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(reply) = request else { return };
                known = stamps(&core.config);
                let _ = reply.send(reload(&core, &own, "asked to").await);
            }
            // Where there is nothing to look at, an idle broker is not woken for it.
            _ = look.tick(), if watches => {
                if let (true, Some(path)) = (own.lasting.has_rehashed(), core.config.auth.password_file.clone()) {
                    let own = own.clone();
                    let _ = tokio::task::spawn_blocking(move || own.lasting.write_rehashed(path.as_ref())).await;
                }
                let now = stamps(&core.config);
                let auth = &core.config.auth;
                if auth.jwks_url.is_some() && fetched.elapsed() >= Duration::from_secs(auth.jwks_refresh_s.into()) {
                    fetched = Instant::now();
                    let _ = reload(&core, &own, "auth.jwks_refresh_s is over").await;
                } else if now != known {
                    known = when_still(&core.config, now).await;
                    let _ = reload(&core, &own, "a file has changed").await;
                }
            }
        }
    }
}

/// The stamps once they do not change any more.
async fn when_still(config: &Config, mut last: BTreeMap<PathBuf, Stamp>) -> BTreeMap<PathBuf, Stamp> {
    for _ in 0..STILL_LOOKS {
        tokio::time::sleep(STILL).await;
        let now = stamps(config);
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// Reads everything and puts it in place, or leaves all as it is.
async fn reload(core: &Arc<Core>, own: &Arc<Own>, why: &str) -> Result<(), String> {
    let reading = (core.clone(), own.clone());
    let read = tokio::task::spawn_blocking(move || load(&reading.0.config, &reading.1));
    let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
    let loaded = read.inspect_err(|error| audit::not_reloaded(why, error))?;
    let trust = core.live.replace(loaded, core.now());
    audit::reloaded(why, trust.generation);
    core.registry.nudge();
    revise_resting(core).await;
    Ok(())
}

/// What the new rules take from sessions that rest: they would go on to collect messages that nobody may have.
async fn revise_resting(core: &Arc<Core>) {
    let trust = core.live.get();
    let policy = &*trust.auth.policy;
    for (n, (client_id, rest)) in core.registry.all_resting().into_iter().enumerate() {
        if n % SLICE == SLICE - 1 {
            tokio::task::yield_now().await;
        }
        let Some(identity) =
            core.registry.with_resting(&client_id, rest, |resident| resident.identity.clone())
        else {
            continue;
        };
        match policy.renew(&identity, &client_id, None) {
            Ok(now) => {
                core.registry.with_resting(&client_id, rest, |resident| {
                    *resident.identity = now;
                    core.revoke(policy, resident)
                });
            }
            Err(refused) if core.config.auth.removed_users_end_sessions => {
                if let Some(resident) = core.registry.remove_resting(&client_id, rest) {
                    audit::expelled(&client_id, &identity, &format!("session ended: {}", refused.text));
                    if let Some(due) = resident.session.due_at() {
                        core.agenda.remove(due, &client_id, rest);
                    }
                    core.end_session(resident, crate::store::Durability::None);
                }
            }
            Err(_) => {}
        }
    }
}

/// Sends a request and waits for its answer.
pub(crate) async fn ask(requests: &mpsc::Sender<Request>) -> Result<(), String> {
    let (reply, answer) = oneshot::channel();
    requests.send(reply).await.map_err(|_| "the broker stops".to_owned())?;
    answer.await.map_err(|_| "the broker stops".to_owned())?
}
