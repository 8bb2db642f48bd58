//! The sender's side of QoS 1 and 2: PUBLISH → PUBACK, and PUBLISH → PUBREC → PUBREL → PUBCOMP
//! (`4.3.2`, `4.3.3`).

use super::PacketIds;
use crate::{PacketId, QoS, ReasonCode};

/// The acknowledgement that a flight waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OutboundState {
    /// QoS 1: PUBLISH was sent.
    AwaitPubAck,
    /// QoS 2: PUBLISH was sent.
    AwaitPubRec,
    /// QoS 2: PUBREL was sent. The receiver owns the message.
    AwaitPubComp,
}

/// Storage of outbound flights, in the order of their first sending.
pub trait OutboundStore {
    /// Returns the state of the flight with this identifier.
    fn state(&self, id: PacketId) -> Option<OutboundState>;
    /// Handles PUBREC, with which the receiver owns the message. Keeps the identifier in
    /// [`OutboundState::AwaitPubComp`] and drops the message.
    fn release(&mut self, id: PacketId);
    /// Removes a flight that is over.
    fn remove(&mut self, id: PacketId);
}

/// The next action after an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No action: the flight is over, or there is none. Late and repeated acknowledgements are
    /// harmless.
    Nothing,
    /// Send PUBREL with this reason code: success, or packet identifier not found
    /// (`[MQTT-4.3.3-4]`).
    PubRel(ReasonCode),
    /// Protocol error: the acknowledgement does not fit the flight's QoS or state.
    Violation,
}

/// State machine of the sender: packet identifiers and send quota (`4.9`).
#[derive(Clone, Debug)]
pub struct Outbound {
    ids: PacketIds,
    receive_maximum: u16,
    in_flight: u16,
}

impl Outbound {
    /// Creates the machine of a new session. `receive_maximum` is the peer's, at least 1.
    pub const fn new(receive_maximum: u16) -> Self {
        Outbound { ids: PacketIds::after(0), receive_maximum, in_flight: 0 }
    }

    /// Creates the machine of a session that was restored. Identifiers continue after `last_id`.
    pub const fn resumed(receive_maximum: u16, last_id: u16) -> Self {
        Outbound { ids: PacketIds::after(last_id), receive_maximum, in_flight: 0 }
    }

    /// Starts a new network connection. The quota starts afresh, and all stored flights must be
    /// sent again with [`resend`](Self::resend).
    pub const fn reconnected(&mut self, receive_maximum: u16) {
        self.receive_maximum = receive_maximum;
        self.in_flight = 0;
    }

    /// Returns true if one more QoS 1 or 2 PUBLISH may be sent (`[MQTT-4.9.0-2]`).
    #[inline]
    pub const fn has_quota(&self) -> bool {
        self.in_flight < self.receive_maximum
    }

    /// Number of flights that were sent over this connection and are not acknowledged.
    pub const fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Starts a flight. Returns its identifier and first state, which the caller stores.
    ///
    /// Returns `None` without quota, without a free identifier, and for QoS 0, which has no flight.
    #[inline]
    pub fn start(&mut self, qos: QoS, store: &impl OutboundStore) -> Option<(PacketId, OutboundState)> {
        let state = match qos {
            QoS::AtMostOnce => return None,
            QoS::AtLeastOnce => OutboundState::AwaitPubAck,
            QoS::ExactlyOnce => OutboundState::AwaitPubRec,
        };
        if !self.has_quota() {
            return None;
        }
        let id = self.ids.allocate(|id| store.state(id).is_some())?;
        self.in_flight += 1;
        Some((id, state))
    }

    /// Asks to send a stored flight again after a reconnect (`[MQTT-4.4.0-1]`).
    ///
    /// PUBLISH with DUP needs quota. PUBREL needs none, but counts. `false` means: wait for an
    /// acknowledgement first.
    pub const fn resend(&mut self, state: OutboundState) -> bool {
        if !matches!(state, OutboundState::AwaitPubComp) && !self.has_quota() {
            return false;
        }
        self.in_flight = self.in_flight.saturating_add(1);
        true
    }

    /// Handles PUBACK.
    #[inline]
    pub fn puback(&mut self, id: PacketId, store: &mut impl OutboundStore) -> Answer {
        match store.state(id) {
            Some(OutboundState::AwaitPubAck) => self.done(id, store),
            Some(_) => Answer::Violation,
            None => Answer::Nothing,
        }
    }

    /// Handles PUBREC. A failure ends the flight (`[MQTT-4.3.3-4]`).
    pub fn pubrec(&mut self, id: PacketId, reason: ReasonCode, store: &mut impl OutboundStore) -> Answer {
        match store.state(id) {
            Some(OutboundState::AwaitPubRec) if reason.is_failure() => self.done(id, store),
            Some(OutboundState::AwaitPubRec) => {
                store.release(id);
                Answer::PubRel(ReasonCode::Success)
            }
            Some(OutboundState::AwaitPubComp) => Answer::PubRel(ReasonCode::Success),
            Some(OutboundState::AwaitPubAck) => Answer::Violation,
            None if reason.is_failure() => Answer::Nothing,
            None => Answer::PubRel(ReasonCode::PacketIdentifierNotFound),
        }
    }

