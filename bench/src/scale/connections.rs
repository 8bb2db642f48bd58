//! The cost of connections: memory of broker and kernel, file descriptors, and the behaviour at
//! their limit.

use std::path::Path;

use crate::broker::{Broker, Tls};
use crate::load::Socket;
use crate::measure::{idlers, settled_kib};
use crate::scenario::Kind;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Figures of the broker with a number of connections.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPoint {
    pub connections: usize,
    pub resident_kib: f64,
    pub descriptors: usize,
    /// Slabs of the kernel, for both ends.
    pub kernel_kib: f64,
}

fn kernel_kib() -> Result<f64, Error> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:")).ok_or("no Slab")?;
    Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
}

/// Connects more and more silent clients.
///
/// # Errors
/// The broker fails, or this process may not open enough files.
pub fn points(
    broker: &Broker,
    counts: &[usize],
    folder: &Path,
    tls: &Tls,
) -> Result<Vec<MemoryPoint>, Error> {
    let started = broker.start(Kind::Idle { count: 0 }, folder, tls, "0")?;
    let mut sockets: Vec<Socket> = Vec::new();
    let mut points = Vec::new();
    for count in counts {
        let more = idlers(sockets.len()..*count, &started)
            .map_err(|error| format!("{count} connections: {error} (ulimit -n {} is needed)", count + 100))?;
        sockets.extend(more);
        points.push(MemoryPoint {
            connections: sockets.len(),
            resident_kib: settled_kib(&started)?,
            descriptors: started.running.descriptors()?,
            kernel_kib: kernel_kib()?,
        });
    }
    Ok(points)
}

/// Returns the KiB of each further connection between two points.
pub fn each_kib(from: &MemoryPoint, to: &MemoryPoint, kib: impl Fn(&MemoryPoint) -> f64) -> f64 {
    (kib(to) - kib(from)) / to.connections.saturating_sub(from.connections).max(1) as f64
}

/// Starts a broker with few file descriptors. Returns the number of clients that it accepts, and
/// its log line then.
///
/// # Errors
/// The broker does not start, or accepts as many clients as it has file descriptors.
pub fn at_the_limit(
    broker: &Broker,
    descriptors: usize,
    folder: &Path,
    tls: &Tls,
) -> Result<(usize, String), Error> {
    let limited = Broker {
        command: format!("prlimit --nofile={descriptors}:{descriptors} {}", broker.command),
        ..broker.clone()
    };
    let started = limited.start(Kind::Idle { count: 0 }, folder, tls, "0")?;
    let mut sockets = Vec::new();
    for n in 0..descriptors {
        match idlers(n..n + 1, &started) {
            Ok(socket) => sockets.extend(socket),
            Err(_) => {
                let log = std::fs::read_to_string(folder.join("log"))?;
                let last = log.lines().rev().find(|line| line.contains("WARN")).unwrap_or_default();
                let said = last.split_once("WARN").map_or(last, |(_, rest)| rest.trim());
                return Ok((sockets.len(), said.to_owned()));
            }
        }
    }
    Err(format!("{descriptors} clients were accepted with {descriptors} file descriptors").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_what_comes_with_it_not_what_was_there() {
        let point = |connections, resident_kib| MemoryPoint {
            connections,
            resident_kib,
            descriptors: connections + 20,
            kernel_kib: 0.0,
        };
        let each = each_kib(&point(1_000, 13_000.0), &point(3_000, 19_000.0), |point| point.resident_kib);
        assert!((each - 3.0).abs() < 1e-9);
    }
}
