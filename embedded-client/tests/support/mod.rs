//! A wire in memory, a clock that the test moves, and a server that follows the test.
#![allow(dead_code)]

pub mod line;
pub mod waiting;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use lapwing_client::blocking::Dialer;
use lapwing_client::{Client, Config, Error, Event, LinkDown, ReasonCode, Version};
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::{Ack, ConnAck, Packet, Publish, ReasonCodes, SubAck, UnsubAck};
use lapwing_protocol::property::{Properties, Property, PropertyWriter};
use lapwing_protocol::{PacketId, QoS};

/// Both directions and the clock.
#[derive(Default)]
pub struct Wire {
    pub to_client: VecDeque<u8>,
    pub from_client: Vec<u8>,
    pub now_ms: u32,
    pub up: bool,
    /// True if a dial succeeds; and the number of dials.
    pub answers: bool,
    pub dials: usize,
    /// Maximum number of bytes that one read or write moves.
    pub piece: usize,
    /// Bytes that still pass, in both directions together, before the link breaks.
    pub passes: Option<usize>,
}

impl Wire {
    fn pass(&mut self, wanted: usize) -> Result<usize, ErrorKind> {
        if !self.up {
            return Err(ErrorKind::ConnectionReset);
        }
        let mut n = wanted.min(self.piece);
        if let Some(left) = &mut self.passes {
            if *left == 0 {
                self.up = false;
                return Err(ErrorKind::ConnectionReset);
            }
            n = n.min(*left);
            *left -= n;
        }
        Ok(n)
    }
}

/// One end of the wire.
#[derive(Clone)]
pub struct Net(pub Rc<RefCell<Wire>>);

impl ErrorType for Net {
    type Error = ErrorKind;
}

impl ReadReady for Net {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        let wire = self.0.borrow();
        Ok(!wire.up || !wire.to_client.is_empty())
    }
}

impl Read for Net {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        assert!(!out.is_empty(), "a read of nothing");
        let mut wire = self.0.borrow_mut();
        let n = out.len().min(wire.to_client.len());
        let n = wire.pass(n)?;
        for (place, byte) in out.iter_mut().zip(wire.to_client.drain(..n)) {
            *place = byte;
        }
        Ok(n)
    }
}

impl Write for Net {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        assert!(!bytes.is_empty(), "a write of nothing");
        let mut wire = self.0.borrow_mut();
        let n = wire.pass(bytes.len())?;
        wire.from_client.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl Dialer for Net {
    type Link = Net;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        let mut wire = self.0.borrow_mut();
        wire.dials += 1;
        if !wire.answers {
            return Err(LinkDown);
        }
        wire.up = true;
        wire.to_client.clear();
        wire.from_client.clear();
        Ok(true)
    }

    fn link(&mut self) -> Option<&mut Net> {
        let up = self.0.borrow().up;
        up.then_some(self)
    }

    fn hang_up(&mut self) {
        self.0.borrow_mut().up = false;
    }

    fn now_ms(&mut self) -> u32 {
        self.0.borrow().now_ms
    }
}

/// An event without borrowed data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Message { topic: String, payload: Vec<u8>, qos: QoS, retain: bool, dup: bool, left: u32 },
    Chunk(Vec<u8>, u32),
    Delivered(u16),
    Refused(u16, ReasonCode),
    Dropped(u16),
    Connected(bool),
    Disconnected(Option<ReasonCode>),
    PayloadWanted(u16, u32, u32),
    Failed(Error),
}

pub fn seen(event: Result<Event<'_>, Error>) -> Seen {
    match event {
        Ok(Event::Message(m)) => Seen::Message {
            topic: m.topic().to_owned(),
            payload: m.payload().to_vec(),
            qos: m.qos(),
            retain: m.retain(),
            dup: m.dup(),
            left: m.left(),
        },
        Ok(Event::Chunk { payload, left }) => Seen::Chunk(payload.to_vec(), left),
        Ok(Event::Delivered(token)) => Seen::Delivered(token.id()),
        Ok(Event::Refused(token, reason)) => Seen::Refused(token.id(), reason),
        Ok(Event::Dropped(token)) => Seen::Dropped(token.id()),
        Ok(Event::Connected { session_present }) => Seen::Connected(session_present),
        Ok(Event::Disconnected(reason)) => Seen::Disconnected(reason),
        Ok(Event::PayloadWanted { token, offset, left }) => Seen::PayloadWanted(token.id(), offset, left),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Seen::Failed(error),
    }
}

