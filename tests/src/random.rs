//! Random numbers of tests, repeatable by their seed.

/// Seed of a run where `LAPWING_SEED` does not name one.
const EVERYDAY: u64 = 18;

/// Seed of this run, printed so that a failure can be repeated: `LAPWING_SEED`, else always the
/// same. `LAPWING_SEED=random` takes one from the clock, as `./check --full` does.
pub fn seed() -> u64 {
    let seed = match std::env::var("LAPWING_SEED") {
        Err(_) => EVERYDAY,
        Ok(word) if word == "random" => {
            std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").subsec_nanos().into()
        }
        Ok(number) => number.parse().expect("LAPWING_SEED is a number or `random`"),
    };
    println!("LAPWING_SEED={seed}");
    seed
}

/// Generator of numbers: the same ones again from the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns the next number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}
