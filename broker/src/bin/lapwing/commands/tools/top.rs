//! `lapwing top`: the busiest topics, as a tree, live in the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use lapwing_protocol::packet::Subscription;
use lapwing_protocol::{QoS, Version};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::connection::{Connection, Event, Message};
use super::failure::Failure;
use super::options::{ConnectOptions, check_filter, seconds};
use super::progress::size;
use crate::commands::screen::Screen;

/// Largest number of tree nodes; topics beyond it count for the levels above them.
const PLACES_MAX: usize = 50_000;
/// Topics of the broker's own figures, for the first line.
const SYS: &str = "$SYS/broker/#";

/// Options of `lapwing top`.
#[derive(Debug, Args)]
pub struct Top {
    #[command(flatten)]
    pub connect: ConnectOptions,
    /// A topic filter to watch; can be given several times
    #[arg(short, long, action = ArgAction::Append, value_name = "FILTER", default_value = "#")]
    topic: Vec<String>,
    /// The number of topic levels to tell apart
    #[arg(long, value_name = "LEVELS", default_value_t = 4)]
    depth: usize,
    /// The figure to order by
    #[arg(long, value_enum, default_value = "messages")]
    by: By,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    interval: Duration,
    /// Print one look as plain text and end
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Messages,
    Bytes,
}

#[derive(Default)]
struct Node {
    below: BTreeMap<String, Node>,
    all: u64,
    messages: u64,
    bytes: u64,
}

/// Messages since the last look, by topic level.
struct Tree {
    root: Node,
    places: usize,
    depth: usize,
    by: By,
    sys: BTreeMap<String, String>,
}

/// A look that is being drawn.
struct Look {
    by: By,
    /// Smallest weight that is shown.
    least: (u64, u64),
    seconds: f64,
    /// Number of rows left.
    rows: usize,
    text: String,
}