    /// Handles PUBCOMP.
    pub fn pubcomp(&mut self, id: PacketId, store: &mut impl OutboundStore) -> Answer {
        match store.state(id) {
            Some(OutboundState::AwaitPubComp) => self.done(id, store),
            Some(_) => Answer::Violation,
            None => Answer::Nothing,
        }
    }

    /// Ends a flight without an acknowledgement. Its message expired before it was sent again, or
    /// went to another session.
    pub fn abandon(&mut self, id: PacketId, sent: bool, store: &mut impl OutboundStore) {
        store.remove(id);
        if sent {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    #[inline]
    fn done(&mut self, id: PacketId, store: &mut impl OutboundStore) -> Answer {
        store.remove(id);
        self.in_flight = self.in_flight.saturating_sub(1);
        Answer::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[derive(Default)]
    struct Flights(Vec<(PacketId, OutboundState)>);

    impl OutboundStore for Flights {
        fn state(&self, id: PacketId) -> Option<OutboundState> {
            self.0.iter().find(|(flight, _)| *flight == id).map(|(_, state)| *state)
        }
        fn release(&mut self, id: PacketId) {
            self.0.iter_mut().filter(|(flight, _)| *flight == id).for_each(|flight| {
                flight.1 = OutboundState::AwaitPubComp;
            });
        }
        fn remove(&mut self, id: PacketId) {
            self.0.retain(|(flight, _)| *flight != id);
        }
    }

    fn start(outbound: &mut Outbound, flights: &mut Flights, qos: QoS) -> Option<PacketId> {
        let (id, state) = outbound.start(qos, flights)?;
        flights.0.push((id, state));
        Some(id)
    }

    // 5.0: [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-4.9.0-2]
    #[test]
    fn the_quota_is_the_receive_maximum_and_comes_back_with_each_acknowledgement() {
        let (mut outbound, mut flights) = (Outbound::new(2), Flights::default());
        let one = start(&mut outbound, &mut flights, QoS::AtLeastOnce).unwrap();
        let two = start(&mut outbound, &mut flights, QoS::ExactlyOnce).unwrap();
        assert_eq!((one.get(), two.get()), (1, 2));
        assert_eq!(start(&mut outbound, &mut flights, QoS::AtLeastOnce), None);
        assert_eq!(
            outbound.pubrec(two, ReasonCode::Success, &mut flights),
            Answer::PubRel(ReasonCode::Success)
        );
        assert!(!outbound.has_quota(), "PUBREC alone gives nothing back");
        assert_eq!(outbound.puback(one, &mut flights), Answer::Nothing);
        assert_eq!(outbound.pubcomp(two, &mut flights), Answer::Nothing);
        assert_eq!((outbound.in_flight(), flights.0.len()), (0, 0));
    }

    // 5.0: [MQTT-4.3.3-4]
    #[test]
    fn a_refused_pubrec_ends_the_flight_without_pubrel() {
        let (mut outbound, mut flights) = (Outbound::new(1), Flights::default());
        let id = start(&mut outbound, &mut flights, QoS::ExactlyOnce).unwrap();
        assert_eq!(outbound.pubrec(id, ReasonCode::QuotaExceeded, &mut flights), Answer::Nothing);
        assert!(outbound.has_quota() && flights.0.is_empty());
        let unknown = outbound.pubrec(id, ReasonCode::Success, &mut flights);
        assert_eq!(unknown, Answer::PubRel(ReasonCode::PacketIdentifierNotFound));
    }

    #[test]
    fn acknowledgements_of_the_wrong_kind_are_violations() {
        let (mut outbound, mut flights) = (Outbound::new(9), Flights::default());
        let one = start(&mut outbound, &mut flights, QoS::AtLeastOnce).unwrap();
        let two = start(&mut outbound, &mut flights, QoS::ExactlyOnce).unwrap();
        assert_eq!(outbound.pubrec(one, ReasonCode::Success, &mut flights), Answer::Violation);
        assert_eq!(outbound.puback(two, &mut flights), Answer::Violation);
        assert_eq!(outbound.pubcomp(two, &mut flights), Answer::Violation);
    }

    // 3.1.1: [MQTT-2.3.1-2] [MQTT-2.3.1-4]  5.0: [MQTT-2.2.1-4]
    #[test]
    fn identifiers_in_use_are_not_handed_out_again() {
        let mut ids = PacketIds::after(65_533);
        let held = PacketId::new(65_534).unwrap();
        assert_eq!(ids.allocate(|id| id == held).map(PacketId::get), Some(65_535));
        assert_eq!(ids.allocate(|id| id == held).map(PacketId::get), Some(1));
        assert_eq!(ids.allocate(|_| true), None);
    }
}
