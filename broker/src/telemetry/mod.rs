//! Observations of the running broker: counters, reasons why messages went no further, and traces
//! of single messages.

pub mod drop_reason;
pub mod metrics;
pub mod outcomes;
pub mod trace;
