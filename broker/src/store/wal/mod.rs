//! The write-ahead log: frames of packed records in segments. What a record means is not known
//! here.

pub mod disk;
pub(in crate::store) mod frame;
pub(in crate::store) mod segments;
