//! Telemetry of the running broker: counters, drop reasons, and traces of single messages.

pub mod drop_reason;
pub mod metrics;
pub mod outcomes;
pub mod trace;