pub fn message(topic: &str, payload: &[u8], qos: QoS) -> Seen {
    let (topic, payload) = (topic.to_owned(), payload.to_vec());
    Seen::Message { topic, payload, qos, retain: false, dup: false, left: 0 }
}

/// A client, the wire, and the server at its other end.
pub struct Bench<'a, const O: usize = 512, const I: usize = 128> {
    pub client: Client<'a, O, I>,
    pub net: Net,
    pub version: Version,
}

impl<'a, const O: usize, const I: usize> Bench<'a, O, I> {
    pub fn new(version: Version, config: Config<'a>) -> Self {
        let wire = Wire { answers: true, piece: usize::MAX, now_ms: u32::MAX - 5_000, ..Wire::default() };
        Bench { client: Client::new(config.version(version)), net: Net(Rc::new(RefCell::new(wire))), version }
    }

    /// Creates a client whose connection was just accepted, with these properties in MQTT 5.
    pub fn connected(version: Version, config: Config<'a>, properties: &[Property<'_>]) -> Self {
        let mut bench = Bench::new(version, config);
        bench.accept(false, properties);
        bench
    }

    pub fn wire(&self) -> std::cell::RefMut<'_, Wire> {
        self.net.0.borrow_mut()
    }

    pub fn pass_ms(&self, ms: u32) {
        let now_ms = self.wire().now_ms.wrapping_add(ms);
        self.wire().now_ms = now_ms;
    }

    /// Returns all events of now.
    pub fn poll(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while let Some(event) = self.client.poll(&mut self.net) {
            all.push(seen(event));
            if matches!(all.last(), Some(Seen::PayloadWanted(..))) {
                break;
            }
        }
        all
    }

    /// Answers CONNECT.
    pub fn accept(&mut self, session_present: bool, properties: &[Property<'_>]) {
        assert_eq!(self.accepted(session_present, properties), []);
    }

    /// Answers CONNECT. Returns the events after that of the connection.
    pub fn accepted(&mut self, session_present: bool, properties: &[Property<'_>]) -> Vec<Seen> {
        assert_eq!(self.poll(), []);
        assert!(self.sent().first().is_some_and(|packet| packet.starts_with("Connect")), "CONNECT first");
        self.connack(session_present, ReasonCode::Success, properties);
        let mut told = self.poll();
        assert_eq!(told.remove(0), Seen::Connected(session_present));
        told
    }

    pub fn connack(&mut self, session_present: bool, reason: ReasonCode, properties: &[Property<'_>]) {
        let mut block = [0; 256];
        let properties = block_of(&mut block, properties);
        self.say(Packet::ConnAck(ConnAck { session_present, reason, properties }));
    }

    /// Sends a packet of the server.
    pub fn say(&mut self, packet: Packet<'_>) {
        let mut out = vec![0; 8192];
        let n = packet.encode(self.version, u32::MAX, &mut out).unwrap();
        self.say_bytes(&out[..n]);
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.wire().to_client.extend(bytes);
    }

    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS, id: u16) {
        let packet_id = PacketId::new(id);
        self.say(Packet::Publish(Publish { topic, payload, qos, packet_id, ..Publish::default() }));
    }

    pub fn puback(&mut self, id: u16) {
        self.say(Packet::PubAck(ack(id)));
    }

    pub fn suback(&mut self, id: u16, reasons: &[ReasonCode]) {
        let (packet_id, properties) = (PacketId::new(id).unwrap(), Properties::NONE);
        self.say(Packet::SubAck(SubAck { packet_id, properties, reasons: ReasonCodes::new(reasons) }));
    }

    pub fn unsuback(&mut self, id: u16, reasons: &[ReasonCode]) {
        let (packet_id, properties) = (PacketId::new(id).unwrap(), Properties::NONE);
        self.say(Packet::UnsubAck(UnsubAck { packet_id, properties, reasons: ReasonCodes::new(reasons) }));
    }

    /// Returns the packets that the client has sent since the last call, in words. Every packet is
    /// decoded strictly.
    pub fn sent(&mut self) -> Vec<String> {
        let bytes = std::mem::take(&mut self.wire().from_client);
        let (mut rest, mut all) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            match frame::split(rest, self.version, u32::MAX).expect("a good packet") {
                Split::Incomplete { .. } => {
                    self.wire().from_client = rest.to_vec();
                    break;
                }
                Split::Frame { frame, len } => {
                    all.push(words(&Packet::decode(frame, self.version).expect("a good packet")));
                    rest = &rest[len..];
                }
            }
        }
        all
    }

    /// Breaks the link and lets the pause pass.
    pub fn lose(&mut self) {
        self.wire().up = false;
        assert_eq!(self.poll(), [Seen::Disconnected(None)]);
        self.pass_ms(60_000);
    }

    /// Breaks the link, lets the pause pass, and answers CONNECT.
    pub fn reconnect(&mut self, session_present: bool) {
        self.lose();
        self.accept(session_present, &[]);
    }
}

