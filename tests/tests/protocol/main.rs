//! The protocol beyond the dialogues of `tests/cases/conformance/`: clients of others, and hostile
//! ones.

mod foreign;
mod hostile;
