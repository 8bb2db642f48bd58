//! What the store is told, one change at a time; and what it gives back of a session after a
//! restart.

use std::num::NonZeroU32;
use std::sync::Arc;

use lapwing_protocol::{PacketId, QoS};

use crate::message::{Delivery, DeliveryTerms, Durability, Message, Millis, Seq, SessionNumber};
pub use crate::session::KeptFlight;
use crate::session::{Subscription, Will};
use crate::store::Lsn;

/// What is known of a session itself.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionTerms {
    /// Its number.
    pub number: SessionNumber,
    /// The client identifier.
    pub client_id: Arc<str>,
    /// Whose it is.
    pub user: Option<Arc<str>>,
    /// Session Expiry Interval, in seconds; 0: it is kept only for its will.
    pub expiry_s: u32,
    /// Its will.
    pub will: Option<Will>,
    /// A connection serves it.
    pub connected: bool,
    /// While it rests: when the will is due.
    pub will_at: Option<Millis>,
    /// While it rests: when it ends.
    pub ends_at: Option<Millis>,
}

/// A message's place in the queue of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSlot {
    /// Whose queue.
    pub session: SessionNumber,
    /// Where in it.
    pub seq: Seq,
    /// How it is to be delivered.
    pub terms: DeliveryTerms,
}

impl QueueSlot {
    /// The place of a delivery.
    pub fn of(session: SessionNumber, delivery: &Delivery) -> QueueSlot {
        QueueSlot { session, seq: delivery.seq, terms: delivery.terms.clone() }
    }
}

/// The queues that took a message: mostly one, which costs no allocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum QueueSlots {
    /// None.
    #[default]
    None,
    /// One.
    One(QueueSlot),
    /// Several.
    Many(Vec<QueueSlot>),
}

impl QueueSlots {
    /// One more.
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

    /// All of them.
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
        all.into_iter().fold(QueueSlots::None, |mut places, queued| {
            places.push(queued);
            places
        })
    }
}

/// Where a message comes from when it changes hands within the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousSlot {
    /// The session that had it.
    pub session: SessionNumber,
    /// Its place there.
    pub seq: Seq,
    /// Its size, in bytes.
    pub size: u32,
    /// The packet identifier that it was sent with.
    pub packet_id: Option<PacketId>,
}

/// What a message that was routed changes beside queues and topics. Few do, so that it stands in a
/// box: every record goes from thread to thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// The QoS 2 packet that brought it: not to be taken again until it is released.
    pub received: Option<(SessionNumber, PacketId)>,
    /// It was another session's before.
    pub origin: Option<PreviousSlot>,
}

impl Extras {
    /// In a box, if there is something.
    pub fn of(
        received: Option<(SessionNumber, PacketId)>,
        origin: Option<PreviousSlot>,
    ) -> Option<Box<Extras>> {
        (received.is_some() || origin.is_some()).then(|| Box::new(Extras { received, origin }))
    }
}

/// One change of what the broker keeps; all of it or nothing survives.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Nothing: a place that was not needed.
    Nothing,
    /// A session began or changed its terms.
    Session(Box<SessionTerms>),
    /// A session ended with all it had.
    SessionEnded {
        /// Which.
        session: SessionNumber,
    },
    /// A subscription was made or replaced.
    Subscribed {
        /// Whose.
        session: SessionNumber,
        /// The topic filter, `$share/…` included.
        filter: Box<str>,
        /// What it is.
        subscription: KeptSubscription,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// Whose.
        session: SessionNumber,
        /// The topic filter.
        filter: Box<str>,
    },
    /// A message was routed.
    Published {
        /// The message.
        message: Message,
        /// It is the retained message of its topic now, or removes that.
        retained: bool,
        /// The queues that took it.
        queued: QueueSlots,
        /// What else it changes, if anything.
        beside: Option<Box<Extras>>,
    },
    /// A retained message has expired.
    RetainedExpired {
        /// Its topic.
        topic: Box<str>,
    },
    /// A step of the exchange of one message with a client.
    Exchange(FlightStep),
}

/// What a step of an exchange changes. Most records of clients that acknowledge are such, so that
/// they are small.
#[derive(Clone, Debug, PartialEq)]
pub enum FlightStep {
    /// A message was sent to the client of a session.
    Sent {
        /// Whose.
        session: SessionNumber,
        /// The packet identifier.
        packet_id: PacketId,
        /// The message's place.
        seq: Seq,
        /// The QoS it was sent with, 1 or 2.
        qos: QoS,
        /// Its size, in bytes.
        size: u32,
        /// The message, where no queue has it (see [`REPLAYED`](crate::message::REPLAYED)).
        body: Option<Box<Delivery>>,
    },
    /// A message is over for a session: acknowledged, expired, dropped.
    Acknowledged(PreviousSlot),
    /// The client has a QoS 2 message (PUBREC): the identifier stays until PUBCOMP.
    PubRecReceived(PreviousSlot),
    /// A QoS 2 message is over (PUBCOMP).
    Completed {
        /// Whose.
        session: SessionNumber,
        /// The packet identifier.
        packet_id: PacketId,
    },
    /// A QoS 2 message was taken in; of an export, where its message is elsewhere.
    Received {
        /// Whose.
        session: SessionNumber,
        /// The packet identifier.
        packet_id: PacketId,
    },
    /// A client released a QoS 2 message (PUBREL).
    Released {
        /// Whose.
        session: SessionNumber,
        /// The packet identifier.
        packet_id: PacketId,
    },
}

impl From<FlightStep> for Record {
    fn from(step: FlightStep) -> Record {
        Record::Exchange(step)
    }
}

/// A subscription as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSubscription {
    /// Options and identifier.
    pub held: Subscription,
    /// The number of the shared group.
    pub group: Option<NonZeroU32>,
    /// Its retained messages are still to be sent.
    pub replay: bool,
}

/// What waits in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The place that the next message gets is above this.
    pub last: Seq,
    /// Messages, those on their way included.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The packet identifier that was used last; 0: none.
    pub packet_id: u16,
}

/// A session as an earlier run left it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptSession {
    /// Its terms.
    pub terms: SessionTerms,
    /// Its subscriptions by filter.
    pub subscriptions: Vec<(Box<str>, KeptSubscription)>,
    /// What was on its way to the client, in the order of the first sending.
    pub flights: Vec<KeptFlight>,
    /// The QoS 2 messages that the client has not released.
    pub received: Vec<PacketId>,
    /// What waits.
    pub waiting: Waiting,
}

/// A record for its place in the log.
#[derive(Debug)]
pub struct Entry {
    /// The place.
    pub lsn: Lsn,
    /// The record.
    pub record: Record,
    /// How it is to be kept.
    pub durability: Durability,
    /// The crc32c of its message.
    pub(super) sum: u32,
    /// An estimate of the memory that it takes, in bytes.
    pub(in crate::store) estimated_bytes: usize,
}

/// An estimate of the memory that a record takes.
pub(in crate::store) fn estimated_bytes(record: &Record) -> usize {
    match record {
        Record::Published { message, queued, .. } => 96 + message.size() + 48 * queued.as_slice().len(),
        Record::Session(terms) => 160 + terms.will.as_ref().map_or(0, |will| will.payload.len()),
        Record::Exchange(FlightStep::Sent { body: Some(body), .. }) => 96 + body.message.size(),
        _ => 64,
    }
}
