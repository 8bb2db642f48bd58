//! The async front end, for any executor.

use core::future::Future;
use core::pin::{Pin, pin};
use core::task::Poll;

use embedded_io_async::{Read, Write};
use lapwing_protocol::ReasonCode;

use crate::event::Happened;
use crate::machine::Step;
use crate::{Client, Error, Event, LinkDown, Message};

/// Clock and timer.
pub trait Timer {
    /// Returns milliseconds since any moment; they may wrap around.
    fn now_ms(&self) -> u32;

    /// Waits for `ms` milliseconds.
    fn sleep_ms(&self, ms: u32) -> impl Future<Output = ()>;
}

/// Opens and holds the link to the server: TCP, TLS, a UART, or anything else that carries bytes.
///
/// The client's futures may be dropped at any await. Therefore a dropped `read` or `write` of the
/// link must have moved no bytes. TCP sockets and interrupt-buffered UARTs behave so. `dial`
/// continues where a dropped one was, if it can.
pub trait Dialer {
    /// Type of the open link. Written bytes may stay in a buffer until they are flushed.
    type Link: Read + Write;
    /// Type of the clock.
    type Timer: Timer + Clone;

    /// Opens the link.
    ///
    /// # Errors
    /// [`LinkDown`] when the dial failed. The client pauses, then dials again.
    fn dial(&mut self) -> impl Future<Output = Result<(), LinkDown>>;

    /// Returns the link, if it is open.
    fn link(&mut self) -> Option<&mut Self::Link>;

    /// Closes the link, or gives up a dial.
    fn hang_up(&mut self);

    /// Returns the clock.
    fn timer(&self) -> Self::Timer;
}

impl<const OUTBOX: usize, const INBOX: usize> Client<'_, OUTBOX, INBOX> {
    /// Waits for the next message.
    ///
    /// Meanwhile it dials, connects, subscribes, sends, sends again, pings and pauses. The future
    /// may be dropped at any time, and nothing is lost.
    ///
    /// # Errors
    /// [`Error`]; the next call continues. A lost link is no error.
    pub async fn next<D: Dialer>(&mut self, dialer: &mut D) -> Result<Message<'_>, Error> {
        loop {
            match self.happens(dialer).await {
                Happened::Message => break,
                Happened::Failed(error) => return Err(error),
                _ => {}
            }
        }
        let (machine, io) = self.parts();
        Ok(machine.view(io))
    }

    /// Waits for the next event of any kind. Otherwise it is the same as [`next`](Self::next).
    ///
    /// # Errors
    /// [`Error`]; the next call continues.
    pub async fn event<D: Dialer>(&mut self, dialer: &mut D) -> Result<Event<'_>, Error> {
        let happened = self.happens(dialer).await;
        let (machine, io) = self.parts();
        machine.event(io, happened)
    }

    /// Sends a piece of the payload that [`Event::PayloadWanted`] asked for. Returns the number of
    /// bytes sent; 0 when none are wanted.
    ///
    /// # Errors
    /// [`LinkDown`]; the payload will be asked for again.
    pub async fn send_payload<D: Dialer>(&mut self, dialer: &mut D, piece: &[u8]) -> Result<usize, LinkDown> {
        let timer = dialer.timer();
        let (machine, mut io) = self.parts();
        let piece = machine.piece(piece);
        if piece.is_empty() {
            return Ok(0);
        }
        let Some(link) = dialer.link() else {
            machine.give_up();
            return Err(LinkDown);
        };
        let due_ms = machine.due_in_ms(timer.now_ms());
        let written = race(pin!(link.write(piece)), pin!(timer.sleep_ms(due_ms))).await;
        let Some(Ok(n @ 1..)) = written else {
            machine.give_up();
            return Err(LinkDown);
        };
        machine.streamed(&mut io, n, timer.now_ms());
        Ok(n)
    }

    /// Says goodbye and closes the link. Without a connection it returns at once, and dials nobody.
    ///
    /// The packet that is being written is completed, then DISCONNECT follows. If the link takes
    /// nothing for the response timeout, or the payload of
    /// [`publish_in_pieces`](Self::publish_in_pieces) is not complete, the link is closed without
    /// it, and the server publishes the will.
    ///
    /// `reason` is `Success`, or `DisconnectWithWill` in MQTT 5. The outbox is kept; the next call
    /// to [`next`](Self::next) connects again.
    pub async fn close<D: Dialer>(&mut self, dialer: &mut D, reason: ReasonCode) {
        let timer = dialer.timer();
        let (machine, mut io) = self.parts();
        loop {
            let now_ms = timer.now_ms();
            let step = machine.last_step(&mut io, reason, now_ms);
            let pause = timer.sleep_ms(machine.due_in_ms(now_ms));
            let (Step::Write | Step::Flush, Some(link)) = (step, dialer.link()) else { break };
            let moved = match step {
                Step::Write => race(pin!(link.write(machine.outgoing(&io))), pin!(pause)).await,
                _ => race(pin!(link.flush()), pin!(pause)).await.map(|done| done.map(|()| 1)),
            };
            let moved = moved.and_then(Result::ok).unwrap_or(0);
            if !machine.done(&mut io, step, moved, timer.now_ms()) {
                break;
            }
        }
        dialer.hang_up();
        machine.closed(&mut io, timer.now_ms());
    }

    async fn happens<D: Dialer>(&mut self, dialer: &mut D) -> Happened {
        let timer = dialer.timer();
        let (machine, mut io) = self.parts();
        loop {
            let now_ms = timer.now_ms();
            let step = machine.step(&mut io, now_ms);
            let mut pause = pin!(timer.sleep_ms(machine.due_in_ms(now_ms)));
            let pause = pause.as_mut();
            // `None` when the pause was over before.
            let moved = match step {
                Step::Tell(happened) => return happened,
                Step::HangUp => Some(0),
                Step::Wait => {
                    pause.await;
                    None
                }
                Step::Dial => race(pin!(dialer.dial()), pause).await.map(|dialed| dialed.is_ok().into()),
                step => match (step, dialer.link()) {
                    (_, None) => Some(0),
                    (Step::Write, Some(link)) => {
                        race(pin!(link.write(machine.outgoing(&io))), pause).await.map(|n| n.unwrap_or(0))
                    }
                    (Step::Flush, Some(link)) => {
                        race(pin!(link.flush()), pause).await.map(|done| done.is_ok().into())
                    }
                    (_, Some(link)) => {
                        race(pin!(link.read(machine.wanted(&mut io))), pause).await.map(|n| n.unwrap_or(0))
                    }
                },
            };
            if let Some(moved) = moved
                && !machine.done(&mut io, step, moved, timer.now_ms())
            {
                dialer.hang_up();
            }
        }
    }
}

/// Returns the result of the first future, or `None` if the second is ready before it.
pub(crate) async fn race<T>(
    mut first: Pin<&mut impl Future<Output = T>>,
    mut second: Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    core::future::poll_fn(|context| {
        if let Poll::Ready(done) = first.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        second.as_mut().poll(context).map(|()| None)
    })
    .await
}
