//! Limits across connections: their number, memory, publish rates, flapping clients.

pub mod budget;
pub mod flapping;
pub mod memory;
pub mod rate;
