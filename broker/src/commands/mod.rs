//! Commands that look after what a broker uses, without starting one.

pub mod explain;
pub mod password;
pub mod user;
