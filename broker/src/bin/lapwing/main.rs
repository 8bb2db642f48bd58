//! The program: parses its arguments and runs the command. Everything else is the library.

mod arguments;
mod commands;
mod serve;
mod systemd;

use std::path::Path;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use lapwing::internals::config::Source;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = commands::tools::run(std::env::args_os()) {
        return code;
    }
    let arguments = Arguments::parse();
    let source = arguments.source();
    match arguments.command {
        Some(command) => run(&command, &source).unwrap_or_else(|error| fail(&error)),
        None if arguments.test_config => test(&source).unwrap_or_else(|error| fail(&error)),
        None => match read(&source) {
            Ok(reading) => serve::run(source, reading),
            Err(error) => fail(&error),
        },
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lapwing: {error}");
    ExitCode::FAILURE
}

/// Reads and checks the configuration.
fn read(source: &Source) -> Result<lapwing::internals::config::Reading, String> {
    let reading = source.read().map_err(|errors| errors.to_string())?;
    reading.config.check().map_err(|errors| errors.to_string())?;
    Ok(reading)
}

fn run(command: &Command, source: &Source) -> Result<ExitCode, String> {
    let config = || read(source).map(|reading| reading.config);
    match command {
        Command::Store(command) => {
            let folder = config()?.store.data_dir;
            commands::store::run(command, Path::new(&folder)).map_err(|error| error.to_string())
        }
        Command::User(command) => commands::user::run(command, &config()?),
        Command::Ban(command) => commands::ban::run(command, &config()?),
        Command::Ctl(ctl) => commands::ctl::run(ctl, source),
        Command::Cert(cert) => commands::cert::run(cert),
        Command::Explain(explain) => commands::explain::run(explain, &config()?),
        Command::Convert(convert) => commands::config::convert(convert).map_err(|error| error.to_string()),
        Command::Completions(completions) => commands::manual::completions(completions),
        Command::Man(man) => commands::manual::man(man),
        // The tools have their own parser and were run before.
        Command::Pub | Command::Sub | Command::Rr | Command::Top => Ok(ExitCode::SUCCESS),
        Command::Config(command) => commands::config::run(command, source).map_err(|error| error.to_string()),
    }
}

fn test(source: &Source) -> Result<ExitCode, String> {
    let reading = read(source)?;
    lapwing::check_files(&reading.config)?;
    reading.warnings.iter().for_each(|text| eprintln!("lapwing: {text}"));
    println!("the configuration is valid");
    Ok(ExitCode::SUCCESS)
}
