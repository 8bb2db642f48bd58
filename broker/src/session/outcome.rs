//! Outcomes of a packet that have to be recorded, and flights as the store keeps them.

use lapwing_protocol::PacketId;
use lapwing_protocol::flight::OutboundState;

use crate::message::{Delivery, Seq, SessionNumber};

/// A flight of a stored session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptFlight {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// Flights were first sent in this order.
    pub order: u64,
    /// State of its flow.
    pub state: OutboundState,
    /// The slot of its message.
    pub seq: Seq,
    /// The size of its message, in bytes.
    pub size: u32,
    /// Session whose queue has its message; 0: its own.
    pub queue: SessionNumber,
}

/// Step of a stored message that has to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message is finished: acknowledged, expired, or too large for the client.
    Done {
        /// Its slot.
        seq: Seq,
        /// Its size, in bytes.
        size: u32,
        /// Identifier that it was sent with.
        packet_id: Option<PacketId>,
    },
    /// The client has the message (PUBREC).
    HandedOver {
        /// Its slot.
        seq: Seq,
        /// Its size, in bytes.
        size: u32,
        /// Identifier that it was sent with.
        packet_id: PacketId,
    },
    /// The packet identifier is free again (PUBCOMP).
    Completed {
        /// The packet identifier.
        packet_id: PacketId,
    },
}

pub(crate) fn size(delivery: &Delivery) -> u32 {
    u32::try_from(delivery.message.size()).unwrap_or(u32::MAX)
}
