//! `lapwing config`: the configuration in force, and the reference of all keys. `lapwing convert`:
//! TOML from a mosquitto.conf.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lapwing::internals::config::{Config, ConfigErrors, Format, Source};

/// Options of `lapwing config`.
#[derive(Debug, Args)]
pub struct ConfigCommand {
    /// Print all keys with defaults, ranges and descriptions, as Markdown
    #[arg(long)]
    reference: bool,
}

/// Prints the configuration as TOML, each line with the source of its value. Contradictions are
/// printed, and reported.
///
/// # Errors
/// Returns the mistakes in it.
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

/// Options of `lapwing convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The mosquitto.conf
    file: PathBuf,
}

/// Prints the equivalent TOML, with the options that have no meaning here above it.
///
/// # Errors
/// Returns the mistakes in the file.
pub fn convert(convert: &Convert) -> Result<ExitCode, ConfigErrors> {
    let (file, format) = (Some(convert.file.clone()), Some(Format::Mosquitto));
    let reading = Source { file, format, ..Source::default() }.read()?;
    println!("# From {}.", convert.file.display());
    reading.warnings.iter().for_each(|text| println!("# {text}"));
    print!("\n{}", reading.config.to_toml());
    Ok(ExitCode::SUCCESS)
}
