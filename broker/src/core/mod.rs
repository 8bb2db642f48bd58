//! State that all connections share, and its verbs: publishing, sessions, settings, recovery,
//! explanations.

pub mod control;
pub mod explain;
pub mod local;
pub mod publish;
pub(crate) mod publish_rules;
pub mod recovery;
mod sessions;
pub mod settings;
pub mod will;

use std::sync::Arc;

use crate::auth::log_pace::LogPace;
use crate::auth::throttle::Throttle;
use crate::clients::Registry;
use crate::clients::timers::SessionTimers;
use crate::clock::Clock;
use crate::config::{Config, QueuePolicy};
use crate::core::settings::Settings;
use crate::limits::budget::Budget;
use crate::limits::flapping::FlapDetector;
use crate::limits::rate::UserRates;
use crate::message::{Millis, Seq, SessionNumber};
use crate::outbox::{DiskPart, DiskTotal, Outbox, QueueLimits};
use crate::router::{Retained, RetainedLimits, Router};
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::outcomes::Outcomes;

/// State that all connections share.
#[derive(Debug)]
pub struct Core {
    /// Configuration, policy and listeners in force.
    pub settings: Settings,
    /// Subscriptions and retained messages.
    pub router: Router,
    /// Clients and their sessions.
    pub registry: Registry,
    /// Store of sessions and messages.
    pub store: Arc<dyn Store>,
    /// Limiter of log lines about refusals.
    pub log_pace: LogPace,
    /// Wrong tokens of operators, by address.
    pub operator_throttle: Throttle,
    /// Counters that belong to no listener.
    pub metrics: Metrics,
    /// Outcomes of messages: drops, and traces.
    pub outcomes: Arc<Outcomes>,
    /// Limits on connections and memory.
    pub budget: Arc<Budget>,
    /// Clients that connect too often.
    pub flapping: FlapDetector,
    /// Rates at which users may publish.
    pub user_rates: UserRates,
    /// Timers of offline sessions.
    pub timers: SessionTimers,
    /// Bytes of all session queues on disk.
    pub disk_total: Arc<DiskTotal>,
    clock: Clock,
}

impl Core {
    /// Creates the state of a broker without sessions.
    pub fn new(live: Settings, store: Arc<dyn Store>) -> Core {
        let snapshot = live.get();
        let config = &snapshot.config;
        let limits = &config.limits;
        let clock = store.clock();
        let ends = Arc::new(Outcomes::new(clock));
        let router = Router::new(Retained::new(RetainedLimits::of(config, &*store)), ends.clone());
        router.set_refuses(limits.queue_policy == QueuePolicy::Refuse);
        Core {
            settings: live,
            router,
            outcomes: ends,
            registry: Registry::new(limits.sessions_max as usize),
            clock,
            store,
            log_pace: LogPace::default(),
            operator_throttle: Throttle::default(),
            metrics: Metrics::default(),
            budget: Arc::new(Budget::new(limits)),
            flapping: FlapDetector::default(),
            user_rates: UserRates::default(),
            timers: SessionTimers::default(),
            disk_total: Arc::new(DiskTotal::new(config.store.queues_bytes_max)),
        }
    }

    /// The broker's clock.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Milliseconds since the broker started.
    pub fn uptime_ms(&self) -> Millis {
        self.clock.uptime_ms()
    }

    /// Returns a new number for a session or a connection.
    pub fn next_number(&self) -> u64 {
        self.store.next_number()
    }

    /// Applies the limits that count across connections.
    pub fn set_limits(&self, config: &Config) {
        let limits = &config.limits;
        self.router.retained.set_limits(RetainedLimits::of(config, &*self.store));
        self.registry.set_limits(limits.sessions_max as usize);
        self.budget.set_limits(limits);
        self.router.set_refuses(limits.queue_policy == QueuePolicy::Refuse);
        self.disk_total.set_max(config.store.queues_bytes_max);
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits::of(&self.settings.get().config)
    }

    /// Creates the queue of a new session. `stored` is set when the store keeps the session.
    pub fn outbox(&self, session: SessionNumber, client_id: Arc<str>, stored: bool) -> Arc<Outbox> {
        let outbox = if stored {
            Outbox::stored(
                session,
                self.queue_limits(),
                self.disk_total.clone(),
                0,
                DiskPart { from: 1, count: 0, bytes: 0 },
            )
        } else {
            Outbox::new(session, self.queue_limits())
        };
        Arc::new(outbox.of(client_id))
    }

    /// Restores the queue of a session of an earlier run: `last` is the last slot in use, `disk`
    /// the part on disk.
    pub fn stored_outbox(
        &self,
        session: SessionNumber,
        client_id: Arc<str>,
        last: Seq,
        waiting: DiskPart,
    ) -> Arc<Outbox> {
        Arc::new(
            Outbox::stored(session, self.queue_limits(), self.disk_total.clone(), last, waiting)
                .of(client_id),
        )
    }
}
