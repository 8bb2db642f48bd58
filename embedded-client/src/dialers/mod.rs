//! Ready-made dialers: UART, hosts, smoltcp, embassy-net.

#[cfg(feature = "embassy-time")]
pub mod embassy;
#[cfg(feature = "embedded-io-06")]
pub mod io_06;
#[cfg(feature = "embassy-net")]
mod name;
#[cfg(feature = "smoltcp")]
pub mod smoltcp;
#[cfg(feature = "std")]
pub mod std;
#[cfg(feature = "tokio")]
pub mod tokio;
pub mod uart;
