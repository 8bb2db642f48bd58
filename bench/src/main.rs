//! `lapwing-bench`: what the broker costs, measured from outside.
//!
//! `compare`: brokers side by side in many scenarios, CPU time for each message. `relay`: what the kernel takes for that at least.
//! `curves`: how that changes as there is more of something. `scale`: what that means for more cores and connections than there are here.
//! `cores`: what two cores carry beside one.
//! `instructions`: what a message costs in instructions, kept in a table that CI compares with.
//! `idle`: the memory of the broker without clients and with many idle ones. `store`: what durability costs, beside Mosquitto and
//! rumqttd. `storm`: devices with passwords that all come at once.

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
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Brokers side by side: CPU time of each message, rates, latencies, memory
    Compare(compare::Compare),
    /// The cost of a message as there are more connections, subscriptions, topics
    Curves(curves::Curves),
    /// Instructions of a message, compared with those that are kept in a table
    Instructions(instructions::Instructions),
    /// Does a thing so many times, for the one above
    #[command(hide = true)]
    Work(instructions::Work),
    /// What two cores carry beside one
    Cores(cores::Cores),
    /// What many cores and a million connections would need, worked out from what a few take
    Scale(scale::Scale),
    /// What copying the bytes takes
    Relay(relay::Relay),
    /// Resident memory without clients, and for each idle plain connection
    Idle(idle::Idle),
    /// Ten thousand devices with passwords that come at once, and what that does to others
    Storm(storm::Storm),
    /// Rates, bytes and restarts of the durable store, beside other brokers
    Store(store::Store),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().what {
        What::Compare(compare) => compare.run().map_err(|error| error.to_string()),
        What::Curves(curves) => curves.run().map_err(|error| error.to_string()),
        What::Instructions(instructions) => instructions.run().map_err(|error| error.to_string()),
        What::Work(work) => work.run().map_err(|error| error.to_string()),
        What::Cores(cores) => cores.run().map_err(|error| error.to_string()),
        What::Scale(scale) => scale.run().map_err(|error| error.to_string()),
        What::Relay(relay) => relay.run().map_err(|error| error.to_string()),
        What::Idle(idle) => idle.run().map_err(|error| error.to_string()),
        What::Storm(storm) => storm.run().map_err(|error| error.to_string()),
        What::Store(store) => store.run().map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lapwing-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
