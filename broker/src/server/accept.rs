//! Accept loop of one listener: accepts, counts, and spawns a task for each connection.

use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{debug, warn};

use crate::auth::log_pace::LogLine;
use crate::auth::{audit, ban};
use crate::config::network_of;
use crate::connection::handshake::Established;
use crate::connection::{Connection, handshake};
use crate::core::Core;
use crate::core::settings::Snapshot;
use crate::limits::budget::ConnectionPermit;
use crate::net::endpoint::{ConnectionGuard, Endpoint};
use crate::net::{Accepted, AcceptedFrom, Incoming, ListeningSocket, ProxyVerdict};
use crate::server::drain::{TaskCounter, TaskGuard};
use crate::workers::WorkerPool;

/// Pause of the accept loop when the process has no file descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Connections accepted in a row before this thread's other tasks run: each connection adds a task
/// to their queue.
const ACCEPT_BURST: u32 = 8;
/// Number of steps over which the CONNECT timeout is spread, so that a burst of silent connections
/// does not time out at once.
const TIMEOUT_JITTER_STEPS: u32 = 64;

/// Serves a listener until the broker stops, or `closed` reports that the listener was removed.
pub(crate) async fn run(
    core: Arc<Core>,
    workers: Arc<WorkerPool>,
    listener: ListeningSocket,
    mut stopped: watch::Receiver<bool>,
    mut closed: watch::Receiver<bool>,
    connections: Arc<TaskCounter>,
) {
    let mut warned: Option<Instant> = None;
    let mut in_a_row = 0;
    loop {
        in_a_row += 1;
        if in_a_row > ACCEPT_BURST {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
        let accept = async {
            // Connections before CONNECT are bounded; the rest wait in the kernel's queue.
            let permit = core.budget.handshakes.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = closed.wait_for(|closed| *closed) => return,
            accepted = accept => accepted,
        };
        let now = Instant::now();
        // One log line a second is enough.
        let mut complain = |text: String| {
            if warned.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1)) {
                warn!(listener = %listener.name(), "{text}");
                warned = Some(now);
            }
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                complain(format!(
                    "a connection could not be accepted: {error}; raise the limit of open files (ulimit -n)"
                ));
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let snapshot = core.settings.get();
        let Some(endpoint) = snapshot.endpoint(listener.number()) else { continue };
        let accepted = listener.admit(accepted, endpoint.clone());
        let (entered, connection) = match count_in(&core, &snapshot, endpoint, accepted.origin(), now) {
            Ok(counted) => counted,
            Err(reason) => {
                endpoint.traffic.refused.add(1);
                complain(format!("connection from {} closed: {reason}", accepted.origin().address()));
                continue;
            }
        };
        endpoint.traffic.connections.add(1);
        let timeout = connect_timeout(endpoint.limits.connect_timeout_s, connections.count());
        // Serves one connection from its first byte to its last. The state of the handshake is
        // boxed and freed when it is over.
        let permits = Permits { connection, handshake: permit };
        let admitted = Box::pin(admit(core.clone(), accepted, permits, timeout, stopped.clone()));
        let counted = (TaskGuard::new(&connections), entered);
        workers.spawn(async move {
            if let Some(connection) = admitted.await {
                connection.run().await;
            }
            drop(counted);
        });
    }
}

/// Counts a connection in; the error is the reason why it is refused.
fn count_in(
    core: &Core,
    snapshot: &Snapshot,
    endpoint: &Endpoint,
    origin: &AcceptedFrom,
    now: Instant,
) -> Result<(ConnectionGuard, ConnectionPermit), String> {
    // The client behind a proxy is known only after the PROXY header.
    let address = if origin.is_proxy() { None } else { counted(origin) };
    if let Some(ban) = snapshot.bans.of_address(address, ban::now_s()) {
        return Err(format!("{} is banned ({})", ban.whom, ban.reason));
    }
    let entered = endpoint.admit().ok_or("connections_max of this listener is reached")?;
    match core.budget.enter(address, now) {
        Ok(permit) => Ok((entered, permit)),
        Err(full) => Err(format!("{} is reached", full.key())),
    }
}

/// CONNECT timeout of the n-th connection: up to a tenth more than `limits.connect_timeout_s`. So a
/// burst of connections does not time out at once, which would delay others.
fn connect_timeout(connect_timeout_s: u32, nth: usize) -> Duration {
    let timeout = Duration::from_secs(u64::from(connect_timeout_s));
    timeout + timeout / (10 * TIMEOUT_JITTER_STEPS) * (nth as u32 % TIMEOUT_JITTER_STEPS)
}

/// Address or network that counts for limits per address; `None` for loopback, which is exempt.
fn counted(origin: &AcceptedFrom) -> Option<IpAddr> {
    origin.address().ip().filter(|ip| !ip.to_canonical().is_loopback()).map(network_of)
}

