//! Messages out: from the session, the session queue and the store, as packets to the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use lapwing_protocol::alias::{Naming, OutboundAliases, TopicPlace};
use lapwing_protocol::packet::{Ack, Packet, PublishHeader};
use lapwing_protocol::{EncodeError, PacketId, QoS, ReasonCode};
use tracing::{debug, warn};

use super::commit_queue::HeldPublish;
use super::negotiated::AliasedTopic;
use super::refusals::refusal;
use super::{Connection, GATHER_BYTES, GATHER_SHARED_BYTES};
use crate::auth::Action;
use crate::clients::owned::OwnedSession;
use crate::config::mount;
use crate::connection::output::Output;
use crate::core::recovery::{PAGE_MESSAGES, next_page};
use crate::message::{Delivery, Durability, Expiry, Message, Millis, REPLAYED, Seq};
use crate::outbox::Take;
use crate::router::{Fetched, Next};
use crate::session::Transmit;
use crate::store::{FlightStep, KeptSubscription, Paged, ReadReply, Record, Ticket};
use crate::telemetry::drop_reason::Reason;

/// Retained messages that one step looks up for a new subscription.
const REPLAY_MESSAGES: usize = 64;
/// Work of such a step, in packets.
const REPLAY_WORK: u32 = 32;

/// Question to the store.
#[derive(Debug)]
pub(super) enum Fetch {
    /// The next messages of the queue.
    Queue(ReadReply<Paged>),
    /// Messages that are to be sent again.
    Flights(Vec<Seq>, ReadReply<Vec<Delivery>>),
    /// Retained messages.
    Retained(Vec<Box<str>>, ReadReply<Vec<Message>>),
}

/// The sending half of a connection.
#[derive(Default)]
pub(crate) struct Outbound {
    pub(crate) output: Output,
    /// Topics that our aliases stand for, with their last use.
    pub(super) aliases: Vec<(AliasedTopic, u64)>,
    pub(super) alias_book: OutboundAliases,
    /// A question to the store that is under way.
    pub(super) fetch: Option<Fetch>,
    /// Retained messages that were fetched.
    pub(super) fetched: Fetched,
    /// Set when the store could not be read: nothing more is fetched over this connection.
    pub(super) unreadable: bool,
    /// Number of pending messages that the outbox has.
    pub(super) reported_pending: usize,
    /// Number of messages in flight that the outbox has.
    pub(super) reported_in_flight: usize,
}

impl Connection {
    /// Gathers packets for the client. Returns `true` when there may be more once these are
    /// written.
    pub(super) fn gather(&mut self, now: Millis, cx: &mut Context<'_>) -> bool {
        let more = self.gather_until_idle(now, cx);
        self.record_outcomes();
        if !self.owned.session.outgoing.lost.is_empty() {
            self.tell_lost();
        }
        // Until it is told otherwise, the outbox counts taken messages as held by the session.
        let outgoing = &self.owned.session.outgoing;
        if self.outbound.reported_pending != outgoing.pending.len() {
            self.outbound.reported_pending = outgoing.pending.len();
            self.owned.outbox.set_held(&outgoing.pending);
        }
        if self.outbound.reported_in_flight != outgoing.in_flight() {
            self.outbound.reported_in_flight = outgoing.in_flight();
            self.owned.outbox.set_in_flight(outgoing.in_flight());
        }
        more
    }

