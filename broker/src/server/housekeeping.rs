//! Timers that no connection owns: expiry of offline sessions, delayed wills, expired retained
//! messages.

use std::sync::Arc;
use std::time::Duration;

use crate::core::Core;
use crate::message::Durability;
use crate::store::Record;

/// Interval between two slices of the scan for expired retained messages.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Runs until the broker stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut swept: Option<Box<str>> = None;
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        let now = core.now();
        let (due, next) = core.timers.take_due(now);
        for (client_id, generation) in due {
            core.on_session_timer(&client_id, generation, now);
        }
        let wait = next.map(|at| Duration::from_millis(at.saturating_sub(now)));
        tokio::select! {
            () = core.timers.changed.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            _ = sweep.tick() => swept = sweep_retained(&core, swept.take()),
        }
    }
}

/// Removes expired messages of one slice; returns the topic where the next slice begins.
fn sweep_retained(core: &Core, after: Option<Box<str>>) -> Option<Box<str>> {
    core.router.retained.sweep(after, core.now(), |topic| {
        core.store.append(Record::RetainedExpired { topic: topic.into() }, Durability::None);
    })
}
