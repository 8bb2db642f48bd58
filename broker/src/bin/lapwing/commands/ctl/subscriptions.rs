//! `lapwing ctl subscriptions` and `lapwing ctl who`.

use clap::Args;
use serde_json::Value;

use super::link::Said;
use super::table::{Column, number, table, text};
use super::{Desk, Part};

/// Options of `lapwing ctl subscriptions`.
#[derive(Args, Debug)]
pub struct Subscriptions {
    /// A pattern for topic filters; * is anything, ? any one character
    pattern: Option<String>,
    /// A pattern for client identifiers; * is anything, ? any one character
    #[arg(long, value_name = "PATTERN")]
    client: Option<String>,
    #[command(flatten)]
    part: Part,
}

impl Subscriptions {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let query = [("filter", self.pattern.clone()), ("client", self.client.clone())];
        desk.list("/subscriptions", &query, self.part.limit(), rows).await
    }
}

/// Options of `lapwing ctl who`.
#[derive(Args, Debug)]
pub struct Who {
    /// The topic name
    topic: String,
    #[command(flatten)]
    part: Part,
}

impl Who {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let query = [("topic", Some(self.topic.clone()))];
        desk.list("/subscriptions", &query, self.part.limit(), rows).await
    }
}

fn rows(items: &[Value]) -> String {
    let columns: &[Column<'_>] = &[
        ("FILTER", &|s| text(&s["filter"])),
        ("SHARE", &|s| text(&s["share"])),
        ("CLIENT", &|s| text(&s["client"])),
        ("CONNECTED", &|s| text(&s["connected"])),
        ("QOS", &|s| number(&s["qos"])),
        ("ID", &|s| number(&s["id"])),
    ];
    table(columns, items)
}
