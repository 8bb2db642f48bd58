//! A session without a socket: parts of the broker, and programs that embed it, publish and
//! subscribe through it.
//!
//! It has a session and a session queue like every client, so that the router, the limits of its
//! queue and the traces know no difference. It is transient: nothing of it outlives it, and it is
//! in no list of clients. No policy is asked, since whoever holds it runs inside the broker's
//! process.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use lapwing_protocol::packet::{Ack, Packet, RetainHandling, SubscriptionOptions};
use lapwing_protocol::property::Properties;
use lapwing_protocol::{PacketId, QoS, ReasonCode, topic};
use tracing::warn;

use crate::auth::Identity;
use crate::clients::owned::OwnedSession;
use crate::core::{Core, publish_rules};
use crate::message::{Delivery, Durability, Message, MessageParts};
use crate::outbox::Take;
use crate::router::{Fetched, Next, RouteCache, Subscriber};
use crate::session::{RetainedCursor, Session, Subscription, Terms, Transmit};
use crate::store::publish_record::PublishRecord;
use crate::store::{ReadReply, Ticket, WakerSlot};

/// Retained messages that one step looks up for a new subscription.
const RETAINED_STEP: usize = 64;

/// Topics of retained messages, and the store's reply to the question for them.
type RetainedFetch = (Vec<Box<str>>, ReadReply<Vec<Message>>);

/// A session inside the broker's process; dropping it ends it. Made by
/// [`Broker::local`](crate::Broker::local).
#[derive(Debug)]
pub struct Local {
    core: Arc<Core>,
    /// Present until the session ends with this.
    owned: Option<OwnedSession>,
    waker: Arc<AtomicWaker>,
    cache: RouteCache,
    wakers: Vec<Waker>,
    /// Question to the store for retained messages that is under way.
    fetch: Option<RetainedFetch>,
    /// Retained messages that the last question brought.
    fetched: Fetched,
}

/// Error of a [`Local`] session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalError {
    /// The topic name or filter breaks a rule of MQTT or a limit of the broker.
    Topic(&'static str),
    /// The message was not taken: its reason as in `lapwing_messages_dropped_total`, and in words.
    Refused(&'static str, &'static str),
    /// The store has failed: what was published may be lost.
    StoreFailed,
}

impl std::fmt::Display for LocalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LocalError::Topic(text) => f.write_str(text),
            LocalError::Refused(name, text) => write!(f, "not published ({name}): {text}"),
            LocalError::StoreFailed => {
                f.write_str("the store has failed: nothing more is kept; restart the broker")
            }
        }
    }
}

impl std::error::Error for LocalError {}

/// A message for a [`Local`] session.
#[derive(Debug)]
pub struct LocalMessage {
    delivery: Delivery,
    packet_id: Option<PacketId>,
}

impl LocalMessage {
    /// The topic name.
    pub fn topic(&self) -> &str {
        self.delivery.message.topic_str()
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.delivery.message.payload()
    }

    /// The QoS that it is delivered with.
    pub fn qos(&self) -> QoS {
        self.delivery.terms.qos
    }

    /// Set when the message was retained before the subscription (`[MQTT-3.3.1-8]`).
    pub fn retain(&self) -> bool {
        self.delivery.terms.retain
    }
}

impl Local {
    /// Opens a session; `name` tells it from others in traces, as `$local/NAME`.
    pub(crate) fn open(core: &Arc<Core>, name: &str) -> Local {
        let client_id: Arc<str> = format!("$local/{name}").into();
        let limits = core.settings.get().config.limits.clone();
        let terms = Terms {
            receive_maximum: limits.in_flight_max,
            in_flight_max: limits.in_flight_max,
            expiry_s: 0,
            message_expiry_max_s: limits.message_expiry_max_s,
        };
        let number = core.next_number();
        let outbox = core.outbox(number, client_id.clone(), false);
        let waker = Arc::new(AtomicWaker::new());
        outbox.connect(&waker);
        let session = Box::new(Session::new(number, client_id, None, &terms, false));
        let owned = OwnedSession { session, outbox, identity: Arc::new(Identity::default()) };
        Local {
            core: core.clone(),
            owned: Some(owned),
            waker,
            cache: RouteCache::default(),
            wakers: Vec::new(),
            fetch: None,
            fetched: Fetched::default(),
        }
    }

