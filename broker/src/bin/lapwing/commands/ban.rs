//! `lapwing ban add|remove|list`: the list of bans. A running broker sees a change within seconds.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use lapwing::internals::auth::ban::{self, Ban, Change, Whom};
use lapwing::internals::config::{Config, network};

/// Commands for the list of bans.
#[derive(Debug, Subcommand)]
pub enum BanCommand {
    /// Ban a client, user or address, and disconnect it
    Add {
        #[command(flatten)]
        whom: WhomArguments,
        /// The duration, like 10m, 2h or 7days; without it until it is removed
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Option<std::time::Duration>,
        /// The reason, for the log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Remove a ban
    Remove {
        #[command(flatten)]
        whom: WhomArguments,
    },
    /// Print all bans
    List,
}

/// Subject of a ban: exactly one of these.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct WhomArguments {
    /// A client identifier
    #[arg(long)]
    pub client: Option<String>,
    /// A user
    #[arg(long)]
    pub user: Option<String>,
    /// An address, or a network like 192.0.2.0/24
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
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

/// Runs the command.
///
/// # Errors
/// Returns the reason that it failed.
pub fn run(command: &BanCommand, config: &Config) -> Result<ExitCode, String> {
    let path = config.auth.ban_file.as_ref().map(PathBuf::from).ok_or(
        "which list? Add -c FILE with a configuration that has auth.ban_file, as the broker is started with it",
    )?;
    let name = path.display().to_string();
    match command {
        BanCommand::Add { whom, time, reason } => {
            let whom = whom.whom()?;
            let until_s = time.map(|time| ban::now_s() + time.as_secs());
            let ban = Ban { whom: whom.clone(), until_s, reason: reason.as_str().into() };
            Change::Add(ban).carry_out(&path)?;
            eprintln!("{whom} is banned in {name}");
        }
        BanCommand::Remove { whom } => {
            let whom = whom.whom()?;
            if Change::Remove(whom.clone()).carry_out(&path)?.is_none() {
                return Err(format!("{whom} is not in {name}; `lapwing ban list` prints all bans"));
            }
            eprintln!("{whom} is no longer banned");
        }
        BanCommand::List => {
            for ban in ban::list(&path)?.iter().filter(|ban| ban.holds(ban::now_s())) {
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
