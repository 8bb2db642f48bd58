//! Programs to copy from: `cargo run --example embed`.
