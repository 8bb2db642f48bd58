//! `lapwing rr`: a request and its response.

use std::time::Duration;

use clap::Args;
use lapwing_protocol::packet::{Publish, Subscription};
use lapwing_protocol::property::{Place, Properties, PropertyId};
use lapwing_protocol::{PacketType, QoS, Version};
use tokio::io::{AsyncReadExt, stdin};
use tokio::time::Instant;

use super::connection::{Connection, Event};
use super::failure::Failure;
use super::options::{ConnectOptions, check_name, qos, seconds};
use super::properties::Command;
use super::subscribe::{Next, Printed, Printer, next};

/// Options of `lapwing rr`.
#[derive(Debug, Args)]
pub struct Request {
    #[command(flatten)]
    pub connect: ConnectOptions,
    /// The topic of the request
    #[arg(short, long)]
    topic: Option<String>,
    /// The topic of the response [default: one of its own]
    #[arg(short = 'e', long, value_name = "TOPIC")]
    response_topic: Option<String>,
    /// The request
    #[arg(short, long, allow_hyphen_values = true, group = "what")]
    message: Option<String>,
    /// A file that is the request
    #[arg(short, long, value_name = "FILE", group = "what")]
    file: Option<std::path::PathBuf>,
    /// All of standard input is the request
    #[arg(short = 's', long, group = "what")]
    stdin_file: bool,
    /// An empty request
    #[arg(short, long, group = "what")]
    null_message: bool,
    #[command(flatten)]
    printed: Printed,
    /// The QoS of request and response
    #[arg(short, long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// Let the broker retain the request
    #[arg(short, long)]
    retain: bool,
    /// End after this many seconds, with exit code 27
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// Runs `lapwing rr`.
pub async fn run(options: Request) -> Result<(), Failure> {
    let mut client = options.connect.client("rr", Version::V5)?;
    let topic = options.topic.clone().or_else(|| client.topic.clone());
    let topic = topic.ok_or_else(|| Failure::new("name the topic of the request with -t"))?;
    check_name(&topic)?;
    let response_topic =
        options.response_topic.clone().unwrap_or_else(|| format!("lapwing/rr/{}", client.id));
    check_name(&response_topic)?;
    if client.version.has_properties() {
        client.blocks.default_text(Command::Publish, PropertyId::ResponseTopic, &response_topic)?;
    }
    let block = client.blocks.bytes(Command::Publish);
    let properties = Properties::parse(&block, Place::Packet(PacketType::Publish)).unwrap_or_default();
    let payload = payload(&options).await?;
    let mut printer = Printer::new(&options.printed)?;
    let deadline = options.timeout.map(|timeout| Instant::now() + timeout);

    let mut connection = Connection::open(&client).await?;
    let list = [Subscription::new(&response_topic, options.qos)];
    connection.subscribe(&list, &client.blocks.bytes(Command::Subscribe))?;
    let mut asked = false;
    loop {
        let event = match next(&mut connection, &mut printer, deadline).await? {
            Next::Event(event) => event,
            Next::TimedOut => {
                connection.close().await?;
                return Err(Failure::timed_out());
            }
            Next::Interrupted => return connection.close().await,
        };
        match event {
            // The request leaves once the response can be received.
            Event::Subscribed(reasons) => {
                if let Some(reason) = reasons.iter().find(|reason| reason.is_failure()) {
                    let what = format!("the broker refused '{response_topic}'");
                    return Err(Failure::refused(&what, *reason, None, client.version));
                }
                asked = true;
                connection.publish(&Publish {
                    qos: options.qos,
                    retain: options.retain,
                    topic: &topic,
                    properties,
                    payload: &payload,
                    ..Publish::default()
                })?;
            }
            Event::Delivered { reason, text } if reason.is_failure() => {
                let what = "the broker refused the request";
                return Err(Failure::refused(what, reason, text.as_deref(), client.version));
            }
            Event::Message(message) => {
                let answers = properties.correlation_data();
                // A message that was there before is no response.
                if !asked || answers.is_some() && answers != message.publish().properties.correlation_data() {
                    continue;
                }
                printer.print(&message)?;
                printer.flush()?;
                return connection.close().await;
            }
            Event::Delivered { .. } | Event::Unsubscribed => {}
        }
    }
}

async fn payload(options: &Request) -> Result<Vec<u8>, Failure> {
    if let Some(message) = &options.message {
        return Ok(message.clone().into_bytes());
    }
    if let Some(file) = &options.file {
        return tokio::fs::read(file).await.map_err(|error| Failure::of(file.display(), error));
    }
    let mut payload = Vec::new();
    if options.stdin_file {
        stdin().read_to_end(&mut payload).await.map_err(|error| Failure::of("standard input", error))?;
    } else if !options.null_message {
        return Err(Failure::new(
            "name the request: -m MESSAGE, -f FILE, -s for standard input, -n for an empty one",
        ));
    }
    Ok(payload)
}
