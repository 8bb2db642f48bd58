//! `lapwing-bench`: what the broker costs, measured from outside.
//!
//! Now only `idle`: the memory of the broker without clients and with many idle ones. The load generator and the comparison with
//! other brokers are to come.

mod idle;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures the broker.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Resident memory without clients, and for each idle plain connection
    Idle(idle::Idle),
}

fn main() -> ExitCode {
    let What::Idle(idle) = Arguments::parse().what;
    match idle.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lapwing-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