    fn gather_until_idle(&mut self, now: Millis, cx: &mut Context<'_>) -> bool {
        loop {
            if self.commits.publish_bytes >= GATHER_BYTES {
                // The store wakes this task when held messages may leave.
                return false;
            }
            // Shared payloads are not copied into the buffer: one write takes more of them.
            let most = if self.outbound.output.shares() { GATHER_SHARED_BYTES } else { GATHER_BYTES };
            if self.outbound.output.len() >= most || self.pacing.slice.is_over() {
                return true;
            }
            let fetching = self.poll_fetch(cx);
            if let Some(transmit) = self.owned.session.poll(now) {
                self.transmit(transmit, now);
                self.pacing.slice.spend(1);
                continue;
            }
            if fetching || self.outbound.unreadable {
                return false;
            }
            let OwnedSession { session, outbox, .. } = &mut self.owned;
            let (number, outgoing) = (session.number, &mut session.outgoing);
            let missing = outgoing.unloaded(PAGE_MESSAGES);
            if !missing.is_empty() {
                let reply = self.core.store.read_at(number, missing.clone());
                self.outbound.fetch = Some(Fetch::Flights(missing, reply));
                continue;
            }
            if !outgoing.is_hungry() {
                return false;
            }
            if let Some(replay) = session.subscriptions.cursors.front_mut() {
                // A step may visit many topics and find no message.
                self.pacing.slice.spend(REPLAY_WORK);
                let (retained, fetched) = (&self.core.router.retained, &self.outbound.fetched);
                match retained.next(replay, REPLAY_MESSAGES, now, fetched, &mut outgoing.replay) {
                    Next::More => {}
                    Next::End => self.replayed(),
                    Next::Fetch(topics) => {
                        let reply = self.core.store.retained(topics.clone());
                        self.outbound.fetch = Some(Fetch::Retained(topics, reply));
                    }
                }
                continue;
            }
            match outbox.take(&mut outgoing.pending, cx.waker()) {
                Take::Some => self.outbound.reported_pending = outgoing.pending.len(),
                Take::Nothing => {
                    self.outbound.reported_pending = 0;
                    return false;
                }
                Take::Stored(from, until) => {
                    let reply = self.core.store.queued(next_page(number, from, until));
                    self.outbound.fetch = Some(Fetch::Queue(reply));
                }
            }
        }
    }

    /// Counts and traces messages that expired while they waited.
    #[cold]
    fn tell_lost(&mut self) {
        for (reason, message) in self.owned.session.outgoing.lost.drain(..) {
            self.core.outcomes.dropped(reason, &message, self.owned.outbox.recipient());
        }
    }

