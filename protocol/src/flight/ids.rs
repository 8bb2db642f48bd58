//! Packet identifiers of a sender (`2.2.1`): never 0, never one that is in use (`[MQTT-2.2.1-4]`).

use crate::PacketId;

/// Hands out packet identifiers in ascending order, starting over after 65,535.
#[derive(Clone, Debug, Default)]
pub struct PacketIds {
    last: u16,
}

impl PacketIds {
    /// Continues after `last`, the identifier that was used last. 0 means none.
    pub const fn after(last: u16) -> Self {
        PacketIds { last }
    }

    /// Returns the next identifier that is not in use; `None` when all are.
    #[inline]
    pub fn allocate(&mut self, in_use: impl Fn(PacketId) -> bool) -> Option<PacketId> {
        for _ in 0..=u16::MAX {
            self.last = self.last.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last)
                && !in_use(id)
            {
                return Some(id);
            }
        }
        None
    }
}
