//! Documents and source rules that are checked against the code.

mod conformance;
mod operations;
mod prose;
mod rooms;
mod test_drive;
mod tidy;
