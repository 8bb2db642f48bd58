//! A session and a scripted client on a fake clock, without sockets, judged by what each end must
//! see.
//!
//! The network keeps order and loses everything that is under way when it is cut, which may be at
//! any moment. Whatever the moments are, after the dust has settled every QoS 1 message has arrived
//! at least once, every QoS 2 message exactly once, each in the order of sending, in both
//! directions. `tests/tests/session/model.rs` cuts at every point, `fuzz/` at all others.

use std::collections::VecDeque;

use lapwing::internals::message::{Delivery, DeliveryTerms, Message, MessageParts};
use lapwing::internals::session::{Effect, Session, Terms, Transmit};
use lapwing_protocol::packet::{Ack, Packet, PacketId, Publish};
use lapwing_protocol::{PacketType, QoS, ReasonCode};

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A message for the client comes into the session.
    Enqueue(QoS),
    /// The session sends its next packet.
    ServerSends,
    /// The first packet under way arrives at the client.
    ClientReceives,
    /// The client publishes.
    ClientPublishes(QoS),
    /// The first packet under way arrives at the session.
    ServerReceives,
    /// The network is cut, and there again.
    Cut,
    /// Time passes, in milliseconds.
    Clock(u64),
}

/// A packet under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Publish { id: u16, qos: QoS, dup: bool, n: u32 },
    Ack(PacketType, u16),
}

/// Unfinished messages of the client: message, identifier, QoS, and true once PUBREC came.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: u16,
    n: u32,
    qos: QoS,
    released: bool,
}

/// See the module.
pub struct World {
    session: Session,
    terms: Terms,
    now: u64,
    to_client: VecDeque<Wire>,
    to_server: VecDeque<Wire>,
    enqueued: Vec<QoS>,
    published: Vec<QoS>,
    /// First arrivals, in order, and how often each message arrived.
    client_got: Vec<u32>,
    client_count: Vec<u32>,
    server_got: Vec<u32>,
    server_count: Vec<u32>,
    /// The client's QoS 2 identifiers that wait for PUBREL.
    client_holds: Vec<u16>,
    open: Vec<Open>,
    last_id: u16,
    /// PUBLISH with quota sent over this connection and not acknowledged.
    unacknowledged: usize,
}

impl World {
    /// `receive_maximum` holds in both directions.
    pub fn new(receive_maximum: u16) -> World {
        let terms = Terms {
            receive_maximum,
            in_flight_max: receive_maximum,
            expiry_s: 1_000,
            message_expiry_max_s: u32::MAX,
        };
        World {
            session: Session::new(1, "client".into(), None, &terms, false),
            terms,
            now: 0,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            enqueued: Vec::new(),
            published: Vec::new(),
            client_got: Vec::new(),
            client_count: Vec::new(),
            server_got: Vec::new(),
            server_count: Vec::new(),
            client_holds: Vec::new(),
            open: Vec::new(),
            last_id: 0,
            unacknowledged: 0,
        }
    }

