//! A connection to a broker: packets in and out, flights, keep-alive. One task owns it; its futures
//! are cancel safe.

mod flights;
mod incoming;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lapwing_protocol::flight::{Inbound, Outbound};
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::keepalive::{ClientKeepAlive, KeepAliveStep};
use lapwing_protocol::packet::{
    Ack, ConnAck, Connect, Disconnect, Packet, Publish, Subscribe, Subscription, Subscriptions, TopicFilters,
    Unsubscribe, Will,
};
use lapwing_protocol::property::{Place, Properties};
use lapwing_protocol::{PacketId, PacketType, QoS, ReasonCode, Version, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use self::flights::{Flights, Received};
use self::incoming::Raw;
use super::failure::Failure;
use super::link::{self, Bytes};
use super::options::Client;
use super::properties::Command;

/// Time limit for CONNACK, PINGRESP and the last flush.
const RESPONSE_TIME: Duration = Duration::from_secs(20);
/// Bytes that gather before they are written.
pub const GATHERED_BYTES: usize = 64 * 1024;
/// Bytes that one read takes.
const READ_BYTES: usize = 32 * 1024;
/// Packet identifier of SUBSCRIBE and UNSUBSCRIBE; those of messages count up from 1.
const SUBSCRIBE_ID: u16 = 65_535;
const UNSUBSCRIBE_ID: u16 = 65_534;
/// Largest number of aliases that the client offers.
const ALIASES_MAX: usize = 65_535;
/// Exit code of libmosquitto for a lost connection.
const CONNECTION_LOST: u8 = 7;

/// A received message. The next call acknowledges it.
pub struct Message {
    pub topic: String,
    flags: u8,
    body: Vec<u8>,
    version: Version,
}

impl Message {
    /// Returns the packet; its topic is empty where the broker sent an alias.
    pub fn publish(&self) -> Publish<'_> {
        // It was decoded when it came.
        Publish::decode(self.flags, &self.body, self.version).unwrap_or_default()
    }
}

/// An event of the connection.
pub enum Event {
    Message(Message),
    /// The broker has the message, or refused it.
    Delivered {
        reason: ReasonCode,
        text: Option<String>,
    },
    /// One reason code for each filter.
    Subscribed(Vec<ReasonCode>),
    Unsubscribed,
}

/// A connection to a broker, with its flights.
pub struct Connection {
    stream: Box<dyn Bytes>,
    input: Vec<u8>,
    /// Bytes of the input that were parsed.
    used: usize,
    output: Vec<u8>,
    version: Version,
    start: Instant,
    keep_alive: ClientKeepAlive,
    outbound: Outbound,
    flights: Flights,
    inbound: Inbound,
    received: Received,
    /// Acknowledgement of the last returned message.
    due: Option<(PacketType, PacketId)>,
    aliases: BTreeMap<u16, String>,
    debug: bool,
    /// Largest packet that the broker accepts.
    pub packet_bytes_max: u32,
    pub qos_max: QoS,
    pub session_present: bool,
    pub response_information: Option<String>,
    disconnect_block: Vec<u8>,
}

fn block(bytes: &[u8], place: Place) -> Properties<'_> {
    // It was checked when the arguments were read.
    Properties::parse(bytes, place).unwrap_or_default()
}

impl Connection {
    /// Connects, and waits for CONNACK.
    pub async fn open(client: &Client) -> Result<Connection, Failure> {
        let stream = match timeout(RESPONSE_TIME, link::open(&client.target)).await {
            Ok(opened) => opened?,
            Err(_) => return Err(Failure::of(client.target.authority(), "no answer")),
        };
        let mut connection = Connection {
            stream,
            input: Vec::new(),
            used: 0,
            output: Vec::new(),
            version: client.version,
            start: Instant::now(),
            keep_alive: ClientKeepAlive::new(0, 0, 0),
            outbound: Outbound::new(client.max_inflight),
            flights: Flights::default(),
            inbound: Inbound::new(u16::MAX),
            received: Received::default(),
            due: None,
            aliases: BTreeMap::new(),
            debug: client.debug,
            packet_bytes_max: limits::PACKET_BYTES_MAX,
            qos_max: QoS::ExactlyOnce,
            session_present: false,
            response_information: None,
            disconnect_block: client.blocks.bytes(Command::Disconnect),
        };
        match timeout(RESPONSE_TIME, connection.greet(client)).await {
            Ok(greeted) => greeted?,
            Err(_) => return Err(Failure::of(client.target.authority(), "no CONNACK")),
        }
        Ok(connection)
    }

