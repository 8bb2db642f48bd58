//! Signs of life on a connection (`3.1.2.10`).
//!
//! The client pings when it has sent no packet for a keep-alive, as the standard demands. It also
//! pings when it has heard nothing for as long: only bytes that arrive show that the server is
//! there. Any byte answers a ping, since a long packet may stand before PINGRESP.

use super::Machine;

/// Longest time in milliseconds that counts as not over.
const FOREVER_MS: u32 = u32::MAX / 2;

/// The next action for the keep-alive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    Ping,
    /// The answer to a ping is overdue.
    Dead,
    Wait(u32),
}

impl Machine<'_> {
    /// Notes that bytes arrived.
    pub(super) fn heard(&mut self, now_ms: u32) {
        self.heard_ms = now_ms;
        self.asked = false;
    }

    /// Notes that PINGREQ is being sent.
    pub(super) fn pinged(&mut self, now_ms: u32) {
        self.sent_ms = now_ms;
        if !self.asked {
            self.asked = true;
            self.heard_ms = now_ms;
        }
    }

    /// Returns the next action.
    #[inline(never)]
    pub(super) fn pulse(&self, now_ms: u32) -> Pulse {
        let interval_ms =
            if self.keep_alive_s == 0 { FOREVER_MS } else { u32::from(self.keep_alive_s) * 1_000 };
        let patience_ms = if self.asked { self.config.response_ms.into() } else { interval_ms };
        let unheard_ms = patience_ms.saturating_sub(now_ms.wrapping_sub(self.heard_ms));
        let unsent_ms = interval_ms.saturating_sub(now_ms.wrapping_sub(self.sent_ms));
        match unheard_ms.min(unsent_ms) {
            0 if self.asked && unheard_ms == 0 => Pulse::Dead,
            0 => Pulse::Ping,
            ms => Pulse::Wait(ms),
        }
    }
}
