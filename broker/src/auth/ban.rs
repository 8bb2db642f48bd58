//! Bans: clients, users and addresses that are refused whatever their credentials, for a time or
//! for good.
//!
//! The list is a file, so that it outlives the broker and can be read: TOML, made by `lapwing ban`
//! or by hand. It is part of a reload. Clients that are on the new list are disconnected (0x98).

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use crate::config::network;

/// Subject of a ban.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whom {
    /// A client identifier.
    Client(Box<str>),
    /// A user.
    User(Box<str>),
    /// An address, or a network.
    Address(IpNet),
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whom::Client(id) => write!(f, "client {id}"),
            Whom::User(user) => write!(f, "user {user}"),
            Whom::Address(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "address {}", net.addr())
            }
            Whom::Address(net) => write!(f, "address {net}"),
        }
    }
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Subject of the ban.
    pub whom: Whom,
    /// End of the ban, in seconds since the Unix epoch; `None`: until it is removed.
    pub until_s: Option<u64>,
    /// Reason for the log; clients do not see it.
    pub reason: Box<str>,
}

impl Ban {
    /// Returns `true` while the ban is in force; `now_s` in seconds since the Unix epoch.
    pub fn holds(&self, now_s: u64) -> bool {
        self.until_s.is_none_or(|until| now_s < until)
    }

    /// Returns the entry as the file has it.
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let whom = match &self.whom {
            Whom::Client(id) => format!("client = {}", quoted(id)),
            Whom::User(user) => format!("user = {}", quoted(user)),
            Whom::Address(net) => format!("address = {}", quoted(&net.to_string())),
        };
        let until = self.until_s.map_or_else(String::new, |s| {
            let at = UNIX_EPOCH + Duration::from_secs(s);
            format!("until = {}\n", humantime::format_rfc3339_seconds(at))
        });
        let reason = if self.reason.is_empty() {
            String::new()
        } else {
            format!("reason = {}\n", quoted(&self.reason))
        };
        format!("[[ban]]\n{whom}\n{until}{reason}")
    }
}

/// The list of bans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bans {
    clients: HashMap<Box<str>, Ban>,
    users: HashMap<Box<str>, Ban>,
    networks: Vec<(IpNet, Ban)>,
}

/// Returns the wall clock in seconds since the Unix epoch.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Bans {
    /// Parses a list; errors call it `name`.
    ///
    /// # Errors
    /// Returns every mistake in it.
    pub fn parse(text: &str, name: &str) -> Result<Bans, Vec<String>> {
        let mut bans = Bans::default();
        read(text, name)?.into_iter().for_each(|ban| bans.add(ban));
        Ok(bans)
    }

    fn add(&mut self, ban: Ban) {
        match &ban.whom {
            Whom::Client(id) => drop(self.clients.insert(id.clone(), ban)),
            Whom::User(user) => drop(self.users.insert(user.clone(), ban)),
            Whom::Address(net) => self.networks.push((*net, ban)),
        }
    }

    /// Returns all bans.
    pub fn all(&self) -> impl Iterator<Item = &Ban> {
        self.clients.values().chain(self.users.values()).chain(self.networks.iter().map(|(_, ban)| ban))
    }

    /// Returns `true` when the list is empty.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.users.is_empty() && self.networks.is_empty()
    }

    /// Returns the ban of an address.
    pub fn of_address(&self, address: Option<IpAddr>, now_s: u64) -> Option<&Ban> {
        let address = address?.to_canonical();
        self.networks.iter().find(|(net, ban)| ban.holds(now_s) && net.contains(&address)).map(|(_, ban)| ban)
    }

    /// Returns the ban of a client by its identifier, user or address.
    pub fn of(
        &self,
        client_id: &str,
        user: Option<&str>,
        address: Option<IpAddr>,
        now_s: u64,
    ) -> Option<&Ban> {
        let by_name = [self.clients.get(client_id), user.and_then(|user| self.users.get(user))];
        let by_name = by_name.into_iter().flatten().find(|ban| ban.holds(now_s));
        by_name.or_else(|| self.of_address(address, now_s))
    }
}

/// A change of the list.
#[derive(Debug)]
pub enum Change {
    /// Adds a ban, in place of an earlier one of the same subject.
    Add(Ban),
    /// Removes the ban of this subject.
    Remove(Whom),
}

/// Reason that a list did not change.
#[derive(Debug)]
pub enum NotChanged {
    /// There is no list: `auth.ban_file` is not set.
    NoList,
    /// The list could not be read or written.
    List(String),
}

impl Change {
    /// Writes the changed list, without the bans that have ended, and returns it; `None`: nothing
    /// changed.
    ///
    /// # Errors
    /// Returns the reason that the list cannot be read or written.
    pub fn carry_out(self, path: &Path) -> Result<Option<Bans>, String> {
        let mut bans = list(path)?;
        let (whom, ban) = match self {
            Change::Add(ban) => (ban.whom.clone(), Some(ban)),
            Change::Remove(whom) => (whom, None),
        };
        let (now, before) = (now_s(), bans.len());
        bans.retain(|ban| ban.whom != whom);
        if ban.is_none() && bans.len() == before {
            return Ok(None);
        }
        bans.retain(|ban| ban.holds(now));
        bans.extend(ban);
        write(path, &bans)?;
        let mut list = Bans::default();
        bans.into_iter().for_each(|ban| list.add(ban));
        Ok(Some(list))
    }
}

