//! Notifications for systemd (`Type=notify`, `WatchdogSec=`): ready, reloading, stopping, alive.
//! Without systemd nothing is sent.

use std::sync::Arc;
use std::time::Duration;

use lapwing::Broker;
use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::warn;

/// Sends a notification; the broker goes on when systemd does not get it.
fn say(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "systemd cannot be notified ($NOTIFY_SOCKET)");
    }
}

/// Tells systemd that clients are served.
pub fn ready(listeners: &[Arc<str>]) {
    say(&[NotifyState::Ready, NotifyState::Status(&format!("serves {}", listeners.join(", ")))]);
}

/// Tells systemd that the configuration is being read again; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "no monotonic time"),
    }
}

/// Tells systemd that the broker stops.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Timer of the watchdog: half its time. The watchdog is notified once all threads that serve
/// clients have had a turn, so a stuck thread is found.
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// Creates the timer that the environment asks for.
    pub fn new() -> Watchdog {
        let pause =
            sd_notify::watchdog_enabled().map(|time| time / 2).filter(|pause| *pause > Duration::ZERO);
        Watchdog(pause.map(|pause| {
            let mut interval = interval_at(Instant::now() + pause, pause);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until it is time and the broker is alive, and notifies the watchdog. Cancel safe.
    pub async fn alive(&mut self, broker: &Broker) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                broker.heartbeat().await;
                say(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}
