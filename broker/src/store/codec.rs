//! Encoding of records and rows: the same in the log, in the checkpoint and in an export.
//! `FORMAT.md` describes it.
//!
//! The decoder trusts nothing: it checks a length before it uses it, and bytes that are left over
//! make the whole input invalid.

use std::num::NonZeroU32;
use std::ops::Range;

use lapwing_protocol::flight::OutboundState;
use lapwing_protocol::packet::{RetainHandling, SubscriptionOptions};
use lapwing_protocol::{PacketId, QoS};

use super::record::{
    Extras, FlightStep, KeptFlight, KeptSubscription, PreviousSlot, QueueSlot, QueueSlots, Record,
    SessionTerms, Waiting,
};
use crate::message::{Delivery, DeliveryTerms, Message, SubscriptionIds};
use crate::session::{Subscription, Will};

/// Kind of [`Record::Published`].
const PUBLISHED: u8 = 5;

/// Decodes from the front of bytes; `None` at the first invalid byte.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.number()?).ok()?;
        self.take(n)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn boolean(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.boolean()? { read(self).map(Some) } else { Some(None) }
    }

    fn packet_id(&mut self) -> Option<PacketId> {
        PacketId::new(u16::try_from(self.number()?).ok()?)
    }

    fn qos(&mut self) -> Option<QoS> {
        QoS::from_u8(self.u8()?)
    }

    fn message(&mut self) -> Option<Message> {
        Message::from_bytes(self.bytes()?)
    }

    /// Decodes the whole input: bytes that are left over make it invalid.
    pub(super) fn all<T>(bytes: &'a [u8], read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let mut reader = Reader(bytes);
        let value = read(&mut reader)?;
        reader.0.is_empty().then_some(value)
    }
}

pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes with their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes that `put` adds, with their length.
pub(super) fn put_sized(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    put(out);
    let len = out.len() - at - 1;
    match out.get_mut(at) {
        Some(byte) if len < 0x80 => *byte = len as u8,
        _ => {
            let mut number = Vec::new();
            put_number(&mut number, len as u64);
            out.splice(at..=at, number);
        }
    }
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_id(out: &mut Vec<u8>, id: PacketId) {
    put_number(out, u64::from(id.get()));
}

fn put_packet(out: &mut Vec<u8>, (session, id): (u64, PacketId)) {
    put_number(out, session);
    put_id(out, id);
}

fn put_ids(out: &mut Vec<u8>, ids: &SubscriptionIds) {
    put_number(out, ids.as_slice().len() as u64);
    ids.as_slice().iter().for_each(|id| put_number(out, u64::from(*id)));
}

fn ids(reader: &mut Reader<'_>) -> Option<SubscriptionIds> {
    let count = reader.number()?;
    (0..count).map(|_| reader.u32()).collect()
}

fn share(reader: &mut Reader<'_>) -> Option<Option<NonZeroU32>> {
    Some(NonZeroU32::new(reader.u32()?))
}

fn put_share(out: &mut Vec<u8>, share: Option<NonZeroU32>) {
    put_number(out, share.map_or(0, |id| u64::from(id.get())));
}

/// Terms of a delivery to one session.
pub(super) fn put_terms(out: &mut Vec<u8>, terms: &DeliveryTerms) {
    out.push(terms.qos as u8 | u8::from(terms.retain) << 2);
    put_ids(out, &terms.subscription_ids);
    put_share(out, terms.share);
}

fn terms(reader: &mut Reader<'_>) -> Option<DeliveryTerms> {
    let flags = reader.u8().filter(|flags| *flags < 8)?;
    let (qos, retain) = (QoS::from_u8(flags & 3)?, flags & 4 != 0);
    Some(DeliveryTerms { qos, retain, subscription_ids: ids(reader)?, share: share(reader)? })
}

fn put_origin(out: &mut Vec<u8>, origin: &PreviousSlot) {
    put_number(out, origin.session);
    put_number(out, origin.seq);
    put_number(out, u64::from(origin.size));
    put_number(out, origin.packet_id.map_or(0, |id| u64::from(id.get())));
}

fn origin(reader: &mut Reader<'_>) -> Option<PreviousSlot> {
    Some(PreviousSlot {
        session: reader.number()?,
        seq: reader.number()?,
        size: reader.u32()?,
        packet_id: PacketId::new(u16::try_from(reader.number()?).ok()?),
    })
}

fn put_will(out: &mut Vec<u8>, will: &Will) {
    put_bytes(out, will.topic.as_bytes());
    put_bytes(out, &will.payload);
    put_bytes(out, &will.properties);
    out.push(will.qos as u8);
    out.push(u8::from(will.retain));
    put_option(out, will.expiry_s, |out, s| put_number(out, u64::from(s)));
    put_number(out, u64::from(will.delay_s));
}

fn will(reader: &mut Reader<'_>) -> Option<Will> {
    Some(Will {
        topic: reader.text()?.into(),
        payload: reader.bytes()?.into(),
        properties: reader.bytes()?.into(),
        qos: reader.qos()?,
        retain: reader.boolean()?,
        expiry_s: reader.option(Reader::u32)?,
        delay_s: reader.u32()?,
    })
}

/// Terms of a session.
pub(super) fn put_session(out: &mut Vec<u8>, terms: &SessionTerms) {
    put_number(out, terms.number);
    put_bytes(out, terms.client_id.as_bytes());
    put_option(out, terms.user.as_ref(), |out, user| put_bytes(out, user.as_bytes()));
    put_number(out, u64::from(terms.expiry_s));
    put_option(out, terms.will.as_ref(), put_will);
    out.push(u8::from(terms.connected));
    put_option(out, terms.will_at, put_number);
    put_option(out, terms.ends_at, put_number);
}

pub(super) fn session(reader: &mut Reader<'_>) -> Option<SessionTerms> {
    Some(SessionTerms {
        number: reader.number()?,
        client_id: reader.text()?.into(),
        user: reader.option(|reader| reader.text().map(Into::into))?,
        expiry_s: reader.u32()?,
        will: reader.option(will)?,
        connected: reader.boolean()?,
        will_at: reader.option(Reader::number)?,
        ends_at: reader.option(Reader::number)?,
    })
}

/// A subscription without its filter.
pub(super) fn put_subscription(out: &mut Vec<u8>, kept: &KeptSubscription) {
    let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling } = kept.held.options;
    let handling = match retain_handling {
        RetainHandling::Send => 0u8,
        RetainHandling::SendIfNew => 1,
        RetainHandling::DoNotSend => 2,
    };
    out.push(
        qos as u8
            | u8::from(no_local) << 2
            | u8::from(retain_as_published) << 3
            | handling << 4
            | u8::from(kept.replay) << 6,
    );
    put_number(out, kept.held.id.map_or(0, u64::from));
    put_share(out, kept.group);
}

