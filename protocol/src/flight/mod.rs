//! QoS 1 and 2 (`4.3`, `4.4`, `4.9`) as state machines for both ends.
//!
//! A flight is one message that is being transferred under a packet identifier. The machines know
//! the order of packets, the packet identifiers and Receive Maximum. The caller stores the flights
//! behind two small traits: a broker in a queue, a microcontroller in a byte buffer.

mod ids;
mod inbound;
mod outbound;

pub use ids::PacketIds;
pub use inbound::{Arrival, Inbound, InboundStore, ReceiveMaximumExceeded};
pub use outbound::{Answer, Outbound, OutboundState, OutboundStore};
