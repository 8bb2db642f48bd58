//! `lapwing ctl top`: the busiest clients, live.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::link::{Said, with_query};
use super::table::{Cell, Column, number, size, table, text};
use super::{Desk, print};
use crate::commands::screen::Screen;

/// Options of `lapwing ctl top`.
#[derive(Args, Debug)]
pub struct Top {
    /// The figure to order by
    #[arg(long, value_enum, default_value = "messages")]
    by: By,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print one look as plain text and end
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Messages,
    Bytes,
}

impl Top {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let live = !self.once && !desk.json && std::io::stdout().is_terminal();
        let screen = Screen::new(live);
        let mut looks = interval(Duration::from_secs(self.interval));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
            let by = match self.by {
                By::Messages => "messages",
                By::Bytes => "bytes",
            };
            // Two lines stand above the table.
            let limit = screen.rows().saturating_sub(2).clamp(1, 1_000);
            let query = [("by", Some(by.to_owned())), ("limit", Some(limit.to_string()))];
            let answer = desk.link.ask("GET", &with_query("/busiest", &query), None).await?;
            if desk.json {
                print(&format!("{answer}\n")).map_err(Said::Link)?;
            } else {
                let shown = screen.show(&look(&answer));
                shown.map_err(|error| Said::Link(format!("standard output: {error}")))?;
            }
            if self.once {
                return Ok(());
            }
        }
    }
}

fn look(answer: &Value) -> String {
    let rate = |client: &Value, key: &str| {
        Cell::Number(format!("{:.1}", client["per_second"][key].as_f64().unwrap_or(0.0)))
    };
    let bytes = |client: &Value, key: &str| {
        size(&Value::from(client["per_second"][key].as_f64().unwrap_or(0.0) as u64))
    };
    let columns: &[Column<'_>] = &[
        ("CLIENT", &|c| text(&c["client"])),
        ("USER", &|c| text(&c["user"])),
        ("ADDRESS", &|c| text(&c["address"])),
        ("MSGS/S FROM", &|c| rate(c, "messages_received")),
        ("MSGS/S TO", &|c| rate(c, "messages_sent")),
        ("BYTES/S FROM", &|c| bytes(c, "bytes_received")),
        ("BYTES/S TO", &|c| bytes(c, "bytes_sent")),
        ("QUEUED", &|c| number(&c["queued_messages"])),
        ("DROPPED", &|c| number(&c["dropped_messages"])),
    ];
    let clients = answer["clients"].as_array().map_or(&[][..], Vec::as_slice);
    let mut shown = format!("{} clients connected", answer["connected"]);
    if answer["asked"] != answer["connected"] {
        let _ = write!(shown, ", {} of them asked", answer["asked"]);
    }
    format!("{shown}; means of the last ten to twenty seconds\n{}", table(columns, clients))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_look_has_a_line_for_each_client() {
        let client = json!({
            "client": "kitchen", "user": null, "address": "127.0.0.1:1", "listener": "l", "queued_messages": 2, "dropped_messages": 0,
            "per_second": { "messages_received": 12.34, "messages_sent": 0.0, "bytes_received": 2048.0, "bytes_sent": 3.0 },
        });
        let shown = look(&json!({ "clients": [client], "connected": 7, "asked": 1 }));
        assert!(shown.starts_with("7 clients connected, 1 of them asked;"), "{shown}");
        let line = shown.lines().nth(2).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["kitchen", "-", "127.0.0.1:1", "12.3", "0.0", "2.0", "KiB", "3", "B", "2", "0"]);
    }
}
