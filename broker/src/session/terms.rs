//! Terms that a session is opened with.

/// Limits that one connection brings to its session.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Largest number of QoS 1 and 2 messages that the client may have in flight to the broker.
    pub receive_maximum: u16,
    /// Largest number of QoS 1 and 2 messages that the broker may have in flight to the client.
    pub in_flight_max: u16,
    /// Session Expiry Interval, in seconds.
    pub expiry_s: u32,
    /// Longest wait of a message for the client, in seconds.
    pub message_expiry_max_s: u32,
}
