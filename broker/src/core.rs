//! What all connections share, and what happens to messages and sessions beyond a single connection.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Instant;

use tracing::{debug, info};

use crate::auth::{Action, Auth, Identity};
use crate::budget::Budget;
use crate::config::Config;
use crate::janitor::Agenda;
use crate::message::{Message, Millis, SessionNumber};
use crate::metrics::Metrics;
use crate::outbox::{Bounds, Outbox};
use crate::registry::{Registry, Resident, RestNumber};
use crate::router::{Kept, Retained, RouteCache, Routed, Router};
use crate::session::{Session, Will};
use crate::store::{Lsn, Record, Store};

/// The broker's inside.
#[derive(Debug)]
pub struct Core {
    /// As it was started with.
    pub config: Config,
    /// Who may do what.
    pub auth: Auth,
    /// Subscriptions and retained messages.
    pub router: Router,
    /// Sessions.
    pub registry: Registry,
    /// What keeps them.
    pub store: Arc<dyn Store>,
    /// Counters.
    pub metrics: Metrics,
    /// Connections and memory.
    pub budget: Arc<Budget>,
    /// Timers of resting sessions.
    pub agenda: Agenda,
    started: Instant,
    last_number: AtomicU64,
}

/// What became of a published message.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Its subscribers.
    pub routed: Routed,
    /// Whether it could be retained, if it was to be.
    pub kept: Kept,
    /// When its acknowledgement may go.
    pub lsn: Lsn,
}

impl Core {
    /// An empty broker.
    pub fn new(config: Config, auth: Auth, store: Arc<dyn Store>) -> Core {
        let limits = &config.limits;
        let retained = Retained::new(limits.retained_messages_max as usize, limits.retained_bytes_max);
        Core {
            auth,
            router: Router::new(retained),
            registry: Registry::new(limits.sessions_max as usize),
            store,
            metrics: Metrics::default(),
            budget: Arc::new(Budget::new(limits)),
            agenda: Agenda::default(),
            started: Instant::now(),
            last_number: AtomicU64::new(0),
            config,
        }
    }

    /// The broker's clock.
    pub fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    /// A number for a session or a connection.
    pub fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A queue for a session.
    pub fn outbox(&self, session: SessionNumber) -> Arc<Outbox> {
        let limits = &self.config.limits;
        Arc::new(Outbox::new(
            session,
            Bounds {
                messages_max: limits.queued_messages_max as usize,
                bytes_max: usize::try_from(limits.queued_bytes_max).unwrap_or(usize::MAX),
                policy: limits.queue_policy,
                keeps_qos0: limits.queue_qos0,
            },
        ))
    }

    /// Keeps a message if it is retained, and passes it on. Retained first: whoever subscribes meanwhile gets it at least one way.
    pub fn publish(&self, message: &Message, cache: &mut RouteCache, wakers: &mut Vec<Waker>) -> Published {
        let kept = if message.retain() { self.router.retained.keep(message) } else { Kept::Done };
        if kept == Kept::Full {
            return Published { routed: Routed::default(), kept, lsn: 0 };
        }
        let routed = self.router.route(message, cache, wakers);
        if routed.dropped > 0 {
            self.metrics.publish_dropped.add(routed.dropped as u64);
        }
        let lsn = if self.store.keeps() && (message.retain() || routed.queued > 0) {
            self.store.append(Record::Published { message: message.clone(), queued: routed.queued })
        } else {
            0
        };
        Published { routed, kept, lsn }
    }

    /// As [`publish`](Self::publish), for the broker itself and for wills.
    pub fn publish_now(&self, message: &Message) {
        let mut wakers = Vec::new();
        self.publish(message, &mut RouteCache::default(), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Publishes a will, if its client may (asked again: rights may have changed since CONNECT).
    pub fn publish_will(&self, will: &LastWord) {
        let LastWord { will, session, client_id, user } = will;
        let identity = Identity { user: user.clone() };
        if !self.auth.policy.allows(&identity, client_id, Action::Publish, &will.topic) {
            info!(client = %client_id, topic = %will.topic, "the will is not published: not authorized");
            return;
        }
        debug!(client = %client_id, topic = %will.topic, "publishing the will");
        self.publish_now(&will.message(*session, self.now()));
    }

    /// Offers what shared groups gave to this session, and its client did not get through, to their other members. With
    /// `sent`, also what is on its way.
    pub fn give_shared(&self, resident: &mut Resident, group: Option<NonZeroU32>, sent: bool) {
        let Resident { session, outbox } = resident;
        let outgoing = &mut session.outgoing;
        outbox.take(&mut outgoing.pending, &mut outgoing.pending_bytes, Waker::noop());
        let mut wakers = Vec::new();
        outgoing
            .give_shared(group, sent, |delivery| self.router.reassign(delivery, session.number, &mut wakers));
        outbox.holds(outgoing.pending.len(), outgoing.pending_bytes);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A session is over: nothing of it stays, and a will that still waits is published (`[MQTT-3.1.2-8]`).
    pub fn end_session(&self, mut resident: Resident) {
        resident.outbox.disconnect();
        self.give_shared(&mut resident, None, true);
        let Resident { mut session, outbox } = resident;
        for (filter, _) in session.subscriptions.iter() {
            self.router.unsubscribe(filter, session.number);
        }
        outbox.close();
        self.store.append(Record::SessionEnded { session: session.number });
        if let Some(will) = LastWord::take(&mut session) {
            self.publish_will(&will);
        }
    }

    /// A timer of a resting session is due.
    pub fn look_after(&self, client_id: &Arc<str>, rest: RestNumber, now: Millis) {
        let ended = |session: &Session| session.ends_at.is_some_and(|at| at <= now);
        if self.registry.resting(client_id, rest, |session| ended(session)) == Some(true) {
            if let Some(resident) = self.registry.remove_resting(client_id, rest) {
                debug!(client = %client_id, "the session has expired");
                self.metrics.sessions_expired.add(1);
                self.end_session(resident);
            }
            return;
        }
        let due = self.registry.resting(client_id, rest, |session| {
            let due = session.will_at.take_if(|at| *at <= now);
            (due.and_then(|_| LastWord::take(session)), session.due_at())
        });
        let Some((will, next)) = due else { return };
        if let Some(will) = will {
            self.publish_will(&will);
        }
        if let Some(next) = next {
            self.agenda.add(next, client_id.clone(), rest);
        }
    }
}

/// A will with what is needed to publish it away from its session.
#[derive(Debug)]
pub struct LastWord {
    will: Will,
    session: SessionNumber,
    client_id: Arc<str>,
    user: Option<Arc<str>>,
}

impl LastWord {
    /// Takes the will out of a session, so that it is published once.
    pub fn take(session: &mut Session) -> Option<LastWord> {
        session.will.take().map(|will| LastWord {
            will,
            session: session.number,
            client_id: session.client_id.clone(),
            user: session.user.clone(),
        })
    }
}
