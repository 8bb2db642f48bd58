//! QoS 1 and 2 (`4.3`, `4.4`, `4.9`) as state machines for both ends.
//!
//! A flight is one message on its way with a packet identifier. The machines here know the order of packets, the packet
//! identifiers and Receive Maximum; *where* the flights are kept is the caller's business, through two small traits: a
//! broker keeps messages in a queue, a microcontroller in a ring of bytes.

mod ids;
mod inbound;
mod outbound;

pub use ids::PacketIds;
pub use inbound::{Arrival, Inbound, InboundStore, ReceiveMaximumExceeded};
pub use outbound::{Answer, Outbound, OutboundState, OutboundStore};