/// Returns the bans of a file. A missing file bans nobody.
///
/// # Errors
/// Returns the reason that it cannot be read, or every mistake in it.
pub fn list(path: &Path) -> Result<Vec<Ban>, String> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => read(&text, &name).map_err(|errors| errors.join("\n")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Replaces the file as a whole: a concurrent reader sees the old one.
fn write(path: &Path, bans: &[Ban]) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(wrong)?;
    let text: Vec<String> = bans.iter().map(Ban::to_toml).collect();
    file.write_all(text.join("\n").as_bytes()).and_then(|()| file.sync_all()).map_err(wrong)?;
    std::fs::rename(&new, path).map_err(wrong)
}

/// Parses the entries of a list.
///
/// # Errors
/// Returns every mistake in it.
pub fn read(text: &str, name: &str) -> Result<Vec<Ban>, Vec<String>> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| vec![format!("{name}: {}", error.to_string().trim_end())])?;
    let (mut bans, mut errors) = (Vec::new(), Vec::new());
    for (key, value) in &table {
        match (key.as_str(), value) {
            ("ban", toml::Value::Array(all)) => {
                for (n, ban) in all.iter().enumerate() {
                    match ban.as_table().ok_or_else(|| "is not a table".to_owned()).and_then(one) {
                        Ok(ban) => bans.push(ban),
                        Err(error) => errors.push(format!("{name}: ban {}: {error}", n + 1)),
                    }
                }
            }
            _ => errors.push(format!("{name}: '{key}' is not known here; a ban is a table [[ban]]")),
        }
    }
    if errors.is_empty() { Ok(bans) } else { Err(errors) }
}

fn one(table: &toml::Table) -> Result<Ban, String> {
    let (mut whom, mut until_s, mut reason) = (Vec::new(), None, Box::from(""));
    for (key, value) in table {
        let text = || value.as_str().ok_or_else(|| format!("{key} is not a text"));
        match key.as_str() {
            "client" => whom.push(Whom::Client(text()?.into())),
            "user" => whom.push(Whom::User(text()?.into())),
            "address" => {
                let net =
                    network(text()?).ok_or("address is not an address or a network like \"192.0.2.0/24\"")?;
                whom.push(Whom::Address(net));
            }
            "until" => {
                let text =
                    value.as_datetime().map_or_else(|| text().map(str::to_owned), |at| Ok(at.to_string()));
                let at = humantime::parse_rfc3339_weak(&text?);
                let at = at.map_err(|_| "until is not a moment like 2030-01-31T18:00:00Z")?;
                until_s = Some(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
            }
            "reason" => reason = text()?.into(),
            _ => return Err(format!("'{key}' is not known: client, user, address, until, reason are")),
        }
    }
    let [whom] = <[Whom; 1]>::try_from(whom).map_err(|_| "it needs one of client, user and address")?;
    Ok(Ban { whom, until_s, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_subject_and_end_of_each_ban() {
        let text = "[[ban]]\nclient = \"a\"\nreason = \"it \\\"floods\\\"\"\n[[ban]]\nuser = \"u\"\nuntil = 2030-01-01T00:00:00Z\n\
                    [[ban]]\naddress = \"192.0.2.0/24\"\n[[ban]]\naddress = \"2001:db8::1\"\n";
        let bans = Bans::parse(text, "bans").unwrap();
        let end = 1_893_456_000;
        assert!(bans.of("a", None, None, end).is_some());
        assert!(bans.of("b", Some("u"), None, end - 1).is_some());
        assert!(bans.of("b", Some("u"), None, end).is_none());
        assert!(bans.of_address("192.0.2.200".parse().ok(), 0).is_some());
        assert!(bans.of_address("::ffff:192.0.2.200".parse().ok(), 0).is_some(), "mapped into IPv6");
        assert!(bans.of_address("192.0.3.1".parse().ok(), 0).is_none());
        assert!(bans.of("b", None, "2001:db8::1".parse().ok(), 0).is_some());
        let written: String = read(text, "bans").unwrap().iter().map(Ban::to_toml).collect();
        assert_eq!(Bans::parse(&written, "bans").unwrap(), bans);
    }

    #[test]
    fn mistakes_are_reported_with_their_line() {
        for (text, told) in [
            ("[[ban]]\nclient = 1", "ban 1: client is not a text"),
            ("[[ban]]\nreason = \"x\"", "needs one of client, user and address"),
            ("[[ban]]\nclient = \"a\"\nuser = \"b\"", "needs one of"),
            ("[[ban]]\naddress = \"1.2.3\"", "address is not"),
            ("[[ban]]\nclient = \"a\"\nuntil = \"tomorrow\"", "until is not"),
            ("[[ban]]\nklient = \"a\"", "'klient' is not known"),
            ("ban = 1", "a ban is a table"),
            ("[[ban]\n", "bans: "),
        ] {
            let errors = Bans::parse(text, "bans").unwrap_err().join("\n");
            assert!(errors.contains(told), "{text}: {errors}");
        }
    }
}
