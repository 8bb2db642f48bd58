//! The async face: for any executor.

use core::future::Future;
use core::pin::pin;
use core::task::Poll;

use embedded_io_async::{Read, Write};
use lapwing_protocol::ReasonCode;

use crate::event::Happened;
use crate::machine::Step;
use crate::{Client, Error, Event, LinkDown, Message};

/// The time.
pub trait Timer {
    /// Milliseconds since any moment; may wrap around.
    fn now_ms(&self) -> u32;

    /// Waits for `ms` milliseconds.
    fn sleep_ms(&self, ms: u32) -> impl Future<Output = ()>;
}

/// Opens the link to the server, and holds it: TCP, TLS, a UART, whatever carries bytes.
///
/// The client's futures may be dropped at any await. Therefore a dropped `read` or `write` of the link must have moved no bytes (so
/// it is with TCP sockets and with UARTs that are buffered by interrupts), and `dial` goes on where a dropped one was, if it can.
pub trait Dialer {
    /// The open link. What is written may stay in a buffer until it is flushed.
    type Link: Read + Write;
    /// The time.
    type Timer: Timer + Clone;

    /// Opens the link.
    ///
    /// # Errors
    /// The dial failed; the client pauses, then dials again.
    fn dial(&mut self) -> impl Future<Output = Result<(), LinkDown>>;

    /// The link, if it is open.
    fn link(&mut self) -> Option<&mut Self::Link>;

    /// Closes the link, or gives up a dial.
    fn hang_up(&mut self);

    /// The time.
    fn timer(&self) -> Self::Timer;
}

impl<const OUTBOX: usize, const INBOX: usize> Client<'_, OUTBOX, INBOX> {
    /// Waits for the next message, and does all else on the way: dials, connects, subscribes, sends and sends again, pings, pauses.
    /// The future may be dropped at any time; nothing is lost by it.
    ///
    /// # Errors
    /// [`Error`]; the next call goes on. A lost link is no error.
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

    /// As [`next`](Self::next), but for everything that there is to tell.
    ///
    /// # Errors
    /// [`Error`]; the next call goes on.
    pub async fn event<D: Dialer>(&mut self, dialer: &mut D) -> Result<Event<'_>, Error> {
        let happened = self.happens(dialer).await;
        let (machine, io) = self.parts();
        machine.event(io, happened)
    }

    /// Sends a piece of the payload that [`Event::PayloadWanted`] asked for; how much of it has left: 0 when none is wanted.
    ///
    /// # Errors
    /// The link is gone; the payload will be asked for again.
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
        let written = race(link.write(piece), timer.sleep_ms(due_ms)).await;
        let Some(Ok(n)) = written else {
            machine.give_up();
            return Err(LinkDown);
        };
        machine.streamed(&mut io, n, timer.now_ms());
        Ok(n)
    }

    /// Says goodbye and closes the link: `Success`, or `DisconnectWithWill` (MQTT 5). What is in the outbox stays there; the next
    /// call to [`next`](Self::next) connects again.
    pub async fn close<D: Dialer>(&mut self, dialer: &mut D, reason: ReasonCode) {
        let timer = dialer.timer();
        self.machine.close(reason, timer.now_ms());
        while self.machine.is_open() {
            if let Happened::PayloadWanted | Happened::Disconnected(_) = self.happens(dialer).await {
                break;
            }
        }
        dialer.hang_up();
        let (machine, mut io) = self.parts();
        machine.closed(&mut io, timer.now_ms());
    }

    async fn happens<D: Dialer>(&mut self, dialer: &mut D) -> Happened {
        let timer = dialer.timer();
        let (machine, mut io) = self.parts();
        loop {
            let now_ms = timer.now_ms();
            let step = machine.step(&mut io, now_ms);
            let pause = timer.sleep_ms(machine.due_in_ms(now_ms));
            let done = match step {
                Step::Tell(happened) => return happened,
                Step::Wait => {
                    pause.await;
                    continue;
                }
                Step::HangUp => Err(LinkDown),
                Step::Dial => match race(dialer.dial(), pause).await {
                    None => continue,
                    Some(dialed) => dialed.map(|()| machine.dialed(timer.now_ms())),
                },
                step => match dialer.link() {
                    None => Err(LinkDown),
                    Some(link) => match step {
                        Step::Write => match race(link.write(machine.outgoing(&io)), pause).await {
                            None => continue,
                            Some(Ok(n)) => {
                                machine.wrote(&mut io, n, timer.now_ms());
                                Ok(())
                            }
                            Some(Err(_)) => Err(LinkDown),
                        },
                        Step::Flush => match race(link.flush(), pause).await {
                            None | Some(Err(_)) => Err(LinkDown),
                            Some(Ok(())) => {
                                machine.flushed();
                                Ok(())
                            }
                        },
                        _ => match race(link.read(machine.wanted(&mut io)), pause).await {
                            None => continue,
                            Some(Ok(0) | Err(_)) => Err(LinkDown),
                            Some(Ok(n)) => {
                                machine.received(&mut io, n, timer.now_ms());
                                Ok(())
                            }
                        },
                    },
                },
            };
            if done.is_err() {
                dialer.hang_up();
                machine.lost(&mut io, timer.now_ms());
            }
        }
    }
}

/// The first future, unless the second is done before it.
pub(crate) async fn race<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> Option<T> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    core::future::poll_fn(|context| {
        if let Poll::Ready(done) = first.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        second.as_mut().poll(context).map(|()| None)
    })
    .await
}
