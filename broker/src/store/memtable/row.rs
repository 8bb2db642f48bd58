//! Rows of the memtable.

use std::num::NonZeroU32;

use lapwing_protocol::QoS;

use crate::message::{DeliveryTerms, Message, Seq, SubscriptionIds};
use crate::store::Lsn;
use crate::store::location::{LogLocation, MessageRef};
use crate::store::record::QueueSlot;

/// A row of a queue. There are as many as messages, and each goes from thread to thread: it is as
/// small as it can be.
#[derive(Clone, Debug)]
pub(in crate::store) enum Row {
    /// Its message stands in the log, and few terms come with it.
    Plain(Compact),
    /// Any other.
    Full(Box<Extended>),
}

/// See [`Row`]. The number of the segment and the place in it are checked when they are set.
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
    /// The message has other rows, too: [`Table::siblings`] knows them.
    pub(super) siblings: bool,
}

/// See [`Row`].
#[derive(Clone, Debug)]
pub(in crate::store) struct Extended {
    seq: Seq,
    kept: Kept,
    terms: DeliveryTerms,
    pub(super) siblings: SharedBody,
}

/// The rows that one record brought: they have the same message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct SharedBody {
    /// The record.
    pub(in crate::store) lsn: Lsn,
    /// How many they are.
    pub(in crate::store) count: u32,
}

/// Where the message of a row in a table is.
#[derive(Clone, Debug)]
pub(in crate::store) enum Kept {
    Here(Message),
    Log(MessageRef),
}

impl Compact {
    /// The row of a message that stands in the log, if there is nothing to it that this has no
    /// field for.
    pub(super) fn of(queued: &QueueSlot, place: &MessageRef, siblings: bool) -> Option<Compact> {
        let QueueSlot { seq, terms: DeliveryTerms { qos, retain, ref subscription_ids, share }, .. } =
            *queued;
        let MessageRef { spot, len, sum } = *place;
        if *subscription_ids != SubscriptionIds::None {
            return None;
        }
        let (segment, at) = (u32::try_from(spot.segment).ok()?, u32::try_from(spot.at).ok()?);
        Some(Compact { seq, segment, at, len, sum, share, qos, retain, siblings })
    }

    pub(super) fn place(&self) -> MessageRef {
        let spot = LogLocation { segment: u64::from(self.segment), at: u64::from(self.at) };
        MessageRef { spot, len: self.len, sum: self.sum }
    }

    pub(super) fn terms(&self) -> DeliveryTerms {
        DeliveryTerms { retain: self.retain, share: self.share, ..DeliveryTerms::plain(self.qos) }
    }
}

impl Row {
    /// The row of a message in this place.
    pub(super) fn of(queued: QueueSlot, kept: Kept, siblings: SharedBody) -> Row {
        if let Kept::Log(place) = &kept
            && let Some(plain) = Compact::of(&queued, place, siblings.count > 1)
        {
            return Row::Plain(plain);
        }
        let QueueSlot { seq, terms, .. } = queued;
        Row::Full(Box::new(Extended { seq, kept, terms, siblings }))
    }

    /// Its place in the queue.
    pub(in crate::store) fn seq(&self) -> Seq {
        match self {
            Row::Plain(plain) => plain.seq,
            Row::Full(full) => full.seq,
        }
    }

    /// How its message is to be delivered.
    pub(in crate::store) fn terms(&self) -> DeliveryTerms {
        match self {
            Row::Plain(plain) => plain.terms(),
            Row::Full(full) => full.terms.clone(),
        }
    }

    /// An estimate of the memory that it takes, in bytes.
    pub(in crate::store) fn weight(&self) -> usize {
        match self {
            Row::Plain(_) => size_of::<Row>(),
            Row::Full(_) => size_of::<Row>() + size_of::<Extended>() + self.body().map_or(0, Message::size),
        }
    }

    /// Its message, or where in the log that stands.
    pub(in crate::store) fn body(&self) -> Result<&Message, MessageRef> {
        match self {
            Row::Plain(plain) => Err(plain.place()),
            Row::Full(full) => match &full.kept {
                Kept::Here(message) => Ok(message),
                Kept::Log(place) => Err(*place),
            },
        }
    }
}
