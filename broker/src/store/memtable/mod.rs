//! Memtables: rows of the log that the checkpoint lacks; `None` marks a removed row.
//!
//! A message that is acknowledged before its table is checkpointed leaves no row in it, and never
//! reaches the checkpoint. Messages stay in the frames of the log; a table refers to them.

pub(in crate::store) mod id_map;
pub(in crate::store) mod queues;
pub(in crate::store) mod row;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lapwing_protocol::flight::OutboundState;
use lapwing_protocol::{PacketId, QoS};

use super::record::{
    Extras, FlightStep, KeptFlight, KeptSubscription, PreviousSlot, QueueSlot, QueueSlots, Record,
    SessionTerms, Waiting,
};
use crate::message::{Message, REPLAYED, Seq, SessionNumber};
use crate::store::Lsn;
use crate::store::location::{LogLocation, MessageRef};
use crate::store::memtable::id_map::NumberMap;
use crate::store::memtable::queues::QueueRows;
use crate::store::memtable::row::{Compact, Row, RowBody, SharedBody};

/// A record in the form that tables apply.
#[derive(Debug)]
pub(in crate::store) enum AppliedRecord {
    /// A message was routed to one queue, without other changes.
    Queued(SessionNumber, u32, Compact),
    /// A message was routed.
    Published(Box<PublishedRow>),
    /// A step of an exchange.
    Exchange(FlightStep),
    /// Any other record, or a message that is not packed yet.
    Record(Box<Record>),
}

// They move between threads, one for each record.
const _: () = assert!(size_of::<AppliedRecord>() <= 48);

/// [`Record::Published`] without its message, if that is in the log.
#[derive(Debug)]
pub(in crate::store) struct PublishedRow {
    body: RowBody,
    /// Size of the message, in bytes.
    size: u32,
    queued: QueueSlots,
    beside: Option<Box<Extras>>,
    /// The message, if its topic retains it.
    pub(in crate::store) retained: Option<Message>,
}

impl AppliedRecord {
    /// Converts a record whose message is at this location of the log, or is kept in memory.
    pub(in crate::store) fn of(record: Record, reference: Option<MessageRef>) -> AppliedRecord {
        let (message, retained, queued, beside) = match record {
            Record::Published { message, retained, queued, beside } => (message, retained, queued, beside),
            Record::Exchange(step) => return AppliedRecord::Exchange(step),
            other => return AppliedRecord::Record(Box::new(other)),
        };
        let size = message.size() as u32;
        if let (false, None, QueueSlots::One(one), Some(reference)) = (retained, &beside, &queued, &reference)
            && let Some(plain) = Compact::of(one, reference, false)
        {
            message.recycle();
            return AppliedRecord::Queued(one.session, size, plain);
        }
        let body = reference.map_or_else(|| RowBody::Here(message.clone()), RowBody::Log);
        let retained = if retained {
            Some(message)
        } else {
            message.recycle();
            None
        };
        AppliedRecord::Published(Box::new(PublishedRow { body, size, queued, beside, retained }))
    }

    /// Sets the segment of its message, and moves its offset on.
    pub(in crate::store) fn shift(&mut self, segment: u64, by: u64) {
        match self {
            AppliedRecord::Queued(session, size, plain) => {
                let at = u64::from(plain.at) + by;
                if let (Ok(segment), Ok(at)) = (u32::try_from(segment), u32::try_from(at)) {
                    (plain.segment, plain.at) = (segment, at);
                    return;
                }
                let reference = MessageRef { location: LogLocation { segment, at }, ..plain.reference() };
                let queued = QueueSlot { session: *session, seq: plain.seq, terms: plain.terms() };
                let (body, size) = (RowBody::Log(reference), *size);
                let queued = QueueSlots::One(queued);
                let published = PublishedRow { body, size, queued, beside: None, retained: None };
                *self = AppliedRecord::Published(Box::new(published));
            }
            AppliedRecord::Published(published) => {
                if let RowBody::Log(MessageRef { location, .. }) = &mut published.body {
                    *location = LogLocation { segment, at: location.at + by };
                }
            }
            AppliedRecord::Exchange(_) | AppliedRecord::Record(_) => {}
        }
    }

    /// Location of its message in the log.
    #[cfg(test)]
    pub(in crate::store) fn reference(&self) -> Option<MessageRef> {
        match self {
            AppliedRecord::Queued(.., plain) => Some(plain.reference()),
            AppliedRecord::Published(published) => match published.body {
                RowBody::Log(reference) => Some(reference),
                RowBody::Here(_) => None,
            },
            AppliedRecord::Exchange(_) | AppliedRecord::Record(_) => None,
        }
    }
}

/// A row that may replace one of an older table.
#[derive(Clone, Debug)]
pub(in crate::store) struct Layered<T> {
    /// `None`: the row was removed.
    pub(in crate::store) row: Option<T>,
    /// Set when an older table may have the row.
    below: bool,
}

