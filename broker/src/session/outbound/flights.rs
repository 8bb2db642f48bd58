//! The messages that are on their way with a packet identifier, in the order of their first
//! sending.

use std::collections::VecDeque;

use lapwing_protocol::PacketId;
use lapwing_protocol::flight::{OutboundState, OutboundStore};

use crate::message::{Delivery, Seq};
use crate::session::Outcome;

/// One QoS 1 or 2 message on its way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub id: PacketId,
    pub state: OutboundState,
    /// `None` once the client has it (PUBREC), and while only the store has it.
    pub delivery: Option<Delivery>,
    /// Set when it was sent over this connection.
    pub sent: bool,
    /// The slot of its message in the store; 0: none.
    pub seq: Seq,
    /// The size of its message, in bytes.
    pub size: u32,
}

impl Flight {
    /// Returns `true` when only the store has the message.
    pub fn is_away(&self) -> bool {
        self.delivery.is_none() && self.state != OutboundState::AwaitPubComp
    }

    pub fn done(&self) -> Outcome {
        Outcome::Done { seq: self.seq, size: self.size, packet_id: Some(self.id) }
    }
}

/// Flights in the order of their first sending. Identifiers mostly rise, so one is found by binary
/// search. Around a wrap to 1, or while a flight from before it is left, all are scanned.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    all: VecDeque<Flight>,
    /// Number of falls: identifiers that are below the one before them.
    falls: usize,
}

impl Flights {
    pub fn push(&mut self, flight: Flight) {
        self.falls += usize::from(self.all.back().is_some_and(|last| flight.id < last.id));
        self.all.push_back(flight);
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.all.iter()
    }

    /// Identifiers stay as they are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.all.iter_mut()
    }

    pub fn retain_mut(&mut self, keep: impl FnMut(&mut Flight) -> bool) {
        self.all.retain_mut(keep);
        let ids = || self.all.iter().map(|flight| flight.id);
        self.falls = ids().zip(ids().skip(1)).filter(|(before, id)| id < before).count();
    }

    pub fn shrink_to_fit(&mut self) {
        self.all.shrink_to_fit();
    }

    pub fn get(&self, id: PacketId) -> Option<&Flight> {
        self.all.get(self.position(id)?)
    }

    pub fn get_mut(&mut self, id: PacketId) -> Option<&mut Flight> {
        let at = self.position(id)?;
        self.all.get_mut(at)
    }

    #[inline]
    fn position(&self, id: PacketId) -> Option<usize> {
        // Two usual cases first: the oldest flight is acknowledged, or the identifier is new.
        let (first, last) = (self.all.front()?, self.all.back()?);
        if first.id == id {
            return Some(0);
        }
        match self.falls {
            0 if first.id > id || last.id < id => None,
            0 => self.all.binary_search_by_key(&id, |flight| flight.id).ok(),
            _ => self.all.iter().position(|flight| flight.id == id),
        }
    }
}

impl OutboundStore for Flights {
    #[inline]
    fn state(&self, id: PacketId) -> Option<OutboundState> {
        self.get(id).map(|flight| flight.state)
    }

    fn release(&mut self, id: PacketId) {
        if let Some(flight) = self.get_mut(id) {
            flight.state = OutboundState::AwaitPubComp;
            if let Some(delivery) = flight.delivery.take() {
                delivery.message.recycle();
            }
        }
    }

    fn remove(&mut self, id: PacketId) {
        let Some(at) = self.position(id) else { return };
        let Some(Flight { delivery, .. }) = self.all.remove(at) else { return };
        if let Some(delivery) = delivery {
            delivery.message.recycle();
        }
        if self.falls == 0 {
            return;
        }
        // Removing an entry merges its two neighbouring steps: count the falls there again.
        let id_at = |at: usize| self.all.get(at).map(|flight| flight.id);
        let (before, behind) = (at.checked_sub(1).and_then(id_at), id_at(at));
        let falls = |from: Option<PacketId>, to: Option<PacketId>| {
            usize::from(from.zip(to).is_some_and(|(from, to)| to < from))
        };
        self.falls += falls(before, behind);
        self.falls -= falls(before, Some(id)) + falls(Some(id), behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(id: u16) -> Flight {
        let state = OutboundState::AwaitPubAck;
        Flight { id: PacketId::new(id).unwrap(), state, delivery: None, sent: true, seq: 0, size: 0 }
    }

    #[test]
    fn a_flight_is_found_whatever_the_order_of_identifiers_and_acknowledgements() {
        // Identifiers that rise; that wrap around; that wrap around past an old flight; that fall.
        for ids in
            [&[3, 4, 5, 7, 9][..], &[65_533, 65_535, 1, 2, 5], &[4, 65_534, 65_535, 1, 3, 5], &[9, 5, 3]]
        {
            for turn in 0..ids.len() {
                let mut flights = Flights::default();
                ids.iter().for_each(|id| flights.push(flight(*id)));
                let mut left = ids.to_vec();
                while !left.is_empty() {
                    for id in (0..12).chain(65_530..=65_535).filter_map(PacketId::new) {
                        assert_eq!(
                            flights.state(id).is_some(),
                            left.contains(&id.get()),
                            "{id:?} of {left:?}"
                        );
                    }
                    let gone = left.remove((turn * 7 + left.len()) % left.len());
                    flights.remove(PacketId::new(gone).unwrap());
                    assert_eq!(flights.iter().map(|flight| flight.id.get()).collect::<Vec<_>>(), left);
                    assert_eq!(flights.falls, left.windows(2).filter(|pair| pair[1] < pair[0]).count());
                }
            }
        }
    }
}
