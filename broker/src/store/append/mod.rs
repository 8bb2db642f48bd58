//! The way into the log: records wait for their turn, are packed into frames, and one thread writes
//! these.

pub(in crate::store) mod frame_builder;
pub(in crate::store) mod intake;
pub(in crate::store) mod pending;
pub(in crate::store) mod writer;
