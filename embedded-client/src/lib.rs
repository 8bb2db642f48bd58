//! The MQTT client for microcontrollers: no `std`, no allocator, no `unsafe`. **Not written yet: this is its plan.**
//!
//! It will stand on `lapwing-protocol`, the crate that the broker is built on: packets ([`packet`]), QoS flows ([`flight`]), topic
//! aliases and keep-alive are there already, with storage and time handed in by the caller.
//!
//! 1. A core without sockets: `transmit`, `receive`, `deadline`, `disconnected`; time is a `u32` of milliseconds. `receive` never
//!    asks for more than the current packet needs, so dropping its future loses nothing.
//! 2. One outbox: a ring of encoded PUBLISH packets with a state byte each, which is the store of flights as well. `publish()` never
//!    blocks and works offline; policies `Reject`, `DropOldest`, `LatestPerTopic`; an age limit; a `Persist` hook for deep sleep.
//! 3. Two thin faces, blocking (embedded-io) and async (embedded-io-async), over a `Dialer` that opens the connection: dial,
//!    connect, back off with jitter, ping, resubscribe, resend, receive.
//! 4. Payloads larger than the buffers, in and out, in pieces.
//! 5. MQTT 3.1.1 and 5.0, chosen by feature or at run time.
#![no_std]

pub use lapwing_protocol::{QoS, ReasonCode, Version, flight, packet};
