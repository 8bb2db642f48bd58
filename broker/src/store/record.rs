//! Records of the log: each is one change of the broker's state. `KeptSession`, the state in which
//! recovery finds a session, is here too.

use std::num::NonZeroU32;
use std::sync::Arc;

use lapwing_protocol::{PacketId, QoS};

use crate::message::{Delivery, DeliveryTerms, Durability, Message, Millis, Seq, SessionNumber};
pub use crate::session::KeptFlight;
use crate::session::{Subscription, Will};
use crate::store::Lsn;
use crate::store::checkpoint::meta::StateIdentity;

/// Kind of a session: decides who serves it, and what its `state` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionKind {
    /// Session of an MQTT client.
    #[default]
    Client = 0,
    /// Bridge to another broker.
    Bridge = 1,
    /// Part of a work queue.
    Queue = 2,
    /// Stream.
    Stream = 3,
    /// Sink, source or durable rule.
    Connector = 4,
}

impl SessionKind {
    /// The kind of this number.
    pub(in crate::store) fn from_u8(number: u8) -> Option<SessionKind> {
        use SessionKind::{Bridge, Client, Connector, Queue, Stream};
        [Client, Bridge, Queue, Stream, Connector].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// State of a session itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionTerms {
    /// Number of the session.
    pub number: SessionNumber,
    /// Client identifier.
    pub client_id: Arc<str>,
    /// User that owns the session.
    pub user: Option<Arc<str>>,
    /// Session Expiry Interval, in seconds; 0: it is kept only for its will.
    pub expiry_s: u32,
    /// Will message.
    pub will: Option<Will>,
    /// Set while a connection serves it.
    pub connected: bool,
    /// While offline: due time of the will.
    pub will_at: Option<Millis>,
    /// While offline: end of the session.
    pub ends_at: Option<Millis>,
    /// Kind of the session.
    pub kind: SessionKind,
    /// State that only sessions of this kind have.
    pub state: Option<Arc<[u8]>>,
    /// Identity beside the user, as `auth` packs it; `None`: not known.
    pub identity: Option<Arc<[u8]>>,
}

/// Slot of a message in one session queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSlot {
    /// Session of the queue.
    pub session: SessionNumber,
    /// Number in the queue.
    pub seq: Seq,
    /// Terms of the delivery.
    pub terms: DeliveryTerms,
}

impl QueueSlot {
    /// Slot of a delivery.
    pub fn of(session: SessionNumber, delivery: &Delivery) -> QueueSlot {
        QueueSlot { session, seq: delivery.seq, terms: delivery.terms.clone() }
    }
}

/// Queues that took a message: mostly one, which needs no allocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum QueueSlots {
    /// No queue.
    #[default]
    None,
    /// One queue.
    One(QueueSlot),
    /// Several queues.
    Many(Vec<QueueSlot>),
}

impl QueueSlots {
    /// Adds a slot.
    pub fn push(&mut self, queued: QueueSlot) {
        *self = match std::mem::take(self) {
            QueueSlots::None => QueueSlots::One(queued),
            QueueSlots::One(first) => QueueSlots::Many(vec![first, queued]),
            QueueSlots::Many(mut all) => {
                all.push(queued);
                QueueSlots::Many(all)
            }
        };
    }

    /// All slots.
    pub fn as_slice(&self) -> &[QueueSlot] {
        match self {
            QueueSlots::None => &[],
            QueueSlots::One(queued) => std::slice::from_ref(queued),
            QueueSlots::Many(all) => all,
        }
    }
}

impl FromIterator<QueueSlot> for QueueSlots {
    fn from_iter<I: IntoIterator<Item = QueueSlot>>(all: I) -> QueueSlots {
        all.into_iter().fold(QueueSlots::None, |mut slots, queued| {
            slots.push(queued);
            slots
        })
    }
}

/// Slot that a message leaves when it moves within the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousSlot {
    /// Session that had it.
    pub session: SessionNumber,
    /// Number in its queue.
    pub seq: Seq,
    /// Size of the message, in bytes.
    pub size: u32,
    /// Packet identifier that it was sent with.
    pub packet_id: Option<PacketId>,
    /// Session of that packet, if it is not the session that had the message; 0: it is.
    pub packet_session: SessionNumber,
}

impl PreviousSlot {
    /// Slot of a message that was sent to the session's own client, if at all.
    pub fn new(session: SessionNumber, seq: Seq, size: u32, packet_id: Option<PacketId>) -> PreviousSlot {
        PreviousSlot { session, seq, size, packet_id, packet_session: 0 }
    }

    /// Session and identifier of the packet that the message was sent with.
    pub fn packet(&self) -> Option<(SessionNumber, PacketId)> {
        let session = if self.packet_session == 0 { self.session } else { self.packet_session };
        self.packet_id.map(|packet_id| (session, packet_id))
    }
}

/// Changes by a routed message beyond queues and topics. They are rare and therefore boxed: every
/// record moves between threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// QoS 2 packet that brought the message: it must not be accepted again before PUBREL.
    pub received: Option<(SessionNumber, PacketId)>,
    /// Slot in another session that the message leaves.
    pub origin: Option<PreviousSlot>,
}

