//! `$SYS/broker/…`: the broker's own figures as retained messages, under Mosquitto's names.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::QoS;
use tracing::warn;

use crate::core::Core;
use crate::core::local::Local;
use crate::limits::budget::Pressure;
use crate::message::{Message, MessageParts};
use crate::telemetry::metrics::TrafficTotals;

/// Memory is measured every second, but only every so many while nothing comes in: an idle broker
/// is hardly woken.
const CALM_S: u64 = 5;

/// The figures that also come as load per minute, over the last 1, 5 and 15 minutes.
const LOADS: [Load; 8] = [
    ("messages/received", |_, t| t.packets_received),
    ("messages/sent", |_, t| t.packets_sent),
    ("publish/received", |_, t| t.publish_received),
    ("publish/sent", |_, t| t.publish_sent),
    ("publish/dropped", |core, _| core.outcomes.drops.sum()),
    ("bytes/received", |_, t| t.bytes_received),
    ("bytes/sent", |_, t| t.bytes_sent),
    ("connections", |_, t| t.connections),
];

/// The name of a load and its counter.
type Load = (&'static str, fn(&Core, &TrafficTotals) -> u64);

/// One sample of the counters.
type Sample = [u64; LOADS.len()];

/// The publisher of `$SYS/broker/…`.
pub(crate) struct SysTopics {
    core: Arc<Core>,
    local: Local,
}

impl SysTopics {
    /// Opens the session that they are published through.
    pub(crate) fn new(core: &Arc<Core>) -> SysTopics {
        SysTopics { core: core.clone(), local: Local::open(core, "sys") }
    }

    /// Measures memory every second, or every five where nothing comes in, and publishes the
    /// figures as often as the configuration says, until the broker stops.
    pub(crate) async fn run(mut self) {
        let core = self.core.clone();
        let configured = || u64::from(core.settings.get().config.mqtt.sys_interval_s);
        let mut every_s = configured();
        let mut next = tokio::time::Instant::now();
        let mut samples: VecDeque<Sample> = VecDeque::new();
        let mut seconds = 0u64;
        loop {
            // What comes in may make memory short between two looks: that is told at once.
            let due = tokio::select! {
                () = tokio::time::sleep_until(next) => true,
                () = core.budget.changed.notified() => false,
            };
            if std::mem::replace(&mut every_s, configured()) != every_s {
                (seconds, samples) = (0, VecDeque::new());
                self.announce();
            }
            let calm = core.budget.is_calm();
            match core.budget.measure(std::time::Instant::now()) {
                Some(Pressure::None) => warn!("memory is below limits.memory_pause_percent again"),
                Some(pressure) => {
                    warn!(
                        ?pressure,
                        "memory is short (limits.memory_budget_bytes): PUBLISH packets wait until it is not"
                    );
                }
                None => {}
            }
            if !due {
                next = next.min(tokio::time::Instant::now() + Duration::from_secs(1));
                continue;
            }
            if every_s > 0 && seconds.is_multiple_of(every_s) {
                let traffic = core.settings.traffic();
                samples.push_front(LOADS.map(|(_, count)| count(&core, &traffic)));
                samples.truncate(usize::try_from(900 / every_s + 1).unwrap_or(1));
                self.publish(&samples, every_s);
            }
            let to_publish = if every_s > 0 { every_s - seconds % every_s } else { CALM_S };
            let pause_s = if calm { CALM_S.min(to_publish) } else { 1 };
            seconds += pause_s;
            next += Duration::from_secs(pause_s);
        }
    }

    fn set(&mut self, topic: &str, value: &str) {
        let topic = format!("$SYS/broker/{topic}");
        let message = Message::new(&MessageParts {
            qos: QoS::ExactlyOnce,
            retain: true,
            published_at: self.core.now(),
            ..MessageParts::new(&topic, value.as_bytes())
        });
        // What cannot be retained now is published again at the next interval.
        let _ = self.local.publish_message(&message, None);
    }

    /// Publishes what does not change: before the first client is there, so that it finds it
    /// retained.
    pub(crate) fn announce(&mut self) {
        if self.core.settings.get().config.mqtt.sys_interval_s > 0 {
            self.set("version", &format!("lapwing version {}", crate::VERSION));
        }
    }

    fn publish(&mut self, samples: &VecDeque<Sample>, every_s: u64) {
        let core = self.core.clone();
        let (clients, metrics, traffic) = (core.registry.counts(), &core.metrics, core.settings.traffic());
        self.set("uptime", &format!("{} seconds", core.uptime_ms() / 1000));
        self.put("clients/connected", clients.live as u64);
        self.put("clients/active", clients.live as u64);
        self.put("clients/disconnected", clients.offline as u64);
        self.put("clients/inactive", clients.offline as u64);
        self.put("clients/total", (clients.live + clients.offline) as u64);
        self.put("clients/maximum", clients.live_max as u64);
        self.put("clients/expired", metrics.sessions_expired.get());
        self.put("messages/received", traffic.packets_received);
        self.put("messages/sent", traffic.packets_sent);
        self.put("publish/messages/received", traffic.publish_received);
        self.put("publish/messages/sent", traffic.publish_sent);
        self.put("publish/messages/dropped", core.outcomes.drops.sum());
        self.put("publish/bytes/received", traffic.publish_bytes_received);
        self.put("publish/bytes/sent", traffic.publish_bytes_sent);
        self.put("bytes/received", traffic.bytes_received);
        self.put("bytes/sent", traffic.bytes_sent);
        self.put("connections/refused", traffic.refused);
        self.put("authentication/failures", metrics.authentication_failures.get());
        self.put("denied", metrics.denied.get());
        let (subscriptions, shared) = core.router.counts();
        self.put("subscriptions/count", subscriptions as u64);
        self.put("shared_subscriptions/count", shared as u64);
        let (retained, bytes) = core.router.retained.len();
        self.put("retained messages/count", retained as u64);
        self.put("messages/stored", retained as u64);
        self.put("store/messages/count", retained as u64);
        self.put("store/messages/bytes", bytes);
        if core.store.is_durable() {
            self.publish_store();
        }
        let Some(now) = samples.front() else { return };
        for (name, minutes) in [("1min", 1), ("5min", 5), ("15min", 15)] {
            let steps =
                usize::try_from(minutes * 60 / every_s).unwrap_or(1).clamp(1, samples.len().max(2) - 1);
            let Some(then) = samples.get(steps) else { continue };
            let span_s = (steps as u64 * every_s) as f64;
            for ((load, _), (now, then)) in LOADS.iter().zip(now.iter().zip(then)) {
                let per_minute = (now - then) as f64 * 60.0 / span_s;
                self.set(&format!("load/{load}/{name}"), &format!("{per_minute:.2}"));
            }
        }
    }

    /// The figures of the store.
    fn publish_store(&mut self) {
        let core = self.core.clone();
        let figures = core.store.figures();
        self.set("store/health", figures.health.text());
        self.put("store/queues/bytes", core.disk_total.bytes());
        self.put("store/bytes/records", figures.record_bytes);
        self.put("store/bytes/log", figures.log_bytes);
        self.put("store/bytes/checkpoint", figures.checkpoint_bytes);
        self.put("store/syncs", figures.syncs);
        self.put("store/checkpoints", figures.checkpoints);
        self.put("store/segments kept", figures.segments_kept);
        self.put("store/moved", figures.moved);
        self.put("store/corrupt", figures.corrupt);
        self.set("store/write amplification", &format!("{:.2}", figures.write_amplification()));
    }

    fn put(&mut self, topic: &str, value: u64) {
        self.set(topic, &value.to_string());
    }
}
