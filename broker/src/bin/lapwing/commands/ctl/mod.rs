//! `lapwing ctl`: inspects a running broker and acts on it, through its API ([`link`]).
//!
//! A command, or a few that belong together, is a file of its own: its request, and the form of
//! the answer for people ([`table`]). With `--json` the answer of the API is printed as it came.

mod act;
mod clients;
mod explain;
mod link;
mod listeners;
mod reload;
mod retained;
mod subscriptions;
mod table;
mod top;
mod trace;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use lapwing::internals::config::Source;
use serde_json::{Value, json};

use self::link::{Link, Said};

/// Options of `lapwing ctl`.
#[derive(Args, Debug)]
pub struct Ctl {
    /// The Unix socket of the broker [default: as the configuration says,
    /// lapwing-data/lapwing.sock, or that of the installed service]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// The address of the broker (admin.address) in place of its socket, like
    /// http://127.0.0.1:9883; needs its token
    #[arg(long, global = true)]
    url: Option<String>,
    /// A file with the token [default: LAPWING_ADMIN__TOKEN, or the configuration]
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// List clients
    Clients(clients::Clients),
    /// Show one client in detail
    Client(clients::Client),
    /// Show the busiest clients, live
    ///
    /// `lapwing top` shows the busiest topics.
    Top(top::Top),
    /// Disconnect a client; its session waits for it
    Disconnect(act::Named),
    /// Ban a client, user or address, and disconnect it
    Ban(act::Ban),
    /// List bans
    Bans(act::Bans),
    /// Lift a ban
    Unban(act::Unban),
    /// Manage sessions
    #[command(subcommand)]
    Session(act::Session),
    /// List subscriptions
    Subscriptions(subscriptions::Subscriptions),
    /// List the subscriptions that match a topic
    Who(subscriptions::Who),
    /// Manage retained messages
    #[command(subcommand)]
    Retained(retained::Retained),
    /// List the listeners, with their traffic
    Listeners,
    /// Show or set the level of the log
    Log(act::Log),
    /// Say who would get a message on a topic now, and who would not, and why
    ///
    /// Asks the running broker. `lapwing explain` says, without a broker, which rule decides about
    /// one client.
    Explain(explain::Explain),
    /// Follow messages through the broker, live
    Trace(trace::Trace),
    /// Read the configuration and its files again
    Reload,
}

/// Runs the command.
///
/// # Errors
/// Returns the reason that it failed.
pub fn run(ctl: &Ctl, source: &Source) -> Result<ExitCode, String> {
    let desk = Desk { link: Link::find(ctl, source)?, json: ctl.json };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| error.to_string())?.block_on(async {
        match &ctl.command {
            CtlCommand::Clients(clients) => clients.run(&desk).await,
            CtlCommand::Client(client) => client.run(&desk).await,
            CtlCommand::Top(top) => top.run(&desk).await,
            CtlCommand::Disconnect(client) => client.disconnect(&desk).await,
            CtlCommand::Ban(ban) => ban.run(&desk).await,
            CtlCommand::Bans(bans) => bans.run(&desk).await,
            CtlCommand::Unban(unban) => unban.run(&desk).await,
            CtlCommand::Session(session) => session.run(&desk).await,
            CtlCommand::Subscriptions(subscriptions) => subscriptions.run(&desk).await,
            CtlCommand::Who(who) => who.run(&desk).await,
            CtlCommand::Retained(retained) => retained.run(&desk).await,
            CtlCommand::Listeners => listeners::run(&desk).await,
            CtlCommand::Log(log) => log.run(&desk).await,
            CtlCommand::Explain(explain) => explain.run(&desk).await,
            CtlCommand::Trace(trace) => trace.run(&desk).await,
            CtlCommand::Reload => reload::run(&desk).await,
        }
    });
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Said::Failure(failure)) if ctl.json => {
            print(&format!("{failure}\n"))?;
            Ok(ExitCode::FAILURE)
        }
        Err(said) => Err(said.to_string()),
    }
}

/// Link and output of a command.
struct Desk {
    link: Link,
    json: bool,
}

/// Names and values of a query; a `None` is left out.
type Query<'a> = [(&'a str, Option<String>)];

impl Desk {
    /// Sends a request and shows the answer: as JSON, or as `text` formats it.
    async fn show(
        &self,
        method: &str,
        path: &str,
        query: &Query<'_>,
        body: Option<Value>,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<(), Said> {
        let answer = self.link.ask(method, &link::with_query(path, query), body).await?;
        let shown = if self.json { format!("{answer}\n") } else { text(&answer) };
        print(&shown).map_err(Said::Link)
    }

    /// Requests a list, page by page, until there are `limit` items or no more, and shows it.
    async fn list(
        &self,
        path: &str,
        query: &Query<'_>,
        limit: usize,
        text: impl FnOnce(&[Value]) -> String,
    ) -> Result<(), Said> {
        let (mut items, mut next) = (Vec::new(), Value::Null);
        loop {
            let mut query = query.to_vec();
            query.push(("limit", Some((limit - items.len()).min(1_000).to_string())));
            query.push(("cursor", next.as_str().map(str::to_owned)));
            let mut page = self.link.ask("GET", &link::with_query(path, &query), None).await?;
            if let Some(more) = page.get_mut("items").and_then(Value::as_array_mut) {
                items.append(more);
            }
            next = page["next"].take();
            if next.is_null() || items.len() >= limit {
                break;
            }
        }
        if self.json {
            return print(&format!("{}\n", json!({ "items": items, "next": next }))).map_err(Said::Link);
        }
        print(&text(&items)).map_err(Said::Link)?;
        if !next.is_null() {
            eprintln!("lapwing: there are more; use --limit to show them");
        }
        Ok(())
    }
}

/// Arguments of a list.
#[derive(Args, Debug)]
struct Part {
    /// The number of items to show
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl Part {
    fn limit(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }
}

/// A closed pipe is no error.
fn print(text: &str) -> Result<(), String> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}
