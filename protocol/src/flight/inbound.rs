//! The receiver's side of QoS 1 and 2: new messages, repetitions, and the number of open flights.

use crate::{PacketId, QoS, ReasonCode};

/// Storage of the identifiers of received QoS 2 messages until PUBREL releases them.
pub trait InboundStore {
    /// Returns true if the identifier is stored.
    fn contains(&self, id: PacketId) -> bool;
    /// Stores an identifier. Returns `false` when there is no room.
    fn insert(&mut self, id: PacketId) -> bool;
    /// Removes an identifier. Returns `false` when it was not stored.
    fn remove(&mut self, id: PacketId) -> bool;
    /// Number of stored identifiers.
    fn len(&self) -> usize;
    /// Returns true if no identifier is stored.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Kind of a received PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A message to route.
    New,
    /// A QoS 2 message that was received before (`[MQTT-4.3.3-10]`). Answer with PUBREC, and do not
    /// route it.
    Repeated,
}

/// Error: the peer sent more than Receive Maximum allows (`[MQTT-3.3.4-9]`). DISCONNECT with 0x93.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveMaximumExceeded;

/// State machine of the receiver.
#[derive(Clone, Debug)]
pub struct Inbound {
    receive_maximum: u32,
    /// QoS 1 messages whose PUBACK was not sent yet.
    unacknowledged: u32,
    /// QoS 2 identifiers of earlier connections. The peer's quota starts afresh with each
    /// connection.
    carried: u32,
}

impl Inbound {
    /// Creates the machine with the Receive Maximum that was announced to the peer.
    pub const fn new(receive_maximum: u16) -> Self {
        Inbound { receive_maximum: receive_maximum as u32, unacknowledged: 0, carried: 0 }
    }

    /// Starts a new network connection.
    pub fn reconnected(&mut self, receive_maximum: u16, store: &impl InboundStore) {
        *self = Inbound::new(receive_maximum);
        self.carried = u32::try_from(store.len()).unwrap_or(u32::MAX);
    }

    /// Handles a received PUBLISH.
    ///
    /// # Errors
    /// [`ReceiveMaximumExceeded`]; also when the store has no room.
    #[inline]
    pub fn publish(
        &mut self,
        qos: QoS,
        id: Option<PacketId>,
        store: &mut impl InboundStore,
    ) -> Result<Arrival, ReceiveMaximumExceeded> {
        let Some(id) = id else { return Ok(Arrival::New) };
        if qos == QoS::ExactlyOnce && store.contains(id) {
            return Ok(Arrival::Repeated);
        }
        if self.open(store) >= self.receive_maximum as usize + self.carried as usize {
            return Err(ReceiveMaximumExceeded);
        }
        match qos {
            QoS::ExactlyOnce if !store.insert(id) => Err(ReceiveMaximumExceeded),
            QoS::ExactlyOnce => Ok(Arrival::New),
            _ => {
                self.unacknowledged += 1;
                Ok(Arrival::New)
            }
        }
    }

    /// Number of open flights.
    pub fn open(&self, store: &impl InboundStore) -> usize {
        self.unacknowledged as usize + store.len()
    }

    /// Notes that a PUBACK is sent.
    #[inline]
    pub const fn puback_sent(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    /// Notes that a refusing PUBREC is sent. It ends the flight and frees the identifier
    /// (`[MQTT-4.3.3-9]`).
    pub fn refused(&mut self, id: PacketId, store: &mut impl InboundStore) {
        store.remove(id);
    }

    /// Handles a received PUBREL, and returns the reason code for PUBCOMP.
    pub fn pubrel(&mut self, id: PacketId, store: &mut impl InboundStore) -> ReasonCode {
        if store.remove(id) { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    impl InboundStore for Vec<PacketId> {
        fn contains(&self, id: PacketId) -> bool {
            self.as_slice().contains(&id)
        }
        fn insert(&mut self, id: PacketId) -> bool {
            self.push(id);
            true
        }
        fn remove(&mut self, id: PacketId) -> bool {
            let before = self.as_slice().len();
            self.retain(|kept| *kept != id);
            before != self.as_slice().len()
        }
        fn len(&self) -> usize {
            self.as_slice().len()
        }
    }

    fn id(n: u16) -> Option<PacketId> {
        PacketId::new(n)
    }

    // 3.1.1: [MQTT-4.3.3-2]  5.0: [MQTT-4.3.3-10] [MQTT-4.3.3-12]
    #[test]
    fn a_qos_2_message_is_new_once_until_it_is_released() {
        let (mut inbound, mut store) = (Inbound::new(1), Vec::new());
        let publish = |inbound: &mut Inbound, store: &mut Vec<PacketId>| {
            inbound.publish(QoS::ExactlyOnce, id(7), store)
        };
        assert_eq!(publish(&mut inbound, &mut store), Ok(Arrival::New));
        for _ in 0..100 {
            assert_eq!(publish(&mut inbound, &mut store), Ok(Arrival::Repeated));
        }
        assert_eq!(inbound.pubrel(id(7).unwrap(), &mut store), ReasonCode::Success);
        assert_eq!(inbound.pubrel(id(7).unwrap(), &mut store), ReasonCode::PacketIdentifierNotFound);
        assert_eq!(publish(&mut inbound, &mut store), Ok(Arrival::New));
    }

    // 5.0: [MQTT-3.3.4-7] [MQTT-3.3.4-9]
    #[test]
    fn more_than_receive_maximum_open_at_once_is_refused() {
        let (mut inbound, mut store) = (Inbound::new(2), Vec::new());
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(1), &mut store), Ok(Arrival::New));
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(2), &mut store), Ok(Arrival::New));
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(3), &mut store), Err(ReceiveMaximumExceeded));
        inbound.puback_sent();
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(3), &mut store), Ok(Arrival::New));
        inbound.reconnected(1, &store);
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(4), &mut store), Ok(Arrival::New), "a fresh quota");
    }
}
