//! `lapwing ctl explain`: the receivers of a message.

use clap::Args;
use serde_json::Value;

use super::link::{Said, with_query};
use super::table::{Cell, Column, Sheet, number, plain, table, text};
use super::{Desk, Part, print};

/// Options of `lapwing ctl explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The topic name, mount point included
    topic: String,
    /// The client that would publish it
    #[arg(long, value_name = "CLIENT")]
    from: Option<String>,
    /// The QoS of the message
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The size of its payload
    #[arg(long, default_value_t = 0)]
    bytes: u32,
    #[command(flatten)]
    part: Part,
}

impl Explain {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let mut whole: Option<Value> = None;
        let mut receivers: Vec<Value> = Vec::new();
        let mut next = Value::Null;
        loop {
            let left = self.part.limit() - receivers.len();
            let query = [
                ("topic", Some(self.topic.clone())),
                ("from", self.from.clone()),
                ("qos", Some(self.qos.to_string())),
                ("bytes", Some(self.bytes.to_string())),
                ("limit", Some(left.min(1_000).to_string())),
                ("cursor", next.as_str().map(str::to_owned)),
            ];
            let mut page = desk.link.ask("GET", &with_query("/explain", &query), None).await?;
            if let Some(more) = page["receivers"].as_array_mut() {
                receivers.append(more);
            }
            next = page["next"].take();
            whole.get_or_insert(page);
            if next.is_null() || receivers.len() >= self.part.limit() {
                break;
            }
        }
        let mut whole = whole.unwrap_or_default();
        if desk.json {
            (whole["receivers"], whole["next"]) = (receivers.into(), next);
            return print(&format!("{whole}\n")).map_err(Said::Link);
        }
        print(&shown(&whole, &receivers)).map_err(Said::Link)?;
        if !next.is_null() {
            eprintln!("lapwing: there are more; use --limit to show them");
        }
        Ok(())
    }
}

fn shown(answer: &Value, receivers: &[Value]) -> String {
    let mut sheet = Sheet::default();
    sheet.line("topic", text(&answer["topic"]));
    let publisher = &answer["publisher"];
    if !publisher.is_null() {
        let verdict = match (publisher["known"] == true, publisher["reason"].as_str()) {
            (false, _) => "the client is unknown".to_owned(),
            (true, None) => "may publish it".to_owned(),
            (true, Some(reason)) => format!("may not publish it ({reason})"),
        };
        let client = plain(&publisher["client"]);
        sheet.say("publisher", &format!("{client}: {verdict}: {}", plain(&publisher["detail"])));
    }
    if let Some(bytes) = answer["retained_bytes"].as_u64() {
        sheet.say("retained", &format!("a message of {bytes} B, which new subscriptions get"));
    }
    let count = |name: &str, one: &str| {
        let n = answer[name].as_u64().unwrap_or(0);
        format!("{n} {one}{}", if n == 1 { "" } else { "s" })
    };
    let (sessions, groups) = (count("sessions", "session"), count("shared_groups", "shared group"));
    sheet.say("matching", &format!("{sessions}, {groups}"));
    if receivers.is_empty() {
        return format!("{}nobody: no subscription matches\n", sheet.text());
    }
    let filters = |receiver: &Value| {
        let share = receiver["share"].as_str().map(|name| format!("$share/{name}/")).unwrap_or_default();
        let named = receiver["filters"].as_array().map_or(0, Vec::len) as u64;
        let more = receiver["filters_count"].as_u64().unwrap_or(0).saturating_sub(named);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        super::table::harmless(&format!("{share}{}{more}", plain(&receiver["filters"])))
    };
    let verdict = |receiver: &Value| {
        let (verdict, detail) = (plain(&receiver["verdict"]), plain(&receiver["detail"]));
        Cell::Text(if receiver["gets"] == true { detail } else { format!("{verdict}: {detail}") })
    };
    let columns: &[Column<'_>] = &[
        ("CLIENT", &|r| text(&r["client"])),
        ("USER", &|r| text(&r["user"])),
        ("STATE", &|r| Cell::Text(if r["connected"] == true { "connected" } else { "offline" }.to_owned())),
        ("QOS", &|r| number(&r["qos"])),
        ("QUEUED", &|r| number(&r["queued_messages"])),
        ("GETS IT", &|r| text(&r["gets"])),
        ("FILTER", &|r| Cell::Text(filters(r))),
        ("WHY", &verdict),
    ];
    format!("{}\n{}", sheet.text(), table(columns, receivers))
}