/// Rows of a part of the log.
#[derive(Debug, Default)]
pub(in crate::store) struct MemTable {
    pub(in crate::store) sessions: BTreeMap<SessionNumber, Option<Arc<SessionTerms>>>,
    pub(in crate::store) subscriptions: BTreeMap<(SessionNumber, Box<str>), Option<KeptSubscription>>,
    pub(in crate::store) queue: QueueRows,
    /// Counts of messages with several rows, by location.
    shared_bodies: HashMap<LogLocation, SharedBody>,
    /// Removed rows of older tables.
    pub(in crate::store) gone: BTreeMap<(SessionNumber, Seq), ()>,
    pub(in crate::store) flights: BTreeMap<(SessionNumber, PacketId), Layered<KeptFlight>>,
    pub(in crate::store) received: BTreeMap<(SessionNumber, PacketId), Layered<()>>,
    pub(in crate::store) retained: BTreeMap<Box<str>, Option<Message>>,
    /// Ended sessions: rows of older tables do not count for them.
    pub(in crate::store) ended: BTreeSet<SessionNumber>,
    /// Counts of the queues that changed; set when the table is frozen.
    pub(in crate::store) waiting: BTreeMap<SessionNumber, Waiting>,
    /// Sessions with changes beyond added and removed rows.
    touched: BTreeSet<SessionNumber>,
    /// Bytes of each segment that the table covers.
    pub(in crate::store) covers: BTreeMap<u64, u64>,
    /// Last record of the table.
    pub(in crate::store) last: Lsn,
    pub(in crate::store) last_group: u32,
    /// Memory of new retained messages, in bytes.
    retained_bytes: usize,
}

/// Counts of each queue after the last applied record.
pub(in crate::store) type Queues = NumberMap<Waiting>;

impl MemTable {
    /// Applies the record with this LSN.
    pub(in crate::store) fn apply(&mut self, lsn: Lsn, logged: AppliedRecord, queues: &mut Queues) {
        self.last = self.last.max(lsn);
        let record = match logged {
            AppliedRecord::Queued(session, size, plain) => {
                count(queues, session, plain.seq, size);
                return self.queue.insert(session, Row::Plain(plain));
            }
            AppliedRecord::Published(published) => return self.published(lsn, *published, queues),
            AppliedRecord::Exchange(step) => return self.step(lsn, step, queues),
            AppliedRecord::Record(record) => *record,
        };
        match record {
            Record::Nothing | Record::Identity(_) => {}
            Record::Session(terms) => drop(self.sessions.insert(terms.number, Some(Arc::from(terms)))),
            Record::SessionEnded { session } => self.end(session, queues),
            Record::Subscribed { session, filter, subscription } => {
                self.last_group = self.last_group.max(subscription.group.map_or(0, |group| group.get()));
                self.subscriptions.insert((session, filter), Some(subscription));
            }
            Record::Unsubscribed { session, filter } => {
                self.subscriptions.insert((session, filter), None);
            }
            Record::Published { .. } => self.apply(lsn, AppliedRecord::of(record, None), queues),
            Record::RetainedExpired { topic } => drop(self.retained.insert(topic, None)),
            Record::Exchange(step) => self.step(lsn, step, queues),
        }
    }

    fn step(&mut self, lsn: Lsn, step: FlightStep, queues: &mut Queues) {
        match step {
            FlightStep::Sent { session, packet_id, seq, qos, size, body } => {
                if let Some(body) = body {
                    let (queued, size) = (QueueSlot::of(session, &body), body.message.size() as u32);
                    let shared = SharedBody { lsn, count: 1 };
                    self.enqueue(queued, shared, size, RowBody::Here(body.message), queues);
                }
                let state = match qos {
                    QoS::ExactlyOnce => OutboundState::AwaitPubRec,
                    _ => OutboundState::AwaitPubAck,
                };
                queues.entry(session).or_default().packet_id = packet_id.get();
                self.touched.insert(session);
                let flight = KeptFlight { packet_id, order: lsn, state, seq, size, queue: 0 };
                set(&mut self.flights, (session, packet_id), flight);
            }
            FlightStep::Acknowledged(origin) => self.done(&origin, queues),
            FlightStep::PubRecReceived(origin) => {
                self.dequeue(&origin, queues);
                if let Some(key @ (session, packet_id)) = origin.packet() {
                    let before = self.flights.get(&key).and_then(|f| f.row);
                    let flight = KeptFlight {
                        packet_id,
                        order: before.map_or(lsn, |flight| flight.order),
                        state: OutboundState::AwaitPubComp,
                        seq: origin.seq,
                        size: origin.size,
                        queue: if session == origin.session { 0 } else { origin.session },
                    };
                    // If this table does not know it, an older one may.
                    let below = self.flights.get(&key).is_none_or(|f| f.below);
                    self.flights.insert(key, Layered { row: Some(flight), below });
                }
            }
            FlightStep::Completed { session, packet_id } => unset(&mut self.flights, (session, packet_id)),
            FlightStep::Received { session, packet_id } => set(&mut self.received, (session, packet_id), ()),
            FlightStep::Released { session, packet_id } => unset(&mut self.received, (session, packet_id)),
        }
    }

