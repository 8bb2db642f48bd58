//! `lapwing-bench`: the cost of the broker, measured from outside.
//!
//! - `compare`: brokers side by side in many scenarios, CPU time for each message.
//! - `relay`: the least CPU time that the kernel needs for the same bytes.
//! - `curves`: the cost of a message against the number of clients and topics.
//! - `scale`: what that means for more cores and connections than this machine has.
//! - `cores`: the throughput of two cores against one.
//! - `instructions`: the instructions of a message, in a table that CI compares with.
//! - `idle`: memory without clients, and with many idle ones.
//! - `store`: the cost of durability, beside Mosquitto and rumqttd.
//! - `storm`: devices with passwords that all connect at once.

mod broker;
mod client;
mod compare;
mod cores;
mod curves;
mod idle;
mod instructions;
mod load;
mod measure;
mod peer;
mod plot;
mod relay;
mod scale;
mod scenario;
mod store;
mod storm;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures the broker.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare brokers side by side: CPU time of each message, rates, latencies, memory
    Compare(compare::Compare),
    /// Measure the cost of a message against the number of connections, subscriptions, topics
    Curves(curves::Curves),
    /// Count the instructions of a message, and compare them with a table
    Instructions(instructions::Instructions),
    /// Do an action many times, for `instructions`
    #[command(hide = true)]
    Work(instructions::RepeatAction),
    /// Compare the throughput of one core and two
    Cores(cores::Cores),
    /// Work out the needs of many cores and a million connections from what a few take
    Scale(scale::Scale),
    /// Measure the cost of copying the bytes
    Relay(relay::Relay),
    /// Measure resident memory without clients, and for each idle connection
    Idle(idle::Idle),
    /// Connect ten thousand devices with passwords at once, and measure a pair beside them
    Storm(storm::Storm),
    /// Measure rates, bytes and restarts of the durable store, beside other brokers
    Store(store::Store),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().what {
        Command::Compare(compare) => compare.run().map_err(|error| error.to_string()),
        Command::Curves(curves) => curves.run().map_err(|error| error.to_string()),
        Command::Instructions(instructions) => instructions.run().map_err(|error| error.to_string()),
        Command::Work(work) => work.run().map_err(|error| error.to_string()),
        Command::Cores(cores) => cores.run().map_err(|error| error.to_string()),
        Command::Scale(scale) => scale.run().map_err(|error| error.to_string()),
        Command::Relay(relay) => relay.run().map_err(|error| error.to_string()),
        Command::Idle(idle) => idle.run().map_err(|error| error.to_string()),
        Command::Storm(storm) => storm.run().map_err(|error| error.to_string()),
        Command::Store(store) => store.run().map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lapwing-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
