//! `lapwing config`: the configuration that is in force, and the reference of all keys. `lapwing
//! convert`: from mosquitto.conf.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lapwing::internals::config::{Config, ConfigErrors, Format, Source};

/// See the module.
#[derive(Debug, Args)]
pub struct ConfigCommand {
    /// Print all keys with defaults, ranges and what they do, as Markdown
    #[arg(long)]
    reference: bool,
}

/// Prints it as TOML, each line with where its value came from. What makes no sense together is
/// shown all the same, and said.
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

/// See the module.
#[derive(Debug, Args)]
pub struct Convert {
    /// The mosquitto.conf
    file: PathBuf,
}

/// Prints the TOML that does the same, with what has no meaning here above it.
///
/// # Errors
/// What is wrong with the file.
pub fn convert(convert: &Convert) -> Result<ExitCode, ConfigErrors> {
    let (file, format) = (Some(convert.file.clone()), Some(Format::Mosquitto));
    let reading = Source { file, format, ..Source::default() }.read()?;
    println!("# From {}.", convert.file.display());
    reading.warnings.iter().for_each(|text| println!("# {text}"));
    print!("\n{}", reading.config.to_toml());
    Ok(ExitCode::SUCCESS)
}