    async fn greet(&mut self, client: &Client) -> Result<(), Failure> {
        let (properties, will_properties) =
            (client.blocks.bytes(Command::Connect), client.blocks.bytes(Command::Will));
        let will = client.will.as_ref().map(|will| Will {
            qos: will.qos,
            retain: will.retain,
            properties: block(&will_properties, Place::Will),
            topic: &will.topic,
            payload: &will.payload,
        });
        self.send(&Packet::Connect(Connect {
            version: client.version,
            clean_start: client.clean,
            keep_alive_s: client.keep_alive_s,
            properties: block(&properties, Place::Packet(PacketType::Connect)),
            client_id: &client.id,
            will,
            user_name: client.user.as_deref(),
            password: client.password.as_deref().map(str::as_bytes),
        }))?;
        loop {
            self.flush().await?;
            let Some(raw) = self.take()? else {
                self.fill().await?;
                continue;
            };
            return match raw.decode(self.version)? {
                Packet::ConnAck(connack) => self.welcome(client, &connack),
                _ => Err(Failure::new("the broker did not answer CONNECT with CONNACK")),
            };
        }
    }

    fn welcome(&mut self, client: &Client, connack: &ConnAck<'_>) -> Result<(), Failure> {
        if connack.reason != ReasonCode::Success {
            let text = connack.properties.reason_string();
            return Err(Failure::refused(
                "the broker refused the connection",
                connack.reason,
                text,
                self.version,
            ));
        }
        let properties = &connack.properties;
        let quota = properties.receive_maximum().unwrap_or(u16::MAX).min(client.max_inflight);
        self.outbound = Outbound::new(quota);
        self.packet_bytes_max = properties.maximum_packet_size().unwrap_or(limits::PACKET_BYTES_MAX);
        self.qos_max = properties.maximum_qos().and_then(QoS::from_u8).unwrap_or(QoS::ExactlyOnce);
        self.session_present = connack.session_present;
        self.response_information = properties.response_information().map(str::to_owned);
        let keep_alive_s = properties.server_keep_alive_s().unwrap_or(client.keep_alive_s);
        self.keep_alive = ClientKeepAlive::new(keep_alive_s, RESPONSE_TIME.as_millis() as u32, self.now_ms());
        Ok(())
    }

    /// Takes over the state of the previous connection, if the broker still has the session.
    pub fn resume(&mut self, earlier: &mut Connection) {
        if self.session_present {
            self.received = std::mem::take(&mut earlier.received);
            self.inbound.reconnected(u16::MAX, &self.received);
        }
    }

    fn now_ms(&self) -> u32 {
        self.start.elapsed().as_millis() as u32
    }

    /// Returns the number of bytes that wait to be written.
    pub fn gathered(&self) -> usize {
        self.output.len()
    }

    /// Returns the number of unacknowledged QoS 1 and 2 messages.
    pub fn in_flight(&self) -> u16 {
        self.outbound.in_flight()
    }

    /// Returns `true` when a message of this QoS may be sent now.
    pub fn has_room(&self, qos: QoS) -> bool {
        qos == QoS::AtMostOnce || self.outbound.has_quota()
    }

    /// Appends a packet to the output.
    fn send(&mut self, packet: &Packet<'_>) -> Result<(), Failure> {
        let failed = |error| Failure::of(packet.packet_type(), error);
        let len = packet.encoded_len(self.version, self.packet_bytes_max).map_err(failed)?;
        let at = self.output.len();
        self.output.resize(at + len, 0);
        let buffer = self.output.get_mut(at..).unwrap_or_default();
        packet.encode(self.version, self.packet_bytes_max, buffer).map_err(failed)?;
        if self.debug {
            eprintln!("-> {} ({len} bytes)", packet.packet_type());
        }
        let now_ms = self.now_ms();
        self.keep_alive.sent(now_ms);
        Ok(())
    }

    /// Appends a message to the output; there must be [room](Self::has_room) for it.
    pub fn publish(&mut self, message: &Publish<'_>) -> Result<(), Failure> {
        let mut message = *message;
        message.qos = message.qos.min(self.qos_max);
        if message.qos != QoS::AtMostOnce {
            let started = self.outbound.start(message.qos, &self.flights);
            let (id, state) =
                started.ok_or_else(|| Failure::new("more messages in flight than packet identifiers"))?;
            self.flights.0.insert(id, state);
            message.packet_id = Some(id);
        }
        self.send(&Packet::Publish(message))
    }

