//! Commands that manage the files of a broker, without starting one.

pub mod ban;
pub mod cert;
pub mod config;
pub mod ctl;
pub mod explain;
pub mod log;
pub mod manual;
pub mod password;
pub mod screen;
pub mod store;
pub mod tools;
pub mod user;
