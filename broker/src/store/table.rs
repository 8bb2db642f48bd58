//! What the log says that the checkpoint does not have yet: tables of rows, `None` where a row is gone.
//!
//! A message that is acknowledged before its table is written out leaves no trace in it, and never reaches the checkpoint. Messages
//! stay in the log, where their frames brought them: a table says where.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use lapwing_protocol::flight::OutboundState;
use lapwing_protocol::{PacketId, QoS};

use super::bodies::Place;
use super::lanes::Lanes;
use super::numbers::NumberMap;
use super::record::{
    Beside, KeptFlight, KeptSubscription, Origin, Places, Queued, Record, SessionTerms, Waiting,
};
use super::{Lsn, REPLAYED, Seq};
use crate::message::{Message, SessionNumber};
use crate::outbox::SubscriptionIds;

/// A row of a queue: of all that is queued, so nothing is in it that its place says.
#[derive(Clone, Debug)]
pub(super) struct QueueRow {
    pub(super) seq: Seq,
    /// The record that brought it: rows of one record share the message.
    pub(super) lsn: Lsn,
    pub(super) kept: Kept,
    subscription_ids: SubscriptionIds,
    /// How many rows that record brought.
    pub(super) shared_by: u32,
    /// Of the message, in bytes.
    pub(super) size: u32,
    share: Option<NonZeroU32>,
    qos: QoS,
    retain: bool,
}

impl QueueRow {
    /// Its place in the queue of this session.
    pub(super) fn queued(&self, session: SessionNumber) -> Queued {
        let QueueRow { seq, qos, retain, subscription_ids, share, .. } = self;
        Queued {
            session,
            seq: *seq,
            qos: *qos,
            retain: *retain,
            subscription_ids: subscription_ids.clone(),
            share: *share,
        }
    }
}

/// Where the message of a row in a table is.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Here(Message),
    Log(Place),
}

/// A record as tables take it in.
#[derive(Debug)]
pub(super) enum Logged {
    /// A message was routed.
    Published(Published),
    /// Anything else; a message, too, that is not packed yet.
    Record(Record),
}

/// [`Record::Published`] whose message needs to be in memory no longer, if it stands in the log.
#[derive(Debug)]
pub(super) struct Published {
    kept: Kept,
    /// Of the message, in bytes.
    size: u32,
    queued: Places,
    beside: Option<Box<Beside>>,
    /// The message, where its topic keeps it.
    pub(super) retained: Option<Message>,
}

impl Logged {
    /// A record whose message stands here in the log, or is kept in memory.
    pub(super) fn of(record: Record, place: Option<Place>) -> Logged {
        let Record::Published { message, retained, queued, beside } = record else {
            return Logged::Record(record);
        };
        let size = message.size() as u32;
        let kept = place.map_or_else(|| Kept::Here(message.clone()), Kept::Log);
        let retained = if retained {
            Some(message)
        } else {
            message.recycle();
            None
        };
        Logged::Published(Published { kept, size, queued, beside, retained })
    }

    /// Where its message stands in the log.
    pub(super) fn place(&mut self) -> Option<&mut Place> {
        match self {
            Logged::Published(Published { kept: Kept::Log(place), .. }) => Some(place),
            _ => None,
        }
    }
}

/// A row that may replace one that an older table has.
#[derive(Clone, Debug)]
pub(super) struct Layered<T> {
    /// `None`: it is gone.
    pub(super) row: Option<T>,
    /// An older table may have it.
    below: bool,
}

/// The rows of a part of the log.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) sessions: BTreeMap<SessionNumber, Option<Arc<SessionTerms>>>,
    pub(super) subscriptions: BTreeMap<(SessionNumber, Box<str>), Option<KeptSubscription>>,
    pub(super) queue: Lanes,
    /// Rows of older tables that are gone.
    pub(super) gone: BTreeMap<(SessionNumber, Seq), ()>,
    pub(super) flights: BTreeMap<(SessionNumber, PacketId), Layered<KeptFlight>>,
    pub(super) received: BTreeMap<(SessionNumber, PacketId), Layered<()>>,
    pub(super) retained: BTreeMap<Box<str>, Option<Message>>,
    /// Sessions that ended: nothing that older tables have of them counts.
    pub(super) ended: BTreeSet<SessionNumber>,
    /// What waits in the queues that changed; set when the table is closed.
    pub(super) waiting: BTreeMap<SessionNumber, Waiting>,
    /// Sessions of which more is known than rows that came or went.
    touched: BTreeSet<SessionNumber>,
    /// How much of each segment of the log it was made of, in bytes.
    pub(super) covers: BTreeMap<u64, u64>,
    /// The last record in it.
    pub(super) last: Lsn,
    pub(super) last_group: u32,
}