pub fn block_of<'b>(block: &'b mut [u8], properties: &[Property<'_>]) -> Properties<'b> {
    let mut w = PropertyWriter::new(block);
    properties.iter().for_each(|property| w.push(*property).unwrap());
    w.finish()
}

pub fn ack(id: u16) -> Ack<'static> {
    Ack::new(PacketId::new(id).unwrap(), ReasonCode::Success)
}

/// Describes a packet in a few words.
pub fn words(packet: &Packet<'_>) -> String {
    let properties = |properties: &Properties<'_>| {
        properties.iter().map(|property| format!(" {property:?}")).collect::<String>()
    };
    let ack = |name: &str, ack: &Ack<'_>| match ack.reason {
        ReasonCode::Success => format!("{name} {}", ack.packet_id),
        reason => format!("{name} {} {reason:?}", ack.packet_id),
    };
    match packet {
        Packet::Connect(c) => format!(
            "Connect {} clean={} keep={}{}{}",
            c.client_id,
            u8::from(c.clean_start),
            c.keep_alive_s,
            properties(&c.properties),
            c.will.map_or(String::new(), |will| format!(
                " will {} {}{}",
                will.topic,
                String::from_utf8_lossy(will.payload),
                properties(&will.properties)
            ))
        ),
        Packet::Publish(p) => format!(
            "Publish {}{}{}{} {}{} {}",
            p.qos as u8,
            if p.dup { " dup" } else { "" },
            if p.retain { " retain" } else { "" },
            p.packet_id.map_or(String::new(), |id| format!(" #{id}")),
            p.topic,
            properties(&p.properties),
            String::from_utf8_lossy(p.payload)
        ),
        Packet::PubAck(a) => ack("PubAck", a),
        Packet::PubRec(a) => ack("PubRec", a),
        Packet::PubRel(a) => ack("PubRel", a),
        Packet::PubComp(a) => ack("PubComp", a),
        Packet::Subscribe(s) => {
            let filters: Vec<_> = s
                .subscriptions
                .iter()
                .map(|one| format!("{} {}", one.filter, one.options.qos as u8))
                .collect();
            format!("Subscribe #{} {}", s.packet_id, filters.join(", "))
        }
        Packet::Unsubscribe(u) => {
            format!("Unsubscribe #{} {}", u.packet_id, u.filters.iter().collect::<Vec<_>>().join(", "))
        }
        Packet::PingReq => "PingReq".to_owned(),
        Packet::Disconnect(d) => format!("Disconnect {:?}", d.reason),
        Packet::Auth(a) => format!("Auth {:?}{}", a.reason, properties(&a.properties)),
        other => format!("{other:?}"),
    }
}
