//! The timers that no connection owns: the end of a resting session, a will that waits, expired retained messages.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clients::RestNumber;
use crate::core::Core;
use crate::message::Millis;
use crate::store::{Durability, Record};

/// What is due when.
#[derive(Debug, Default)]
pub struct Agenda {
    due: Mutex<BTreeSet<(Millis, Arc<str>, RestNumber)>>,
    changed: Notify,
}

impl Agenda {
    /// Looks after the resting session of this client at this time.
    pub fn add(&self, at: Millis, client_id: Arc<str>, rest: RestNumber) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let first = due.first().is_none_or(|(first, ..)| at < *first);
        due.insert((at, client_id, rest));
        if first {
            self.changed.notify_one();
        }
    }

    /// The session does not rest any more.
    pub fn remove(&self, at: Millis, client_id: &Arc<str>, rest: RestNumber) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.remove(&(at, client_id.clone(), rest));
    }

    fn take_due(&self, now: Millis) -> (Vec<(Arc<str>, RestNumber)>, Option<Millis>) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while let Some((at, client_id, rest)) = due.pop_first() {
            if at > now {
                due.insert((at, client_id, rest));
                return (taken, Some(at));
            }
            taken.push((client_id, rest));
        }
        (taken, None)
    }
}

/// How often a slice of the retained messages is looked through for expired ones.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Runs until the broker stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut swept: Option<Box<str>> = None;
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        let now = core.now();
        let (due, next) = core.agenda.take_due(now);
        for (client_id, rest) in due {
            core.look_after(&client_id, rest, now);
        }
        let wait = next.map(|at| Duration::from_millis(at.saturating_sub(now)));
        tokio::select! {
            () = core.agenda.changed.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            _ = sweep.tick() => swept = sweep_retained(&core, swept.take()),
        }
    }
}

/// Looks through a slice of the retained messages.
fn sweep_retained(core: &Core, after: Option<Box<str>>) -> Option<Box<str>> {
    core.router.retained.sweep(after, core.now(), |topic| {
        core.store.append(Record::Forgotten { topic: topic.into() }, Durability::None);
    })
}
