//! `lapwing sub`.

use std::io::{ErrorKind, Write};
use std::pin::pin;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use lapwing_protocol::packet::{Publish, RetainHandling, Subscription, SubscriptionOptions};
use lapwing_protocol::{QoS, ReasonCode, Version, topic};
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{Connection, Event, Message};
use super::failure::Failure;
use super::format::Format;
use super::options::{Client, ConnectOptions, check_filter, qos, seconds};
use super::properties::Command;

/// Pauses between attempts to reconnect.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];

/// Options of `lapwing sub`.
#[derive(Debug, Args)]
pub struct Subscribe {
    #[command(flatten)]
    pub connect: ConnectOptions,
    /// A topic filter; can be given several times
    #[arg(short, long, action = ArgAction::Append, value_name = "FILTER")]
    topic: Vec<String>,
    #[command(flatten)]
    pub printed: Printed,
    /// Print nothing of these topics
    #[arg(short = 'T', long, action = ArgAction::Append, value_name = "FILTER")]
    filter_out: Vec<String>,
    /// End a subscription of an earlier connection of the same session
    #[arg(short = 'U', long, action = ArgAction::Append, value_name = "FILTER")]
    unsubscribe: Vec<String>,
    /// The highest QoS of received messages
    #[arg(short, long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// End after this many messages
    #[arg(short = 'C', long, value_name = "MESSAGES")]
    count: Option<u64>,
    /// End after this many seconds, with exit code 27
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// End when the broker has answered all subscriptions
    #[arg(short = 'E', long)]
    exit_after_subscribe: bool,
    /// Print no retained messages
    #[arg(short = 'R', long, conflicts_with = "retained_only")]
    no_retained: bool,
    /// Print retained messages only, and end with the first other one
    #[arg(long)]
    retained_only: bool,
    /// Remove the retained messages that come
    #[arg(long)]
    remove_retained: bool,
    /// MQTT 5: keep the retain flag as it was published
    #[arg(long)]
    retain_as_published: bool,
    /// MQTT 5: when retained messages are sent
    #[arg(long, value_enum, default_value = "always")]
    retain_handling: Handling,
    /// MQTT 5: do not receive messages that this client publishes
    #[arg(long)]
    no_local: bool,
}

/// Format options.
#[derive(Debug, Args)]
pub struct Printed {
    /// Print the topic before each payload
    #[arg(short, long)]
    verbose: bool,
    /// The format: mosquitto_sub's letters, such as '%t %p' (all of them: docs/TOOLS.md)
    #[arg(short = 'F', long, value_name = "FORMAT", conflicts_with = "verbose", allow_hyphen_values = true)]
    format: Option<String>,
    /// Print a line of JSON for each message
    #[arg(long, conflicts_with_all = ["verbose", "format"])]
    json: bool,
    /// Print no end of line after each message
    #[arg(short = 'N', long = "no-eol")]
    no_eol: bool,
}

