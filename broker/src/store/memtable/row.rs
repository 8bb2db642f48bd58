//! Rows of the memtable.

use std::num::NonZeroU32;

use lapwing_protocol::QoS;

use crate::message::{DeliveryTerms, Message, Seq, SubscriptionIds};
use crate::store::Lsn;
use crate::store::location::{LogLocation, MessageRef};
use crate::store::record::QueueSlot;

/// A row of a session queue. There is one for each message, and it moves between threads, so it is
/// as small as possible.
#[derive(Clone, Debug)]
pub(in crate::store) enum Row {
    /// A row with a message in the log and few terms.
    Plain(Compact),
    /// Any other row.
    Full(Box<Extended>),
}

/// Small form of a [`Row`]. The segment number and offset are checked when they are set.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Compact {
    pub(super) seq: Seq,
    pub(super) segment: u32,
    pub(super) at: u32,
    len: u32,
    sum: u32,
    share: Option<NonZeroU32>,
    qos: QoS,
    retain: bool,
    /// Set when the message has other rows: [`MemTable::shared_body`] knows them.
    pub(super) shared: bool,
}

/// Full form of a [`Row`].
#[derive(Clone, Debug)]
pub(in crate::store) struct Extended {
    seq: Seq,
    body: RowBody,
    terms: DeliveryTerms,
    pub(super) shared: SharedBody,
}

/// Number of rows of one record, which share its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct SharedBody {
    /// LSN of the record.
    pub(in crate::store) lsn: Lsn,
    /// Number of rows.
    pub(in crate::store) count: u32,
}

/// Message of a row in a table, or its location.
#[derive(Clone, Debug)]
pub(in crate::store) enum RowBody {
    Here(Message),
    Log(MessageRef),
}

impl Compact {
    /// Compact row of a message in the log, if its values fit.
    pub(super) fn of(queued: &QueueSlot, reference: &MessageRef, shared: bool) -> Option<Compact> {
        let QueueSlot { seq, terms: DeliveryTerms { qos, retain, ref subscription_ids, share }, .. } =
            *queued;
        let MessageRef { location, len, sum } = *reference;
        if *subscription_ids != SubscriptionIds::None {
            return None;
        }
        let (segment, at) = (u32::try_from(location.segment).ok()?, u32::try_from(location.at).ok()?);
        Some(Compact { seq, segment, at, len, sum, share, qos, retain, shared })
    }

    pub(super) fn reference(&self) -> MessageRef {
        let location = LogLocation { segment: u64::from(self.segment), at: u64::from(self.at) };
        MessageRef { location, len: self.len, sum: self.sum }
    }

    pub(super) fn terms(&self) -> DeliveryTerms {
        DeliveryTerms { retain: self.retain, share: self.share, ..DeliveryTerms::plain(self.qos) }
    }
}

impl Row {
    /// Row of a message in this slot.
    pub(super) fn of(queued: QueueSlot, body: RowBody, shared: SharedBody) -> Row {
        if let RowBody::Log(reference) = &body
            && let Some(plain) = Compact::of(&queued, reference, shared.count > 1)
        {
            return Row::Plain(plain);
        }
        let QueueSlot { seq, terms, .. } = queued;
        Row::Full(Box::new(Extended { seq, body, terms, shared }))
    }

    /// Slot in the queue.
    pub(in crate::store) fn seq(&self) -> Seq {
        match self {
            Row::Plain(plain) => plain.seq,
            Row::Full(full) => full.seq,
        }
    }

    /// Terms of the delivery.
    pub(in crate::store) fn terms(&self) -> DeliveryTerms {
        match self {
            Row::Plain(plain) => plain.terms(),
            Row::Full(full) => full.terms.clone(),
        }
    }

    /// Estimated memory, in bytes.
    pub(in crate::store) fn weight(&self) -> usize {
        match self {
            Row::Plain(_) => size_of::<Row>(),
            Row::Full(_) => size_of::<Row>() + size_of::<Extended>() + self.body().map_or(0, Message::size),
        }
    }

    /// The message, or its location in the log.
    pub(in crate::store) fn body(&self) -> Result<&Message, MessageRef> {
        match self {
            Row::Plain(plain) => Err(plain.reference()),
            Row::Full(full) => match &full.body {
                RowBody::Here(message) => Ok(message),
                RowBody::Log(reference) => Err(*reference),
            },
        }
    }
}
