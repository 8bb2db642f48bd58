//! Bans: clients, users and addresses that are refused.

use std::time::{Duration, UNIX_EPOCH};

use super::request::{ApiRequest, CURSOR, LIMIT, Parameter};
use super::response::ApiError;
use super::schema::{ListPage, object};
use crate::admin::route::{Route, route};
use crate::auth::ban::{self, Change, NotChanged, Whom};
use crate::config::network;
use crate::core::control;

pub(super) const ROUTES: &[Route] = &[
    route!(GET "/bans", "Lists the current bans", [LIMIT, CURSOR], list => ListPage<Ban>),
    route!(
        POST "/bans",
        "Bans a client identifier, a user, or an address or network: exactly one of them. Who is connected is disconnected (0x98). It is \
         in auth.ban_file, and a restart keeps it",
        [],
        add <- NewBan => Ban
    ),
    route!(
        DELETE "/bans",
        "Lifts a ban: of a client identifier, a user, or an address or network as the list has it: exactly one of them",
        [
            Parameter::text("client", "A client identifier."),
            Parameter::text("user", "A user."),
            Parameter::text("address", "An address, or a network like 192.0.2.0/24.")
        ],
        remove => Lifted
    ),
];

object! {
    /// A ban to add.
    NewBan {
        /// A client identifier.
        client: Option<String>,
        /// A user.
        user: Option<String>,
        /// An address, or a network like 192.0.2.0/24.
        address: Option<String>,
        /// Seconds that the ban lasts; none: until it is lifted.
        for_s: Option<u64>,
        /// Reason for the log; clients do not see it.
        reason: Option<String>,
    }
}

object! {
    /// A client, user or address that is refused.
    Ban {
        /// The client identifier.
        client: Option<String>,
        /// The user.
        user: Option<String>,
        /// The address or network.
        address: Option<String>,
        /// End of the ban, like 2030-01-31T18:00:00Z; none: when it is lifted.
        until: Option<String>,
        /// Reason of the ban.
        reason: String,
    }
}

object! {
    /// A ban was lifted.
    Lifted {
        /// Subject of the ban, in words.
        whom: String,
    }
}

fn shown(ban: &ban::Ban) -> Ban {
    let (mut client, mut user, mut address) = (None, None, None);
    match &ban.whom {
        Whom::Client(id) => client = Some(id.to_string()),
        Whom::User(name) => user = Some(name.to_string()),
        Whom::Address(net) if net.prefix_len() == net.max_prefix_len() => {
            address = Some(net.addr().to_string())
        }
        Whom::Address(net) => address = Some(net.to_string()),
    }
    let moment = |s| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(s)).to_string();
    Ban { client, user, address, until: ban.until_s.map(moment), reason: ban.reason.to_string() }
}

/// Returns the only one of the three that is given.
fn whom(client: Option<&str>, user: Option<&str>, address: Option<&str>) -> Result<Whom, ApiError> {
    match (client, user, address) {
        (Some(id), None, None) => Ok(Whom::Client(id.into())),
        (None, Some(user), None) => Ok(Whom::User(user.into())),
        (None, None, Some(text)) => network(text).map(Whom::Address).ok_or_else(|| {
            let error = format!("'{text}' is no address");
            ApiError::bad(error, "give one like 192.0.2.7, or a network like 192.0.2.0/24")
        }),
        _ => Err(ApiError::bad(
            "the subject of the ban is missing",
            "give one of client, user and address, and only one",
        )),
    }
}

/// Longest ban, in seconds: a thousand years.
const FOR_S_MAX: u64 = 31_536_000_000;

async fn list(call: ApiRequest) -> Result<ListPage<Ban>, ApiError> {
    let (snapshot, now) = (call.admin.core.settings.get(), ban::now_s());
    let after = call.cursor().unwrap_or_default();
    let mut all: Vec<(String, &ban::Ban)> =
        snapshot.bans.all().filter(|ban| ban.holds(now)).map(|ban| (ban.whom.to_string(), ban)).collect();
    all.retain(|(whom, _)| whom.as_str() > after);
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    let more = all.len() > call.limit();
    all.truncate(call.limit());
    let next = all.last().filter(|_| more).map(|(whom, _)| whom.clone());
    Ok(ListPage { items: all.into_iter().map(|(_, ban)| shown(ban)).collect(), next })
}

async fn add(call: ApiRequest, new: NewBan) -> Result<Ban, ApiError> {
    let whom = whom(new.client.as_deref(), new.user.as_deref(), new.address.as_deref())?;
    if new.for_s.is_some_and(|s| s == 0 || s > FOR_S_MAX) {
        return Err(ApiError::bad(
            "for_s is not allowed",
            format!("give a number from 1 to {FOR_S_MAX}, or none"),
        ));
    }
    call.audit(&format!("ban {whom}"));
    let until_s = new.for_s.map(|s| ban::now_s() + s);
    let ban = ban::Ban { whom, until_s, reason: new.reason.unwrap_or_default().into() };
    let answer = shown(&ban);
    control::change(&call.admin.reloads, Change::Add(ban)).await.map_err(not_changed)?;
    Ok(answer)
}

async fn remove(call: ApiRequest) -> Result<Lifted, ApiError> {
    let whom = whom(call.text("client"), call.text("user"), call.text("address"))?;
    call.audit(&format!("lift the ban of {whom}"));
    let text = whom.to_string();
    match control::change(&call.admin.reloads, Change::Remove(whom)).await.map_err(not_changed)? {
        true => Ok(Lifted { whom: text }),
        false => Err(ApiError::missing(
            format!("{text} is not banned"),
            "GET /api/v1/bans lists all bans, as `lapwing ctl bans` does",
        )),
    }
}

fn not_changed(why: NotChanged) -> ApiError {
    match why {
        NotChanged::NoList => ApiError::conflict(
            "there is no list of bans",
            "set auth.ban_file to a path where the broker can make it, like \"bans.toml\", then reload, and try again",
        ),
        NotChanged::List(error) => ApiError::conflict(error, "check the file that auth.ban_file names"),
    }
}