    /// Sends SUBSCRIBE.
    pub fn subscribe(&mut self, list: &[Subscription<'_>], properties: &[u8]) -> Result<(), Failure> {
        let packet_id = PacketId::new(SUBSCRIBE_ID).unwrap_or(PacketId::MAX);
        let properties = block(properties, Place::Packet(PacketType::Subscribe));
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            subscriptions: Subscriptions::new(list),
        }))
    }

    /// Sends UNSUBSCRIBE.
    pub fn unsubscribe(&mut self, filters: &[&str], properties: &[u8]) -> Result<(), Failure> {
        let packet_id = PacketId::new(UNSUBSCRIBE_ID).unwrap_or(PacketId::MAX);
        let properties = block(properties, Place::Packet(PacketType::Unsubscribe));
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties,
            filters: TopicFilters::new(filters),
        }))
    }

    /// Acknowledges the last returned message, and disconnects.
    pub async fn close(mut self) -> Result<(), Failure> {
        self.acknowledge()?;
        let bytes = std::mem::take(&mut self.disconnect_block);
        let properties = block(&bytes, Place::Packet(PacketType::Disconnect));
        self.send(&Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }))?;
        let close = async {
            self.flush().await?;
            // The broker may have closed already.
            let _ = self.stream.shutdown().await;
            Ok(())
        };
        timeout(RESPONSE_TIME, close)
            .await
            .unwrap_or_else(|_| Err(lost("the last packets could not be sent")))
    }

    /// Writes the output. Cancel safe.
    pub async fn flush(&mut self) -> Result<(), Failure> {
        while !self.output.is_empty() {
            let n = self.stream.write(&self.output).await.map_err(lost)?;
            if n == 0 {
                return Err(lost("no more packets could be sent"));
            }
            self.output.drain(..n);
        }
        self.stream.flush().await.map_err(lost)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        if self.used > 0 {
            self.input.drain(..self.used);
            self.used = 0;
        }
        self.input.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(lost("the broker closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(lost(error)),
        }
    }

    /// Returns the next whole packet.
    fn take(&mut self) -> Result<Option<Raw>, Failure> {
        let rest = self.input.get(self.used..).unwrap_or_default();
        let split = frame::split(rest, self.version, limits::PACKET_BYTES_MAX);
        match split.map_err(|error| Failure::of("the broker did not send MQTT", error))? {
            Split::Incomplete { .. } => Ok(None),
            Split::Frame { frame, len } => {
                let raw =
                    Raw { packet_type: frame.packet_type, flags: frame.flags, body: frame.body.to_vec() };
                if self.debug {
                    eprintln!("<- {} ({len} bytes)", raw.packet_type);
                }
                self.used += len;
                Ok(Some(raw))
            }
        }
    }

    fn acknowledge(&mut self) -> Result<(), Failure> {
        match self.due.take() {
            Some((PacketType::PubAck, id)) => {
                self.inbound.puback_sent();
                self.send(&Packet::PubAck(Ack::new(id, ReasonCode::Success)))
            }
            Some((_, id)) => self.send(&Packet::PubRec(Ack::new(id, ReasonCode::Success))),
            None => Ok(()),
        }
    }

    /// Waits for the next event, and writes, acknowledges and pings meanwhile. Cancel safe.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        self.acknowledge()?;
        loop {
            while let Some(raw) = self.take()? {
                if let Some(event) = self.handle(raw)? {
                    return Ok(event);
                }
            }
            self.flush().await?;
            let wait = match self.keep_alive.step(self.now_ms()) {
                KeepAliveStep::Ping => {
                    self.send(&Packet::PingReq)?;
                    let now_ms = self.now_ms();
                    self.keep_alive.pinged(now_ms);
                    continue;
                }
                KeepAliveStep::Dead => return Err(lost("no answer to PINGREQ")),
                KeepAliveStep::Wait(ms) => Duration::from_millis(u64::from(ms)),
                KeepAliveStep::Off => Duration::from_secs(3_600),
            };
            if let Ok(filled) = timeout(wait, self.fill()).await {
                filled?;
            }
        }
    }
}

fn lost(why: impl std::fmt::Display) -> Failure {
    Failure { code: CONNECTION_LOST, text: format!("the connection was lost: {why}") }
}

impl Failure {
    /// Returns `true` when connecting again may help.
    pub fn is_lost_connection(&self) -> bool {
        self.code == CONNECTION_LOST
    }
}
