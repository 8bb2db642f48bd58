//! Bounds across connections: number of connections, per address, before CONNECT, and memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use crate::config::Limits;
use crate::limits::memory::{self, AllocatorStats, Reserve};

const SECOND: Duration = Duration::from_secs(1);
/// Fraction of the memory budget that may arrive before memory is measured again.
const UNMEASURED_PARTS: u64 = 32;
/// Above this number of addresses, those without connections and recent connects are forgotten.
const ADDRESSES_KEPT: usize = 1_024;

/// The bounds, and their current use.
#[derive(Debug)]
pub struct Budget {
    limits: BudgetLimits,
    connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, Address>>,
    /// Permits for connections before CONNECT; further connections wait in the kernel's queue.
    pub handshakes: Arc<Semaphore>,
    pressure: AtomicU8,
    /// Last result that [`measure`](Self::measure) reported.
    reported: AtomicU8,
    /// Notified when received bytes have changed the pressure, before it was reported.
    pub changed: Notify,
    /// Bytes received from clients since memory was measured last.
    unmeasured: AtomicU64,
    reserve: Reserve,
}

/// Limits that a reload can change.
#[derive(Debug, Default)]
struct BudgetLimits {
    connections_max: AtomicUsize,
    per_address_max: AtomicUsize,
    handshakes_max: AtomicUsize,
    handshakes_per_address_max: AtomicUsize,
    connects_per_s: AtomicU32,
    memory_bytes_max: AtomicU64,
    memory_pause_percent: AtomicU64,
}

#[derive(Debug)]
struct Address {
    connections: usize,
    /// Number of those connections that have not sent CONNECT.
    handshakes: usize,
    second: Instant,
    connects: u32,
}

/// Memory pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Memory is not short.
    None = 0,
    /// PUBLISH packets are not read.
    Pause = 1,
    /// New clients are refused, too.
    Refuse = 2,
}

/// Limit that refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// `limits.connections_max`.
    Connections,
    /// `limits.connections_per_address_max`.
    PerAddress,
    /// `limits.handshakes_per_address_max`.
    Handshakes,
    /// `limits.connects_per_address_per_s`.
    ConnectRate,
    /// `limits.memory_budget_bytes`.
    Memory,
}

impl ConnectionLimit {
    /// Configuration key of the limit.
    pub const fn key(self) -> &'static str {
        match self {
            ConnectionLimit::Connections => "limits.connections_max",
            ConnectionLimit::PerAddress => "limits.connections_per_address_max",
            ConnectionLimit::Handshakes => "limits.handshakes_per_address_max",
            ConnectionLimit::ConnectRate => "limits.connects_per_address_per_s",
            ConnectionLimit::Memory => "limits.memory_budget_bytes",
        }
    }
}

/// Current use and its limits.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Connections, including those before CONNECT.
    pub connections: usize,
    /// `limits.connections_max`, or the default for this machine.
    pub connections_max: usize,
    /// `limits.memory_budget_bytes`, or the default for this machine.
    pub memory_bytes_max: u64,
}

/// A counted connection; dropping it counts the connection out.
#[derive(Debug)]
pub struct ConnectionPermit {
    budget: Arc<Budget>,
    address: Option<IpAddr>,
    /// Set until CONNECT has come.
    handshake: bool,
}

