//! What all connections share, and what happens to messages and sessions beyond a single connection.

pub mod control;
pub mod explain;
pub mod recovery;
pub mod settings;
pub mod will;

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use lapwing_protocol::{PacketId, QoS, topic};
use tracing::{debug, warn};

use crate::auth::{Action, Identity, Policy, audit};
use crate::clients::Registry;
use crate::clients::owned::{Resident, RestNumber};
use crate::clients::timers::Agenda;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::settings::{Live, Snapshot};
use crate::core::will::LastWord;
use crate::limits::budget::Budget;
use crate::limits::flapping::Arrivals;
use crate::limits::rate::Users;
use crate::message::{Content, Durability, Message, Millis, Seq, SessionNumber, Source};
use crate::outbox::{Bounds, Outbox, StoredTotal};
use crate::router::{Batch, Kept, Passed, Retained, RouteCache, Routed, Router, Space};
use crate::session::Session;
use crate::store::publish_record::Journal;
use crate::store::{Failed, Origin, Record, Seat, SessionTerms, Store, Ticket};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::outcomes::{Ends, Reason};
use crate::telemetry::trace::{Step, Subject};

/// The broker's inside.
#[derive(Debug)]
pub struct Core {
    /// The configuration, who may do what, and the listeners.
    pub live: Live,
    /// Subscriptions and retained messages.
    pub router: Router,
    /// Sessions.
    pub registry: Registry,
    /// What keeps them.
    pub store: Arc<dyn Store>,
    /// How often refusals have a line in the log.
    pub refusals: audit::Pace,
    /// Counters.
    pub metrics: Metrics,
    /// Why messages went no further.
    pub ends: Arc<Ends>,
    /// Connections and memory.
    pub budget: Arc<Budget>,
    /// Who comes too often.
    pub arrivals: Arrivals,
    /// How fast users may publish.
    pub users: Users,
    /// Timers of resting sessions.
    pub agenda: Agenda,
    /// Messages that are on disk only.
    pub stored: Arc<StoredTotal>,
    clock: Clock,
}

/// What became of a published message.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Its subscribers.
    pub routed: Routed,
    /// Whether it could be retained, if it was to be.
    pub kept: Kept,
    /// When its acknowledgement may go.
    pub ticket: Ticket,
    /// The store takes nothing now.
    pub unavailable: bool,
}

impl Published {
    /// Why it was not taken, if it was not.
    pub fn refused(&self) -> Option<Reason> {
        match (self.unavailable, self.kept) {
            (true, _) | (_, Kept::Unavailable) => Some(Reason::StoreRefused),
            (false, Kept::Full) => Some(Reason::RetainedFull),
            (false, Kept::Done) => self.routed.refused.then_some(Reason::QueueRefused),
        }
    }

    /// Nobody was to have it, and it was not kept for later.
    pub fn found_nobody(&self, message: &Message) -> bool {
        self.routed.matched + self.routed.no_local == 0 && !message.retain()
    }
}

impl Core {
    /// An empty broker.
    pub fn new(live: Live, store: Arc<dyn Store>) -> Core {
        let snapshot = live.get();
        let config = &snapshot.config;
        let limits = &config.limits;
        let clock = store.clock();
        let ends = Arc::new(Ends::new(clock));
        Core {
            live,
            router: Router::new(Retained::new(Space::of(config, &*store)), ends.clone()),
            ends,
            registry: Registry::new(limits.sessions_max as usize),
            clock,
            store,
            refusals: audit::Pace::default(),
            metrics: Metrics::default(),
            budget: Arc::new(Budget::new(limits)),
            arrivals: Arrivals::default(),
            users: Users::default(),
            agenda: Agenda::default(),
            stored: Arc::new(StoredTotal::new(config.store.queues_bytes_max)),
        }
    }

    /// The broker's clock.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// How long the broker has run, in milliseconds.
    pub fn uptime_ms(&self) -> Millis {
        self.clock.uptime_ms()
    }

    /// A number for a session or a connection.
    pub fn next_number(&self) -> u64 {
        self.store.next_number()
    }

    /// Takes over the bounds that count across connections.
    pub fn bound(&self, config: &Config) {
        let limits = &config.limits;
        self.router.retained.bound(Space::of(config, &*self.store));
        self.registry.bound(limits.sessions_max as usize);
        self.budget.bound(limits);
        self.stored.bound(config.store.queues_bytes_max);
    }

    fn bounds(&self) -> Bounds {
        Bounds::of(&self.live.get().config)
    }

