//! Bounds that the broker keeps across connections: connections and memory, rates, clients that
//! come too often.

pub mod budget;
pub mod flapping;
pub mod memory;
pub mod rate;