impl Budget {
    /// Creates a budget with the configured limits, and the machine's where they are defaults.
    pub fn new(limits: &Limits) -> Budget {
        let budget = Budget {
            limits: BudgetLimits::default(),
            connections: AtomicUsize::new(0),
            addresses: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(0)),
            pressure: AtomicU8::new(0),
            reported: AtomicU8::new(0),
            changed: Notify::new(),
            unmeasured: AtomicU64::new(0),
            reserve: Reserve::default(),
        };
        budget.set_limits(limits);
        budget
    }

    /// Changes the limits. Existing connections stay.
    pub fn set_limits(&self, limits: &Limits) {
        let connections_max = match limits.connections_max {
            0 => file_descriptors_max().map_or(1_000, |most| most / 10 * 9),
            most => most as usize,
        };
        let memory_bytes_max = match limits.memory_budget_bytes {
            0 => memory::machine_bytes().map_or(u64::MAX, |all| all / 10 * 8),
            most => most,
        };
        let bounds = &self.limits;
        bounds.connections_max.store(connections_max, Ordering::Relaxed);
        bounds.per_address_max.store(limits.connections_per_address_max as usize, Ordering::Relaxed);
        bounds
            .handshakes_per_address_max
            .store(limits.handshakes_per_address_max as usize, Ordering::Relaxed);
        bounds.connects_per_s.store(limits.connects_per_address_per_s, Ordering::Relaxed);
        bounds.memory_bytes_max.store(memory_bytes_max, Ordering::Relaxed);
        bounds.memory_pause_percent.store(u64::from(limits.memory_pause_percent), Ordering::Relaxed);
        let handshakes_max = limits.handshakes_max as usize;
        let before = bounds.handshakes_max.swap(handshakes_max, Ordering::Relaxed);
        match handshakes_max.checked_sub(before) {
            Some(more) => self.handshakes.add_permits(more),
            // Permits in use cannot be taken away now: the limit is reached with the next reload at
            // the latest.
            None => {
                let fewer = self.handshakes.forget_permits(before - handshakes_max);
                bounds.handshakes_max.store(before - fewer, Ordering::Relaxed);
            }
        }
    }

    /// Counts a connection in. `address` is `None` for those without bounds per address (loopback,
    /// Unix sockets).
    pub fn enter(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<ConnectionPermit, ConnectionLimit> {
        if self.pressure() >= Pressure::Refuse {
            return Err(ConnectionLimit::Memory);
        }
        if self.connections.fetch_add(1, Ordering::Relaxed)
            >= self.limits.connections_max.load(Ordering::Relaxed)
        {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectionLimit::Connections);
        }
        // From here on, dropping the permit counts the connection out.
        let mut permit = ConnectionPermit { budget: self.clone(), address: None, handshake: false };
        permit.set_address(address, now)?;
        Ok(permit)
    }

    /// True when less than a tenth of the permits for connections before CONNECT is left.
    fn handshakes_are_scarce(&self) -> bool {
        self.handshakes.available_permits() * 10 <= self.limits.handshakes_max.load(Ordering::Relaxed)
    }

    /// Current use and limits.
    pub fn usage(&self) -> Usage {
        Usage {
            connections: self.connections.load(Ordering::Relaxed),
            connections_max: self.limits.connections_max.load(Ordering::Relaxed),
            memory_bytes_max: self.limits.memory_bytes_max.load(Ordering::Relaxed),
        }
    }

    /// Pressure as last measured.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Pause,
            _ => Pressure::Refuse,
        }
    }

    /// Counts bytes from a client. Memory is also measured by a timer, but clients can fill it
    /// faster than that.
    #[inline]
    pub fn took_in(&self, bytes: usize) {
        let before = self.unmeasured.fetch_add(bytes as u64, Ordering::Relaxed);
        if before + bytes as u64 >= self.limits.memory_bytes_max.load(Ordering::Relaxed) / UNMEASURED_PARTS {
            let pressure = self.sample(Instant::now());
            if self.reported.load(Ordering::Relaxed) != pressure as u8 {
                self.changed.notify_one();
            }
        }
    }

    /// Samples the pressure. Free heap memory does not count as used: the allocator may never
    /// return it to the kernel, and a broker that waited for that would wait forever.
    fn sample(&self, now: Instant) -> Pressure {
        let taken_in = self.unmeasured.swap(0, Ordering::Relaxed);
        let most = self.limits.memory_bytes_max.load(Ordering::Relaxed);
        let pause = most / 100 * self.limits.memory_pause_percent.load(Ordering::Relaxed);
        let mut used = memory::resident_bytes().unwrap_or(0);
        if used >= pause {
            let free = self.reserve.needed(now, taken_in).map_or(0, |heap| heap.free_bytes);
            used = used.saturating_sub(free);
        }
        let pressure = match used {
            _ if used >= most => Pressure::Refuse,
            _ if used >= pause => Pressure::Pause,
            _ => Pressure::None,
        };
        self.pressure.store(pressure as u8, Ordering::Relaxed);
        pressure
    }

    /// Measures the process's memory. Returns the pressure if it has changed since the last call.
    pub fn measure(&self, now: Instant) -> Option<Pressure> {
        let pressure = self.sample(now);
        (self.reported.swap(pressure as u8, Ordering::Relaxed) != pressure as u8).then_some(pressure)
    }

    /// True when memory is not short and nothing was received since it was measured.
    pub fn is_calm(&self) -> bool {
        self.pressure() == Pressure::None && self.unmeasured.load(Ordering::Relaxed) == 0
    }

    /// Heap statistics, if the allocator provides them.
    pub fn heap(&self, now: Instant) -> Option<AllocatorStats> {
        self.reserve.shown(now)
    }
}

