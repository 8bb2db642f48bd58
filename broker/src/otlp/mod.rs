//! The ways of single messages as spans of OpenTelemetry, for a collector: one more reader of
//! [`trace`](crate::telemetry::trace).
//!
//! A message brings the trace that it belongs to in its user property `traceparent`, which goes on
//! to its subscribers as it is. The broker adds a span for itself, from the PUBLISH until it is
//! passed on, and below it one for each delivery, from the match to the acknowledgement or the
//! reason why there is none. `context` reads and makes identifiers, `recorder` makes spans of what
//! it is told, `collector` sends them, on a thread of its own. What does not fit into the bounds is
//! counted, and nobody waits for anything.

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

/// How often there is a line in the log while the collector takes nothing.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// The shortest and the longest pause before a batch is sent again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What exports. Dropping it ends that at once; [`stop`](Telemetry::stop) sends first what waits.
#[derive(Debug)]
pub(crate) struct Telemetry {
    recorder: Arc<Recorder>,
    ended: oneshot::Receiver<()>,
}

impl Telemetry {
    /// Exports what the traces of a broker are told.
    ///
    /// # Errors
    /// There is no thread for it.
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

    /// Sends what waits, if that takes no longer than this.
    pub async fn stop(mut self, timeout: Duration) {
        self.recorder.stop();
        if tokio::time::timeout(timeout, &mut self.ended).await.is_err() {
            warn!("the collector of telemetry.otlp_endpoint did not take the last spans in time");
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
    /// When the log said last that the collector takes nothing; `None`: it does.
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
                            info!("the collector of telemetry.otlp_endpoint takes spans again");
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
                        // The last try is one that began when the broker stopped already.
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
            warn!(dropped, "the collector of telemetry.otlp_endpoint takes no spans: {why}");
        }
    }
}
