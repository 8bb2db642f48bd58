//! What goes to the client: resends first, then retained messages for new subscriptions, then the outbox, in order.
//!
//! One order for all (`4.6`): a message that has to wait for quota holds back those behind it, QoS 0 included, so that a
//! subscriber sees what it gets in the order it was published.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use lapwing_protocol::flight::{Answer, Outbound, OutboundState, OutboundStore};
use lapwing_protocol::{PacketId, QoS, ReasonCode};

use super::Terms;
use crate::message::{Expiry, Millis};
use crate::outbox::Delivery;

/// A thing to send.
#[derive(Debug)]
pub enum Transmit {
    /// PUBLISH.
    Publish {
        /// What, and how.
        delivery: Delivery,
        /// For QoS 1 and 2.
        packet_id: Option<PacketId>,
        /// It was sent over an earlier connection.
        dup: bool,
    },
    /// PUBREL again, after a reconnect.
    PubRel(PacketId),
}

/// One QoS 1 or 2 message on its way.
#[derive(Debug)]
struct Flight {
    id: PacketId,
    state: OutboundState,
    /// `None` once the client has it (PUBREC).
    delivery: Option<Delivery>,
    /// Over this connection.
    sent: bool,
}

/// The flights in the order of their first sending. Few, and acknowledged mostly in order: a search from the front is short.
#[derive(Debug, Default)]
struct Flights(VecDeque<Flight>);

impl OutboundStore for Flights {
    fn state(&self, id: PacketId) -> Option<OutboundState> {
        self.0.iter().find(|flight| flight.id == id).map(|flight| flight.state)
    }

    fn release(&mut self, id: PacketId) {
        if let Some(flight) = self.0.iter_mut().find(|flight| flight.id == id) {
            flight.state = OutboundState::AwaitPubComp;
            flight.delivery = None;
        }
    }

    fn remove(&mut self, id: PacketId) {
        if let Some(at) = self.0.iter().position(|flight| flight.id == id) {
            self.0.remove(at);
        }
    }
}

fn wait_max(terms: &Terms) -> Millis {
    u64::from(terms.message_expiry_max_s) * 1000
}

/// The sending half of a session.
#[derive(Debug)]
pub struct Outgoing {
    machine: Outbound,
    flights: Flights,
    /// How long a message of the outbox may wait.
    wait_max: Millis,
    /// Flights that this connection has yet to send again.
    unsent: usize,
    /// Retained messages for new subscriptions; filled a few at a time as the client reads.
    pub replay: VecDeque<Delivery>,
    /// Taken from the outbox.
    pub pending: VecDeque<Delivery>,
    /// The size of what is in `pending`.
    pub pending_bytes: usize,
    /// Messages that became void before they were sent.
    pub expired: u64,
}

impl Outgoing {
    pub(super) fn new(terms: &Terms) -> Outgoing {
        Outgoing {
            machine: Outbound::new(terms.in_flight_max),
            wait_max: wait_max(terms),
            flights: Flights::default(),
            unsent: 0,
            replay: VecDeque::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            expired: 0,
        }
    }

    pub(super) fn reconnected(&mut self, terms: &Terms) {
        self.machine.reconnected(terms.in_flight_max);
        self.wait_max = wait_max(terms);
        self.flights.0.iter_mut().for_each(|flight| flight.sent = false);
        self.unsent = self.flights.0.len();
    }

    pub(super) fn rest(&mut self) {
        let keep = |delivery: &Delivery| delivery.qos != QoS::AtMostOnce;
        self.replay.retain(keep);
        self.pending.retain(keep);
        self.recount();
        self.pending.shrink_to_fit();
        self.flights.0.shrink_to_fit();
    }

    fn recount(&mut self) {
        self.pending_bytes = self.pending.iter().map(|delivery| delivery.message.size()).sum();
    }