/// Reads the PROXY header, and performs the TLS and WebSocket handshakes. `None`: there is no
/// client to serve.
async fn establish(core: &Core, entering: Incoming, permit: &mut ConnectionPermit) -> Option<Established> {
    let (address, traffic) = (*entering.origin().address(), entering.origin().endpoint().traffic.clone());
    let refuse = |error: String| {
        traffic.refused.add(1);
        if let Some(more_before) = core.log_pace.may(LogLine::NotMqtt, address.ip(), core.now()) {
            warn!(peer = %address, more_before, "{}", audit::text(&error));
        }
    };
    let entering = match entering.read_proxy_header().await {
        Ok(ProxyVerdict::Client(entering)) => entering,
        Ok(ProxyVerdict::Proxy) => {
            debug!(peer = %address, "health check of the proxy");
            return None;
        }
        Err(error) => {
            refuse(error.to_string());
            return None;
        }
    };
    let snapshot = core.settings.get();
    let origin = entering.origin();
    let of = origin.address();
    if let Some(ban) = snapshot.bans.of_address(counted(origin), ban::now_s()) {
        refuse(format!("connection of {of} closed: {} is banned ({})", ban.whom, ban.reason));
        return None;
    }
    if let Err(full) = permit.set_address(counted(origin), Instant::now()) {
        refuse(format!("connection of {of} closed: {} is reached", full.key()));
        return None;
    }
    let endpoint = origin.endpoint().clone();
    let (stream, input, peer) = entering.establish().await.map_err(|error| refuse(error.to_string())).ok()?;
    Some(Established { stream, input, peer, endpoint })
}

/// Permits of a connection that was accepted.
struct Permits {
    connection: ConnectionPermit,
    /// Held until CONNECT has come; `None` where endpoints do not count it.
    handshake: Option<OwnedSemaphorePermit>,
}

/// Performs the MQTT handshake, or logs the reason of the refusal.
async fn admit(
    core: Arc<Core>,
    accepted: Accepted,
    permits: Permits,
    timeout: Duration,
    mut stopped: watch::Receiver<bool>,
) -> Option<Box<Connection>> {
    let Permits { connection: mut permit, handshake: handshake_permit } = permits;
    let (address, endpoint) = (*accepted.origin().address(), accepted.origin().endpoint());
    let connect_timeout_s = endpoint.limits.connect_timeout_s;
    let traffic = endpoint.traffic.clone();
    let introduction = pin!(async {
        let entering = match accepted.enter() {
            Ok(entering) => entering,
            Err(error) => {
                warn!(peer = %address, "failed to register accepted connection: {error}");
                return None;
            }
        };
        entering.first_byte().await;
        // A silent connection costs next to nothing: the memory of the handshake is boxed, and
        // allocated with its first byte.
        Box::pin(async {
            let established = establish(&core, entering, &mut permit).await?;
            Some(handshake::read_connect(&core, established, permit).await)
        })
        .await
    });
    let introduced = within(introduction, timeout, &mut stopped).await;
    drop(handshake_permit);
    let refusal = match introduced {
        Ok(None) => return None,
        Ok(Some(Ok(client))) => match Box::pin(handshake::open_session(&core, client)).await {
            Ok(connection) => return Some(connection),
            Err(refusal) => refusal,
        },
        Ok(Some(Err(refusal))) => refusal,
        Err(Cut::Timeout) => {
            traffic.refused.add(1);
            if let Some(more_before) = core.log_pace.may(LogLine::NotMqtt, address.ip(), core.now()) {
                warn!(peer = %address, more_before,
                    "closed: no CONNECT within limits.connect_timeout_s ({connect_timeout_s} s)");
            }
            return None;
        }
        Err(Cut::Stopped) => {
            debug!(peer = %address, "closed before CONNECT: the broker stops");
            return None;
        }
    };
    traffic.refused.add(1);
    Box::pin(refusal.answer(&core, address)).await;
    None
}

/// Reason why a connection was cut before it was let in.
enum Cut {
    /// The time ran out.
    Timeout,
    /// The broker stops.
    Stopped,
}

/// Runs a future with a timeout, until the broker stops.
async fn within<T>(
    future: Pin<&mut impl Future<Output = T>>,
    timeout: Duration,
    stopped: &mut watch::Receiver<bool>,
) -> Result<T, Cut> {
    tokio::select! {
        result = tokio::time::timeout(timeout, future) => result.map_err(|_| Cut::Timeout),
        _ = stopped.wait_for(|stopped| *stopped) => Err(Cut::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_timeouts_of_a_burst_spread_over_a_tenth_of_the_timeout() {
        for timeout_s in [1, 10, u32::MAX] {
            let (timeout, crowd) = (Duration::from_secs(timeout_s.into()), TIMEOUT_JITTER_STEPS as usize);
            let all: Vec<Duration> = (0..crowd).map(|nth| connect_timeout(timeout_s, nth)).collect();
            assert_eq!(all[0], timeout, "no client times out before it");
            let steps: Vec<Duration> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(steps.iter().all(|step| *step == steps[0] && *step > Duration::ZERO), "{all:?}");
            // All of the tenth is used, except one step and the remainder of the division.
            let most = timeout + timeout / 10;
            assert!(all[crowd - 1] < most && all[crowd - 1] + 2 * steps[0] > most, "{all:?}");
            // The steps repeat.
            assert_eq!(
                (connect_timeout(timeout_s, crowd), connect_timeout(timeout_s, 3 * crowd + 1)),
                (all[0], all[1])
            );
        }
    }
}
