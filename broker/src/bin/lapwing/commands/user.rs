//! `lapwing user add|remove|list|check`: the password file. A running broker sees the change within
//! seconds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use lapwing::internals::auth::password::{Hash, PasswordEntry, Passwords, check_name, cost, edit, line};
use lapwing::internals::auth::scram::Verifier;
use lapwing::internals::config::Config;
use zeroize::Zeroizing;

/// Commands for the password file.
#[derive(Debug, Subcommand)]
pub enum User {
    /// Add a user, or set a new password: asked for on the terminal, or the first line of standard
    /// input
    Add {
        /// The user
        name: String,
        /// Allow SCRAM-SHA-256, too. Its stored data costs less to attack than argon2id
        #[arg(long)]
        scram: bool,
        /// Generate a strong password, and print it
        #[arg(long)]
        generate: bool,
    },
    /// Remove a user, and close its connections
    Remove {
        /// The user
        name: String,
    },
    /// Print all users, and how their passwords are stored
    List,
    /// Check a password of a user
    Check {
        /// The user
        name: String,
    },
}

fn read(path: &Path) -> Result<Passwords, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Passwords::parse(&text, &path.display().to_string()).map_err(|errors| errors.join("\n"))
}

fn write(path: &Path, user: &str, new: Option<String>) -> Result<(), String> {
    let mut new = new;
    let append: Vec<String> = match path.exists().then(|| read(path)).transpose()? {
        Some(passwords) if passwords.get(user).is_some() => Vec::new(),
        _ => new.take().into_iter().collect(),
    };
    let mut judge = |name: &str, old: &str| if name == user { new.take() } else { Some(old.to_owned()) };
    edit(path, &mut judge, &append).map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns 128 random bits in a form that can be typed.
fn generate() -> Result<Zeroizing<Vec<u8>>, String> {
    let mut random = Zeroizing::new([0u8; 16]);
    getrandom::fill(&mut *random).map_err(|error| format!("no randomness: {error}"))?;
    Ok(Zeroizing::new(random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()))
}

/// Runs the command.
///
/// # Errors
/// Returns the reason that it failed.
pub fn run(command: &User, config: &Config) -> Result<ExitCode, String> {
    let path = config.auth.password_file.as_ref().map(PathBuf::from).ok_or(
        "which file? Add --password-file FILE, or -c FILE with a configuration that has auth.password_file",
    )?;
    match command {
        User::Add { name, scram, generate: made } => {
            check_name(name)?;
            // A broken file is reported before the password is asked for.
            let known =
                path.exists().then(|| read(&path)).transpose()?.is_some_and(|all| all.get(name).is_some());
            let password = if *made { generate()? } else { super::password::read(name, true)? };
            let hash = Hash::make(&password, cost(&config.auth), &mut Vec::new())?;
            let scram = scram.then(|| Verifier::make(&password)).transpose()?;
            write(&path, name, Some(line(name, &PasswordEntry { hash, scram })))?;
            if *made {
                println!("{}", String::from_utf8_lossy(&password));
            }
            eprintln!("{} {name} in {}", if known { "a new password for" } else { "added" }, path.display());
        }
        User::Remove { name } => {
            if read(&path)?.get(name).is_none() {
                return Err(format!("there is no user '{name}' in {}", path.display()));
            }
            write(&path, name, None)?;
            eprintln!("removed {name} from {}", path.display());
        }
        User::List => {
            for (name, entry) in read(&path)?.names() {
                let kind = match &entry.hash {
                    Hash::Argon2id { .. } => "argon2id",
                    Hash::Pbkdf2 { .. } => "Mosquitto $7$",
                    Hash::Sha512 { .. } => "Mosquitto $6$",
                };
                println!("{name}\t{kind}{}", if entry.scram.is_some() { ", SCRAM-SHA-256" } else { "" });
            }
        }
        User::Check { name } => {
            let passwords = read(&path)?;
            let entry = passwords
                .get(name)
                .ok_or_else(|| format!("there is no user '{name}' in {}", path.display()))?;
            let password = super::password::read(name, false)?;
            let right = entry.hash.verify(&password, &mut Vec::new());
            println!("{}", if right { "right" } else { "wrong" });
            return Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}