    fn published(&mut self, lsn: Lsn, published: PublishedRow, queues: &mut Queues) {
        let PublishedRow { body, size, queued, beside, retained } = published;
        match queued {
            QueueSlots::None => {}
            QueueSlots::One(queued) => self.enqueue(queued, SharedBody { lsn, count: 1 }, size, body, queues),
            QueueSlots::Many(all) => {
                let shared = SharedBody { lsn, count: all.len() as u32 };
                if let (RowBody::Log(reference), true) = (&body, shared.count > 1) {
                    self.shared_bodies.insert(reference.location, shared);
                }
                for queued in all {
                    self.enqueue(queued, shared, size, body.clone(), queues);
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
            self.retained_bytes += message.size() + message.topic_str().len();
            let topic = message.topic_str().into();
            self.retained.insert(topic, Some(message).filter(|message| !message.payload().is_empty()));
        }
    }

    fn enqueue(
        &mut self,
        queued: QueueSlot,
        shared: SharedBody,
        size: u32,
        body: RowBody,
        queues: &mut Queues,
    ) {
        let session = queued.session;
        count(queues, session, queued.seq, size);
        self.queue.insert(session, Row::of(queued, body, shared));
    }

    /// Count of the rows that share this row's message, if there are others.
    pub(in crate::store) fn shared_body(&self, row: &Row) -> Option<SharedBody> {
        match row {
            Row::Plain(plain) if plain.shared => self.shared_bodies.get(&plain.reference().location).copied(),
            Row::Plain(_) => None,
            Row::Full(full) => Some(full.shared).filter(|shared| shared.count > 1),
        }
    }

    fn dequeue(&mut self, origin: &PreviousSlot, queues: &mut Queues) {
        if origin.seq == 0 {
            return;
        }
        // A row is in one table only: if it was here, it is nowhere else.
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

    fn done(&mut self, origin: &PreviousSlot, queues: &mut Queues) {
        self.dequeue(origin, queues);
        if let Some(packet) = origin.packet() {
            unset(&mut self.flights, packet);
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

    /// Estimated memory of the table, in bytes: twice that of the rows, to include their
    /// containers.
    pub(in crate::store) fn weight(&self) -> usize {
        fn of<K, V>(rows: &BTreeMap<K, V>) -> usize {
            2 * rows.len() * (size_of::<K>() + size_of::<V>())
        }
        self.queue.weight()
            + of(&self.gone)
            + of(&self.flights)
            + of(&self.received)
            + of(&self.retained)
            + of(&self.subscriptions)
            + of(&self.sessions)
            + self.retained_bytes
            + 2 * self.shared_bodies.len() * size_of::<(LogLocation, SharedBody)>()
    }

    /// Freezes the table: records the counts of the queues that changed.
    pub(in crate::store) fn close(&mut self, queues: &Queues) {
        let mut last = None;
        let gone =
            self.gone.keys().map(|key| key.0).filter(|session| last.replace(*session) != Some(*session));
        let changed = self.queue.sessions().chain(gone);
        let changed: BTreeSet<SessionNumber> = changed.chain(std::mem::take(&mut self.touched)).collect();
        for session in changed {
            self.waiting.insert(session, queues.get(&session).copied().unwrap_or_default());
        }
    }

    /// Empty table that follows this one.
    pub(in crate::store) fn following(&self) -> MemTable {
        MemTable { last_group: self.last_group, ..MemTable::default() }
    }
}

/// Counts one more message.
fn count(queues: &mut Queues, session: SessionNumber, seq: Seq, size: u32) {
    if seq & REPLAYED == 0 {
        let waiting = queues.entry(session).or_default();
        waiting.last = waiting.last.max(seq);
        waiting.count += 1;
        waiting.bytes += u64::from(size);
    }
}

fn set<K: Ord, V>(rows: &mut BTreeMap<K, Layered<V>>, key: K, row: V) {
    // The identifier was free, so no older table has a valid row for it.
    let below = rows.get(&key).is_some_and(|old| old.below);
    rows.insert(key, Layered { row: Some(row), below });
}

fn unset<K: Ord, V>(rows: &mut BTreeMap<K, Layered<V>>, key: K) {
    match rows.remove(&key) {
        Some(Layered { below: false, row: Some(_) }) => {}
        _ => drop(rows.insert(key, Layered { row: None, below: true })),
    }
}
