//! `lapwing ban add|remove|list`: who is not let in. A running broker sees the change within seconds.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use lapwing::auth::ban::{self, Ban, Whom};
use lapwing::config::{Config, network};

/// See the module.
#[derive(Debug, Subcommand)]
pub enum BanCommand {
    /// Let somebody in no more; who is connected is disconnected
    Add {
        #[command(flatten)]
        whom: WhomArguments,
        /// For how long, like 10m, 2h or 7days; without it until it is removed
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Option<std::time::Duration>,
        /// Why, for the log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let somebody in again
    Remove {
        #[command(flatten)]
        whom: WhomArguments,
    },
    /// Print all of them
    List,
}

/// Exactly one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct WhomArguments {
    /// A client identifier
    #[arg(long)]
    client: Option<String>,
    /// A user
    #[arg(long)]
    user: Option<String>,
    /// An address, or a network like 192.0.2.0/24
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
}

impl WhomArguments {
    fn whom(&self) -> Result<Whom, String> {
        match (&self.client, &self.user, &self.address) {
            (Some(id), ..) => Ok(Whom::Client(id.as_str().into())),
            (_, Some(user), _) => Ok(Whom::User(user.as_str().into())),
            (.., address) => {
                let text = address.as_deref().unwrap_or_default();
                let net = network(text)
                    .ok_or_else(|| format!("'{text}' is no address and no network like 192.0.2.0/24"))?;
                Ok(Whom::Address(net))
            }
        }
    }
}

/// Takes the place of the file whole: who reads it meanwhile reads the old one.
fn write(path: &Path, bans: &[Ban]) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(wrong)?;
    let text: Vec<String> = bans.iter().map(Ban::to_toml).collect();
    file.write_all(text.join("\n").as_bytes()).and_then(|()| file.sync_all()).map_err(wrong)?;
    std::fs::rename(&new, path).map_err(wrong)
}

/// Carries it out.
///
/// # Errors
/// What is in the way.
pub fn run(command: &BanCommand, config: &Config) -> Result<ExitCode, String> {
    let path = config.auth.ban_file.as_ref().map(PathBuf::from).ok_or(
        "which list? Add -c FILE with a configuration that has auth.ban_file, as the broker is started with it",
    )?;
    let name = path.display().to_string();
    let mut bans = match std::fs::read_to_string(&path) {
        Ok(text) => ban::read(&text, &name).map_err(|errors| errors.join("\n"))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("{name}: {error}")),
    };
    match command {
        BanCommand::Add { whom, time, reason } => {
            let whom = whom.whom()?;
            let until_s = time.map(|time| ban::now_s() + time.as_secs());
            bans.retain(|ban| ban.whom != whom && ban.holds(ban::now_s()));
            bans.push(Ban { whom: whom.clone(), until_s, reason: reason.as_str().into() });
            write(&path, &bans)?;
            eprintln!("{whom} is banned in {name}");
        }
        BanCommand::Remove { whom } => {
            let whom = whom.whom()?;
            let before = bans.len();
            bans.retain(|ban| ban.whom != whom);
            if bans.len() == before {
                return Err(format!("{whom} is not in {name}; `lapwing ban list` prints who is"));
            }
            write(&path, &bans)?;
            eprintln!("{whom} is let in again");
        }
        BanCommand::List => {
            for ban in bans.iter().filter(|ban| ban.holds(ban::now_s())) {
                let until = ban.until_s.map_or_else(
                    || "for good".to_owned(),
                    |s| {
                        format!(
                            "until {}",
                            humantime::format_rfc3339_seconds(
                                std::time::UNIX_EPOCH + std::time::Duration::from_secs(s)
                            )
                        )
                    },
                );
                println!("{}\t{until}\t{}", ban.whom, ban.reason);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