impl Extras {
    /// Boxes the values if there are any.
    pub fn of(
        received: Option<(SessionNumber, PacketId)>,
        origin: Option<PreviousSlot>,
    ) -> Option<Box<Extras>> {
        (received.is_some() || origin.is_some()).then(|| Box::new(Extras { received, origin }))
    }
}

/// One change of the broker's state; it survives as a whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// No change: the LSN was not needed.
    Nothing,
    /// A session began or changed its terms.
    Session(Box<SessionTerms>),
    /// A session ended, and its state is removed.
    SessionEnded {
        /// Number of the session.
        session: SessionNumber,
    },
    /// A subscription was added or replaced.
    Subscribed {
        /// Number of the session.
        session: SessionNumber,
        /// Topic filter, including `$share/…`.
        filter: Box<str>,
        /// The subscription.
        subscription: KeptSubscription,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// Number of the session.
        session: SessionNumber,
        /// Topic filter.
        filter: Box<str>,
    },
    /// A message was routed.
    Published {
        /// The message.
        message: Message,
        /// Set when it becomes the retained message of its topic, or removes that.
        retained: bool,
        /// Queues that took it.
        queued: QueueSlots,
        /// Other changes, if any.
        beside: Option<Box<Extras>>,
    },
    /// A retained message expired.
    RetainedExpired {
        /// Topic name.
        topic: Box<str>,
    },
    /// A step of the exchange of one message with a client.
    Exchange(FlightStep),
    /// Identity of the state: the first record of an export, and nowhere else.
    Identity(Box<StateIdentity>),
}

/// A step of an exchange. Most records of clients that acknowledge are such steps, so they are
/// small.
#[derive(Clone, Debug, PartialEq)]
pub enum FlightStep {
    /// A message was sent to the client of a session.
    Sent {
        /// Number of the session.
        session: SessionNumber,
        /// Packet identifier.
        packet_id: PacketId,
        /// Slot of the message.
        seq: Seq,
        /// QoS of the delivery, 1 or 2.
        qos: QoS,
        /// Size of the message, in bytes.
        size: u32,
        /// The message, if no queue has it (see [`REPLAYED`](crate::message::REPLAYED)).
        body: Option<Box<Delivery>>,
    },
    /// A message is finished for a session: acknowledged, expired, dropped.
    Acknowledged(PreviousSlot),
    /// The client has a QoS 2 message (PUBREC): the identifier stays until PUBCOMP.
    PubRecReceived(PreviousSlot),
    /// A QoS 2 exchange ended (PUBCOMP).
    Completed {
        /// Number of the session.
        session: SessionNumber,
        /// Packet identifier.
        packet_id: PacketId,
    },
    /// A QoS 2 message was received; in an export, without the message.
    Received {
        /// Number of the session.
        session: SessionNumber,
        /// Packet identifier.
        packet_id: PacketId,
    },
    /// A client released a QoS 2 message (PUBREL).
    Released {
        /// Number of the session.
        session: SessionNumber,
        /// Packet identifier.
        packet_id: PacketId,
    },
}

impl From<FlightStep> for Record {
    fn from(step: FlightStep) -> Record {
        Record::Exchange(step)
    }
}

/// A stored subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSubscription {
    /// Options and identifier.
    pub held: Subscription,
    /// Number of the shared group.
    pub group: Option<NonZeroU32>,
    /// Set when its retained messages are still to be sent.
    pub replay: bool,
}

/// Counts of a session queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The next message gets a slot above this one.
    pub last: Seq,
    /// Number of messages, including those in flight.
    pub count: u64,
    /// Size of these messages, in bytes.
    pub bytes: u64,
    /// Packet identifier that was used last; 0: none.
    pub packet_id: u16,
}

/// A session of the previous run.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptSession {
    /// Terms of the session.
    pub terms: SessionTerms,
    /// Subscriptions by filter.
    pub subscriptions: Vec<(Box<str>, KeptSubscription)>,
    /// Messages in flight, in the order of their first sending.
    pub flights: Vec<KeptFlight>,
    /// QoS 2 messages that the client has not released.
    pub received: Vec<PacketId>,
    /// Counts of the queue.
    pub waiting: Waiting,
}

/// A record with its LSN.
#[derive(Debug)]
pub struct Entry {
    /// LSN of the record.
    pub lsn: Lsn,
    /// The record.
    pub record: Record,
    /// Requested durability.
    pub durability: Durability,
    /// crc32c of its message.
    pub(super) sum: u32,
    /// Estimated memory, in bytes.
    pub(in crate::store) estimated_bytes: usize,
}

/// Estimated memory of a record, in bytes.
pub(in crate::store) fn estimated_bytes(record: &Record) -> usize {
    match record {
        Record::Published { message, queued, .. } => 96 + message.size() + 48 * queued.as_slice().len(),
        Record::Session(terms) => 160 + terms.will.as_ref().map_or(0, |will| will.payload.len()),
        Record::Exchange(FlightStep::Sent { body: Some(body), .. }) => 96 + body.message.size(),
        _ => 64,
    }
}
