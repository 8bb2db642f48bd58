//! A broker inside another program, with a rule of its own about who may do what. The program
//! publishes, subscribes and reads the broker's figures without a socket.
//!
//! `cargo run -p lapwing-example-embed`, then in another terminal
//! `mosquitto_sub -p 1884 -t 'public/#' -v` and `mosquitto_pub -p 1884 -t public/hello -m hi`.
//! An argument is another address to listen on, such as `localhost:0`.
//!
//! The features of tokio that this needs: `rt-multi-thread` and `macros` for `main`, `signal` for
//! Ctrl-C. The broker turns on those that it needs itself.

use lapwing::{
    Action, AuthError, AuthFuture, Broker, Config, Credentials, Identity, Policy, QoS, ReasonCode,
};

/// Everybody may come in; topics outside `public/` are for the user `admin`.
struct HouseRules;

impl Policy for HouseRules {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> AuthFuture<'a> {
        // This may wait for a database, say.
        Box::pin(async move {
            match (credentials.user_name, credentials.password) {
                (Some("admin"), Some(b"only-an-example")) => Ok(Identity::of("admin")),
                (Some("admin"), _) => {
                    Err(AuthError::new(ReasonCode::BadUserNameOrPassword, "not the password of admin"))
                }
                _ => Ok(Identity::default()),
            }
        })
    }

    fn allows(&self, identity: &Identity, _client_id: &str, _action: Action, topic: &str) -> bool {
        identity.user.as_deref() == Some("admin") || topic.starts_with("public/")
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any key of docs/CONFIGURATION.md; what is left out has its default.
    let address = std::env::args().nth(1).unwrap_or_else(|| "localhost:1884".to_owned());
    let toml = format!("[store]\ndata_dir = 'embed-data'\n[[listener]]\naddress = '{address}'\n");
    let config = Config::from_toml(&toml, "embed")?;
    let broker = Broker::builder().config(config).policy(HouseRules).start().await?;
    println!("listening on {}; Ctrl-C ends it", broker.listeners().join(", "));
    let mut program = broker.local("embed");
    program.subscribe("public/#", QoS::AtLeastOnce)?;
    // Returns once the message is as safe as the acknowledgement of a client would say.
    program.publish("public/started", b"yes", QoS::AtLeastOnce, true).await?;
    loop {
        tokio::select! {
            message = program.next() => {
                let payload = String::from_utf8_lossy(message.payload());
                println!("{} {payload}", message.topic());
                program.ack(message);
            }
            ended = tokio::signal::ctrl_c() => break ended?,
        }
    }
    let figures = broker.figures();
    let connections = figures.lines().find(|line| line.starts_with("lapwing_connections_open "));
    println!("{}", connections.unwrap_or_default());
    drop(program);
    // Clients are told, and what is under way is written.
    broker.stop().await;
    Ok(())
}
