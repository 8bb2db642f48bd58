//! The write-ahead log: frames in segments, pending records, and the thread that writes them.

pub mod disk;
pub(in crate::store) mod frame;
pub mod frame_builder;
pub(in crate::store) mod pending;
pub(in crate::store) mod segments;
pub(in crate::store) mod writer;
