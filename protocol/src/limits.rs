//! Sizes that the wire format sets.

/// The longest Remaining Length, in bytes (`[MQTT-2.1.4]`: four bytes of seven bits).
pub const REMAINING_LENGTH_MAX: u32 = 268_435_455;
/// The largest whole packet, in bytes: one type byte, four length bytes, the longest Remaining
/// Length.
pub const PACKET_BYTES_MAX: u32 = REMAINING_LENGTH_MAX + 5;
/// The longest UTF-8 string or binary data, in bytes.
pub const STRING_BYTES_MAX: usize = 65_535;
/// Receive Maximum if CONNECT or CONNACK has none (`3.1.2.11.3`).
pub const RECEIVE_MAXIMUM_DEFAULT: u16 = 65_535;
/// A Session Expiry Interval that means "never" (`3.1.2.11.2`).
pub const SESSION_NEVER_EXPIRES_S: u32 = u32::MAX;
