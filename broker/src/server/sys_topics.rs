//! `$SYS/broker/…`: the broker's own figures as retained messages, under Mosquitto's names.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lapwing_protocol::QoS;
use tracing::warn;

use crate::core::Core;
use crate::limits::budget::Pressure;
use crate::message::{Message, MessageParts};
use crate::telemetry::metrics::TrafficTotals;

/// Seconds between two measurements of memory while nothing is received: an idle broker hardly
/// wakes.
const CALM_S: u64 = 5;

/// Figures that are also published as load per minute, over the last 1, 5 and 15 minutes.
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

/// Name of a load, and its counter.
type Load = (&'static str, fn(&Core, &TrafficTotals) -> u64);

/// One sample of the counters.
type Sample = [u64; LOADS.len()];

/// Measures memory every second, or every five while nothing is received. Publishes the figures at
/// the configured interval, until the broker stops.
pub(crate) async fn run(core: Arc<Core>) {
    let configured = || u64::from(core.settings.get().config.mqtt.sys_interval_s);
    let mut every_s = configured();
    let mut next = tokio::time::Instant::now();
    let mut samples: VecDeque<Sample> = VecDeque::new();
    let mut seconds = 0u64;
    loop {
        // Received bytes may make memory short between two measurements: that is reported at once.
        let due = tokio::select! {
            () = tokio::time::sleep_until(next) => true,
            () = core.budget.changed.notified() => false,
        };
        if std::mem::replace(&mut every_s, configured()) != every_s {
            (seconds, samples) = (0, VecDeque::new());
            announce(&core);
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
            publish(&core, &samples, every_s);
        }
        let to_publish = if every_s > 0 { every_s - seconds % every_s } else { CALM_S };
        let pause_s = if calm { CALM_S.min(to_publish) } else { 1 };
        seconds += pause_s;
        next += Duration::from_secs(pause_s);
    }
}

fn set(core: &Core, topic: &str, value: &str) {
    let topic = format!("$SYS/broker/{topic}");
    core.publish_own(&Message::new(&MessageParts {
        topic: &topic,
        properties: &[],
        payload: value.as_bytes(),
        qos: QoS::ExactlyOnce,
        retain: true,
        publisher: 0,
        published_at: core.now(),
        expires_at: None,
    }));
}

/// Publishes the constant topics, before the first client connects, so that it finds them retained.
pub(crate) fn announce(core: &Core) {
    if core.settings.get().config.mqtt.sys_interval_s > 0 {
        set(core, "version", &format!("lapwing version {}", crate::VERSION));
    }
}

fn publish(core: &Core, samples: &VecDeque<Sample>, every_s: u64) {
    let put = |topic: &str, value: u64| set(core, topic, &value.to_string());
    let (clients, metrics, traffic) = (core.registry.counts(), &core.metrics, core.settings.traffic());
    set(core, "uptime", &format!("{} seconds", core.uptime_ms() / 1000));
    put("clients/connected", clients.live as u64);
    put("clients/active", clients.live as u64);
    put("clients/disconnected", clients.offline as u64);
    put("clients/inactive", clients.offline as u64);
    put("clients/total", (clients.live + clients.offline) as u64);
    put("clients/maximum", clients.live_max as u64);
    put("clients/expired", metrics.sessions_expired.get());
    put("messages/received", traffic.packets_received);
    put("messages/sent", traffic.packets_sent);
    put("publish/messages/received", traffic.publish_received);
    put("publish/messages/sent", traffic.publish_sent);
    put("publish/messages/dropped", core.outcomes.drops.sum());
    put("publish/bytes/received", traffic.publish_bytes_received);
    put("publish/bytes/sent", traffic.publish_bytes_sent);
    put("bytes/received", traffic.bytes_received);
    put("bytes/sent", traffic.bytes_sent);
    put("connections/refused", traffic.refused);
    put("authentication/failures", metrics.authentication_failures.get());
    put("denied", metrics.denied.get());
    let (subscriptions, shared) = core.router.counts();
    put("subscriptions/count", subscriptions as u64);
    put("shared_subscriptions/count", shared as u64);
    let (retained, bytes) = core.router.retained.len();
    put("retained messages/count", retained as u64);
    put("messages/stored", retained as u64);
    put("store/messages/count", retained as u64);
    put("store/messages/bytes", bytes);
    if core.store.is_durable() {
        store(core);
    }
    let Some(now) = samples.front() else { return };
    for (name, minutes) in [("1min", 1), ("5min", 5), ("15min", 15)] {
        let steps = usize::try_from(minutes * 60 / every_s).unwrap_or(1).clamp(1, samples.len().max(2) - 1);
        let Some(then) = samples.get(steps) else { continue };
        let span_s = (steps as u64 * every_s) as f64;
        for ((load, _), (now, then)) in LOADS.iter().zip(now.iter().zip(then)) {
            let per_minute = (now - then) as f64 * 60.0 / span_s;
            set(core, &format!("load/{load}/{name}"), &format!("{per_minute:.2}"));
        }
    }
}

/// Publishes the figures of the store.
fn store(core: &Core) {
    let put = |topic: &str, value: u64| set(core, &format!("store/{topic}"), &value.to_string());
    let figures = core.store.figures();
    set(core, "store/health", figures.health.text());
    put("queues/bytes", core.disk_total.bytes());
    put("bytes/records", figures.record_bytes);
    put("bytes/log", figures.log_bytes);
    put("bytes/checkpoint", figures.checkpoint_bytes);
    put("syncs", figures.syncs);
    put("checkpoints", figures.checkpoints);
    put("segments kept", figures.segments_kept);
    put("moved", figures.moved);
    put("corrupt", figures.corrupt);
    set(core, "store/write amplification", &format!("{:.2}", figures.write_amplification()));
}