pub(super) fn subscription(reader: &mut Reader<'_>) -> Option<KeptSubscription> {
    let flags = reader.u8().filter(|flags| *flags < 0x80)?;
    let options = SubscriptionOptions {
        qos: QoS::from_u8(flags & 3)?,
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        retain_handling: match flags >> 4 & 3 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        },
    };
    let id = Some(reader.u32()?).filter(|id| *id != 0);
    Some(KeptSubscription {
        held: Subscription { options, id },
        group: share(reader)?,
        replay: flags & 0x40 != 0,
    })
}

/// Decodes a delivery: its terms, then the message by `message`.
pub(super) fn delivery(
    reader: &mut Reader<'_>,
    seq: u64,
    message: impl FnOnce(&mut Reader<'_>) -> Option<Message>,
) -> Option<Delivery> {
    let terms = terms(reader)?;
    Some(Delivery { message: message(reader)?, terms, seq })
}

/// A message with its length.
pub(super) fn put_message(out: &mut Vec<u8>, message: &Message) {
    put_bytes(out, message.as_bytes());
}

pub(super) fn message(reader: &mut Reader<'_>) -> Option<Message> {
    reader.message()
}

/// A flight without its packet identifier.
pub(super) fn put_flight(out: &mut Vec<u8>, flight: &KeptFlight) {
    out.push(flight.state as u8);
    put_number(out, flight.order);
    put_number(out, flight.seq);
    put_number(out, u64::from(flight.size));
}

pub(super) fn flight(reader: &mut Reader<'_>, packet_id: PacketId) -> Option<KeptFlight> {
    let state = match reader.u8()? {
        0 => OutboundState::AwaitPubAck,
        1 => OutboundState::AwaitPubRec,
        2 => OutboundState::AwaitPubComp,
        _ => return None,
    };
    Some(KeptFlight { packet_id, state, order: reader.number()?, seq: reader.number()?, size: reader.u32()? })
}

/// Counts of a queue.
pub(super) fn put_waiting(out: &mut Vec<u8>, waiting: &Waiting) {
    put_number(out, waiting.last);
    put_number(out, waiting.count);
    put_number(out, waiting.bytes);
    put_number(out, u64::from(waiting.packet_id));
}

pub(super) fn waiting(reader: &mut Reader<'_>) -> Option<Waiting> {
    Some(Waiting {
        last: reader.number()?,
        count: reader.number()?,
        bytes: reader.number()?,
        packet_id: u16::try_from(reader.number()?).ok()?,
    })
}

/// Range of the message in a packed record, if queues may refer to it.
pub(super) fn message_in(record: &[u8]) -> Option<Range<usize>> {
    let mut reader = Reader(record);
    if reader.u8()? != PUBLISHED {
        return None;
    }
    let len = usize::try_from(reader.number()?).ok()?;
    let start = record.len() - reader.0.len();
    Some(start..start.checked_add(len)?)
}

/// Encodes a record: kind, then its fields.
pub(super) fn put_record(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Nothing => out.push(0),
        Record::Session(terms) => {
            out.push(1);
            put_session(out, terms);
        }
        Record::SessionEnded { session } => {
            out.push(2);
            put_number(out, *session);
        }
        Record::Subscribed { session, filter, subscription } => {
            out.push(3);
            put_number(out, *session);
            put_bytes(out, filter.as_bytes());
            put_subscription(out, subscription);
        }
        Record::Unsubscribed { session, filter } => {
            out.push(4);
            put_number(out, *session);
            put_bytes(out, filter.as_bytes());
        }
        Record::Published { message, retained, queued, beside } => {
            out.push(PUBLISHED);
            put_message(out, message);
            out.push(u8::from(*retained));
            put_number(out, queued.as_slice().len() as u64);
            for slot in queued.as_slice() {
                put_number(out, slot.session);
                put_number(out, slot.seq);
                put_terms(out, &slot.terms);
            }
            let beside = beside.as_ref();
            put_option(out, beside.and_then(|beside| beside.received), put_packet);
            put_option(out, beside.and_then(|beside| beside.origin.as_ref()), put_origin);
        }
        Record::RetainedExpired { topic } => {
            out.push(6);
            put_bytes(out, topic.as_bytes());
        }
        Record::Exchange(step) => put_step(out, step),
    }
}