    pub(super) fn poll(&mut self, now: Millis) -> Option<Transmit> {
        if self.unsent > 0 {
            return self.resend();
        }
        loop {
            let replaying = !self.replay.is_empty();
            let queue = if replaying { &mut self.replay } else { &mut self.pending };
            let next = queue.front()?;
            // Retained messages may be as old as they like.
            let waited = if replaying { 0 } else { now.saturating_sub(next.message.published_at()) };
            let expired = next.message.expiry(now) == Expiry::Expired || waited > self.wait_max;
            let mut flight = None;
            if !expired && next.qos != QoS::AtMostOnce {
                flight = Some(self.machine.start(next.qos, &self.flights)?);
            }
            let delivery = queue.pop_front()?;
            if !replaying {
                self.pending_bytes = self.pending_bytes.saturating_sub(delivery.message.size());
            }
            if expired {
                // `[MQTT-3.3.2-5]`
                self.expired += 1;
                continue;
            }
            if let Some((id, state)) = flight {
                self.flights.0.push_back(Flight { id, state, delivery: Some(delivery.clone()), sent: true });
            }
            return Some(Transmit::Publish { delivery, packet_id: flight.map(|(id, _)| id), dup: false });
        }
    }

    /// The next flight to be sent again, in the order of the first sending (`[MQTT-4.6.0-1]`).
    fn resend(&mut self) -> Option<Transmit> {
        let flight = self.flights.0.iter_mut().find(|flight| !flight.sent)?;
        if !self.machine.resend(flight.state) {
            return None;
        }
        flight.sent = true;
        self.unsent -= 1;
        Some(match &flight.delivery {
            Some(delivery) => {
                Transmit::Publish { delivery: delivery.clone(), packet_id: Some(flight.id), dup: true }
            }
            None => Transmit::PubRel(flight.id),
        })
    }

    pub(super) fn puback(&mut self, id: PacketId) -> Answer {
        self.acknowledged(id, |machine, flights| machine.puback(id, flights))
    }

    pub(super) fn pubrec(&mut self, id: PacketId, reason: ReasonCode) -> Answer {
        self.acknowledged(id, |machine, flights| machine.pubrec(id, reason, flights))
    }

    pub(super) fn pubcomp(&mut self, id: PacketId) -> Answer {
        self.acknowledged(id, |machine, flights| machine.pubcomp(id, flights))
    }

    /// A client may acknowledge what it got over an earlier connection before it is sent again: then it need not be.
    fn acknowledged(
        &mut self,
        id: PacketId,
        acknowledge: impl FnOnce(&mut Outbound, &mut Flights) -> Answer,
    ) -> Answer {
        if self.unsent > 0
            && let Some(flight) = self.flights.0.iter_mut().find(|f| f.id == id && !f.sent)
        {
            flight.sent = true;
            self.unsent -= 1;
        }
        acknowledge(&mut self.machine, &mut self.flights)
    }

    /// A delivery that [`poll`](super::Session::poll) gave out and that could not be written (too large for the client):
    /// it counts as delivered (`[MQTT-3.1.2-25]`).
    pub fn undeliverable(&mut self, id: PacketId) {
        self.machine.abandon(id, true, &mut self.flights);
    }

    /// Whether more could be sent if there was more: nothing is waiting and the quota is not used up.
    pub fn is_hungry(&self) -> bool {
        self.unsent == 0 && self.replay.is_empty() && self.pending.is_empty()
    }

    /// Offers what a shared group (`group`, or any) gave to this session and its client did not get through: queued messages,
    /// and with `sent` the QoS 1 messages on their way. What `give` takes is gone from here; the rest stays as it is, packet
    /// identifiers included. QoS 2 stays with the client that has begun it (`[MQTT-4.8.2-4]`).
    pub fn give_shared(
        &mut self,
        group: Option<NonZeroU32>,
        sent: bool,
        mut give: impl FnMut(&Delivery) -> bool,
    ) {
        let mut given = |delivery: &Delivery| {
            delivery.share.is_some() && (group.is_none() || delivery.share == group) && give(delivery)
        };
        if sent {
            let unsent = &mut self.unsent;
            self.flights.0.retain(|flight| {
                let gone = flight.state == OutboundState::AwaitPubAck
                    && flight.delivery.as_ref().is_some_and(&mut given);
                if gone && !flight.sent {
                    *unsent = unsent.saturating_sub(1);
                }
                !gone
            });
        }
        self.pending.retain(|delivery| !given(delivery));
        self.recount();
    }

    /// Messages sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.flights.0.len()
    }
}