    /// Lets something happen; what cannot happen now does not. `true` when it did.
    pub fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Enqueue(qos) => self.enqueue(qos),
            Step::ServerSends => return self.server_sends(),
            Step::ClientReceives => {
                return self.to_client.pop_front().map(|wire| self.client_receives(wire)).is_some();
            }
            Step::ServerReceives => {
                return self.to_server.pop_front().map(|wire| self.server_receives(wire)).is_some();
            }
            Step::ClientPublishes(qos) => return self.client_publishes(qos),
            Step::Cut => self.cut(),
            Step::Clock(ms) => self.now += ms,
        }
        true
    }

    fn enqueue(&mut self, qos: QoS) {
        let n = self.enqueued.len() as u32;
        let message = Message::new(&MessageParts {
            qos,
            published_at: self.now,
            ..MessageParts::new("t", &n.to_be_bytes())
        });
        self.enqueued.push(qos);
        self.client_count.push(0);
        let delivery = Delivery { message, terms: DeliveryTerms::plain(qos), seq: 0 };
        self.session.outgoing.pending.push_back(delivery);
    }

    fn server_sends(&mut self) -> bool {
        let Some(transmit) = self.session.poll(self.now) else { return false };
        self.to_client.push_back(match transmit {
            Transmit::Publish { delivery, packet_id, dup } => {
                let n = u32::from_be_bytes(delivery.message.payload().try_into().expect("a number"));
                assert_eq!(packet_id.is_some(), delivery.terms.qos != QoS::AtMostOnce);
                if packet_id.is_some() {
                    self.unacknowledged += 1;
                    let most = usize::from(self.terms.in_flight_max);
                    assert!(self.unacknowledged <= most, "more in flight than the receive maximum");
                }
                Wire::Publish { id: packet_id.map_or(0, PacketId::get), qos: delivery.terms.qos, dup, n }
            }
            Transmit::PubRel(id) => Wire::Ack(PacketType::PubRel, id.get()),
        });
        true
    }

    fn client_receives(&mut self, wire: Wire) {
        match wire {
            Wire::Publish { id, qos, dup, n } => {
                let count = &mut self.client_count[n as usize];
                let repeated = qos == QoS::ExactlyOnce && self.client_holds.contains(&id);
                assert!(!repeated || dup, "a repetition says so");
                if !repeated {
                    *count += 1;
                    if *count == 1 {
                        self.client_got.push(n);
                    }
                }
                match qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => self.to_server.push_back(Wire::Ack(PacketType::PubAck, id)),
                    QoS::ExactlyOnce => {
                        if !repeated {
                            self.client_holds.push(id);
                        }
                        self.to_server.push_back(Wire::Ack(PacketType::PubRec, id));
                    }
                }
            }
            Wire::Ack(PacketType::PubRel, id) => {
                self.client_holds.retain(|held| *held != id);
                self.to_server.push_back(Wire::Ack(PacketType::PubComp, id));
            }
            Wire::Ack(PacketType::PubAck | PacketType::PubComp, id) => self.open.retain(|open| open.id != id),
            Wire::Ack(PacketType::PubRec, id) => {
                self.open.iter_mut().filter(|open| open.id == id).for_each(|open| open.released = true);
                self.to_server.push_back(Wire::Ack(PacketType::PubRel, id));
            }
            Wire::Ack(other, _) => panic!("the server sent {other}"),
        }
    }

    fn client_publishes(&mut self, qos: QoS) -> bool {
        if qos != QoS::AtMostOnce && self.open.len() >= usize::from(self.terms.receive_maximum) {
            return false;
        }
        let n = self.published.len() as u32;
        self.published.push(qos);
        self.server_count.push(0);
        let mut id = 0;
        if qos != QoS::AtMostOnce {
            self.last_id = self.last_id % u16::MAX + 1;
            while self.open.iter().any(|open| open.id == self.last_id) {
                self.last_id = self.last_id % u16::MAX + 1;
            }
            id = self.last_id;
            self.open.push(Open { id, n, qos, released: false });
        }
        self.to_server.push_back(Wire::Publish { id, qos, dup: false, n });
        true
    }

    fn server_receives(&mut self, wire: Wire) {
        let payload;
        let packet = match wire {
            Wire::Publish { id, qos, dup, n } => {
                payload = n.to_be_bytes();
                let packet_id = PacketId::new(id);
                Packet::Publish(Publish {
                    dup,
                    qos,
                    packet_id,
                    topic: "t",
                    payload: &payload,
                    ..Publish::default()
                })
            }
            Wire::Ack(packet_type, id) => {
                let ack = Ack::new(PacketId::new(id).expect("an identifier"), ReasonCode::Success);
                match packet_type {
                    PacketType::PubAck => Packet::PubAck(ack),
                    PacketType::PubRec => Packet::PubRec(ack),
                    PacketType::PubRel => Packet::PubRel(ack),
                    _ => Packet::PubComp(ack),
                }
            }
        };
        if matches!(wire, Wire::Ack(PacketType::PubAck | PacketType::PubComp, _)) {
            self.unacknowledged = self.unacknowledged.saturating_sub(1);
        }
        let reply = match self.session.handle(packet).expect("the client keeps to the rules") {
            Effect::Publish(publish, acknowledgement) => {
                let n = u32::from_be_bytes(publish.payload.try_into().expect("a number"));
                self.server_count[n as usize] += 1;
                if self.server_count[n as usize] == 1 {
                    self.server_got.push(n);
                }
                acknowledgement
            }
            Effect::Reply(reply) => Some(reply),
            Effect::Nothing => None,
            other => panic!("{other:?}"),
        };
        if let Some(reply) = reply {
            self.to_client.push_back(Wire::Ack(reply.packet_type, reply.packet_id.get()));
        }
    }

    fn cut(&mut self) {
        self.to_client.clear();
        self.to_server.clear();
        self.session.go_offline(self.now);
        self.session.resume(&self.terms);
        self.unacknowledged = 0;
        // The client sends again what is open, in its order.
        for open in &self.open {
            self.to_server.push_back(match open.released {
                true => Wire::Ack(PacketType::PubRel, open.id),
                false => Wire::Publish { id: open.id, qos: open.qos, dup: true, n: open.n },
            });
        }
    }

    /// Lets everything arrive, then judges.
    ///
    /// # Panics
    /// When a promise was broken.
    pub fn run_until_idle(&mut self) {
        let all = [Step::ServerSends, Step::ClientReceives, Step::ServerReceives];
        while all.iter().any(|step| self.step(*step)) {}
        judge("to the client", &self.enqueued, &self.client_count, &self.client_got);
        judge("to the server", &self.published, &self.server_count, &self.server_got);
        assert!(self.open.is_empty() && self.client_holds.is_empty(), "a flow was not finished");
        assert_eq!(self.session.outgoing.in_flight(), 0, "a flow was not finished");
    }
}

fn judge(way: &str, sent: &[QoS], counts: &[u32], got: &[u32]) {
    for (n, (qos, count)) in sent.iter().zip(counts).enumerate() {
        let good = match qos {
            QoS::AtMostOnce => *count <= 1,
            QoS::AtLeastOnce => *count >= 1,
            QoS::ExactlyOnce => *count == 1,
        };
        assert!(good, "{way}: message {n} of {qos:?} arrived {count} times");
    }
    assert!(got.is_sorted(), "{way}: {got:?} is not the order of sending");
}
