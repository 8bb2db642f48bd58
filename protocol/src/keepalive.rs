//! Keep-alive (`3.1.2.10`) for both ends.
//!
//! Times are milliseconds that may wrap around. The machines must be asked more often than every 24
//! days.

/// Milliseconds from `earlier` to `later`; 0 when `later` is before `earlier`.
const fn elapsed_ms(earlier_ms: u32, later_ms: u32) -> u32 {
    let elapsed = later_ms.wrapping_sub(earlier_ms);
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

/// The server's side. A client is gone after one and a half times the keep-alive without a packet
/// (`[MQTT-3.1.2-22]`).
#[derive(Clone, Copy, Debug)]
pub struct ServerKeepAlive {
    grace_ms: u32,
    heard_ms: u32,
}

impl ServerKeepAlive {
    /// Starts with a keep-alive in seconds, as the client asked or the server set. 0 turns it off.
    pub const fn new(keep_alive_s: u16, now_ms: u32) -> Self {
        ServerKeepAlive { grace_ms: keep_alive_s as u32 * 1_500, heard_ms: now_ms }
    }

    /// Notes that a whole packet was received.
    pub const fn heard(&mut self, now_ms: u32) {
        self.heard_ms = now_ms;
    }

    /// Milliseconds until the client counts as gone. 0 means now, `None` means never.
    pub const fn remaining_ms(&self, now_ms: u32) -> Option<u32> {
        if self.grace_ms == 0 {
            return None;
        }
        Some(self.grace_ms.saturating_sub(elapsed_ms(self.heard_ms, now_ms)))
    }
}

/// The next keep-alive action of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAliveStep {
    /// Wait for this many milliseconds.
    Wait(u32),
    /// Send PINGREQ (`[MQTT-3.1.2-20]`).
    Ping,
    /// Give up this connection: the answer to PINGREQ is overdue.
    Dead,
    /// Keep-alive is off.
    Off,
}

/// The client's side. It sends a packet in every keep-alive interval, and expects PINGRESP in time.
#[derive(Clone, Copy, Debug)]
pub struct ClientKeepAlive {
    interval_ms: u32,
    response_ms: u32,
    sent_ms: u32,
    pinged_ms: Option<u32>,
}

impl ClientKeepAlive {
    /// Starts with the agreed keep-alive in seconds; Server Keep Alive wins. PINGRESP may take
    /// `response_ms`.
    pub const fn new(keep_alive_s: u16, response_ms: u32, now_ms: u32) -> Self {
        ClientKeepAlive {
            interval_ms: keep_alive_s as u32 * 1_000,
            response_ms,
            sent_ms: now_ms,
            pinged_ms: None,
        }
    }

    /// Notes that a packet was sent.
    pub const fn sent(&mut self, now_ms: u32) {
        self.sent_ms = now_ms;
    }

    /// Notes that a PINGREQ was sent.
    pub const fn pinged(&mut self, now_ms: u32) {
        self.sent_ms = now_ms;
        if self.pinged_ms.is_none() {
            self.pinged_ms = Some(now_ms);
        }
    }

    /// Notes that a PINGRESP was received.
    pub const fn answered(&mut self) {
        self.pinged_ms = None;
    }

    /// Returns the next action.
    pub const fn step(&self, now_ms: u32) -> KeepAliveStep {
        if self.interval_ms == 0 {
            return KeepAliveStep::Off;
        }
        if let Some(pinged_ms) = self.pinged_ms {
            let waited = elapsed_ms(pinged_ms, now_ms);
            return match self.response_ms.checked_sub(waited) {
                None | Some(0) => KeepAliveStep::Dead,
                Some(left) => KeepAliveStep::Wait(left),
            };
        }
        match self.interval_ms.checked_sub(elapsed_ms(self.sent_ms, now_ms)) {
            None | Some(0) => KeepAliveStep::Ping,
            Some(left) => KeepAliveStep::Wait(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // 3.1.1: [MQTT-3.1.2-24]  5.0: [MQTT-3.1.2-22]
    #[test]
    fn a_server_waits_one_and_a_half_times_the_keep_alive_also_across_the_wrap() {
        let start = u32::MAX - 5_000;
        let mut server = ServerKeepAlive::new(10, start);
        assert_eq!(server.remaining_ms(start.wrapping_add(14_999)), Some(1));
        assert_eq!(server.remaining_ms(start.wrapping_add(15_000)), Some(0));
        server.heard(start.wrapping_add(14_000));
        assert_eq!(server.remaining_ms(start.wrapping_add(15_000)), Some(14_000));
        assert_eq!(ServerKeepAlive::new(0, 0).remaining_ms(u32::MAX), None);
    }

    #[test]
    fn a_client_pings_when_it_was_silent_and_leaves_when_nobody_answers() {
        let mut client = ClientKeepAlive::new(10, 3_000, 0);
        assert_eq!(client.step(9_000), KeepAliveStep::Wait(1_000));
        assert_eq!(client.step(10_000), KeepAliveStep::Ping);
        client.pinged(10_000);
        assert_eq!(client.step(12_000), KeepAliveStep::Wait(1_000));
        assert_eq!(client.step(13_000), KeepAliveStep::Dead);
        client.answered();
        assert_eq!(client.step(13_000), KeepAliveStep::Wait(7_000));
        assert_eq!(ClientKeepAlive::new(0, 0, 0).step(1), KeepAliveStep::Off);
    }
}