fn put_step(out: &mut Vec<u8>, step: &FlightStep) {
    match step {
        FlightStep::Sent { session, packet_id, seq, qos, size, body } => {
            out.push(7);
            put_packet(out, (*session, *packet_id));
            put_number(out, *seq);
            out.push(*qos as u8);
            put_number(out, u64::from(*size));
            put_option(out, body.as_ref(), |out, body| {
                put_terms(out, &body.terms);
                put_message(out, &body.message);
            });
        }
        FlightStep::Acknowledged(origin) => {
            out.push(8);
            put_origin(out, origin);
        }
        FlightStep::PubRecReceived(origin) => {
            out.push(9);
            put_origin(out, origin);
        }
        FlightStep::Completed { session, packet_id } => {
            out.push(10);
            put_packet(out, (*session, *packet_id));
        }
        FlightStep::Released { session, packet_id } => {
            out.push(11);
            put_packet(out, (*session, *packet_id));
        }
        FlightStep::Received { session, packet_id } => {
            out.push(12);
            put_packet(out, (*session, *packet_id));
        }
    }
}

fn packet(reader: &mut Reader<'_>) -> Option<(u64, PacketId)> {
    Some((reader.number()?, reader.packet_id()?))
}

/// Decodes one record.
pub(super) fn record(reader: &mut Reader<'_>) -> Option<Record> {
    Some(match reader.u8()? {
        0 => Record::Nothing,
        1 => Record::Session(Box::new(session(reader)?)),
        2 => Record::SessionEnded { session: reader.number()? },
        3 => Record::Subscribed {
            session: reader.number()?,
            filter: reader.text()?.into(),
            subscription: subscription(reader)?,
        },
        4 => Record::Unsubscribed { session: reader.number()?, filter: reader.text()?.into() },
        PUBLISHED => {
            let message = reader.message()?;
            let retained = reader.boolean()?;
            let count = reader.number()?;
            let queued = (0..count)
                .map(|_| {
                    let (session, seq) = (reader.number()?, reader.number()?);
                    Some(QueueSlot { session, seq, terms: terms(reader)? })
                })
                .collect::<Option<QueueSlots>>()?;
            let received = reader.option(packet)?;
            let beside = Extras::of(received, reader.option(origin)?);
            Record::Published { message, retained, queued, beside }
        }
        6 => Record::RetainedExpired { topic: reader.text()?.into() },
        kind => Record::Exchange(step(kind, reader)?),
    })
}

fn step(kind: u8, reader: &mut Reader<'_>) -> Option<FlightStep> {
    Some(match kind {
        7 => {
            let (session, packet_id) = packet(reader)?;
            let seq = reader.number()?;
            let qos = reader.qos().filter(|qos| *qos != QoS::AtMostOnce)?;
            let size = reader.u32()?;
            let body = reader.option(|reader| delivery(reader, seq, message).map(Box::new))?;
            FlightStep::Sent { session, packet_id, seq, qos, size, body }
        }
        8 => FlightStep::Acknowledged(origin(reader)?),
        9 => FlightStep::PubRecReceived(origin(reader)?),
        10 => {
            let (session, packet_id) = packet(reader)?;
            FlightStep::Completed { session, packet_id }
        }
        11 => {
            let (session, packet_id) = packet(reader)?;
            FlightStep::Released { session, packet_id }
        }
        12 => {
            let (session, packet_id) = packet(reader)?;
            FlightStep::Received { session, packet_id }
        }
        _ => return None,
    })
}

pub(super) fn bytes<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    reader.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_can_be_filled_in_after_its_bytes() {
        for len in [0, 1, 127, 128, 300, 20_000] {
            let bytes = vec![9; len];
            let (mut known, mut found) = (vec![1], vec![1]);
            put_bytes(&mut known, &bytes);
            put_sized(&mut found, |out| out.extend_from_slice(&bytes));
            assert_eq!(found, known, "{len}");
        }
    }
}
