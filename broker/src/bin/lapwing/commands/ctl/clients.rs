//! `lapwing ctl clients` and `lapwing ctl client`.

use clap::{Args, ValueEnum};

use super::link::{Said, encoded};
use super::table::{Cell, Column, Sheet, bytes, duration, number, plain, size, table, text, time};
use super::{Desk, Part};

/// Options of `lapwing ctl clients`.
#[derive(Args, Debug)]
pub struct Clients {
    /// A pattern for client identifiers; * is anything, ? any one character
    pattern: Option<String>,
    /// Only clients of this user
    #[arg(long)]
    user: Option<String>,
    /// Only clients connected from this address or network
    #[arg(long)]
    address: Option<String>,
    /// Only clients connected by this listener: its name or URL
    #[arg(long)]
    listener: Option<String>,
    /// Only clients in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    #[command(flatten)]
    part: Part,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Connected,
    Offline,
}

impl Clients {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let state = self.state.map(|state| match state {
            State::Connected => "connected".to_owned(),
            State::Offline => "offline".to_owned(),
        });
        let query = [
            ("client", self.pattern.clone()),
            ("user", self.user.clone()),
            ("address", self.address.clone()),
            ("listener", self.listener.clone()),
            ("state", state),
        ];
        let columns: &[Column<'_>] = &[
            ("CLIENT", &|c| text(&c["client"])),
            ("USER", &|c| text(&c["user"])),
            ("ADDRESS", &|c| text(&c["address"])),
            ("LISTENER", &|c| text(&c["listener"])),
            ("CONNECTED", &|c| time(&c["connected_for_ms"])),
            ("QUEUED", &|c| number(&c["queued_messages"])),
            ("BYTES", &|c| size(&c["queued_bytes"])),
            ("DROPPED", &|c| number(&c["dropped_messages"])),
        ];
        desk.list("/clients", &query, self.part.limit(), |items| table(columns, items)).await
    }
}

/// Options of `lapwing ctl client`.
#[derive(Args, Debug)]
pub struct Client {
    /// The client identifier
    client: String,
}

impl Client {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let path = format!("/clients/{}", encoded(&self.client));
        desk.show("GET", &path, &[], None, detail).await
    }
}

fn detail(answer: &serde_json::Value) -> String {
    let short = &answer["client"];
    let mut sheet = Sheet::default();
    sheet.line("client", text(&short["client"]));
    sheet.line("user", text(&short["user"]));
    sheet.line("groups", text(&answer["groups"]));
    sheet.line("authentication", text(&answer["authentication"]));
    if short["connected"] == true {
        sheet.line("connected for", time(&short["connected_for_ms"]));
        sheet.line("from", text(&short["address"]));
        sheet.line("by listener", text(&short["listener"]));
        sheet.line("MQTT", text(&answer["protocol_version"]));
        sheet.line("keep alive", table_seconds(&answer["keep_alive_s"]));
    } else {
        sheet.say("state", "its session is offline");
        let ends = &answer["session_ends_in_ms"];
        sheet.say("session ends in", &ends.as_u64().map_or_else(|| "never".to_owned(), duration));
    }
    let expiry = &answer["session_expiry_s"];
    sheet.say("session expiry", &expiry.as_u64().map_or_else(|| "never".to_owned(), |s| duration(s * 1000)));
    let will = &answer["will"];
    if !will.is_null() {
        let retained = if will["retain"] == true { ", retained" } else { "" };
        sheet.say(
            "will",
            &format!(
                "{} (QoS {}{retained}, {} B, delay {} s)",
                plain(&will["topic"]),
                will["qos"],
                will["payload_bytes"],
                will["delay_s"]
            ),
        );
    }
    sheet.say(
        "queue",
        &format!(
            "{} messages, {}; {} dropped",
            plain(&short["queued_messages"]),
            short["queued_bytes"].as_u64().map_or_else(String::new, bytes),
            plain(&short["dropped_messages"])
        ),
    );
    sheet.say(
        "in flight",
        &format!(
            "{} to the client, {} from it",
            plain(&answer["in_flight_to_client"]),
            plain(&answer["in_flight_from_client"])
        ),
    );
    let (flow, rates) = (&answer["flow"], &answer["per_second"]);
    if !flow.is_null() {
        for (name, side) in [("from the client", "received"), ("to the client", "sent")] {
            let (messages, size) = (format!("messages_{side}"), format!("bytes_{side}"));
            let rate = |key: &str| rates[key].as_f64().unwrap_or(0.0);
            sheet.say(
                name,
                &format!(
                    "{} messages, {}; {:.1} messages/s, {}/s",
                    flow[&messages],
                    flow[&size].as_u64().map_or_else(String::new, bytes),
                    rate(&messages),
                    bytes(rate(&size) as u64)
                ),
            );
        }
    }
    for ended in answer["outcomes"].as_array().into_iter().flatten() {
        sheet.say("not arrived", &format!("{} {}", plain(&ended["messages"]), plain(&ended["reason"])));
    }
    sheet.line("subscriptions", text(&answer["subscriptions_count"]));
    let columns: &[Column<'_>] = &[
        ("  FILTER", &|s| Cell::Text(format!("  {}", plain(&s["filter"])))),
        ("QOS", &|s| number(&s["qos"])),
        ("ID", &|s| number(&s["id"])),
        ("NO LOCAL", &|s| text(&s["no_local"])),
        ("RETAIN AS PUBLISHED", &|s| text(&s["retain_as_published"])),
    ];
    let subscriptions = answer["subscriptions"].as_array().map_or(&[][..], Vec::as_slice);
    let subscriptions = if subscriptions.is_empty() { String::new() } else { table(columns, subscriptions) };
    format!("{}{subscriptions}", sheet.text())
}

fn table_seconds(value: &serde_json::Value) -> Cell {
    match value.as_u64() {
        Some(0) => Cell::Text("none".to_owned()),
        Some(s) => Cell::Text(duration(s * 1000)),
        None => text(value),
    }
}
