//! Operators' interfaces of a running broker: API, `lapwing ctl`, metrics, traces and reloads.

mod api;
mod metrics;
mod reload;
mod trace;
