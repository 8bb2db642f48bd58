//! Encoding of records and rows: the same in the log, in the checkpoint and in an export.
//! `FORMAT.md` describes it.
//!
//! The decoder trusts nothing: it checks a length before it uses it, and bytes that are left over
//! make the whole input invalid.

mod bytes;
mod fields;

use std::ops::Range;

use lapwing_protocol::{PacketId, QoS};

use self::bytes::put_option;
pub(super) use self::bytes::{Reader, put_bytes, put_number, put_sized};
pub(super) use self::fields::{
    delivery, flight, message, put_flight, put_message, put_session, put_subscription, put_terms,
    put_waiting, session, subscription, waiting,
};
use self::fields::{origin, put_origin, put_packet, terms};
use super::checkpoint::meta::StateIdentity;
use super::record::{Extras, FlightStep, QueueSlot, QueueSlots, Record};

/// Format of records and rows: that of the frames of the log.
pub(super) const FORMAT: u16 = 2;
/// The oldest format that can be read.
pub(super) const FORMAT_MIN: u16 = 1;

/// Returns true if this version can read records of this kind. Kinds 13 to 21 are set aside.
pub(super) fn is_known(kind: u8) -> bool {
    matches!(kind, 0..=12 | IDENTITY)
}

/// Kind of [`Record::Identity`].
const IDENTITY: u8 = 22;
/// Kind of [`Record::Published`].
const PUBLISHED: u8 = 5;

/// Range of the message in a packed record, if queues may refer to it.
pub(super) fn message_in(record: &[u8]) -> Option<Range<usize>> {
    let mut reader = Reader::new(record);
    if reader.u8()? != PUBLISHED {
        return None;
    }
    let len = usize::try_from(reader.number()?).ok()?;
    let start = record.len() - reader.rest().len();
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
        Record::Identity(identity) => {
            out.push(IDENTITY);
            out.extend_from_slice(&identity.number.to_le_bytes());
            out.extend_from_slice(&identity.key);
        }
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
        IDENTITY => {
            let number = u32::from_le_bytes(reader.array()?);
            Record::Identity(Box::new(StateIdentity { number, key: reader.array()? }))
        }
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
