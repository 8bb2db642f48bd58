//! What systemd wants to know of a service (`Type=notify`, `WatchdogSec=`): ready, reloading,
//! stopping, alive. Without systemd nothing is said.

use std::sync::Arc;
use std::time::Duration;

use lapwing::Broker;
use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::warn;

/// Says it; that systemd does not hear it is no reason to stop.
fn say(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "systemd cannot be told ($NOTIFY_SOCKET)");
    }
}

/// Clients are served.
pub fn ready(listeners: &[Arc<str>]) {
    say(&[NotifyState::Ready, NotifyState::Status(&format!("serves {}", listeners.join(", ")))]);
}

/// The configuration is read anew; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "no monotonic time"),
    }
}

/// Clients are told goodbye.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// When the watchdog is to be told that the broker is alive: at half its time. It is told once all
/// threads that serve clients have had a turn, so one that stands still is found out.
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As the environment asks for.
    pub fn new() -> Watchdog {
        let pause =
            sd_notify::watchdog_enabled().map(|time| time / 2).filter(|pause| *pause > Duration::ZERO);
        Watchdog(pause.map(|pause| {
            let mut interval = interval_at(Instant::now() + pause, pause);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until it is time and the broker is alive, and says so. May be given up.
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