/// What waits in each queue, at the last record applied.
pub(super) type Queues = NumberMap<Waiting>;

impl Table {
    /// Takes in the record with this number.
    pub(super) fn apply(&mut self, lsn: Lsn, logged: Logged, queues: &mut Queues) {
        self.last = self.last.max(lsn);
        let record = match logged {
            Logged::Published(published) => return self.published(lsn, published, queues),
            Logged::Record(record) => record,
        };
        match record {
            Record::Nothing => {}
            Record::Session(terms) => drop(self.sessions.insert(terms.number, Some(Arc::from(terms)))),
            Record::SessionEnded { session } => self.end(session, queues),
            Record::Subscribed { session, filter, subscription } => {
                self.last_group = self.last_group.max(subscription.group.map_or(0, |group| group.get()));
                self.subscriptions.insert((session, filter), Some(subscription));
            }
            Record::Unsubscribed { session, filter } => {
                self.subscriptions.insert((session, filter), None);
            }
            Record::Published { .. } => self.apply(lsn, Logged::of(record, None), queues),
            Record::Forgotten { topic } => drop(self.retained.insert(topic, None)),
            Record::Sent { session, packet_id, seq, qos, size, body } => {
                if let Some(body) = body {
                    let (queued, size) = (Queued::of(session, &body), body.message.size() as u32);
                    self.enqueue(queued, (lsn, 1), size, Kept::Here(body.message), queues);
                }
                let state = match qos {
                    QoS::ExactlyOnce => OutboundState::AwaitPubRec,
                    _ => OutboundState::AwaitPubAck,
                };
                queues.entry(session).or_default().packet_id = packet_id.get();
                self.touched.insert(session);
                let flight = KeptFlight { packet_id, order: lsn, state, seq, size };
                set(&mut self.flights, (session, packet_id), flight);
            }
            Record::Done(origin) => self.done(&origin, queues),
            Record::HandedOver(origin) => {
                self.dequeue(&origin, queues);
                if let Some(packet_id) = origin.packet_id {
                    let before = self.flights.get(&(origin.session, packet_id)).and_then(|f| f.row);
                    let flight = KeptFlight {
                        packet_id,
                        order: before.map_or(lsn, |flight| flight.order),
                        state: OutboundState::AwaitPubComp,
                        seq: origin.seq,
                        size: origin.size,
                    };
                    // Where this table does not know it, an older one may.
                    let below = self.flights.get(&(origin.session, packet_id)).is_none_or(|f| f.below);
                    self.flights.insert((origin.session, packet_id), Layered { row: Some(flight), below });
                }
            }
            Record::Completed { session, packet_id } => unset(&mut self.flights, (session, packet_id)),
            Record::Received { session, packet_id } => set(&mut self.received, (session, packet_id), ()),
            Record::Released { session, packet_id } => unset(&mut self.received, (session, packet_id)),
        }
    }

    fn published(&mut self, lsn: Lsn, published: Published, queues: &mut Queues) {
        let Published { kept, size, queued, beside, retained } = published;
        match queued {
            Places::None => {}
            Places::One(queued) => self.enqueue(queued, (lsn, 1), size, kept, queues),
            Places::Many(all) => {
                let shared_by = all.len() as u32;
                for queued in all {
                    self.enqueue(queued, (lsn, shared_by), size, kept.clone(), queues);
                }
            }
        }
        if let Some(beside) = beside {
            if let Some(key) = beside.received {
                set(&mut self.received, key, ());
            }
            if let Some(origin) = &beside.origin {
                self.done(origin, queues);
            }
        }
        if let Some(message) = retained {
            let topic = message.topic_str().into();
            self.retained.insert(topic, Some(message).filter(|message| !message.payload().is_empty()));
        }
    }

