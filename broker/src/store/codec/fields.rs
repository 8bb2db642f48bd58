//! Structures that records and rows consist of.

use std::num::NonZeroU32;

use lapwing_protocol::flight::OutboundState;
use lapwing_protocol::packet::{RetainHandling, SubscriptionOptions};
use lapwing_protocol::{PacketId, QoS};

use super::bytes::{Reader, put_bytes, put_id, put_number, put_option};
use crate::message::{Delivery, DeliveryTerms, Message, SubscriptionIds};
use crate::session::{Subscription, Will};
use crate::store::record::{KeptFlight, KeptSubscription, PreviousSlot, SessionKind, SessionTerms, Waiting};

pub(super) fn put_packet(out: &mut Vec<u8>, (session, id): (u64, PacketId)) {
    put_number(out, session);
    put_id(out, id);
}

pub(super) fn put_ids(out: &mut Vec<u8>, ids: &SubscriptionIds) {
    put_number(out, ids.as_slice().len() as u64);
    ids.as_slice().iter().for_each(|id| put_number(out, u64::from(*id)));
}

pub(super) fn ids(reader: &mut Reader<'_>) -> Option<SubscriptionIds> {
    let count = reader.number()?;
    (0..count).map(|_| reader.u32()).collect()
}

pub(super) fn share(reader: &mut Reader<'_>) -> Option<Option<NonZeroU32>> {
    Some(NonZeroU32::new(reader.u32()?))
}

pub(super) fn put_share(out: &mut Vec<u8>, share: Option<NonZeroU32>) {
    put_number(out, share.map_or(0, |id| u64::from(id.get())));
}

/// Terms of a delivery to one session.
pub(in crate::store) fn put_terms(out: &mut Vec<u8>, terms: &DeliveryTerms) {
    out.push(terms.qos as u8 | u8::from(terms.retain) << 2);
    put_ids(out, &terms.subscription_ids);
    put_share(out, terms.share);
}

pub(super) fn terms(reader: &mut Reader<'_>) -> Option<DeliveryTerms> {
    let flags = reader.u8().filter(|flags| *flags < 8)?;
    let (qos, retain) = (QoS::from_u8(flags & 3)?, flags & 4 != 0);
    Some(DeliveryTerms { qos, retain, subscription_ids: ids(reader)?, share: share(reader)? })
}

pub(super) fn put_origin(out: &mut Vec<u8>, origin: &PreviousSlot) {
    put_number(out, origin.session);
    put_number(out, origin.seq);
    put_number(out, u64::from(origin.size));
    put_number(out, origin.packet_id.map_or(0, |id| u64::from(id.get())));
    put_number(out, origin.packet_session);
}

pub(super) fn origin(reader: &mut Reader<'_>) -> Option<PreviousSlot> {
    Some(PreviousSlot {
        session: reader.number()?,
        seq: reader.number()?,
        size: reader.u32()?,
        packet_id: PacketId::new(u16::try_from(reader.number()?).ok()?),
        packet_session: if reader.format >= 2 { reader.number()? } else { 0 },
    })
}

pub(super) fn put_will(out: &mut Vec<u8>, will: &Will) {
    put_bytes(out, will.topic.as_bytes());
    put_bytes(out, &will.payload);
    put_bytes(out, &will.properties);
    out.push(will.qos as u8);
    out.push(u8::from(will.retain));
    put_option(out, will.expiry_s, |out, s| put_number(out, u64::from(s)));
    put_number(out, u64::from(will.delay_s));
}

pub(super) fn will(reader: &mut Reader<'_>) -> Option<Will> {
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
pub(in crate::store) fn put_session(out: &mut Vec<u8>, terms: &SessionTerms) {
    put_number(out, terms.number);
    put_bytes(out, terms.client_id.as_bytes());
    put_option(out, terms.user.as_ref(), |out, user| put_bytes(out, user.as_bytes()));
    put_number(out, u64::from(terms.expiry_s));
    put_option(out, terms.will.as_ref(), put_will);
    out.push(u8::from(terms.connected));
    put_option(out, terms.will_at, put_number);
    put_option(out, terms.ends_at, put_number);
    out.push(terms.kind as u8);
    put_option(out, terms.state.as_deref(), put_bytes);
    put_option(out, terms.identity.as_deref(), put_bytes);
}

pub(in crate::store) fn session(reader: &mut Reader<'_>) -> Option<SessionTerms> {
    let mut terms = SessionTerms {
        number: reader.number()?,
        client_id: reader.text()?.into(),
        user: reader.option(|reader| reader.text().map(Into::into))?,
        expiry_s: reader.u32()?,
        will: reader.option(will)?,
        connected: reader.boolean()?,
        will_at: reader.option(Reader::number)?,
        ends_at: reader.option(Reader::number)?,
        kind: SessionKind::Client,
        state: None,
        identity: None,
    };
    if reader.format >= 2 {
        terms.kind = SessionKind::from_u8(reader.u8()?)?;
        terms.state = reader.option(|reader| reader.bytes().map(Into::into))?;
        terms.identity = reader.option(|reader| reader.bytes().map(Into::into))?;
    }
    Some(terms)
}

/// A subscription without its filter.
pub(in crate::store) fn put_subscription(out: &mut Vec<u8>, kept: &KeptSubscription) {
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

pub(in crate::store) fn subscription(reader: &mut Reader<'_>) -> Option<KeptSubscription> {
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
pub(in crate::store) fn delivery(
    reader: &mut Reader<'_>,
    seq: u64,
    message: impl FnOnce(&mut Reader<'_>) -> Option<Message>,
) -> Option<Delivery> {
    let terms = terms(reader)?;
    Some(Delivery { message: message(reader)?, terms, seq })
}

/// A message with its length.
pub(in crate::store) fn put_message(out: &mut Vec<u8>, message: &Message) {
    put_bytes(out, message.as_bytes());
}

pub(in crate::store) fn message(reader: &mut Reader<'_>) -> Option<Message> {
    reader.message()
}

/// A flight without its packet identifier.
pub(in crate::store) fn put_flight(out: &mut Vec<u8>, flight: &KeptFlight) {
    out.push(flight.state as u8);
    put_number(out, flight.order);
    put_number(out, flight.seq);
    put_number(out, u64::from(flight.size));
    put_number(out, flight.queue);
}

pub(in crate::store) fn flight(reader: &mut Reader<'_>, packet_id: PacketId) -> Option<KeptFlight> {
    let state = match reader.u8()? {
        0 => OutboundState::AwaitPubAck,
        1 => OutboundState::AwaitPubRec,
        2 => OutboundState::AwaitPubComp,
        _ => return None,
    };
    let (order, seq, size) = (reader.number()?, reader.number()?, reader.u32()?);
    let queue = if reader.format >= 2 { reader.number()? } else { 0 };
    Some(KeptFlight { packet_id, order, state, seq, size, queue })
}

/// Counts of a queue.
pub(in crate::store) fn put_waiting(out: &mut Vec<u8>, waiting: &Waiting) {
    put_number(out, waiting.last);
    put_number(out, waiting.count);
    put_number(out, waiting.bytes);
    put_number(out, u64::from(waiting.packet_id));
}

pub(in crate::store) fn waiting(reader: &mut Reader<'_>) -> Option<Waiting> {
    Some(Waiting {
        last: reader.number()?,
        count: reader.number()?,
        bytes: reader.number()?,
        packet_id: u16::try_from(reader.number()?).ok()?,
    })
}