    /// Publishes a message, and waits until it is as safe as `store.durability` asks for: like the
    /// acknowledgement of a client. Returns the number of sessions and groups that it was for.
    ///
    /// # Errors
    /// The topic name is not valid, the broker does not take the message, or the store has failed.
    pub async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
    ) -> Result<usize, LocalError> {
        if topic::check_name(topic).is_err() || topic.starts_with('$') {
            let text = "not a topic name: it is empty or too long, has a wildcard, or begins with $";
            return Err(LocalError::Topic(text));
        }
        let settings = self.core.settings.get();
        let (limits, mqtt) = (&settings.config.limits, &settings.config.mqtt);
        publish_rules::check(topic, &Properties::default(), payload, limits, mqtt)
            .map_err(|reason| LocalError::Refused(reason.name(), reason.text()))?;
        let message = Message::new(&MessageParts {
            qos,
            retain,
            publisher: self.owned.as_ref().map_or(0, |owned| owned.session.number),
            published_at: self.core.now(),
            ..MessageParts::new(topic, payload)
        });
        let durability = settings.config.store.durability_of(topic, None);
        let (matched, ticket) = self.publish_message(&message, Some(durability))?;
        message.recycle();
        self.kept(ticket).await?;
        Ok(matched)
    }

    /// Publishes a message, and does not wait for the store. With a durability of `None` nothing of
    /// it is stored, whoever gets it.
    ///
    /// # Errors
    /// The broker does not take it.
    pub(crate) fn publish_message(
        &mut self,
        message: &Message,
        durability: Option<Durability>,
    ) -> Result<(usize, Ticket), LocalError> {
        let core = self.core.clone();
        let record = match durability {
            None => PublishRecord::disabled(),
            Some(durability) => PublishRecord::new(&*core.store, durability),
        };
        let published = core.publish(message, record, None, &mut self.cache, &mut self.wakers);
        self.wakers.drain(..).for_each(Waker::wake);
        match published.refused() {
            Some(reason) => Err(LocalError::Refused(reason.name(), reason.text())),
            None => Ok((published.routed.matched, published.ticket)),
        }
    }

    async fn kept(&self, ticket: Ticket) -> Result<(), LocalError> {
        let mut slot = WakerSlot::default();
        let poll = |cx: &mut Context<'_>| self.core.store.poll(ticket, &mut slot, cx);
        poll_fn(poll).await.map_err(|_| LocalError::StoreFailed)
    }

    /// Subscribes to a topic filter, shared or not, with QoS 0 or 1; QoS 2 is granted as 1.
    /// Retained messages come first, a few at a time as [`next`](Self::next) is called. A second
    /// subscription to the same filter replaces the first.
    ///
    /// # Errors
    /// The filter is not valid, or longer than the limits allow.
    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<(), LocalError> {
        let settings = self.core.settings.get();
        let limits = &settings.config.limits;
        let shared = topic::shared(filter);
        let inner = shared.map_or(filter, |(_, inner)| inner);
        if topic::check_filter(filter).is_err()
            || inner.len() > limits.topic_bytes_max as usize
            || topic::level_count(inner) > limits.topic_levels_max as usize
        {
            let text = "not a topic filter (MQTT 5, section 4.7), or longer than limits.topic_bytes_max or \
                        limits.topic_levels_max";
            return Err(LocalError::Topic(text));
        }
        let Some(owned) = &mut self.owned else { return Ok(()) };
        let options = SubscriptionOptions {
            qos: qos.min(QoS::AtLeastOnce),
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let subscription = Subscription { options, id: None };
        owned.session.subscriptions.insert(filter, subscription);
        self.core.router.subscribe(filter, Subscriber::new(&owned.outbox, &subscription));
        if shared.is_none() {
            let mut cursor = RetainedCursor::default();
            cursor.push(filter, subscription);
            owned.session.subscriptions.cursors.push_back(cursor);
        }
        Ok(())
    }

    /// Removes a subscription; `false`: there was none with exactly this filter.
    pub fn unsubscribe(&mut self, filter: &str) -> bool {
        let Some(owned) = &mut self.owned else { return false };
        self.core.remove_subscription(owned, filter, Durability::None).is_some()
    }

    /// Waits for the next message. May be dropped at any time: no message is lost with it. With
    /// `limits.in_flight_max` messages of QoS 1 that were not [acknowledged](Self::ack) it waits
    /// for an acknowledgement.
    pub async fn next(&mut self) -> LocalMessage {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<LocalMessage> {
        self.waker.register(cx.waker());
        let next = loop {
            let Some(OwnedSession { session, outbox, .. }) = &mut self.owned else { return Poll::Pending };
            match session.poll(self.core.now()) {
                Some(Transmit::Publish { delivery, packet_id, .. }) => break Some((delivery, packet_id)),
                // A local session has one connection, and so never resends.
                Some(Transmit::PubRel(_)) => continue,
                None => {}
            }
            if !session.outgoing.is_hungry() {
                break None;
            }
            if !session.subscriptions.cursors.is_empty() {
                match self.poll_retained(cx) {
                    Poll::Ready(()) => continue,
                    Poll::Pending => break None,
                }
            }
            if outbox.take(&mut session.outgoing.pending, cx.waker()) != Take::Some {
                break None;
            }
        };
        let Some(OwnedSession { session, outbox, .. }) = &mut self.owned else { return Poll::Pending };
        for (reason, message) in session.outgoing.lost.drain(..) {
            self.core.outcomes.dropped(reason, &message, outbox.recipient());
        }
        outbox.set_held(&session.outgoing.pending);
        outbox.set_in_flight(session.outgoing.in_flight());
        match next {
            Some((delivery, packet_id)) => Poll::Ready(LocalMessage { delivery, packet_id }),
            None => Poll::Pending,
        }
    }

    /// Takes one step of the oldest cursor over retained messages.
    fn poll_retained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(owned) = &mut self.owned else { return Poll::Ready(()) };
        let session = &mut owned.session;
        if let Some((topics, reply)) = &mut self.fetch {
            let Poll::Ready(found) = Pin::new(reply).poll(cx) else { return Poll::Pending };
            self.fetched = topics.drain(..).map(|topic| (topic, None)).collect();
            match found {
                Ok(messages) => {
                    self.fetched.extend(messages.into_iter().map(|m| (m.topic_str().into(), Some(m))));
                }
                Err(_) => {
                    warn!(client = %session.client_id, "the store cannot be read: its retained messages are left out");
                }
            }
            self.fetch = None;
        }
        let Some(cursor) = session.subscriptions.cursors.front_mut() else { return Poll::Ready(()) };
        let (retained, replay) = (&self.core.router.retained, &mut session.outgoing.replay);
        match retained.next(cursor, RETAINED_STEP, self.core.now(), &self.fetched, replay) {
            Next::More => {}
            Next::End => {
                session.subscriptions.cursors.pop_front();
                self.fetched = Fetched::default();
            }
            Next::Fetch(topics) => {
                let reply = self.core.store.retained(topics.clone());
                self.fetch = Some((topics, reply));
            }
        }
        Poll::Ready(())
    }

    /// Acknowledges a message of QoS 1: it is done with. One of QoS 0 needs none.
    pub fn ack(&mut self, message: LocalMessage) {
        if let (Some(owned), Some(packet_id)) = (&mut self.owned, message.packet_id) {
            // Cannot fail: this session gave out the identifier, for QoS 1.
            let _ = owned.session.handle(Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)));
        }
        message.delivery.message.recycle();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(owned) = self.owned.take() {
            self.core.end_session(owned, Durability::None);
        }
    }
}