impl Printed {
    /// Returns the format that the options ask for.
    pub fn format(&self) -> Result<Format, Failure> {
        match &self.format {
            Some(format) => Format::parse(format),
            None if self.json => Ok(Format::Json),
            None if self.verbose => Ok(Format::Verbose),
            None => Ok(Format::Payload),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Handling {
    Always,
    New,
    Never,
}

/// Buffered standard output, flushed before the tool waits.
pub struct Printer {
    format: Format,
    eol: bool,
    out: Vec<u8>,
}

impl Printer {
    /// Creates the output for these options.
    pub fn new(printed: &Printed) -> Result<Printer, Failure> {
        Ok(Printer { format: printed.format()?, eol: !printed.no_eol, out: Vec::new() })
    }

    /// Prints a message, or returns the reason that it cannot.
    pub fn print(&mut self, message: &Message) -> Result<(), Failure> {
        let at = self.out.len();
        match self.format.print(message, &mut self.out) {
            Ok(()) if self.eol => self.out.push(b'\n'),
            Ok(()) => {}
            Err(failure) => {
                self.out.truncate(at);
                eprintln!("{}", failure.text);
            }
        }
        if self.out.len() > super::connection::GATHERED_BYTES { self.flush() } else { Ok(()) }
    }

    /// Flushes the output.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(&self.out).and_then(|()| stdout.flush());
        self.out.clear();
        written.map_err(|error| match error.kind() {
            // The reader closed the pipe.
            ErrorKind::BrokenPipe => Failure { code: 1, text: String::new() },
            _ => Failure::of("standard output", error),
        })
    }
}

/// Reason that the wait for the next event ended.
pub enum Next {
    Event(Event),
    /// `-W` is over.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
}

/// Flushes the output and waits for the next event.
pub async fn next(
    connection: &mut Connection,
    printer: &mut Printer,
    deadline: Option<Instant>,
) -> Result<Next, Failure> {
    let mut event = pin!(connection.next());
    let ready = tokio::select! {
        biased;
        event = &mut event => Some(event?),
        () = std::future::ready(()) => None,
    };
    if let Some(event) = ready {
        return Ok(Next::Event(event));
    }
    printer.flush()?;
    tokio::select! {
        event = event => Ok(Next::Event(event?)),
        () = until(deadline) => Ok(Next::TimedOut),
        _ = tokio::signal::ctrl_c() => Ok(Next::Interrupted),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Subscriber<'c> {
    options: &'c Subscribe,
    client: &'c Client,
    filters: Vec<String>,
    printer: Printer,
    deadline: Option<Instant>,
    printed: u64,
    /// Set once the broker granted a subscription: a lost connection is made again from then on.
    granted: bool,
}

/// Runs `lapwing sub`.
pub async fn run(options: Subscribe) -> Result<(), Failure> {
    let client = options.connect.client("sub", Version::V311)?;
    let filters: Vec<String> = options.topic.iter().chain(&client.topic).cloned().collect();
    if filters.is_empty() && options.unsubscribe.is_empty() {
        return Err(Failure::new("name a topic filter with -t"));
    }
    for filter in filters.iter().chain(&options.unsubscribe).chain(&options.filter_out) {
        check_filter(filter)?;
    }
    let mut subscriber = Subscriber {
        options: &options,
        client: &client,
        filters,
        printer: Printer::new(&options.printed)?,
        deadline: options.timeout.map(|timeout| Instant::now() + timeout),
        printed: 0,
        granted: false,
    };
    let mut connection = Connection::open(&client).await?;
    let mut pauses = PAUSES.iter();
    loop {
        let ended = subscriber.listen(&mut connection).await;
        subscriber.printer.flush()?;
        match ended {
            Err(failure) if failure.is_lost_connection() && subscriber.granted => {
                if !options.connect.quiet {
                    eprintln!("lapwing sub: {}; reconnecting", failure.text);
                }
            }
            Err(failure) => return Err(failure),
            Ok(code) => {
                connection.close().await?;
                return code;
            }
        }
        connection = loop {
            let pause = *pauses.next().unwrap_or(&PAUSES[PAUSES.len() - 1]);
            tokio::select! {
                () = sleep(pause) => {}
                () = until(subscriber.deadline) => return Err(Failure::timed_out()),
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
            if let Ok(mut opened) = Connection::open(&client).await {
                opened.resume(&mut connection);
                pauses = PAUSES.iter();
                break opened;
            }
        };
    }
}

impl Subscriber<'_> {
    /// Handles events until the end or the loss of the connection; the inner result is the tool's.
    async fn listen(&mut self, connection: &mut Connection) -> Result<Result<(), Failure>, Failure> {
        self.ask(connection)?;
        let mut awaited =
            usize::from(!self.filters.is_empty()) + usize::from(!self.options.unsubscribe.is_empty());
        let mut over = false;
        loop {
            if over && connection.in_flight() == 0 {
                return Ok(Ok(()));
            }
            let event = match next(connection, &mut self.printer, self.deadline).await? {
                Next::Event(event) => event,
                Next::TimedOut => return Ok(Err(Failure::timed_out())),
                Next::Interrupted => return Ok(Ok(())),
            };
            match event {
                Event::Message(message) if !over => over = self.message(connection, &message)?,
                Event::Subscribed(reasons) => {
                    awaited -= 1;
                    if let Some(failure) = self.judge(&reasons) {
                        return Ok(Err(failure));
                    }
                    self.granted = true;
                }
                Event::Unsubscribed => awaited -= 1,
                Event::Message(_) | Event::Delivered { .. } => {}
            }
            over |= awaited == 0 && (self.options.exit_after_subscribe || self.filters.is_empty());
        }
    }

    fn ask(&self, connection: &mut Connection) -> Result<(), Failure> {
        let blocks = &self.client.blocks;
        if !self.options.unsubscribe.is_empty() {
            let filters: Vec<&str> = self.options.unsubscribe.iter().map(String::as_str).collect();
            connection.unsubscribe(&filters, &blocks.bytes(Command::Unsubscribe))?;
        }
        if self.filters.is_empty() {
            return Ok(());
        }
        let options = SubscriptionOptions {
            qos: self.options.qos,
            no_local: self.options.no_local,
            retain_as_published: self.options.retain_as_published,
            retain_handling: match self.options.retain_handling {
                Handling::Always => RetainHandling::Send,
                Handling::New => RetainHandling::SendIfNew,
                Handling::Never => RetainHandling::DoNotSend,
            },
        };
        let list: Vec<_> = self.filters.iter().map(|filter| Subscription { filter, options }).collect();
        connection.subscribe(&list, &blocks.bytes(Command::Subscribe))
    }

    /// Checks the reason codes of SUBACK; a failure where none was granted.
    fn judge(&self, reasons: &[ReasonCode]) -> Option<Failure> {
        let mut refused = reasons.iter().zip(&self.filters).filter(|(reason, _)| reason.is_failure());
        for (reason, filter) in refused.clone() {
            if !self.options.connect.quiet {
                eprintln!("lapwing sub: the broker refused '{filter}': {reason}");
            }
        }
        let (last, _) = refused.next_back()?;
        if reasons.iter().any(|reason| !reason.is_failure()) {
            return None;
        }
        Some(Failure::refused("no subscription was granted", *last, None, self.client.version))
    }

    /// Handles a message; returns `true` when it was the last.
    fn message(&mut self, connection: &mut Connection, message: &Message) -> Result<bool, Failure> {
        let publish = message.publish();
        let options = self.options;
        if options.retained_only && !publish.retain {
            return Ok(true);
        }
        if options.remove_retained && publish.retain && connection.has_room(QoS::AtLeastOnce) {
            connection.publish(&Publish {
                qos: QoS::AtLeastOnce,
                retain: true,
                topic: &message.topic,
                ..Publish::default()
            })?;
        }
        if options.no_retained && publish.retain
            || options.filter_out.iter().any(|filter| topic::matches(filter, &message.topic))
        {
            return Ok(false);
        }
        self.printer.print(message)?;
        self.printed += 1;
        Ok(Some(self.printed) == options.count)
    }
}
