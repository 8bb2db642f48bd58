//! The shelf as the place where the QoS machines of the protocol crate keep their flights.

use lapwing_protocol::PacketId;
use lapwing_protocol::flight::{InboundStore, OutboundState, OutboundStore};

use crate::shelf::{Record, Shelf, flag, kind};

impl Shelf<'_> {
    /// The record that an outbound packet identifier belongs to.
    pub(crate) fn outbound(&self, id: u16) -> Option<Record> {
        self.find(kind::PUBLISH, id)
            .or_else(|| self.find(kind::RELEASE, id))
            .or_else(|| self.find(kind::REQUEST, id))
    }
}

impl OutboundStore for Shelf<'_> {
    fn state(&self, id: PacketId) -> Option<OutboundState> {
        let record = self.outbound(id.get())?;
        match (record.kind, record.flags & flag::QOS) {
            (kind::RELEASE, _) => Some(OutboundState::AwaitPubComp),
            (kind::PUBLISH, _) if !record.is(flag::SENT) => None,
            (kind::PUBLISH, 2) => Some(OutboundState::AwaitPubAck),
            (kind::PUBLISH, 4) => Some(OutboundState::AwaitPubRec),
            _ => None,
        }
    }

    fn release(&mut self, id: PacketId) {
        if let Some(record) = self.outbound(id.get()) {
            self.shorten(record, kind::RELEASE, record.flags & flag::SENT | flag::PENDING);
        }
    }

    fn remove(&mut self, id: PacketId) {
        if let Some(record) = self.outbound(id.get()) {
            self.cut(record.at, record.end);
        }
    }
}

impl InboundStore for Shelf<'_> {
    fn contains(&self, id: PacketId) -> bool {
        self.find(kind::RECEIVED, id.get()).is_some()
    }

    fn insert(&mut self, id: PacketId) -> bool {
        self.push(kind::RECEIVED, 0, id.get(), &[])
    }

    fn remove(&mut self, id: PacketId) -> bool {
        let record = self.find(kind::RECEIVED, id.get());
        record.inspect(|record| self.cut(record.at, record.end)).is_some()
    }

    fn len(&self) -> usize {
        let (mut at, mut count) = (0, 0);
        while let Some(record) = self.record(at) {
            count += usize::from(record.kind == kind::RECEIVED);
            at = record.end;
        }
        count
    }
}