    /// Takes the reply of the store. Returns `true` while it is still on its way.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(fetch) = &mut self.outbound.fetch else { return false };
        let outgoing = &mut self.owned.session.outgoing;
        let known = match fetch {
            Fetch::Queue(reply) => match Pin::new(reply).poll(cx) {
                Poll::Pending => return true,
                Poll::Ready(paged) => paged.map(|Paged { mut deliveries, next }| {
                    self.owned.outbox.on_page(&mut deliveries, next);
                    outgoing.pending.extend(deliveries);
                }),
            },
            Fetch::Flights(asked, reply) => match Pin::new(reply).poll(cx) {
                Poll::Pending => return true,
                Poll::Ready(found) => found.map(|deliveries| {
                    let (asked_for, found) = (asked.len(), deliveries.len());
                    outgoing.load(asked, deliveries);
                    if found < asked_for {
                        let lost = (asked_for - found) as u64;
                        self.core.outcomes.dropped_on_disk(
                            Reason::StoreLost,
                            lost,
                            self.owned.outbox.recipient(),
                        );
                        warn!(client = %self.owned.session.client_id, lost,
                            "messages on their way to the client are not in the store any more");
                    }
                }),
            },
            Fetch::Retained(topics, reply) => match Pin::new(reply).poll(cx) {
                Poll::Pending => return true,
                Poll::Ready(found) => found.map(|messages| {
                    let by_topic = |message: Message| (message.topic_str().into(), Some(message));
                    self.outbound.fetched = topics.drain(..).map(|topic| (topic, None)).collect();
                    self.outbound.fetched.extend(messages.into_iter().map(by_topic));
                }),
            },
        };
        self.outbound.fetch = None;
        if known.is_err() {
            warn!(client = %self.owned.session.client_id, "the store cannot be read: its messages are not delivered now");
            self.outbound.unreadable = true;
        }
        false
    }

    /// Removes the cursor of a SUBSCRIBE whose retained messages were all given out, and records
    /// that.
    fn replayed(&mut self) {
        self.outbound.fetched = Fetched::new();
        let OwnedSession { session, outbox, .. } = &mut self.owned;
        let Some(replay) = session.subscriptions.cursors.pop_front() else { return };
        if !outbox.is_stored() {
            return;
        }
        for filter in replay.filters() {
            // The client may have subscribed again with other options meanwhile.
            let Some(held) = session.subscriptions.get(filter).copied() else { continue };
            let replay = session.subscriptions.is_replaying(filter);
            let subscription = KeptSubscription { held, group: None, replay };
            let record = Record::Subscribed { session: session.number, filter: filter.into(), subscription };
            self.core.store.append(record, Durability::None);
        }
    }

    /// Sends a packet that the session gave out.
    pub(super) fn transmit(&mut self, transmit: Transmit, now: Millis) {
        let (delivery, packet_id, dup) = match transmit {
            Transmit::Publish { delivery, packet_id, dup } => (delivery, packet_id, dup),
            Transmit::PubRel(packet_id) => {
                // Queued with the messages that are sent again, to keep their order.
                let packet = Packet::PubRel(Ack::new(packet_id, ReasonCode::Success));
                let (version, most) = (self.negotiated.version, self.negotiated.packet_bytes_max);
                let Ok(len) = packet.encoded_len(version, most) else { return };
                let mut header = vec![0; len];
                if packet.encode(version, most, &mut header).is_ok() {
                    self.stats.counters.packets_sent += 1;
                    self.commits.hold_publish(HeldPublish {
                        ticket: self.commits.resumed,
                        header,
                        message: None,
                    });
                }
                return;
            }
        };
        let ticket = packet_id.map_or(Ticket::default(), |id| self.record_sent(&delivery, id, dup));
        let message = &delivery.message;
        let seen = mount::seen(self.endpoint.listener.mount_point.as_ref(), message.topic());
        let allowed = seen.ok_or(Reason::MountPoint).and_then(|name| {
            match self.denies(message, delivery.terms.retain) {
                Some(denied) => Err(denied),
                None => Ok(name),
            }
        });
        let sent = match allowed {
            Err(reason) => {
                self.log_refusal("delivery", message.topic_str(), &refusal(reason));
                Err(reason)
            }
            Ok(name) => {
                let (topic, topic_alias) = self.name_topic(name);
                let header = PublishHeader {
                    dup,
                    qos: delivery.terms.qos,
                    retain: delivery.terms.retain,
                    topic: if topic { name } else { &[] },
                    packet_id,
                    forwarded: message.properties(),
                    message_expiry_interval_s: match message.expiry(now) {
                        Expiry::Never => None,
                        Expiry::Left(seconds) => Some(seconds),
                        // A message that was first sent in time is sent again after it expired.
                        Expiry::Expired => Some(0),
                    },
                    topic_alias,
                    subscription_identifiers: delivery.terms.subscription_ids.as_slice(),
                    payload_len: message.payload().len(),
                };
                let sent = self.send_publish(&header, message, ticket);
                // The client does not know an alias whose PUBLISH was not sent.
                if let Some(alias) = topic_alias.filter(|_| sent.is_err())
                    && let Some((alias, _)) = self.outbound.aliases.get_mut(usize::from(alias) - 1)
                {
                    alias.set(&[]);
                }
                sent
            }
        };
        let (outcomes, outbox) = (&self.core.outcomes, &self.owned.outbox);
        match sent {
            Err(reason) => {
                outcomes.dropped(reason, message, outbox.recipient());
                if let Some(id) = packet_id {
                    self.owned.session.outgoing.undeliverable(id);
                }
            }
            Ok(()) if outcomes.traces.wants(message) => {
                outcomes.sent(&delivery, outbox.recipient(), packet_id, dup)
            }
            Ok(()) => {}
        }
        delivery.message.recycle();
    }

    /// Returns the reason why the client may not get a message. Asked for each delivery, since
    /// rights may have changed since the message came.
    fn denies(&self, message: &Message, retain: bool) -> Option<Reason> {
        let (policy, identity) = (&self.snapshot.auth.policy, &self.owned.identity);
        let own_topic = message.topic().first() == Some(&b'$');
        let client_id = &self.owned.session.client_id;
        if (own_topic || policy.restricts_delivery(identity))
            && !policy.allows(identity, client_id, Action::Receive, message.topic_str())
        {
            return Some(Reason::DeniedDelivery);
        }
        (retain && !self.core.publisher_may(&self.snapshot, message)).then_some(Reason::DeniedSource)
    }

    /// Records the packet identifier that a message is sent with. A QoS 2 message waits for the
    /// record: sent again with another identifier after a crash, it would arrive twice.
    fn record_sent(&mut self, delivery: &Delivery, packet_id: PacketId, dup: bool) -> Ticket {
        if delivery.seq == 0 {
            return Ticket::default();
        }
        let exactly_once = delivery.terms.qos == QoS::ExactlyOnce;
        if dup {
            return if exactly_once { self.commits.resumed } else { Ticket::default() };
        }
        let step = FlightStep::Sent {
            session: self.owned.session.number,
            packet_id,
            seq: delivery.seq,
            qos: delivery.terms.qos,
            size: u32::try_from(delivery.message.size()).unwrap_or(u32::MAX),
            body: (delivery.seq & REPLAYED != 0).then(|| Box::new(delivery.clone())),
        };
        let level = if exactly_once { self.level() } else { Durability::None };
        let ticket = self.commits.records.append(step.into(), level);
        if exactly_once { ticket } else { Ticket::default() }
    }

    fn send_publish(
        &mut self,
        header: &PublishHeader<'_>,
        message: &Message,
        ticket: Ticket,
    ) -> Result<(), Reason> {
        let (version, packet_bytes_max) = (self.negotiated.version, self.negotiated.packet_bytes_max);
        let header_max = PublishHeader::OVERHEAD_MAX
            + header.topic.len()
            + header.forwarded.len()
            + 5 * header.subscription_identifiers.len();
        let commits = &mut self.commits;
        // No PUBLISH overtakes a held one: messages keep their order, and a topic alias comes after
        // its introduction.
        let held = !ticket.is_free() || !commits.publishes.is_empty();
        let encoded: Result<(), EncodeError> = if held {
            let mut bytes = vec![0; header_max];
            header.encode(version, packet_bytes_max, &mut bytes).map(|len| {
                bytes.truncate(len);
                commits.hold_publish(HeldPublish { ticket, header: bytes, message: Some(message.clone()) });
            })
        } else {
            self.outbound.output.append(header_max, |out| header.encode(version, packet_bytes_max, out))
        };
        if let Err(error) = encoded {
            debug!(client = %self.owned.session.client_id, topic = message.topic_str(), %error, "not delivered");
            return Err(Reason::TooLarge);
        }
        if !held {
            self.outbound.output.payload(message);
        }
        let counters = &mut self.stats.counters;
        counters.packets_sent += 1;
        counters.publish_sent += 1;
        counters.publish_bytes_sent += header.payload_len as u64;
        Ok(())
    }

    /// Returns whether to write the topic name, and the alias to write.
    fn name_topic(&mut self, topic: &[u8]) -> (bool, Option<u16>) {
        let most = usize::from(self.negotiated.topic_alias_max);
        if most == 0 {
            return (true, None);
        }
        let Outbound { aliases, alias_book, .. } = &mut self.outbound;
        if aliases.is_empty() {
            aliases.resize_with(most, Default::default);
        }
        match alias_book.name(aliases, topic) {
            Naming::Name => (true, None),
            Naming::Introduce(alias) => (true, Some(alias)),
            Naming::Alias(alias) => (false, Some(alias)),
        }
    }
}