impl ConnectionPermit {
    /// Sets the client's address, once: at accept, or from the PROXY header. Errors as
    /// [`Budget::enter`].
    pub fn set_address(&mut self, address: Option<IpAddr>, now: Instant) -> Result<(), ConnectionLimit> {
        let Some(address) = address.filter(|_| self.address.is_none()) else { return Ok(()) };
        let budget = &self.budget;
        let mut addresses = budget.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Address { connections: 0, handshakes: 0, second: now, connects: 0 };
        let entry = addresses.entry(address).or_insert(new);
        if now.duration_since(entry.second) >= SECOND {
            (entry.second, entry.connects) = (now, 0);
        }
        if entry.connections >= budget.limits.per_address_max.load(Ordering::Relaxed) {
            return Err(ConnectionLimit::PerAddress);
        }
        // Many devices behind one router are welcome while other addresses can still connect.
        if entry.handshakes >= budget.limits.handshakes_per_address_max.load(Ordering::Relaxed)
            && budget.handshakes_are_scarce()
        {
            return Err(ConnectionLimit::Handshakes);
        }
        if entry.connects >= budget.limits.connects_per_s.load(Ordering::Relaxed) {
            return Err(ConnectionLimit::ConnectRate);
        }
        entry.connects += 1;
        entry.connections += 1;
        entry.handshakes += 1;
        (self.address, self.handshake) = (Some(address), true);
        Ok(())
    }

    /// Marks that CONNECT has come.
    pub fn handshake_done(&mut self) {
        let Some(address) = self.address.filter(|_| std::mem::take(&mut self.handshake)) else { return };
        let mut addresses = self.budget.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = addresses.get_mut(&address) {
            entry.handshakes -= 1;
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.handshake_done();
        self.budget.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut addresses = self.budget.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = addresses.get_mut(&address) {
            entry.connections -= 1;
        }
        // An address without connections is remembered for the second in which its connects count.
        if addresses.len() > ADDRESSES_KEPT {
            let now = Instant::now();
            addresses.retain(|_, entry| entry.connections > 0 || now.duration_since(entry.second) < SECOND);
        }
    }
}

/// Soft limit of open files, from `/proc/self/limits`.
pub(crate) fn file_descriptors_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limits: Limits) -> Arc<Budget> {
        Arc::new(Budget::new(&limits))
    }

    #[test]
    fn connections_are_counted_in_total_and_per_address() {
        let limits = Limits { connections_max: 3, connections_per_address_max: 2, ..Limits::default() };
        let (budget, now) = (budget(limits), Instant::now());
        let far = Some(IpAddr::from([192, 0, 2, 1]));
        let one = budget.enter(far, now).unwrap();
        let _two = budget.enter(far, now).unwrap();
        assert_eq!(budget.enter(far, now).unwrap_err(), ConnectionLimit::PerAddress);
        let _local = budget.enter(None, now).unwrap();
        assert_eq!(budget.enter(None, now).unwrap_err(), ConnectionLimit::Connections);
        drop(one);
        assert!(budget.enter(far, now).is_ok());
    }

    #[test]
    fn connects_per_second_of_an_address_are_bounded() {
        let limits = Limits { connects_per_address_per_s: 2, ..Limits::default() };
        let (budget, now) = (budget(limits), Instant::now());
        let far = Some(IpAddr::from([192, 0, 2, 1]));
        let _held = [budget.enter(far, now).unwrap(), budget.enter(far, now).unwrap()];
        assert_eq!(budget.enter(far, now).unwrap_err(), ConnectionLimit::ConnectRate);
        assert!(budget.enter(far, now + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn connections_before_connect_of_an_address_are_bounded() {
        let limits = Limits { handshakes_per_address_max: 1, handshakes_max: 10, ..Limits::default() };
        let (budget, now) = (budget(limits), Instant::now());
        let far = Some(IpAddr::from([192, 0, 2, 1]));
        // While permits are plentiful, one address may have several.
        let _several =
            [(); 3].map(|()| budget.enter(far, now).unwrap()).map(|mut permit| permit.handshake_done());
        let _taken = budget.handshakes.clone().try_acquire_many_owned(9).unwrap();
        let mut first = budget.enter(far, now).unwrap();
        assert_eq!(budget.enter(far, now).unwrap_err(), ConnectionLimit::Handshakes);
        first.handshake_done();
        let second = budget.enter(far, now).unwrap();
        assert_eq!(budget.enter(far, now).unwrap_err(), ConnectionLimit::Handshakes);
        drop(second);
        // The proxy names the client's address later.
        let mut proxied = budget.enter(None, now).unwrap();
        assert_eq!(proxied.set_address(far, now), Ok(()));
        assert_eq!(budget.enter(None, now).unwrap().set_address(far, now), Err(ConnectionLimit::Handshakes));
    }

    #[test]
    fn memory_above_the_budget_causes_pressure() {
        let budget = budget(Limits { memory_budget_bytes: 1, ..Limits::default() });
        assert_eq!(budget.measure(Instant::now()), Some(Pressure::Refuse));
        assert_eq!(budget.measure(Instant::now()), None);
        assert_eq!(budget.enter(None, Instant::now()).unwrap_err(), ConnectionLimit::Memory);
    }
}
