//! `lapwing pub`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use lapwing_protocol::packet::Publish as PublishPacket;
use lapwing_protocol::property::{Place, Properties};
use lapwing_protocol::{PacketType, QoS, Version};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

use super::connection::{Connection, Event, GATHERED_BYTES};
use super::failure::Failure;
use super::options::{Client, ConnectOptions, check_name, qos, seconds};
use super::progress::Progress;
use super::properties::Command;

/// Longest line of `-l`, in bytes.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Options of `lapwing pub`.
#[derive(Debug, Args)]
pub struct Publish {
    #[command(flatten)]
    pub connect: ConnectOptions,
    /// The topic
    #[arg(short, long)]
    topic: Option<String>,
    /// The message
    #[arg(short, long, allow_hyphen_values = true, group = "what")]
    message: Option<String>,
    /// A file that is the message; several files are several messages. With -l: a file of lines
    #[arg(short, long, value_name = "FILE", action = ArgAction::Append)]
    file: Vec<PathBuf>,
    /// Each line of standard input (or of -f) is a message
    #[arg(short = 'l', long, group = "what")]
    stdin_line: bool,
    /// All of standard input is the message
    #[arg(short = 's', long, group = "what")]
    stdin_file: bool,
    /// An empty message
    #[arg(short, long, group = "what")]
    null_message: bool,
    /// The QoS
    #[arg(short, long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// The broker keeps the message for later subscribers
    #[arg(short, long)]
    retain: bool,
    /// Publish the message this many times
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    repeat: u64,
    /// Seconds between the repetitions
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    repeat_delay: Duration,
    /// Print published messages on standard output, as JSON
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long)]
    no_progress: bool,
}

/// Results of the published messages.
struct Publisher<'c> {
    connection: Connection,
    client: &'c Client,
    topic: &'c str,
    qos: QoS,
    retain: bool,
    block: Vec<u8>,
    progress: Progress,
    sent: u64,
    refused: u64,
    last_refusal: Option<Failure>,
}

/// Runs `lapwing pub`.
pub async fn run(options: Publish) -> Result<(), Failure> {
    let client = options.connect.client("pub", Version::V311)?;
    let topic = options.topic.as_deref().or(client.topic.as_deref());
    let topic = topic.ok_or_else(|| Failure::new("name the topic with -t"))?;
    check_name(topic)?;
    let ways = [options.message.is_some(), options.stdin_line, options.stdin_file, options.null_message];
    if !ways.contains(&true) && options.file.is_empty() {
        return Err(Failure::new(
            "name the message: -m MESSAGE, -f FILE, -n for an empty one, -s or -l for standard input",
        ));
    }
    if !options.file.is_empty() && ways != [false, options.stdin_line, false, false] {
        return Err(Failure::new("-f needs -l here"));
    }
    let mut total = None;
    for file in &options.file {
        let metadata = std::fs::metadata(file).map_err(|error| Failure::of(file.display(), error))?;
        total = Some(total.unwrap_or(0) + metadata.len());
    }
    let many = options.stdin_line || options.file.len() > 1 || options.repeat > 1;
    let mut publisher = Publisher {
        connection: Connection::open(&client).await?,
        topic,
        qos: options.qos,
        retain: options.retain,
        block: client.blocks.bytes(Command::Publish),
        progress: Progress::new(many && !options.no_progress && !options.connect.quiet, total),
        sent: 0,
        refused: 0,
        last_refusal: None,
        client: &client,
    };
    publisher.all(&options).await?;
    publisher.finish(&options).await
}

impl Publisher<'_> {
    async fn all(&mut self, options: &Publish) -> Result<(), Failure> {
        if options.stdin_line {
            if options.file.is_empty() {
                return self.lines(BufReader::new(stdin())).await;
            }
            for file in &options.file {
                let opened = tokio::fs::File::open(file).await;
                let opened = opened.map_err(|error| Failure::of(file.display(), error))?;
                self.lines(BufReader::with_capacity(GATHERED_BYTES, opened)).await?;
            }
            return Ok(());
        }
        if !options.file.is_empty() {
            for file in &options.file {
                let payload =
                    tokio::fs::read(file).await.map_err(|error| Failure::of(file.display(), error))?;
                self.repeat(options, &payload).await?;
            }
            return Ok(());
        }
        let mut payload = Vec::new();
        if options.stdin_file {
            stdin().read_to_end(&mut payload).await.map_err(|error| Failure::of("standard input", error))?;
        }
        let payload = options.message.as_ref().map_or(payload.as_slice(), |message| message.as_bytes());
        self.repeat(options, payload).await
    }

    async fn repeat(&mut self, options: &Publish, payload: &[u8]) -> Result<(), Failure> {
        for round in 0..options.repeat {
            if round > 0 && !options.repeat_delay.is_zero() {
                self.pause(options.repeat_delay).await?;
            }
            self.publish(payload, payload.len() as u64).await?;
        }
        Ok(())
    }

    /// Waits, and handles packets of the broker meanwhile.
    async fn pause(&mut self, time: Duration) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(until, self.connection.next()).await {
            self.happened(event?);
        }
        Ok(())
    }

    async fn lines(&mut self, mut lines: impl AsyncBufRead + Unpin) -> Result<(), Failure> {
        let mut line = Vec::new();
        loop {
            // A cancelled read of a line continues where it was. While there is no line, packets of
            // the broker are handled.
            let read = async { (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await };
            let read = tokio::select! {
                biased;
                read = read => read.map_err(|error| Failure::of("failed to read the input", error))?,
                event = self.connection.next() => {
                    self.happened(event?);
                    continue;
                }
            };
            if read == 0 && line.is_empty() {
                return Ok(());
            }
            let bytes = line.len() as u64;
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            self.publish(&line, bytes).await?;
            line.clear();
        }
    }

    async fn publish(&mut self, payload: &[u8], bytes: u64) -> Result<(), Failure> {
        while !self.connection.has_room(self.qos) || self.connection.gathered() > GATHERED_BYTES {
            if self.connection.has_room(self.qos) {
                self.connection.flush().await?;
                break;
            }
            let event = self.connection.next().await?;
            self.happened(event);
        }
        self.connection.publish(&PublishPacket {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic,
            packet_id: None,
            properties: Properties::parse(&self.block, Place::Packet(PacketType::Publish))
                .unwrap_or_default(),
            payload,
        })?;
        self.sent += 1;
        self.progress.message(bytes);
        Ok(())
    }

    fn happened(&mut self, event: Event) {
        if let Event::Delivered { reason, text } = event
            && reason.is_failure()
        {
            self.refused += 1;
            let refusal = Failure::refused(
                "the broker refused a message",
                reason,
                text.as_deref(),
                self.client.version,
            );
            self.last_refusal = Some(refusal);
        }
    }

    async fn finish(mut self, options: &Publish) -> Result<(), Failure> {
        while self.connection.in_flight() > 0 {
            let event = self.connection.next().await?;
            self.happened(event);
        }
        self.connection.close().await?;
        self.progress.finish();
        if options.json {
            println!(
                r#"{{"topic":{},"published":{},"refused":{}}}"#,
                serde_json::json!(self.topic),
                self.sent,
                self.refused
            );
        }
        match self.last_refusal {
            None => Ok(()),
            Some(refusal) => {
                let text = format!("{} ({} of {} messages)", refusal.text, self.refused, self.sent);
                Err(Failure { code: refusal.code, text })
            }
        }
    }
}
