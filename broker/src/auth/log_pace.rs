//! Pace of the log: no stranger can fill it. Each kind of line has a number of lines a second for
//! one network, and one in all; how many were held back stands on the next line of the kind.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::config::network_of;
use crate::message::Millis;

/// Kind of a line that a client can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogLine {
    /// A client was refused: credentials, identifier, limits.
    Refused,
    /// A connection did not get as far as CONNECT.
    NotMqtt,
    /// A client connected.
    Connected,
    /// A connection ended.
    Closed,
    /// A session was taken over.
    TakenOver,
    /// A client was denied an action.
    Denied,
    /// An operator's request was refused.
    Operator,
    /// Rights are not known.
    Unresolved,
}

/// Number of kinds.
const KINDS: usize = 8;

impl LogLine {
    /// Lines a second for one network, and in all. Those of clients that were let in are many where
    /// a fleet comes back.
    const fn lines_per_s(self) -> (u32, u32) {
        match self {
            LogLine::Refused | LogLine::NotMqtt | LogLine::Operator => (20, 50),
            LogLine::Connected | LogLine::Closed | LogLine::TakenOver => (20, 1_000),
            LogLine::Denied | LogLine::Unresolved => (10, 50),
        }
    }
}

/// Lines of the current second.
#[derive(Debug, Default)]
struct Second {
    /// Seconds of the broker's clock.
    number: u64,
    all: [u32; KINDS],
    /// Only networks that had a line, so they are at most as many as lines.
    networks: HashMap<(LogLine, Option<IpAddr>), u32>,
}

/// Paces lines of the log.
#[derive(Debug, Default)]
pub struct LogPace {
    second: Mutex<Second>,
    held_back: Mutex<[u64; KINDS]>,
}

impl LogPace {
    /// Returns the number of lines of this kind that were held back, if one may be written now.
    /// `from` is the address that caused it; `None`: a process of this machine.
    pub fn may(&self, line: LogLine, from: Option<IpAddr>, now: Millis) -> Option<u64> {
        let (of_network, of_all) = line.lines_per_s();
        let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
        let held_back = held_back.get_mut(line as usize)?;
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.number != now / 1_000 {
            *second = Second { number: now / 1_000, networks: HashMap::new(), ..Second::default() };
        }
        let all = second.all.get_mut(line as usize)?;
        if *all < of_all {
            let count = second.networks.entry((line, from.map(network_of))).or_default();
            if *count < of_network {
                *count += 1;
                second.all[line as usize] += 1;
                return Some(std::mem::take(held_back));
            }
        }
        *held_back += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_lines_and_leaves_others_theirs() {
        let pace = LogPace::default();
        let [one, same, other] =
            ["2001:db8::1", "2001:db8::2", "192.0.2.1"].map(|address| Some(address.parse().unwrap()));
        let written =
            |from, now| (0..100).filter(|_| pace.may(LogLine::Refused, from, now).is_some()).count();
        assert_eq!(written(one, 7_000), 20);
        assert_eq!(written(same, 7_100), 0, "it is the same network");
        assert_eq!(written(other, 7_900), 20);
        assert_eq!(written(None, 7_900), 10, "all together have no more");
        assert!(pace.may(LogLine::Closed, one, 7_900).is_some(), "another kind has its own");
        // The next second begins anew and says how many were held back since the last line.
        assert_eq!(pace.may(LogLine::Refused, one, 8_000), Some(90));
        assert_eq!(pace.may(LogLine::Refused, one, 8_000), Some(0));
    }

    #[test]
    fn all_networks_together_have_a_bound_in_lines_and_in_memory() {
        let pace = LogPace::default();
        let from = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let written = (0..100_000).filter(|n| pace.may(LogLine::NotMqtt, from(*n), 1_000).is_some()).count();
        assert_eq!(written, 50);
        assert_eq!(pace.second.lock().unwrap().networks.len(), 50);
    }
}
