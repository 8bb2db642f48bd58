//! Packets for the client: resends first, then retained messages for new subscriptions, then the
//! session queue, in order.
//!
//! One order holds for all (`4.6`). A message that waits for quota holds back those behind it, QoS
//! 0 included. So a subscriber sees its messages in the order in which they were published.
//!
//! Messages that the store has are not kept in memory while the session is offline. A flight knows
//! the slot of its message and gets the message back ([`Outgoing::unloaded`], [`Outgoing::load`])
//! before it is sent again. Each end of a stored message is noted as an [`Outcome`] for the
//! connection to record.

pub(super) mod flights;

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;

use flights::{Flight, Flights};
use lapwing_protocol::flight::{Answer, Outbound, OutboundState, OutboundStore};
use lapwing_protocol::{PacketId, QoS, ReasonCode};

use crate::message::{Delivery, Expiry, Message, Millis, PendingQueue, REPLAYED, Seq};
use crate::session::outcome::size;
use crate::session::{KeptFlight, Outcome, Terms};
use crate::telemetry::drop_reason::Reason;

/// A thing to send.
#[derive(Debug)]
pub enum Transmit {
    /// PUBLISH.
    Publish {
        /// The message, and the terms to deliver it on.
        delivery: Delivery,
        /// For QoS 1 and 2.
        packet_id: Option<PacketId>,
        /// Set when it was sent over an earlier connection.
        dup: bool,
    },
    /// PUBREL again, after a reconnect.
    PubRel(PacketId),
}

/// Messages of shared groups that go to other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedMessages {
    /// Queued messages of one group.
    Queued(NonZeroU32),
    /// Messages of all groups: queued ones, and QoS 1 messages in flight.
    All,
}

fn wait_max(terms: &Terms) -> Millis {
    u64::from(terms.message_expiry_max_s) * 1000
}

/// The sending half of a session.
#[derive(Debug)]
pub struct Outgoing {
    machine: Outbound,
    flights: Flights,
    /// Longest wait of a message in the session queue, in milliseconds.
    wait_max: Millis,
    /// Flights that this connection has yet to send again.
    unsent: usize,
    /// Retained messages for new subscriptions; filled a few at a time as the client reads.
    pub replay: VecDeque<Delivery>,
    /// Taken from the outbox.
    pub pending: PendingQueue,
    /// Messages that were dropped before they were sent, with the reason, since this was taken
    /// last.
    pub lost: Vec<(Reason, Message)>,
    /// Ends of stored messages since this was taken last.
    pub outcomes: Vec<Outcome>,
    /// Set when the store keeps the session.
    stored: bool,
    last_replayed: Seq,
}

impl Outgoing {
    pub(super) fn new(terms: &Terms, stored: bool) -> Outgoing {
        Outgoing {
            outcomes: Vec::new(),
            stored,
            last_replayed: 0,
            machine: Outbound::new(terms.in_flight_max),
            wait_max: wait_max(terms),
            flights: Flights::default(),
            unsent: 0,
            replay: VecDeque::new(),
            pending: PendingQueue::default(),
            lost: Vec::new(),
        }
    }

    /// Restores the half of a stored session after a restart, with its flights in the order of
    /// their first sending.
    pub(super) fn restored(flights: &[KeptFlight], last_id: u16) -> Outgoing {
        let terms = Terms { receive_maximum: 1, in_flight_max: 1, expiry_s: 0, message_expiry_max_s: 0 };
        let mut outgoing = Outgoing::new(&terms, true);
        outgoing.machine = Outbound::resumed(1, last_id);
        for KeptFlight { packet_id, state, seq, size, .. } in flights.iter().copied() {
            outgoing.flights.push(Flight { id: packet_id, state, delivery: None, sent: false, seq, size });
            if seq & REPLAYED != 0 {
                outgoing.last_replayed = outgoing.last_replayed.max(seq ^ REPLAYED);
            }
        }
        outgoing
    }

    pub(super) fn reconnected(&mut self, terms: &Terms) {
        self.machine.reconnected(terms.in_flight_max);
        self.wait_max = wait_max(terms);
        self.flights.iter_mut().for_each(|flight| flight.sent = false);
        self.unsent = self.flights.len();
    }

