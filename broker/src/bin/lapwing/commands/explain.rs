//! `lapwing explain`: the rule that decides about an action of a client.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use lapwing::internals::auth::password::AuthState;
use lapwing::internals::auth::{Action, Policy, configured};
use lapwing::internals::config::Config;

/// Options of `lapwing explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The user; without it a client that has none
    #[arg(long)]
    user: Option<String>,
    /// The client identifier
    #[arg(long, default_value = "")]
    client: String,
    /// A group that comes with the credentials, as with a token; can be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The listener, by its name in the configuration; the first one by default
    #[arg(long)]
    listener: Option<String>,
    /// The action
    action: Wanted,
    /// The topic name, or the topic filter to subscribe to
    topic: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wanted {
    /// Publish to the topic
    Publish,
    /// Subscribe to the filter
    Subscribe,
    /// Receive a message of the topic
    Receive,
}

/// Prints the decision and the rule; success when it is allowed.
///
/// # Errors
/// Returns the mistakes in the configuration or its files.
pub fn run(explain: &Explain, config: &Config) -> Result<ExitCode, String> {
    let Explain { user, client, groups, listener, action, topic } = explain;
    let lasting = Arc::new(AuthState::new(&config.auth));
    let Some(policy) = configured(config, &[], &lasting).map_err(|errors| errors.join("\n"))? else {
        println!("allowed\nneither authentication nor rules are configured: every client may do everything");
        return Ok(ExitCode::SUCCESS);
    };
    let identity = policy.imagine(user.as_deref(), client, groups, listener.as_deref())?;
    let (action, inner) = match action {
        Wanted::Publish => (Action::Publish, topic.as_str()),
        Wanted::Subscribe => (
            Action::Subscribe,
            lapwing_protocol::topic::shared(topic).map_or(topic.as_str(), |(_, inner)| inner),
        ),
        Wanted::Receive => (Action::Receive, topic.as_str()),
    };
    let valid = match action {
        Action::Subscribe => lapwing_protocol::topic::check_filter(inner).is_ok(),
        _ => lapwing_protocol::topic::check_name(inner).is_ok(),
    };
    if !valid {
        return Err(format!(
            "'{topic}' is not a topic {}",
            if action == Action::Subscribe { "filter" } else { "name" }
        ));
    }
    let allowed = policy.allows(&identity, client, action, inner);
    println!(
        "{}\n{}",
        if allowed { "allowed" } else { "denied" },
        policy.rule(&identity, client, action, inner)
    );
    if allowed && action == Action::Subscribe {
        policy.exceptions(&identity, inner).iter().for_each(|rule| println!("but not delivered: {rule}"));
    }
    if !identity.groups.is_empty() {
        println!("groups: {}", identity.groups.join(", "));
    }
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