/// Runs `lapwing top`.
pub async fn run(options: Top) -> Result<(), Failure> {
    let client = options.connect.client("top", Version::V5)?;
    for filter in &options.topic {
        check_filter(filter)?;
    }
    if options.interval.is_zero() {
        return Err(Failure::new("--interval must be more than 0"));
    }
    let mut connection = Connection::open(&client).await?;
    let filters = options.topic.iter().map(String::as_str).chain([SYS]);
    let list: Vec<_> = filters.map(|filter| Subscription::new(filter, QoS::AtMostOnce)).collect();
    connection.subscribe(&list, &[])?;
    let mut tree = Tree {
        root: Node::default(),
        places: 0,
        depth: options.depth.max(1),
        by: options.by,
        sys: BTreeMap::new(),
    };
    let screen = Screen::new(!options.once && std::io::stdout().is_terminal());
    let mut looks = interval_at(Instant::now() + options.interval, options.interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut since = Instant::now();
    loop {
        tokio::select! {
            event = connection.next() => match event? {
                Event::Message(message) => tree.count(&message),
                // The broker's own topics may be refused; the watched ones may not.
                Event::Subscribed(reasons) => {
                    let mut watched = reasons.iter().zip(&options.topic);
                    if let Some((reason, filter)) = watched.find(|(reason, _)| reason.is_failure()) {
                        let what = format!("the broker refused '{filter}'");
                        return Err(Failure::refused(&what, *reason, None, client.version));
                    }
                    since = Instant::now();
                }
                Event::Delivered { .. } | Event::Unsubscribed => {}
            },
            _ = looks.tick() => {
                let text = tree.look(since.elapsed(), screen.rows());
                since = Instant::now();
                screen.show(&text).map_err(|error| Failure::of("standard output", error))?;
                if options.once {
                    return connection.close().await;
                }
            }
            _ = tokio::signal::ctrl_c() => return connection.close().await,
        }
    }
}

impl Tree {
    fn count(&mut self, message: &Message) {
        let publish = message.publish();
        if let Some(name) = message.topic.strip_prefix("$SYS/broker/") {
            let value = String::from_utf8_lossy(publish.payload).into_owned();
            if self.sys.len() < PLACES_MAX {
                self.sys.insert(name.to_owned(), value);
            }
            return;
        }
        // A retained message was not published now.
        let live = u64::from(!publish.retain);
        let bytes = if publish.retain { 0 } else { publish.payload.len() as u64 };
        let mut node = &mut self.root;
        node.add(live, bytes);
        for level in message.topic.split('/').take(self.depth) {
            if !node.below.contains_key(level) {
                if self.places >= PLACES_MAX {
                    return;
                }
                self.places += 1;
            }
            node = node.below.entry(level.to_owned()).or_default();
            node.add(live, bytes);
        }
    }

    /// Draws the tree, with the counts of `time`, and resets them.
    fn look(&mut self, time: Duration, rows: usize) -> String {
        let seconds = time.as_secs_f64().max(0.001);
        let sys = |name: &str| self.sys.get(name).map_or("?", String::as_str);
        let text = format!(
            "{:.1} messages/s, {}/s on {} topics and levels; clients connected: {}, broker up: {}\n{:>12} {:>12} {:>12}  topic\n",
            self.root.messages as f64 / seconds,
            size((self.root.bytes as f64 / seconds) as u64),
            self.places,
            sys("clients/connected"),
            sys("uptime"),
            "messages/s",
            "bytes/s",
            "messages",
        );
        // The busiest nodes: a level is at least as busy as those below it, so no node is shown
        // without its parents.
        let mut weights = Vec::new();
        self.root.weights(self.by, &mut weights);
        weights.sort_unstable_by(|a, b| b.cmp(a));
        let least = weights.get(rows.saturating_sub(3)).copied().unwrap_or((0, 0));
        let mut look = Look { by: self.by, least, seconds, rows: rows.saturating_sub(2), text };
        self.root.print(0, &mut look);
        self.root.begin_anew();
        if self.places >= PLACES_MAX {
            self.places -= self.root.forget_idle();
        }
        look.text
    }
}

impl Node {
    fn add(&mut self, messages: u64, bytes: u64) {
        self.all += messages;
        self.messages += messages;
        self.bytes += bytes;
    }

    /// Returns the weight of a node: now, then since the start.
    fn weight(&self, by: By) -> (u64, u64) {
        (if by == By::Messages { self.messages } else { self.bytes }, self.all)
    }

    fn weights(&self, by: By, all: &mut Vec<(u64, u64)>) {
        for node in self.below.values() {
            all.push(node.weight(by));
            node.weights(by, all);
        }
    }

    fn print(&self, indent: usize, look: &mut Look) {
        let mut below: Vec<_> =
            self.below.iter().filter(|(_, node)| node.weight(look.by) >= look.least).collect();
        below.sort_by_key(|(_, node)| std::cmp::Reverse(node.weight(look.by)));
        for (level, node) in below {
            let Some(less) = look.rows.checked_sub(1) else { return };
            look.rows = less;
            let rate = node.messages as f64 / look.seconds;
            let bytes = size((node.bytes as f64 / look.seconds) as u64);
            // Topics come from strangers.
            let name: String =
                level.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
            let slash = if node.below.is_empty() { "" } else { "/" };
            let _ =
                writeln!(look.text, "{rate:>12.1} {bytes:>12} {:>12}  {:indent$}{name}{slash}", node.all, "");
            node.print(indent + 2, look);
        }
    }

    fn begin_anew(&mut self) {
        (self.messages, self.bytes) = (0, 0);
        self.below.values_mut().for_each(Node::begin_anew);
    }

    /// Removes nodes without messages since the last reset; returns their number.
    fn forget_idle(&mut self) -> usize {
        let before = self.size();
        self.below.retain(|_, node| node.messages > 0);
        before - self.size()
    }

    fn size(&self) -> usize {
        self.below.values().map(|node| 1 + node.size()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(topics: &[(&str, u64)]) -> Tree {
        let mut tree =
            Tree { root: Node::default(), places: 0, depth: 3, by: By::Messages, sys: BTreeMap::new() };
        for (topic, times) in topics {
            let mut node = &mut tree.root;
            node.add(*times, 10 * times);
            for level in topic.split('/') {
                node = node.below.entry(level.to_owned()).or_default();
                node.add(*times, 10 * times);
            }
        }
        tree
    }

    #[test]
    fn the_busiest_topics_come_first_with_their_parents() {
        let mut tree = tree(&[("a/quiet", 1), ("b/busy", 10), ("b/x", 2), ("c", 4)]);
        let text = tree.look(Duration::from_secs(1), 6);
        let names: Vec<_> = text.lines().skip(2).map(|line| line[40..].to_owned()).collect();
        assert_eq!(names, ["b/", "  busy", "  x", "c"]);
        let again = tree.look(Duration::from_secs(1), 20);
        assert!(again.lines().nth(2).unwrap().trim_start().starts_with("0.0"), "{again}");
    }
}