    pub(super) fn rest(&mut self) {
        let lost = &mut self.lost;
        let mut keep = |delivery: &Delivery| {
            let kept = delivery.terms.qos != QoS::AtMostOnce;
            if !kept {
                lost.push((Reason::Offline, delivery.message.clone()));
            }
            kept
        };
        self.replay.retain(&mut keep);
        self.pending.retain(keep);
        self.pending.shrink_to_fit();
        self.flights.shrink_to_fit();
        for flight in self.flights.iter_mut().filter(|flight| flight.seq != 0) {
            flight.delivery = None;
        }
    }

    /// Returns the slots of messages that must be loaded before the next resend, up to `most`.
    pub fn unloaded(&self, most: usize) -> Vec<Seq> {
        let mut unsent = self.flights.iter().filter(|flight| !flight.sent).peekable();
        // Messages in memory are sent first: nothing is fetched before the next one is missing.
        match unsent.peek() {
            Some(next) if next.is_away() => {
                unsent.filter(|flight| flight.is_away()).map(|flight| flight.seq).take(most).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the slots of messages that only the store has, up to `most`.
    pub fn all_unloaded(&self, most: usize) -> Vec<Seq> {
        self.flights.iter().filter(|flight| flight.is_away()).map(|flight| flight.seq).take(most).collect()
    }

    /// Returns `true` when only the store has the messages of some flights.
    pub fn is_missing_any(&self) -> bool {
        self.flights.iter().any(Flight::is_away)
    }

    /// Gives loaded messages to their flights. A message that was asked for and did not come is
    /// lost, and its flight ends.
    pub fn load(&mut self, asked: &[Seq], deliveries: Vec<Delivery>) {
        let mut found: HashMap<Seq, Delivery> =
            deliveries.into_iter().map(|delivery| (delivery.seq, delivery)).collect();
        let (unsent, outcomes) = (&mut self.unsent, &mut self.outcomes);
        self.flights.retain_mut(|flight| {
            if !flight.is_away() || !asked.contains(&flight.seq) {
                return true;
            }
            flight.delivery = found.remove(&flight.seq);
            let lost = flight.delivery.is_none();
            if lost {
                *unsent = unsent.saturating_sub(usize::from(!flight.sent));
                outcomes.push(flight.done());
            }
            !lost
        });
    }

    pub(super) fn poll(&mut self, now: Millis) -> Option<Transmit> {
        if self.unsent > 0 {
            return self.resend();
        }
        loop {
            let replaying = !self.replay.is_empty();
            let next = if replaying { self.replay.front()? } else { self.pending.front()? };
            // `limits.message_expiry_max_s` is for the wait in the queue, not for the age of
            // retained messages.
            let waited = if replaying { 0 } else { now.saturating_sub(next.message.published_at()) };
            let expired = match next.message.expiry(now) {
                Expiry::Expired => Some(Reason::Expired),
                _ => (waited > self.wait_max).then_some(Reason::WaitedTooLong),
            };
            let mut flight = None;
            if expired.is_none() && next.terms.qos != QoS::AtMostOnce {
                flight = Some(self.machine.start(next.terms.qos, &self.flights)?);
            }
            let mut delivery = if replaying { self.replay.pop_front()? } else { self.pending.pop_front()? };
            if let Some(reason) = expired {
                // `[MQTT-3.3.2-5]`
                self.dropped(&delivery);
                self.lost.push((reason, delivery.message));
                continue;
            }
            if let Some((id, state)) = flight {
                if self.stored && replaying {
                    // A retained message is in no queue of the store. It is stored with its flight.
                    self.last_replayed += 1;
                    delivery.seq = REPLAYED | self.last_replayed;
                }
                let (seq, size) = (delivery.seq, size(&delivery));
                let delivery = Some(delivery.clone());
                self.flights.push(Flight { id, state, delivery, sent: true, seq, size });
            }
            return Some(Transmit::Publish { delivery, packet_id: flight.map(|(id, _)| id), dup: false });
        }
    }

    /// Returns the next flight to send again, in the order of the first sending (`[MQTT-4.6.0-1]`).
    fn resend(&mut self) -> Option<Transmit> {
        let flight = self.flights.iter_mut().find(|flight| !flight.sent)?;
        if flight.is_away() || !self.machine.resend(flight.state) {
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

    /// Handles an acknowledgement. One that comes before its message is sent again makes the resend
    /// needless.
    fn acknowledged(
        &mut self,
        id: PacketId,
        acknowledge: impl FnOnce(&mut Outbound, &mut Flights) -> Answer,
    ) -> Answer {
        if self.unsent > 0
            && let Some(flight) = self.flights.get_mut(id).filter(|flight| !flight.sent)
        {
            flight.sent = true;
            self.unsent -= 1;
        }
        let before = if self.stored { self.flights.get(id).filter(|flight| flight.seq != 0) } else { None };
        let Some((state, done)) = before.map(|flight| (flight.state, flight.done())) else {
            return acknowledge(&mut self.machine, &mut self.flights);
        };
        let answer = acknowledge(&mut self.machine, &mut self.flights);
        match (state, self.flights.state(id), done) {
            (OutboundState::AwaitPubComp, None, _) => {
                self.outcomes.push(Outcome::Completed { packet_id: id });
            }
            (_, None, _) => self.outcomes.push(done),
            (
                OutboundState::AwaitPubRec,
                Some(OutboundState::AwaitPubComp),
                Outcome::Done { seq, size, .. },
            ) => {
                self.outcomes.push(Outcome::HandedOver { seq, size, packet_id: id });
            }
            _ => {}
        }
        answer
    }

    /// Notes the end of a message that was never sent.
    fn dropped(&mut self, delivery: &Delivery) {
        if delivery.seq != 0 {
            self.outcomes.push(Outcome::Done { seq: delivery.seq, size: size(delivery), packet_id: None });
        }
    }

    /// Ends the flight of a message that is too large for the client: it counts as delivered
    /// (`[MQTT-3.1.2-25]`).
    pub fn undeliverable(&mut self, id: PacketId) {
        let stored = self.flights.get(id).filter(|flight| flight.seq != 0);
        self.outcomes.extend(stored.map(Flight::done));
        self.machine.abandon(id, true, &mut self.flights);
    }

    /// Returns the message that was sent with this packet identifier, until the client has it.
    pub fn message(&self, id: PacketId) -> Option<&Message> {
        let flight = self.flights.get(id)?;
        flight.delivery.as_ref().map(|delivery| &delivery.message)
    }

    /// Returns `true` when no message waits to be sent: the session takes more from its queue.
    pub fn is_hungry(&self) -> bool {
        self.unsent == 0 && self.replay.is_empty() && self.pending.is_empty()
    }

    /// Offers messages of shared groups that the client did not acknowledge. `give` gets each with
    /// its packet identifier, and returns `true` when it took the message, which is removed here.
    /// QoS 2 flights stay with the client that began them (`[MQTT-4.8.2-4]`).
    pub fn reassign_shared(
        &mut self,
        messages: SharedMessages,
        mut give: impl FnMut(&Delivery, Option<PacketId>) -> bool,
    ) {
        let mut given = |delivery: &Delivery, id: Option<PacketId>| {
            let fits = match messages {
                SharedMessages::Queued(group) => delivery.terms.share == Some(group),
                SharedMessages::All => delivery.terms.share.is_some(),
            };
            fits && give(delivery, id)
        };
        if messages == SharedMessages::All {
            let unsent = &mut self.unsent;
            self.flights.retain_mut(|flight| {
                let gone = flight.state == OutboundState::AwaitPubAck
                    && flight.delivery.as_ref().is_some_and(|delivery| given(delivery, Some(flight.id)));
                if gone && !flight.sent {
                    *unsent = unsent.saturating_sub(1);
                }
                !gone
            });
        }
        self.pending.retain(|delivery| !given(delivery, None));
    }

    /// Returns the number of messages in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }
}
