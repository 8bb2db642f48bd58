//! Timers of offline sessions: the end of a session, a will that is delayed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::clients::owned::OfflineGeneration;
use crate::message::Millis;

/// Timers of offline sessions, ordered by time.
#[derive(Debug, Default)]
pub struct SessionTimers {
    due: Mutex<BTreeSet<(Millis, Arc<str>, OfflineGeneration)>>,
    /// Notified when a timer is due earlier than all others.
    pub changed: Notify,
}

impl SessionTimers {
    /// Adds a timer for the offline session of this client.
    pub fn add(&self, at: Millis, client_id: Arc<str>, generation: OfflineGeneration) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let first = due.first().is_none_or(|(first, ..)| at < *first);
        due.insert((at, client_id, generation));
        if first {
            self.changed.notify_one();
        }
    }

    /// Removes a timer: the session is not offline any more.
    pub fn remove(&self, at: Millis, client_id: &Arc<str>, generation: OfflineGeneration) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.remove(&(at, client_id.clone(), generation));
    }

    /// Removes and returns what is due, and tells when the next is.
    pub fn take_due(&self, now: Millis) -> (Vec<(Arc<str>, OfflineGeneration)>, Option<Millis>) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while let Some((at, client_id, generation)) = due.pop_first() {
            if at > now {
                due.insert((at, client_id, generation));
                return (taken, Some(at));
            }
            taken.push((client_id, generation));
        }
        (taken, None)
    }
}