    fn enqueue(
        &mut self,
        queued: Queued,
        (lsn, shared_by): (Lsn, u32),
        size: u32,
        kept: Kept,
        queues: &mut Queues,
    ) {
        let Queued { session, seq, qos, retain, subscription_ids, share } = queued;
        if seq & REPLAYED == 0 {
            let waiting = queues.entry(session).or_default();
            waiting.last = waiting.last.max(seq);
            waiting.count += 1;
            waiting.bytes += u64::from(size);
        }
        let row = QueueRow { seq, lsn, kept, subscription_ids, shared_by, size, share, qos, retain };
        self.queue.insert(session, row);
    }

    fn dequeue(&mut self, origin: &Origin, queues: &mut Queues) {
        if origin.seq == 0 {
            return;
        }
        // A row stands in one table only: one that is here is nowhere else.
        if !self.queue.take(origin.session, origin.seq) {
            self.gone.insert((origin.session, origin.seq), ());
        }
        if origin.seq & REPLAYED == 0 {
            let waiting = queues.entry(origin.session).or_default();
            waiting.count = waiting.count.saturating_sub(1);
            waiting.bytes = waiting.bytes.saturating_sub(u64::from(origin.size));
            if waiting.count == 0 {
                waiting.bytes = 0;
            }
        }
    }

    fn done(&mut self, origin: &Origin, queues: &mut Queues) {
        self.dequeue(origin, queues);
        if let Some(packet_id) = origin.packet_id {
            unset(&mut self.flights, (origin.session, packet_id));
        }
    }

    fn end(&mut self, session: SessionNumber, queues: &mut Queues) {
        fn forget<K: Ord + Clone, V>(
            rows: &mut BTreeMap<K, V>,
            from: K,
            of: impl Fn(&K) -> SessionNumber,
            session: SessionNumber,
        ) {
            let keys: Vec<K> = rows
                .range(from..)
                .map(|(key, _)| key)
                .take_while(|key| of(key) == session)
                .cloned()
                .collect();
            keys.iter().for_each(|key| drop(rows.remove(key)));
        }
        forget(&mut self.subscriptions, (session, Box::from("")), |key| key.0, session);
        self.queue.forget(session);
        forget(&mut self.gone, (session, 0), |key| key.0, session);
        forget(&mut self.flights, (session, PacketId::MIN), |key| key.0, session);
        forget(&mut self.received, (session, PacketId::MIN), |key| key.0, session);
        self.sessions.insert(session, None);
        self.ended.insert(session);
        self.touched.remove(&session);
        queues.remove(&session);
    }

    /// Nothing is added any more: notes what waits in the queues that changed.
    pub(super) fn close(&mut self, queues: &Queues) {
        let mut last = None;
        let gone =
            self.gone.keys().map(|key| key.0).filter(|session| last.replace(*session) != Some(*session));
        let changed = self.queue.sessions().chain(gone);
        let changed: BTreeSet<SessionNumber> = changed.chain(std::mem::take(&mut self.touched)).collect();
        for session in changed {
            self.waiting.insert(session, queues.get(&session).copied().unwrap_or_default());
        }
    }

    /// An empty table that goes on behind this one.
    pub(super) fn following(&self) -> Table {
        Table { last_group: self.last_group, ..Table::default() }
    }
}

fn set<K: Ord, V>(rows: &mut BTreeMap<K, Layered<V>>, key: K, row: V) {
    // The identifier was free, so that no older table has a row for it that still counts.
    let below = rows.get(&key).is_some_and(|old| old.below);
    rows.insert(key, Layered { row: Some(row), below });
}

fn unset<K: Ord, V>(rows: &mut BTreeMap<K, Layered<V>>, key: K) {
    match rows.remove(&key) {
        Some(Layered { below: false, row: Some(_) }) => {}
        _ => drop(rows.insert(key, Layered { row: None, below: true })),
    }
}
