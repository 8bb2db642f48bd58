//! `lapwing pub`, `sub`, `rr` and `top`: clients of any broker, with the flags of mosquitto_pub,
//! _sub and _rr where they mean the same.
//!
//! Their flags are letters that the broker's own arguments use for other things (`-c`, `-p`, `-h`),
//! so the tools have their own parser. Protocol logic is that of `lapwing-protocol` (codec,
//! flights, keep-alive). All tools share `connection`: one task, no shared state.

mod connection;
mod failure;
mod format;
mod link;
mod options;
mod progress;
mod properties;
mod publish;
mod request;
mod subscribe;
mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::Failure;

/// Clients for the command line
#[derive(Debug, Parser)]
#[command(name = "lapwing", max_term_width = 100)]
pub struct Tools {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_flag = true, disable_help_subcommand = true)]
enum Tool {
    /// Publish messages from the command line, files or standard input
    Pub(Box<publish::Publish>),
    /// Print the messages of topic filters
    Sub(Box<subscribe::Subscribe>),
    /// Publish a request and print its response
    Rr(Box<request::Request>),
    /// Watch which topics are busy
    ///
    /// `lapwing ctl top` shows the busiest clients.
    Top(Box<top::Top>),
}

/// Runs a tool, if the arguments name one.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<OsString> = arguments.collect();
    let tool = arguments.get(1).and_then(|first| first.to_str())?;
    if !["pub", "sub", "rr", "top"].contains(&tool) {
        return None;
    }
    let tools = match Tools::try_parse_from(&arguments) {
        Ok(tools) => tools,
        Err(error) => {
            let _ = error.print();
            return Some(if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    };
    Some(finish(tools.tool, tool))
}

fn finish(chosen: Tool, name: &str) -> ExitCode {
    let quiet = match &chosen {
        Tool::Pub(tool) => tool.connect.quiet,
        Tool::Sub(tool) => tool.connect.quiet,
        Tool::Rr(tool) => tool.connect.quiet,
        Tool::Top(tool) => tool.connect.quiet,
    };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(error.to_string()))
        .and_then(|runtime| {
            let result = runtime.block_on(async {
                match chosen {
                    Tool::Pub(tool) => publish::run(*tool).await,
                    Tool::Sub(tool) => subscribe::run(*tool).await,
                    Tool::Rr(tool) => request::run(*tool).await,
                    Tool::Top(tool) => top::run(*tool).await,
                }
            });
            // A read of standard input cannot be cancelled; the process ends with it.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !quiet && !failure.text.is_empty() {
                eprintln!("lapwing {name}: {}", failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}