    /// A queue for a new session; `stored`: the store keeps it.
    pub fn outbox(&self, session: SessionNumber, client_id: Arc<str>, stored: bool) -> Arc<Outbox> {
        let outbox = if stored {
            Outbox::stored(session, self.bounds(), self.stored.clone(), 0, (1, 0, 0))
        } else {
            Outbox::new(session, self.bounds())
        };
        Arc::new(outbox.of(client_id))
    }

    /// The queue of a session that an earlier run left: `last` as given out, and what waits on disk.
    pub fn stored_outbox(
        &self,
        session: SessionNumber,
        client_id: Arc<str>,
        last: Seq,
        waiting: (Seq, u64, u64),
    ) -> Arc<Outbox> {
        Arc::new(Outbox::stored(session, self.bounds(), self.stored.clone(), last, waiting).of(client_id))
    }

    /// Keeps a message if it is retained, and passes it on. Retained first: whoever subscribes meanwhile gets it at least one
    /// way. `received` is the QoS 2 packet of a stored session that brought it.
    pub fn publish(
        &self,
        message: &Message,
        mut journal: Journal<'_>,
        received: Option<(SessionNumber, PacketId)>,
        cache: &mut RouteCache,
        wakers: &mut Vec<Waker>,
    ) -> Published {
        let retained = message.retain();
        let kept = if retained { self.router.retained.keep(message, &mut journal) } else { Kept::Done };
        if kept != Kept::Done {
            let unavailable = kept == Kept::Unavailable;
            return Published { routed: Routed::default(), kept, ticket: Ticket::default(), unavailable };
        }
        if message.trace().is_some() {
            self.tell_audience(message);
        }
        let routed = self.router.route(message, cache, wakers, &mut journal);
        // A message that is refused may come again with the same identifier.
        let received = received.filter(|_| !routed.refused && !routed.unavailable);
        let unavailable = routed.unavailable || (received.is_some() && journal.reserve().is_err());
        let ticket = journal.write(message, retained, received, None);
        Published { routed, kept, ticket, unavailable }
    }

    /// Passes on what a publisher has gathered.
    pub fn pass_on_batch(&self, batch: &mut Batch, wakers: &mut Vec<Waker>) -> Passed {
        // Nothing of it is stored; what makes room for it may be.
        self.router.pass_on(batch, wakers, &mut Journal::new(&*self.store, Durability::None))
    }

    /// Publishes what the broker says about itself: that is never stored.
    pub fn publish_own(&self, message: &Message) {
        self.publish_for_nobody(message, Journal::off());
    }

