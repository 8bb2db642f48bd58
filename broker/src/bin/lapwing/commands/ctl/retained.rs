//! `lapwing ctl retained`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::link::Said;
use super::table::{Cell, Column, bytes, number, plain, size, table, text, time};
use super::{Desk, Part};

#[derive(Debug, Subcommand)]
pub enum Retained {
    /// List retained messages
    List(List),
    /// Count retained messages
    Count(Which),
    /// Delete retained messages: their subscribers get an empty message each
    Delete(All),
}

/// Options of `lapwing ctl retained list`.
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    part: Part,
}

/// A topic filter with a default.
#[derive(Args, Debug)]
pub struct Which {
    /// A topic filter; quote it, since shells have uses for + and #
    #[arg(default_value = "#")]
    filter: String,
}

/// A required topic filter.
#[derive(Args, Debug)]
pub struct All {
    /// A topic filter; quote it, since shells have uses for + and #
    filter: String,
}

/// Characters of a payload that are shown.
const PAYLOAD_SHOWN: usize = 60;

impl Retained {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let query = |filter: &String| [("filter", Some(filter.clone()))];
        match self {
            Retained::List(List { which, part }) => {
                let columns: &[Column<'_>] = &[
                    ("TOPIC", &|m| text(&m["topic"])),
                    ("QOS", &|m| number(&m["qos"])),
                    ("AGE", &|m| time(&m["age_ms"])),
                    ("BYTES", &|m| size(&m["payload_bytes"])),
                    ("PAYLOAD", &|m| Cell::Text(start(&m["payload"]))),
                ];
                desk.list("/retained", &query(&which.filter), part.limit(), |items| table(columns, items))
                    .await
            }
            Retained::Count(which) => {
                let said = |answer: &Value| {
                    let size = answer["bytes"].as_u64().map_or_else(String::new, bytes);
                    format!("{} messages, {size}\n", plain(&answer["messages"]))
                };
                desk.show("GET", "/retained/count", &query(&which.filter), None, said).await
            }
            Retained::Delete(all) => {
                let said = |answer: &Value| format!("{} messages deleted\n", plain(&answer["messages"]));
                desk.show("DELETE", "/retained", &query(&all.filter), None, said).await
            }
        }
    }
}

fn start(payload: &Value) -> String {
    let whole = plain(payload);
    match whole.char_indices().nth(PAYLOAD_SHOWN) {
        Some((at, _)) => format!("{}…", whole.get(..at).unwrap_or_default()),
        None => whole,
    }
}
