//! Time of one connection: its slice of the thread, its timers, and the request to close.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use lapwing_protocol::ReasonCode;
use lapwing_protocol::keepalive::ServerKeepAlive;
use tokio::time::Sleep;

use super::{Connection, Exit};
use crate::clients::CloseSignal;
use crate::connection::time_slice::TimeSlice;
use crate::message::Millis;

/// Timers and turns of a connection.
pub(crate) struct Pacing {
    pub(super) keep_alive: ServerKeepAlive,
    pub(super) slice: TimeSlice,
    /// Set when more than one message left in the last turn.
    pub(super) sent_many: bool,
    /// Set when this task has let others go first once since it was woken.
    pub(super) yielded: bool,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    pub(super) timer_at: Millis,
    /// Moment since which the client reads nothing.
    pub(super) blocked_since: Option<Millis>,
    /// Set when the connection was asked to close: the socket is read once more first, since
    /// DISCONNECT may be there.
    pub(super) close_requested: Option<CloseSignal>,
}

impl Pacing {
    /// Creates the state of a new connection.
    pub(crate) fn new(keep_alive: ServerKeepAlive) -> Pacing {
        Pacing {
            keep_alive,
            slice: TimeSlice::default(),
            sent_many: false,
            yielded: false,
            timer: None,
            timer_at: 0,
            blocked_since: None,
            close_requested: None,
        }
    }
}

impl Connection {
    /// Sets the timer for the next deadline. Returns the end of the connection when one has passed.
    pub(super) fn poll_timer(&mut self, now: Millis, cx: &mut Context<'_>) -> Option<Exit> {
        let keep_alive = self.pacing.keep_alive.remaining_ms(now as u32).map(|left| now + u64::from(left));
        if keep_alive.is_some_and(|at| at <= now) {
            let text = "nothing came for one and a half times the keep-alive".to_owned();
            return Some(Exit::Violation(ReasonCode::KeepAliveTimeout, text));
        }
        let stall_ms = u64::from(self.endpoint.limits.write_stall_timeout_s) * 1000;
        let stalled = self.pacing.blocked_since.map(|since| since + stall_ms);
        if stalled.is_some_and(|at| at <= now) {
            let text = "the client did not read for limits.write_stall_timeout_s".to_owned();
            return Some(Exit::Violation(ReasonCode::ImplementationSpecificError, text));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            let text = "the credentials have ended: come again with new ones".to_owned();
            return Some(Exit::Violation(ReasonCode::MaximumConnectTime, text));
        }
        let others = self.inbound.paused_until.into_iter().chain(self.expires_at);
        let due = keep_alive.into_iter().chain(stalled).chain(others).min()?;
        let wait = Duration::from_millis(due.saturating_sub(now) + 1);
        // A deadline that moved on keeps its old timer, which fires early and is set again. So no
        // packet touches a timer.
        if self.pacing.timer.is_none() || self.pacing.timer_at > due {
            self.pacing.timer_at = due;
            self.pacing.timer = Some(Box::pin(tokio::time::sleep(wait)));
        }
        if let Some(timer) = &mut self.pacing.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.pacing.timer = None;
            cx.waker().wake_by_ref();
        }
        None
    }
}