    fn publish_for_nobody(&self, message: &Message, journal: Journal<'_>) -> Published {
        let mut wakers = Vec::new();
        let published = self.publish(message, journal, None, &mut RouteCache::default(), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        published
    }

    /// Removes the retained message of a topic, as an empty one that is published would: its subscribers get that. `false`: the store
    /// takes nothing now.
    pub fn clear_retained(&self, topic: &str) -> bool {
        let message = Message::new(&Content {
            topic,
            properties: &[],
            payload: &[],
            qos: QoS::AtLeastOnce,
            retain: true,
            publisher: 0,
            published_at: self.now(),
            expires_at: None,
        });
        let journal = Journal::new(&*self.store, Durability::Always);
        self.publish_for_nobody(&message, journal).kept == Kept::Done
    }

    /// Tells traces what is about to become of a message.
    #[cold]
    fn tell_audience(&self, message: &Message) {
        if !self.ends.traces.is_followed() {
            return;
        }
        let subject = Subject::of(message);
        if message.retain() {
            self.ends.traces.tell(&subject, None, Step::Retained);
        }
        let (sessions, groups) = self.router.count(message.topic_str());
        if sessions + groups > 0 {
            self.ends.traces.tell(&subject, None, Step::Matched { sessions, groups });
        }
    }

    /// Publishes a will, if its client may (asked again: rights may have changed since CONNECT).
    pub fn publish_will(&self, will: &LastWord) {
        let LastWord { will, session, client_id, identity } = will;
        let snapshot = self.live.get();
        let policy = &snapshot.auth.policy;
        let may = policy.renew(identity, client_id, None).map_err(|refused| refused.text).and_then(|now| {
            let may = policy.allows(&now, client_id, Action::Publish, &will.topic);
            may.then_some(()).ok_or_else(|| policy.rule(&now, client_id, Action::Publish, &will.topic))
        });
        let (traces, since, at) = (&self.ends.traces, SystemTime::now(), self.now());
        let (topic, qos, bytes, properties) = (&*will.topic, will.qos, will.payload.len(), &*will.properties);
        let id = || traces.number((client_id, topic), properties, || self.next_number());
        let id = if traces.is_on() { id() } else { None };
        let subject = Subject { id, from: Some(client_id), topic, qos, bytes, properties, at };
        if let Err(rule) = may {
            self.metrics.denied.add(1);
            audit::denied("will", client_id, identity, &will.topic, &rule, 0);
            self.ends.refused(Reason::DeniedPublish, &rule, &subject, None);
            traces.routed(&subject, since, Some(Reason::DeniedPublish));
            return;
        }
        debug!(client = %client_id, topic = %will.topic, "publishing the will");
        if traces.is_on() {
            traces.tell(&subject, None, Step::Accepted("the will of a client that is gone".into()));
        }
        let journal = Journal::new(&*self.store, snapshot.config.store.durability_of(&will.topic, None));
        let source = source(&snapshot.config, identity, client_id).filter(|_| will.retain);
        let message = will.message(*session, at, source);
        let message = match id {
            Some(id) => message.traced(id),
            None => message,
        };
        let published = self.publish_for_nobody(&message, journal);
        traces.routed(&subject, since, published.refused());
        if let Some(reason) = published.refused() {
            warn!(client = %client_id, topic = %will.topic, "the will is lost: {}", reason.text());
            self.ends.refused(reason, reason.text(), &subject, None);
        } else if published.found_nobody(&message) {
            self.ends.ended_for_all(Reason::NoSubscriber, &message);
        }
    }

    /// Whether who published a retained message still may (CVE-2018-12546). Asked only when the rules have changed since.
    pub fn source_may(&self, snapshot: &Snapshot, message: &Message) -> bool {
        let Some(source) = message.source().filter(|_| message.published_at() < snapshot.since) else {
            return true;
        };
        let identity = Identity { user: source.user.map(Arc::from), ..Identity::default() };
        let policy = &snapshot.auth.policy;
        policy.renew(&identity, source.client_id, None).is_ok_and(|identity| {
            policy.allows(&identity, source.client_id, Action::Publish, message.topic_str())
        })
    }

    /// Tells the store of a session that outlives its connection, or whose will does; of others only that they are no more.
    pub fn record_session(&self, resident: &mut Resident, connected: bool) {
        let Resident { session, outbox, .. } = resident;
        let worth = outbox.is_stored() || session.will.is_some();
        if !self.store.keeps() || !(worth || session.recorded) {
            return;
        }
        session.recorded = true;
        let terms = SessionTerms {
            number: session.number,
            client_id: session.client_id.clone(),
            user: session.user.clone(),
            expiry_s: if outbox.is_stored() { session.expiry_s } else { 0 },
            will: session.will.clone(),
            connected,
            will_at: session.will_at,
            ends_at: session.ends_at,
        };
        self.store.append(Record::Session(Box::new(terms)), Durability::None);
    }

    /// Offers what shared groups gave to this session, and its client did not get through, to their other members. With
    /// `sent`, also what is on its way.
    pub fn give_shared(&self, resident: &mut Resident, group: Option<NonZeroU32>, sent: bool) {
        let Resident { session, outbox, .. } = resident;
        let outgoing = &mut session.outgoing;
        outbox.take(&mut outgoing.pending, &mut outgoing.pending_bytes, Waker::noop());
        let mut wakers = Vec::new();
        outgoing.give_shared(group, sent, |delivery, packet_id| {
            let mut journal = Journal::new(&*self.store, Durability::None);
            let given = self.router.reassign(delivery, session.number, &mut wakers, &mut journal);
            if given {
                let size = u32::try_from(delivery.message.size()).unwrap_or(u32::MAX);
                let (session, seq) = (session.number, delivery.seq);
                let origin = (seq != 0).then_some(Origin { session, seq, size, packet_id });
                // One record: the message is never with both of them, nor with none.
                journal.write(&delivery.message, false, None, origin);
            }
            given
        });
        outbox.holds(outgoing.pending.len(), outgoing.pending_bytes);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Removes the subscriptions of a session that its user has no right to any more; how many they were.
    pub fn revoke(&self, policy: &dyn Policy, resident: &mut Resident) -> usize {
        let Resident { session, identity, .. } = resident;
        let denied = |filter: &&str| {
            let inner = topic::shared(filter).map_or(*filter, |(_, inner)| inner);
            !policy.allows(identity, &session.client_id, Action::Subscribe, inner)
        };
        let revoked: Vec<Box<str>> =
            session.subscriptions.iter().map(|(filter, _)| filter).filter(denied).map(Box::from).collect();
        let count = revoked.len();
        for filter in revoked {
            let Resident { session, outbox, identity } = &mut *resident;
            let inner = topic::shared(&filter).map_or(&*filter, |(_, inner)| inner);
            let rule = policy.rule(identity, &session.client_id, Action::Subscribe, inner);
            audit::revoked(&session.client_id, identity, &filter, &rule);
            self.metrics.denied.add(1);
            let (group, number) = (self.router.group(&filter), session.number);
            session.subscriptions.remove(&filter);
            self.router.unsubscribe(&filter, number);
            let stored = outbox.is_stored();
            if let Some(group) = group {
                self.give_shared(resident, Some(group), false);
            }
            if stored {
                self.store.append(Record::Unsubscribed { session: number, filter }, Durability::None);
            }
        }
        count
    }

    /// A session is over: nothing of it stays, and a will that still waits is published (`[MQTT-3.1.2-8]`). The ticket says
    /// when it will not come back, if `durability` is asked for.
    pub fn end_session(self: &Arc<Self>, mut resident: Resident, durability: Durability) -> Ticket {
        resident.outbox.disconnect(&self.ends);
        self.give_shared(&mut resident, None, true);
        let Resident { session, outbox, identity } = &mut resident;
        let mut shared = false;
        for (filter, _) in session.subscriptions.iter() {
            shared |= topic::shared(filter).is_some();
            self.router.unsubscribe(filter, session.number);
        }
        if let Some(will) = LastWord::take(session, identity) {
            self.publish_will(&will);
        }
        if shared && (outbox.on_disk().is_some() || session.outgoing.is_missing_any()) {
            // What a group has given to it goes to other members first, however long reading it takes.
            let core = self.clone();
            tokio::spawn(async move { recovery::give_stored(&core, resident).await });
            return Ticket::default();
        }
        self.forget_session(&mut resident, durability)
    }

    /// Ends a session that still rests as `rest` says; `false`: it does not.
    pub fn end_resting(self: &Arc<Self>, client_id: &Arc<str>, rest: RestNumber) -> bool {
        let Some(resident) = self.registry.remove_resting(client_id, rest) else { return false };
        if let Some(due) = resident.session.due_at() {
            self.agenda.remove(due, client_id, rest);
        }
        self.end_session(resident, Durability::None);
        true
    }

    /// Waits until all that was recorded until now is on disk.
    pub async fn durable(&self) -> Result<(), Failed> {
        let ticket = self.store.append(Record::Nothing, Durability::Always);
        let mut seat = Seat::default();
        poll_fn(|cx| self.store.poll(ticket, &mut seat, cx)).await
    }

    /// What waits for a session in memory is for nobody any more.
    pub fn end_pending(&self, resident: &mut Resident) {
        let Resident { session, outbox, .. } = resident;
        for delivery in session.outgoing.pending.drain(..) {
            self.ends.ended(Reason::SessionEnded, &delivery.message, outbox);
        }
        session.outgoing.recount();
        outbox.holds(0, 0);
    }

    /// The end of all that still waits for a session, and its last record.
    pub fn forget_session(&self, resident: &mut Resident, durability: Durability) -> Ticket {
        self.end_pending(resident);
        let Resident { session, outbox, .. } = resident;
        let (on_disk, _) = outbox.waiting();
        if on_disk > 0 {
            self.ends.ended_unseen(Reason::SessionEnded, on_disk, outbox);
        }
        outbox.close();
        match session.recorded {
            true => self.store.append(Record::SessionEnded { session: session.number }, durability),
            false => Ticket::default(),
        }
    }

    /// A timer of a resting session is due.
    pub fn look_after(self: &Arc<Self>, client_id: &Arc<str>, rest: RestNumber, now: Millis) {
        let ended = |session: &Session| session.ends_at.is_some_and(|at| at <= now);
        if self.registry.resting(client_id, rest, |session| ended(session)) == Some(true) {
            if let Some(resident) = self.registry.remove_resting(client_id, rest) {
                debug!(client = %client_id, "the session has expired");
                self.metrics.sessions_expired.add(1);
                self.end_session(resident, Durability::None);
            }
            return;
        }
        let due = self.registry.with_resting(client_id, rest, |Resident { session, identity, .. }| {
            let due = session.will_at.take_if(|at| *at <= now);
            (due.and_then(|_| LastWord::take(session, identity)), session.due_at())
        });
        let Some((will, next)) = due else { return };
        if let Some(will) = will {
            self.publish_will(&will);
            self.registry.with_resting(client_id, rest, |resident| self.record_session(resident, false));
        }
        if let Some(next) = next {
            self.agenda.add(next, client_id.clone(), rest);
        }
    }
}

/// Who publishes, where it is kept with retained messages: where there are rules that can be asked again by name.
pub fn source<'a>(config: &Config, identity: &'a Identity, client_id: &'a str) -> Option<Source<'a>> {
    let asks = config.auth.retained_source_checked && identity.rights.is_some() && identity.grants.is_none();
    asks.then_some(Source { client_id, user: identity.user.as_deref() })
}
