//! Figures as the exposition of OpenMetrics 1.0, or of Prometheus before it.

use std::fmt::{Display, Write};
use std::time::Instant;

use super::process::Process;
use crate::clients::ClientView;
use crate::core::Core;
use crate::store::Health;
use crate::telemetry::drop_reason::Reason;
use crate::telemetry::metrics::{BOUNDS_MICROS, HistogramSnapshot, TrafficTotals};

/// Format of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Plain,
}

impl Form {
    pub const fn content_type(self) -> &'static str {
        match self {
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes all current figures.
pub(super) fn write(core: &Core, form: Form) -> String {
    let mut page = Exposition { text: String::with_capacity(8_192), form };
    page.info("lapwing_build", "What runs.", "version", crate::VERSION);
    page.gauge("lapwing_uptime_seconds", "Time since the broker started.", core.uptime_ms() as f64 / 1000.0);
    clients(core, &mut page);
    traffic(core, &mut page);
    listeners(core, &mut page);
    queues(core, &mut page);
    routes(core, &mut page);
    if core.store.is_durable() {
        store(core, &mut page);
    }
    telemetry(core, &mut page);
    process(core, &mut page);
    if form == Form::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

fn clients(core: &Core, page: &mut Exposition) {
    let (counts, usage, m) = (core.registry.counts(), core.budget.usage(), &core.metrics);
    let traffic = core.settings.traffic();
    page.gauge(
        "lapwing_connections_open",
        "Network connections, those before CONNECT included.",
        usage.connections,
    );
    page.gauge(
        "lapwing_connections_limit",
        "Largest number of connections (limits.connections_max).",
        usage.connections_max,
    );
    page.gauge("lapwing_clients_connected", "Clients that are connected.", counts.live);
    page.gauge(
        "lapwing_clients_connected_max",
        "Largest number of connected clients since the start.",
        counts.live_max,
    );
    page.gauge("lapwing_sessions_offline", "Sessions that are offline.", counts.offline);
    page.counter(
        "lapwing_sessions_expired",
        "Sessions that ended by their expiry.",
        m.sessions_expired.get(),
    );
    page.counter("lapwing_connections_accepted", "Network connections accepted.", traffic.connections);
    page.counter(
        "lapwing_connections_refused",
        "Connections refused, or closed for a protocol error.",
        traffic.refused,
    );
    let failures = m.authentication_failures.get();
    page.counter("lapwing_authentication_failures", "Clients that failed to authenticate.", failures);
    page.counter("lapwing_denied", "Actions that access rules denied.", m.denied.get());
}

fn traffic(core: &Core, page: &mut Exposition) {
    let traffic = core.settings.traffic();
    page.counter("lapwing_packets_received", "MQTT packets from clients.", traffic.packets_received);
    page.counter("lapwing_packets_sent", "MQTT packets to clients.", traffic.packets_sent);
    page.counter("lapwing_received_bytes", "Bytes from clients.", traffic.bytes_received);
    page.counter("lapwing_sent_bytes", "Bytes to clients.", traffic.bytes_sent);
    page.counter("lapwing_messages_received", "PUBLISH packets from clients.", traffic.publish_received);
    page.counter("lapwing_messages_sent", "PUBLISH packets to clients.", traffic.publish_sent);
    let drops = &core.outcomes.drops;
    let dropped = "Messages that were refused, or accepted and not delivered, by reason.";
    page.counters("lapwing_messages_dropped", dropped, Reason::drops().map(|r| (r.name(), drops.get(r))));
    let passed = "Messages without a receiver, or without a connected one, by reason: no drops.";
    let reasons = Reason::skipped().map(|r| (r.name(), drops.get(r)));
    page.counters("lapwing_messages_skipped", passed, reasons);
    page.counter(
        "lapwing_payload_received_bytes",
        "Payload bytes from clients.",
        traffic.publish_bytes_received,
    );
    page.counter("lapwing_payload_sent_bytes", "Payload bytes to clients.", traffic.publish_bytes_sent);
}

/// A metric with a sample for each value of a label.
#[derive(Clone, Copy)]
struct LabelledMetric {
    name: &'static str,
    help: &'static str,
    kind: MetricKind,
    label: &'static str,
}

/// Kind of a metric.
#[derive(Clone, Copy)]
enum MetricKind {
    Counter,
    Gauge,
}

/// Value of a listener's metric, from its traffic and its open connections.
type ListenerValue = fn(&TrafficTotals, u64) -> u64;

fn listeners(core: &Core, page: &mut Exposition) {
    const fn gauge(name: &'static str, help: &'static str) -> LabelledMetric {
        LabelledMetric { name, help, kind: MetricKind::Gauge, label: "listener" }
    }
    const fn counter(name: &'static str, help: &'static str) -> LabelledMetric {
        LabelledMetric { kind: MetricKind::Counter, ..gauge(name, help) }
    }
    const METRICS: [(LabelledMetric, ListenerValue); 7] = [
        (
            gauge(
                "lapwing_listener_connections",
                "Connections of a listener, those before CONNECT included.",
            ),
            |_, open| open,
        ),
        (counter("lapwing_listener_connections_accepted", "Connections that it accepted."), |sums, _| {
            sums.connections
        }),
        (
            counter(
                "lapwing_listener_connections_refused",
                "Connections that it refused, or closed for a protocol error.",
            ),
            |sums, _| sums.refused,
        ),
        (
            counter("lapwing_listener_messages_received", "PUBLISH packets from clients of a listener."),
            |sums, _| sums.publish_received,
        ),
        (
            counter("lapwing_listener_messages_sent", "PUBLISH packets to clients of a listener."),
            |sums, _| sums.publish_sent,
        ),
        (counter("lapwing_listener_received_bytes", "Bytes from clients of a listener."), |sums, _| {
            sums.bytes_received
        }),
        (counter("lapwing_listener_sent_bytes", "Bytes to clients of a listener."), |sums, _| {
            sums.bytes_sent
        }),
    ];
    let snapshot = core.settings.get();
    let listeners = super::listeners::named(&snapshot).into_iter().map(|(name, endpoint)| {
        let mut sums = TrafficTotals::default();
        sums.add(&endpoint.traffic);
        (name, sums, endpoint.connections() as u64)
    });
    let listeners: Vec<_> = listeners.collect();
    for (metric, value) in METRICS {
        let samples = listeners.iter().map(|(label, sums, open)| (label.as_str(), value(sums, *open)));
        page.labelled(metric, samples);
    }
}

/// Clients that one look at the registry passes.
const SLICE: usize = 512;

/// Messages in session queues and in flight. They are counted on demand, since counters would cost
/// each message.
fn queues(core: &Core, page: &mut Exposition) {
    let (mut connected, mut offline) = ([0; 3], [0; 3]);
    let (mut after, mut outboxes) = (None, Vec::with_capacity(SLICE));
    loop {
        after = core.registry.page(after.as_deref(), SLICE, |_, client| match client {
            ClientView::Live(handle) => {
                outboxes.extend(handle.outbox.get().map(|outbox| (true, outbox.clone())))
            }
            ClientView::Offline(owned, _) => outboxes.push((false, owned.outbox.clone())),
        });
        for (live, outbox) in outboxes.drain(..) {
            let (messages, bytes) = outbox.waiting();
            let sums = if live { &mut connected } else { &mut offline };
            let all = [messages, bytes, outbox.in_flight() as u64];
            sums.iter_mut().zip(all).for_each(|(sum, more)| *sum += more);
        }
        if after.is_none() {
            break;
        }
    }
    for (at, (name, help)) in [
        ("lapwing_session_queue_messages", "Messages in session queues, those on disk included."),
        ("lapwing_session_queue_bytes", "Their bytes."),
        ("lapwing_in_flight_messages", "Messages of QoS 1 and 2 sent to clients and not acknowledged."),
    ]
    .into_iter()
    .enumerate()
    {
        let of = |sums: &[u64; 3]| sums.get(at).copied().unwrap_or(0);
        let samples = [("connected", of(&connected)), ("offline", of(&offline))];
        let kind = MetricKind::Gauge;
        page.labelled(LabelledMetric { name, help, kind, label: "state" }, samples.into_iter());
    }
}

fn telemetry(core: &Core, page: &mut Exposition) {
    let (sent, dropped) = core.outcomes.traces.export().map_or((0, 0), |export| export.spans());
    page.counter("lapwing_telemetry_spans_sent", "Spans that the collector accepted.", sent);
    let help = "Spans that did not fit into telemetry.spans_max, or that the collector refused.";
    page.counter("lapwing_telemetry_spans_dropped", help, dropped);
}

fn routes(core: &Core, page: &mut Exposition) {
    let (subscriptions, shared) = core.router.counts();
    page.gauge("lapwing_subscriptions", "Subscriptions of all sessions.", subscriptions);
    page.gauge("lapwing_shared_subscriptions", "Shared subscriptions among them.", shared);
    let (messages, bytes) = core.router.retained.len();
    page.gauge("lapwing_retained_messages", "Retained messages.", messages);
    page.gauge("lapwing_retained_bytes", "Their bytes.", bytes);
}

fn store(core: &Core, page: &mut Exposition) {
    let figures = core.store.figures();
    let states = [Health::Good, Health::Full, Health::Failed];
    let states = states.map(|state| (state.text(), u8::from(state == figures.health)));
    page.states("lapwing_store_health", "Health of the store: 1 for its current state.", &states);
    page.gauge("lapwing_store_queued_bytes", "Bytes of session queues on disk.", core.disk_total.bytes());
    page.gauge(
        "lapwing_store_segments_kept",
        "Segments of the log that are kept for queues.",
        figures.segments_kept,
    );
    page.counter("lapwing_store_record_bytes", "Bytes of records, before framing.", figures.record_bytes);
    page.counter("lapwing_store_log_bytes", "Bytes written to the log, padding included.", figures.log_bytes);
    page.counter(
        "lapwing_store_checkpoint_bytes",
        "Bytes written to the checkpoint.",
        figures.checkpoint_bytes,
    );
    page.counter("lapwing_store_syncs", "Syncs of the log.", figures.syncs);
    page.histogram("lapwing_store_sync_seconds", "Duration of syncs of the log.", &figures.sync_time);
    page.counter("lapwing_store_checkpoints", "Checkpoints made.", figures.checkpoints);
    let moved = "Messages moved out of segments with little else in them.";
    page.counter("lapwing_store_moved_messages", moved, figures.moved);
    page.counter("lapwing_store_corrupt", "Rows and frames found corrupt.", figures.corrupt);
}

/// Figures of the process, under the names of Prometheus' own libraries.
fn process(core: &Core, page: &mut Exposition) {
    let budget = core.budget.usage().memory_bytes_max;
    page.gauge("lapwing_memory_budget_bytes", "Memory above which new clients are refused.", budget);
    let pressure = core.budget.pressure() as u8;
    page.gauge(
        "lapwing_memory_pressure",
        "0: none; 1: PUBLISH packets wait; 2: nor is a client let in.",
        pressure,
    );
    let process = Process::look();
    if let Some(seconds) = process.cpu_seconds {
        page.counter("process_cpu_seconds", "Processor time, user and system.", seconds);
    }
    if let Some(bytes) = process.resident_bytes {
        page.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
    }
    if let Some(heap) = core.budget.heap(Instant::now()) {
        page.gauge(
            "lapwing_allocator_bytes",
            "Bytes that the allocator has from the kernel.",
            heap.system_bytes,
        );
        page.gauge("lapwing_allocator_free_bytes", "Bytes of those that are free.", heap.free_bytes);
    }
    if let Some(files) = process.open_files {
        page.gauge("process_open_fds", "Open file descriptors.", files);
    }
    if let Some(most) = process.open_files_max {
        page.gauge("process_max_fds", "Largest number of open file descriptors.", most);
    }
    if let Some(seconds) = process.start_seconds {
        page.gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", seconds);
    }
}

struct Exposition {
    text: String,
    form: Form,
}

impl Exposition {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a text does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// Writes the lines above the samples of a name. A unit is the suffix of the name.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit));
        if let (Some(unit), Form::OpenMetrics) = (unit, self.form) {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    /// OpenMetrics has the name without `_total`, and the sample with it; Prometheus had both with
    /// it.
    fn counter_head(&mut self, name: &str, help: &str) {
        match self.form {
            Form::OpenMetrics => self.head(name, "counter", help),
            Form::Plain => self.head(&format!("{name}_total"), "counter", help),
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.counter_head(name, help);
        self.line(format_args!("{name}_total {value}"));
    }

    fn histogram(&mut self, name: &str, help: &str, spread: &HistogramSnapshot) {
        self.head(name, "histogram", help);
        let mut count = 0;
        let bounds = BOUNDS_MICROS.iter().map(|bound| (*bound as f64 / 1e6).to_string());
        for (n, bound) in spread.counts.iter().zip(bounds.chain(["+Inf".to_owned()])) {
            count += n;
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {count}"));
        }
        self.line(format_args!("{name}_sum {}", spread.micros as f64 / 1e6));
        self.line(format_args!("{name}_count {count}"));
    }

    /// Writes a counter for each reason.
    fn counters(&mut self, name: &str, help: &str, counts: impl Iterator<Item = (&'static str, u64)>) {
        self.counter_head(name, help);
        counts.for_each(|(reason, n)| self.line(format_args!("{name}_total{{reason=\"{reason}\"}} {n}")));
    }

    fn info(&mut self, name: &str, help: &str, label: &str, value: &str) {
        match self.form {
            Form::OpenMetrics => self.head(name, "info", help),
            Form::Plain => self.head(&format!("{name}_info"), "gauge", help),
        }
        self.line(format_args!("{name}_info{{{label}=\"{value}\"}} 1"));
    }

    /// Writes one sample for each value of the label.
    fn labelled<'a>(&mut self, metric: LabelledMetric, samples: impl Iterator<Item = (&'a str, u64)>) {
        let LabelledMetric { name, help, kind, label } = metric;
        let total = match kind {
            MetricKind::Counter => {
                self.counter_head(name, help);
                "_total"
            }
            MetricKind::Gauge => {
                self.head(name, "gauge", help);
                ""
            }
        };
        for (value, count) in samples {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.line(format_args!("{name}{total}{{{label}=\"{value}\"}} {count}"));
        }
    }

    fn states(&mut self, name: &str, help: &str, states: &[(&str, u8)]) {
        self.head(name, "gauge", help);
        for (state, is) in states {
            self.line(format_args!("{name}{{state=\"{state}\"}} {is}"));
        }
    }
}
