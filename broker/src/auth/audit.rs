//! The audit log: clients that connect, are refused or lose a right, and actions of operators. Its
//! target is `audit`, so that `log.level = "info,audit=warn"` and the like can treat it apart.
//!
//! Texts from clients are written with their control characters escaped: no client writes lines of
//! its own into the log.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{info, warn};

use super::Identity;
use crate::message::Millis;
use crate::net::Peer;

/// A client's value in the log: quoted, with escapes, where it is not a plain word.
struct Quoted<'a>(&'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=');
        if !self.0.is_empty() && self.0.chars().all(is_plain) {
            return f.write_str(self.0);
        }
        write!(f, "{:?}", self.0)
    }
}

/// A text within a line, with its control characters escaped.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write;
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

/// Returns the user of an identity as every line of the log has it: `(none)` where there is none.
pub(crate) fn user(identity: &Identity) -> String {
    identity.user.as_deref().map_or_else(|| "(none)".to_owned(), |user| Quoted(user).to_string())
}

/// Returns the client identifier as every line of the log has it.
pub(crate) fn client(client_id: &str) -> impl std::fmt::Display + '_ {
    Quoted(client_id)
}

/// Logs that a client connected.
pub fn connected(
    peer: &Peer,
    client_id: &str,
    identity: &Identity,
    version: &dyn std::fmt::Display,
    session_present: bool,
) {
    let method = if identity.method.is_empty() { "none" } else { identity.method };
    info!(target: "audit", client = %Quoted(client_id), user = %user(identity), peer = %peer.address,
        listener = %peer.listener, method, %version, session_present, "connected");
}

/// Rate limit for log lines about refusals: a client that tries passwords cannot fill the disk.
#[derive(Debug, Default)]
pub struct LogLimiter {
    second: AtomicU64,
    lines: AtomicU64,
    suppressed: AtomicU64,
}

/// Refusals that get a line within a second.
const LINES_PER_S: u64 = 20;

impl LogLimiter {
    /// Returns the number of suppressed lines if a line may be written now.
    pub fn may(&self, now: Millis) -> Option<u64> {
        let second = now / 1000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_PER_S {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Logs that a client was refused.
pub fn refused(
    pace: &LogLimiter,
    now: Millis,
    peer: &Peer,
    client_id: &str,
    user_name: Option<&str>,
    why: &str,
) {
    let Some(more_before) = pace.may(now) else { return };
    warn!(target: "audit", client = %Quoted(client_id), user = %user_name.map_or_else(|| "(none)".to_owned(), |user| Quoted(user).to_string()), peer = %peer.address,
        listener = %peer.listener, more_before, "refused: {}", Escaped(why));
}

/// Logs that a client re-authenticated.
pub fn reauthenticated(client_id: &str, identity: &Identity) {
    info!(target: "audit", client = %Quoted(client_id), user = %user(identity), "re-authenticated");
}

/// Logs that a client takes over the session of a connection.
pub fn takeover(client_id: &str, identity: &Identity, by: &str) {
    info!(target: "audit", client = %Quoted(client_id), user = %user(identity), by, "session taken over");
}

/// Logs that a session leaves an owner that cannot come in any more.
pub fn abandoned(client_id: &str, owner: &Identity, by: &Identity, passes_on: bool) {
    let what = if passes_on { "it goes to the one that has come" } else { "it is ended" };
    info!(target: "audit", client = %client(client_id), owner = %user(owner), user = %user(by),
        "a session belonged to a user that cannot come in any more: {what}");
}

/// Logs that two clients take one client identifier from each other.
pub fn takeover_fight(client_id: &str, one: &str, other: &str) {
    warn!(target: "audit", client = %Quoted(client_id), one, other,
        "two clients take one client identifier from each other: takeovers are delayed; give each client its own");
}

/// Logs that a client may not do something. The caller limits the rate.
pub fn denied(what: &str, client_id: &str, identity: &Identity, topic: &str, rule: &str, more_before: u64) {
    warn!(target: "audit", client = %Quoted(client_id), user = %user(identity), topic = %Quoted(topic), rule = %Quoted(rule),
        more_before, "{what} denied");
}

/// Logs that a subscription was removed because its right was revoked.
pub fn revoked(client_id: &str, identity: &Identity, filter: &str, rule: &str) {
    warn!(target: "audit", client = %Quoted(client_id), user = %user(identity), filter = %Quoted(filter), rule = %Quoted(rule),
        "subscription removed: no longer allowed");
}

/// Logs that a connected client may not stay.
pub fn expelled(client_id: &str, identity: &Identity, why: &str) {
    warn!(target: "audit", client = %Quoted(client_id), user = %user(identity), "disconnected: {}", Escaped(why));
}

/// Logs an action of an operator.
pub fn operator(who: &dyn std::fmt::Display, action: &str) {
    info!(target: "audit", %who, "operator: {}", Escaped(action));
}

/// Logs that an operator was refused.
pub fn operator_refused(pace: &LogLimiter, now: Millis, peer: &std::net::SocketAddr) {
    let Some(more_before) = pace.may(now) else { return };
    warn!(target: "audit", %peer, more_before, "refused at admin.address: the token is wrong");
}

/// Logs that the files of the configuration were read again.
pub fn reloaded(why: &str, generation: u64) {
    info!(target: "audit", generation, "reloaded ({why}): configuration, users, rules, keys and certificates were read again");
}

/// Logs that they could not be read.
pub fn not_reloaded(why: &str, error: &str) {
    warn!(target: "audit", "NOT reloaded ({why}), the previous settings stay in force: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_above_the_rate_are_counted_in_the_next_line() {
        let pace = LogLimiter::default();
        let lines = (0..1_000).filter(|_| pace.may(5_000).is_some()).count();
        assert_eq!(lines as u64, LINES_PER_S);
        assert_eq!(pace.may(6_000), Some(1_000 - LINES_PER_S));
        assert_eq!(pace.may(6_001), Some(0));
    }
}

/// Logs that sessions at rest stay as they are, since their rights are not known.
pub fn unresolved(sessions: u64, reason: &str) {
    warn!(target: "audit", sessions,
        "the rights of clients that are away are not known, so their sessions keep all subscriptions: {reason}");
}

/// Logs that a retained message is not delivered, since the rights of its publisher are not known.
pub fn unresolved_publisher(pace: &LogLimiter, now: Millis, client_id: &str, topic: &str, reason: &str) {
    let Some(more_before) = pace.may(now) else { return };
    warn!(target: "audit", client = %Quoted(client_id), topic = %Quoted(topic), more_before,
        "a retained message is not delivered, since the rights of its publisher are not known: {reason}. \
         Publish it again, or delete it");
}
