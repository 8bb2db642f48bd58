//! `lapwing ctl trace`: live traces of messages.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};

use clap::Args;
use serde_json::Value;

use super::Desk;
use super::link::{Said, with_query};
use super::table::plain;

/// Options of `lapwing ctl trace`.
#[derive(Args, Debug)]
pub struct Trace {
    /// Only messages from this client or to it
    #[arg(long)]
    client: Option<String>,
    /// Only topics that this filter matches, mount point included
    #[arg(long, value_name = "FILTER")]
    topic: Option<String>,
    /// Seconds that the trace lasts
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// End after this many lines
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Messages that are remembered as introduced.
const INTRODUCED_MAX: usize = 1_024;

impl Trace {
    pub async fn run(&self, desk: &Desk) -> Result<(), Said> {
        let query = [
            ("client", self.client.clone()),
            ("topic", self.topic.clone()),
            ("seconds", Some(self.seconds.to_string())),
        ];
        let mut introduced: VecDeque<u64> = VecDeque::new();
        let mut left = self.count;
        let (path, mut ended) = (with_query("/trace", &query), false);
        let followed = desk.link.lines(&path, |line| {
            let of_trace = line["step"] == "started" || line["step"] == "ended";
            let shown = if desk.json { format!("{line}\n") } else { shown(&line, &mut introduced) };
            // A redirected output holds nothing but events.
            if of_trace && !desk.json {
                eprint!("{shown}");
                return Ok(());
            }
            match std::io::stdout().write_all(shown.as_bytes()) {
                Ok(()) => {}
                // A closed pipe ends the trace.
                Err(error) => {
                    ended = error.kind() == ErrorKind::BrokenPipe;
                    return Err(Said::Link(format!("standard output: {error}")));
                }
            }
            if let Some(left) = left.as_mut().filter(|_| !of_trace) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    ended = true;
                    return Err(Said::Link(String::new()));
                }
            }
            Ok(())
        });
        let result = followed.await;
        if ended { Ok(()) } else { result }
    }
}

/// Formats an event: time of day (UTC), number of the message, step and subscriber. The first line
/// about a message has its publisher and topic, too.
fn shown(line: &Value, introduced: &mut VecDeque<u64>) -> String {
    let at = line["at"].as_str().and_then(|at| at.get(11..23)).unwrap_or("-");
    let step = plain(&line["step"]);
    match &*step {
        "started" => return format!("{at} following, {}; Ctrl-C ends it\n", plain(&line["detail"])),
        "ended" => return format!("{at} ended: {}\n", plain(&line["detail"])),
        "lost" => {
            return format!("{at} … {} events lost: {}\n", plain(&line["lost"]), plain(&line["detail"]));
        }
        _ => {}
    }
    let id = line["message"].as_u64();
    let known = id.is_some_and(|id| introduced.contains(&id));
    if let Some(id) = id.filter(|_| !known) {
        if introduced.len() >= INTRODUCED_MAX {
            introduced.pop_front();
        }
        introduced.push_back(id);
    }
    let number = id.map_or_else(|| "#-".to_owned(), |id| format!("#{id}"));
    let message = if known {
        "  ".to_owned()
    } else {
        let (from, topic) = (plain(&line["from"]), plain(&line["topic"]));
        format!("{from} → {topic} QoS {} {} B: ", plain(&line["qos"]), plain(&line["bytes"]))
    };
    let client =
        if line["client"].is_null() { String::new() } else { format!("{}: ", plain(&line["client"])) };
    let detail = plain(&line["detail"]);
    let what = match (line["reason"].as_str(), &*step) {
        (Some(reason), _) => format!("{step} ({reason}): {detail}"),
        (None, "retained") => step,
        (None, "matched") => format!("{step} {detail}"),
        (None, _) => format!("{step} ({detail})"),
    };
    format!("{at} {number} {message}{client}{what}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_line_introduces_a_message_and_each_step_has_a_line() {
        let line = |message: Value, client: Value, step: &str, reason: Value, detail: &str| {
            json!({
                "at": "2026-01-02T12:03:04.123Z", "message": message, "from": "kitchen", "topic": "home/\u{1b}temp", "qos": 1, "bytes": 64,
                "client": client, "step": step, "reason": reason, "detail": detail, "lost": null,
            })
        };
        let mut introduced = VecDeque::new();
        let mut say = |line: Value| shown(&line, &mut introduced);
        assert_eq!(
            say(line(json!(7), json!(null), "accepted", json!(null), "acl.toml:3")),
            "12:03:04.123 #7 kitchen → home/\\u{1b}temp QoS 1 64 B: accepted (acl.toml:3)\n"
        );
        assert_eq!(
            say(line(json!(7), json!(null), "matched", json!(null), "2 sessions")),
            "12:03:04.123 #7   matched 2 sessions\n"
        );
        assert_eq!(
            say(line(json!(7), json!("tv"), "dropped", json!("session_queue_full"), "its queue was full")),
            "12:03:04.123 #7   tv: dropped (session_queue_full): its queue was full\n"
        );
        assert_eq!(
            say(line(json!(null), json!("tv"), "sent", json!(null), "QoS 1")),
            "12:03:04.123 #- kitchen → home/\\u{1b}temp QoS 1 64 B: tv: sent (QoS 1)\n"
        );
        let lost =
            json!({ "at": "2026-01-02T12:03:04.123Z", "step": "lost", "lost": 5, "detail": "too fast" });
        assert_eq!(say(lost), "12:03:04.123 … 5 events lost: too fast\n");
    }
}
