//! `lapwing store check|export|import|backup`: the state on disk.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use lapwing::internals::store::tools;

/// Commands for the state on disk.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read the whole state, and report its content and damage
    Check,
    /// Write the whole state to a file that other versions and engines can read
    Export {
        /// A new file
        file: PathBuf,
    },
    /// Make a new state from an export
    Import {
        /// The export
        file: PathBuf,
    },
    /// Copy the state into a new folder, also while a broker uses it
    Backup {
        /// A new folder; `lapwing --data-dir` starts with it
        folder: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// Returns the reason that it failed.
pub fn run(command: &StoreCommand, data_dir: &Path) -> Result<ExitCode, lapwing::internals::store::Problem> {
    match command {
        StoreCommand::Check => {
            let report = tools::check(data_dir)?;
            println!("{report}");
            return Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        StoreCommand::Export { file } => {
            let records = tools::export(data_dir, file)?;
            println!("{records} records written to {}", file.display());
        }
        StoreCommand::Import { file } => {
            let records = tools::import(data_dir, file)?;
            println!("{records} records read into {}", data_dir.display());
        }
        StoreCommand::Backup { folder } => {
            tools::backup(data_dir, folder)?;
            println!("backup made: lapwing --data-dir {}", folder.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
