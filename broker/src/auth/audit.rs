//! The audit log: clients that connect, are refused or lose a right, and actions of operators. Its
//! target is `audit`, so that `log.level = "info,audit=warn"` and the like can treat it apart.
//!
//! Texts from clients are written with their control characters escaped: no client writes lines of
//! its own into the log.

use tracing::{info, warn};

use super::Identity;
use super::log_pace::{LogLine, LogPace};
use crate::message::Millis;
use crate::net::Peer;

/// Bytes of a client's value that a line of the log has at most.
const VALUE_BYTES_MAX: usize = 256;

/// Cuts a value for the log behind this many bytes; returns what stands in place of the rest, too.
fn cut(value: &str, bytes_max: usize) -> (&str, &'static str) {
    let end = (0..=bytes_max.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
    match value.get(..end.unwrap_or(0)) {
        Some(head) if head.len() < value.len() => (head, "…"),
        _ => (value, ""),
    }
}

/// A client's value in the log: quoted, with escapes, where it is not a plain word; and cut.
struct Quoted<'a>(&'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=');
        let (value, more) = cut(self.0, VALUE_BYTES_MAX);
        if !value.is_empty() && value.chars().all(is_plain) {
            return write!(f, "{value}{more}");
        }
        write!(f, "{value:?}{more}")
    }
}

/// A text within a line, with its control characters escaped; and cut.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write;
        // Its own words stand around the client's value.
        let (text, more) = cut(self.0, 2 * VALUE_BYTES_MAX);
        text.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })?;
        f.write_str(more)
    }
}

/// Returns the user of an identity as every line of the log has it: `(none)` where there is none.
pub(crate) fn user(identity: &Identity) -> String {
    identity.user.as_deref().map_or_else(|| "(none)".to_owned(), |user| Quoted(user).to_string())
}

/// Returns a text that may hold a client's words, for a line of the log.
pub(crate) fn text(text: &str) -> impl std::fmt::Display + '_ {
    Escaped(text)
}

/// Returns the client identifier as every line of the log has it.
pub(crate) fn client(client_id: &str) -> impl std::fmt::Display + '_ {
    Quoted(client_id)
}

/// Logs that a client connected. The caller paces the line.
pub fn connected(
    peer: &Peer,
    client_id: &str,
    identity: &Identity,
    version: &dyn std::fmt::Display,
    session_present: bool,
    more_before: u64,
) {
    let method = if identity.method.is_empty() { "none" } else { identity.method };
    info!(target: "audit", client = %Quoted(client_id), user = %user(identity), peer = %peer.address,
        listener = %peer.listener, method, %version, session_present, more_before, "connected");
}

/// Logs that a client was refused.
pub fn refused(
    pace: &LogPace,
    now: Millis,
    peer: &Peer,
    client_id: &str,
    user_name: Option<&str>,
    why: &str,
) {
    let Some(more_before) = pace.may(LogLine::Refused, peer.address.ip(), now) else { return };
    warn!(target: "audit", client = %Quoted(client_id), user = %user_name.map_or_else(|| "(none)".to_owned(), |user| Quoted(user).to_string()), peer = %peer.address,
        listener = %peer.listener, more_before, "refused: {}", Escaped(why));
}

/// Logs that a client re-authenticated.
pub fn reauthenticated(client_id: &str, identity: &Identity) {
    info!(target: "audit", client = %Quoted(client_id), user = %user(identity), "re-authenticated");
}

/// Logs that a client takes over the session of a connection.
pub fn takeover(pace: &LogPace, now: Millis, peer: &Peer, client_id: &str, identity: &Identity) {
    let Some(more_before) = pace.may(LogLine::TakenOver, peer.address.ip(), now) else { return };
    info!(target: "audit", client = %Quoted(client_id), user = %user(identity), by = %peer.address, more_before,
        "session taken over");
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
pub fn operator_refused(pace: &LogPace, now: Millis, peer: &std::net::SocketAddr) {
    let Some(more_before) = pace.may(LogLine::Operator, Some(peer.ip()), now) else { return };
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

/// Logs that sessions at rest stay as they are, since their rights are not known.
pub fn unresolved(sessions: u64, reason: &str) {
    warn!(target: "audit", sessions,
        "the rights of clients that are away are not known, so their sessions keep all subscriptions: {reason}");
}

/// Logs that a retained message is not delivered, since the rights of its publisher are not known.
pub fn unresolved_publisher(pace: &LogPace, now: Millis, client_id: &str, topic: &str, reason: &str) {
    let Some(more_before) = pace.may(LogLine::Unresolved, None, now) else { return };
    warn!(target: "audit", client = %Quoted(client_id), topic = %Quoted(topic), more_before,
        "a retained message is not delivered, since the rights of its publisher are not known: {reason}. \
         Publish it again, or delete it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_clients_are_cut_before_they_are_escaped() {
        let long = "\u{1}".repeat(60_000);
        for line in [Quoted(&long).to_string(), Escaped(&long).to_string()] {
            assert!(line.len() <= 2 * VALUE_BYTES_MAX * "\\u{1}".len() + 8, "{}", line.len());
            assert!(line.ends_with('…'));
        }
        // A character is not cut in two.
        let text = format!("{}ää", "a".repeat(VALUE_BYTES_MAX - 1));
        assert_eq!(Quoted(&text).to_string(), format!("{}…", "a".repeat(VALUE_BYTES_MAX - 1)));
        assert_eq!(Quoted("sensor-1").to_string(), "sensor-1");
    }
}
