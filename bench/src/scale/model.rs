//! Mean value analysis of a closed network of queues: cores that share resources which one core
//! uses at a time.
//!
//! Each core repeats a piece of work. A part is its own, the rest is done at resources where other
//! cores may be first. Times at a resource are taken as exponential, so that waiting begins before
//! a resource is saturated, as in reality. There is no clock and no randomness: the same figures
//! give the same result.

/// One kind of work.
#[derive(Clone, Debug)]
pub struct Work {
    /// Time that a core spends on its own, in µs.
    pub own_us: f64,
    /// Time that it spends at each resource, in µs.
    pub resources_us: Vec<f64>,
}

/// Throughput of a number of cores.
#[derive(Clone, Debug)]
pub struct Throughput {
    /// Pieces of work in a second.
    pub per_s: f64,
    /// Utilization of each resource, 0 to 1.
    pub utilization: Vec<f64>,
}

impl Work {
    /// Returns the throughput on `cores` cores.
    pub fn on(&self, cores: usize) -> Throughput {
        let mut waiting = vec![0.0; self.resources_us.len()];
        let mut per_us = 0.0;
        for cores in 1..=cores {
            // An arriving core finds the others as they would be without it.
            let stays: Vec<f64> = self
                .resources_us
                .iter()
                .zip(&waiting)
                .map(|(time, waiting)| time * (1.0 + waiting))
                .collect();
            per_us = cores as f64 / (self.own_us + stays.iter().sum::<f64>());
            waiting = stays.iter().map(|stay| per_us * stay).collect();
        }
        Throughput {
            per_s: per_us * 1e6,
            utilization: self.resources_us.iter().map(|time| per_us * time).collect(),
        }
    }

    /// Returns the resource that saturates first, and the work per second at that point.
    pub fn first_saturated(&self) -> Option<(usize, f64)> {
        let longest = self.resources_us.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
        longest.filter(|(_, time)| **time > 0.0).map(|(resource, time)| (resource, 1e6 / time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-9
    }

    #[test]
    fn one_core_waits_for_nobody() {
        let work = Work { own_us: 50.0, resources_us: vec![3.0, 2.0] };
        assert!(near(work.on(1).per_s, 1e6 / 55.0));
    }

    #[test]
    fn cores_that_share_nothing_add_up() {
        let work = Work { own_us: 50.0, resources_us: vec![] };
        assert!(near(work.on(64).per_s, 64.0 * 1e6 / 50.0));
        assert!(work.first_saturated().is_none());
    }

    #[test]
    fn cores_that_share_all_do_what_one_does() {
        let work = Work { own_us: 0.0, resources_us: vec![2.0] };
        assert!(near(work.on(64).per_s, 500_000.0));
        assert!(near(work.on(64).utilization[0], 1.0));
    }

    #[test]
    fn the_longest_place_is_the_bound_and_more_cores_come_near_it() {
        let work = Work { own_us: 50.0, resources_us: vec![1.0, 4.0] };
        assert_eq!(work.first_saturated(), Some((1, 250_000.0)));
        let on: Vec<f64> = [1, 2, 8, 64, 512].map(|cores| work.on(cores).per_s).into();
        assert!(on.is_sorted());
        assert!(on[1] > 1.9 * on[0], "two cores hardly meet");
        assert!(on[4] < 250_001.0 && on[4] > 249_000.0);
    }

    /// Checked by hand: 2 cores, 3 µs of their own and 1 µs at the resource. The second core finds
    /// the first there a quarter of the time.
    #[test]
    fn two_cores_wait_as_worked_out_by_hand() {
        let work = Work { own_us: 3.0, resources_us: vec![1.0] };
        assert!(near(work.on(2).per_s, 2.0 * 1e6 / (3.0 + 1.25)));
    }
}
