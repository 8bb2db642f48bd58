//! State of the QoS flows of a tool.

use std::collections::{BTreeMap, BTreeSet};

use lapwing_protocol::PacketId;
use lapwing_protocol::flight::{InboundStore, OutboundState, OutboundStore};

/// Outbound flights of this client.
#[derive(Default)]
pub(super) struct Flights(pub(super) BTreeMap<PacketId, OutboundState>);

impl OutboundStore for Flights {
    fn state(&self, id: PacketId) -> Option<OutboundState> {
        self.0.get(&id).copied()
    }

    fn release(&mut self, id: PacketId) {
        self.0.insert(id, OutboundState::AwaitPubComp);
    }

    fn remove(&mut self, id: PacketId) {
        self.0.remove(&id);
    }
}

/// QoS 2 messages that were printed and are not released.
#[derive(Default)]
pub(super) struct Received(BTreeSet<PacketId>);

impl InboundStore for Received {
    fn contains(&self, id: PacketId) -> bool {
        self.0.contains(&id)
    }

    fn insert(&mut self, id: PacketId) -> bool {
        self.0.insert(id)
    }

    fn remove(&mut self, id: PacketId) -> bool {
        self.0.remove(&id)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
