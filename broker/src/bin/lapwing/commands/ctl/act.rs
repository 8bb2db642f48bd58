//! `lapwing ctl disconnect|ban|bans|unban|session|log`: commands that change something.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::link::{Said, encoded};
use super::table::{Cell, Column, Sheet, plain, table, text};
use super::{Desk, Part};
use crate::commands::ban::WhomArguments;

/// Argument that names a client.
#[derive(Args, Debug)]
pub struct Named {
    /// The client identifier
    client: String,
}

impl Named {
    pub async fn disconnect(&self, desk: &Desk) -> Result<(), Said> {
        let path = format!("/clients/{}/disconnect", encoded(&self.client));
        desk.show("POST", &path, &[], None, |answer| {
            format!("{} is disconnected\n", plain(&answer["client"]))
        })
        .await
    }
}

#[derive(Debug, Subcommand)]
pub enum Session {
    /// End a session, delete its queue, and disconnect its client
    Delete(Named),
}

impl Session {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let Session::Delete(named) = self;
        let path = format!("/sessions/{}", encoded(&named.client));
        desk.show("DELETE", &path, &[], None, |answer| {
            let also = if answer["connected"] == true { ", and it is disconnected" } else { "" };
            format!("the session of {} is deleted{also}\n", plain(&answer["client"]))
        })
        .await
    }
}

/// Options of `lapwing ctl ban`.
#[derive(Args, Debug)]
pub struct Ban {
    #[command(flatten)]
    whom: WhomArguments,
    /// The duration, like 10m, 2h or 7days; without it until it is lifted
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// The reason, for the log
    #[arg(long)]
    reason: Option<String>,
}

impl Ban {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let WhomArguments { client, user, address } = &self.whom;
        let body = json!({
            "client": client,
            "user": user,
            "address": address,
            "for_s": self.time.map(|time| time.as_secs().max(1)),
            "reason": self.reason,
        });
        desk.show("POST", "/bans", &[], Some(body), |ban| format!("{} is banned {}\n", whom(ban), until(ban)))
            .await
    }
}

/// Options of `lapwing ctl bans`.
#[derive(Args, Debug)]
pub struct Bans {
    #[command(flatten)]
    part: Part,
}

impl Bans {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let columns: &[Column<'_>] = &[
            ("BANNED", &|ban| Cell::Text(whom(ban))),
            ("UNTIL", &|ban| Cell::Text(until(ban))),
            ("REASON", &|ban| text(&ban["reason"])),
        ];
        desk.list("/bans", &[], self.part.limit(), |items| table(columns, items)).await
    }
}

fn whom(ban: &Value) -> String {
    let kinds = ["client", "user", "address"].into_iter().find(|kind| !ban[kind].is_null());
    kinds.map_or_else(String::new, |kind| format!("{kind} {}", plain(&ban[kind])))
}

fn until(ban: &Value) -> String {
    match &ban["until"] {
        Value::Null => "for good".to_owned(),
        until => format!("until {}", plain(until)),
    }
}

/// Options of `lapwing ctl unban`.
#[derive(Args, Debug)]
pub struct Unban {
    #[command(flatten)]
    whom: WhomArguments,
}

impl Unban {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let WhomArguments { client, user, address } = self.whom.clone();
        let query = [("client", client), ("user", user), ("address", address)];
        let lifted = |answer: &Value| format!("{} is no longer banned\n", plain(&answer["whom"]));
        desk.show("DELETE", "/bans", &query, None, lifted).await
    }
}

/// Options of `lapwing ctl log`.
#[derive(Args, Debug)]
pub struct Log {
    /// error, warn, info, debug, trace, or a filter like
    /// info,audit=warn,lapwing::internals::net=debug; without it the current level is shown
    level: Option<String>,
}

impl Log {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let body = self.level.as_ref().map(|level| json!({ "level": level }));
        let method = if body.is_some() { "PUT" } else { "GET" };
        desk.show(method, "/log", &[], body, |answer| {
            let mut sheet = Sheet::default();
            sheet.line("level", text(&answer["level"]));
            if answer["level"] != answer["configured"] {
                sheet.line("configured", text(&answer["configured"]));
            }
            sheet.text()
        })
        .await
    }
}
