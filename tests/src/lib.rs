//! Black-box tests of Lapwing over sockets.
//!
//! [`wire`] is a codec of its own, so that a mistake made alike in reading and writing cannot hide;
//! what the broker writes is read by `mqttbytes` as well, where that is sound. [`script`] plays
//! dialogues written as data (`tests/cases/conformance/`). [`model`] drives a session without
//! sockets. [`table`] makes `docs/CONFORMANCE.md` from the statements of the standards and the
//! tests that show them.

pub mod access;
pub mod authority;
pub mod bystander;
pub mod client;
pub mod disk;
pub mod http;
pub mod inside;
pub mod ledger;
pub mod model;
pub mod program;
pub mod prometheus;
pub mod random;
pub mod scram;
pub mod script;
mod siege;
pub mod sources;
pub mod table;
pub mod token;
pub mod wire;
