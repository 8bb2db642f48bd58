//! `lapwing config`: the configuration that is in force, and the reference of all keys.

use std::process::ExitCode;

use clap::Args;
use lapwing::config::{Config, ConfigErrors, Source};

/// See the module.
#[derive(Debug, Args)]
pub struct ConfigCommand {
    /// Print all keys with defaults, ranges and what they do, as Markdown
    #[arg(long)]
    reference: bool,
}

/// Prints it as TOML, each line with where its value came from. What makes no sense together is shown all the same, and said.
///
/// # Errors
/// What is wrong with it.
pub fn run(command: &ConfigCommand, source: &Source) -> Result<ExitCode, ConfigErrors> {
    if command.reference {
        print!("{}", Config::reference());
        return Ok(ExitCode::SUCCESS);
    }
    let reading = source.read()?;
    print!("{}", reading.effective());
    reading.warnings.iter().for_each(|text| eprintln!("lapwing: {text}"));
    reading.config.check().map(|()| ExitCode::SUCCESS)
}
