//! The client for microcontrollers against the broker: links, SCRAM, TLS and firmware.

mod auth;
mod defmt_output;
mod firmware;
mod links;
mod tls;
