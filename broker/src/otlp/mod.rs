//! Export of message traces as OpenTelemetry spans to a collector: a reader of
//! [`trace`](crate::telemetry::trace).
//!
//! A message carries its trace in the user property `traceparent`, which reaches its subscribers
//! unchanged. The broker adds a span for itself, from the PUBLISH until the message is routed.
//! Below it is one span for each delivery, from the match to the acknowledgement or the drop
//! reason. `context` reads and makes identifiers, `recorder` makes spans from events, `collector`
//! sends them, on a thread of its own. Spans beyond the limits are counted and dropped; nothing
//! waits for the exporter.

mod collector;
mod context;
mod recorder;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{info, warn};

pub(crate) use self::collector::Collector;
use self::collector::ExportError;
use self::recorder::Recorder;
use crate::core::Core;

/// Interval of log lines while the collector accepts nothing.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Shortest and longest pause before a batch is sent again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The running exporter. Dropping it ends it at once; [`stop`](Telemetry::stop) first sends the
/// waiting spans.
#[derive(Debug)]
pub(crate) struct Telemetry {
    recorder: Arc<Recorder>,
    ended: oneshot::Receiver<()>,
}

impl Telemetry {
    /// Starts to export the trace events of a broker.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(collector: Collector, core: &Core) -> Result<Telemetry, String> {
        let config = &core.settings.get().config.telemetry;
        let recorder = Arc::new(Recorder::new(config));
        let (end, ended) = oneshot::channel();
        let sender = Sender {
            recorder: recorder.clone(),
            collector,
            interval: Duration::from_millis(config.interval_ms.into()),
            warned: None,
        };
        let thread = std::thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            sender.run();
            let _ = end.send(());
        });
        thread.map_err(|error| format!("telemetry.otlp_endpoint: no thread for it: {error}"))?;
        core.outcomes.traces.set_export(recorder.clone());
        Ok(Telemetry { recorder, ended })
    }

    /// Sends the waiting spans, within the timeout.
    pub async fn stop(mut self, timeout: Duration) {
        self.recorder.stop();
        if tokio::time::timeout(timeout, &mut self.ended).await.is_err() {
            warn!("the collector of telemetry.otlp_endpoint did not accept the last spans in time");
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.recorder.stop();
    }
}

/// The thread that sends.
struct Sender {
    recorder: Arc<Recorder>,
    collector: Collector,
    interval: Duration,
    /// Time of the last warning; `None` while the collector accepts spans.
    warned: Option<Instant>,
}

impl Sender {
    fn run(mut self) {
        let (shortest, longest) = PAUSES;
        let (mut pause, mut stopping) = (shortest, false);
        loop {
            let batch = self.recorder.next_batch(self.interval);
            if batch.is_empty() {
                return;
            }
            let count = batch.len() as u64;
            let body = self.collector.write(&batch);
            loop {
                match self.collector.send(&body) {
                    Ok(rejected) => {
                        let rejected = rejected.min(count);
                        self.recorder.sent.add(count - rejected);
                        self.recorder.dropped.add(rejected);
                        if self.warned.take().is_some() {
                            info!("the collector of telemetry.otlp_endpoint accepts spans again");
                        }
                        pause = shortest;
                        break;
                    }
                    Err(ExportError::Final(why)) => {
                        self.warn(&why);
                        self.recorder.dropped.add(count);
                        break;
                    }
                    Err(ExportError::ForNow(why)) => {
                        self.warn(&why);
                        // The last attempt is one that began after the broker was asked to stop.
                        if stopping {
                            return self.recorder.dropped.add(count);
                        }
                        stopping = self.recorder.pause(pause);
                        pause = (pause * 2).min(longest);
                    }
                }
            }
        }
    }

    fn warn(&mut self, why: &str) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            let dropped = self.recorder.dropped.get();
            warn!(dropped, "the collector of telemetry.otlp_endpoint accepts no spans: {why}");
        }
    }
}
