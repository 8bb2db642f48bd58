//! The blocking front end, for a main loop without an executor, and for threads.

use embedded_io::{Read, ReadReady, Write};
use lapwing_protocol::ReasonCode;

use crate::event::Happened;
use crate::machine::Step;
use crate::{Client, Error, Event, LinkDown, Message};

/// Opens and holds the link to the server.
pub trait Dialer {
    /// Type of the open link.
    ///
    /// `read_ready` says whether a read would return bytes, or the end of the stream, at once. A
    /// write may block for a bounded time. Written bytes may stay in a buffer until they are
    /// flushed.
    type Link: Read + ReadReady + Write;

    /// Opens the link, or continues to. Returns `true` when it is open, `false` to be called again.
    ///
    /// # Errors
    /// [`LinkDown`] when the dial failed. The client pauses, then dials again.
    fn dial(&mut self) -> Result<bool, LinkDown>;

    /// Returns the link, if it is open.
    fn link(&mut self) -> Option<&mut Self::Link>;

    /// Closes the link, or gives up a dial.
    fn hang_up(&mut self);

    /// Returns milliseconds since any moment; they may wrap around.
    fn now_ms(&mut self) -> u32;

    /// Called when there is no work for `ms` milliseconds, unless bytes arrive. Wait for an
    /// interrupt, sleep a little, or return at once.
    fn idle(&mut self, ms: u32) {
        let _ = ms;
    }
}

impl<const OUTBOX: usize, const INBOX: usize> Client<'_, OUTBOX, INBOX> {
    /// Does the work that is due: dials, sends, receives, pings. To be called again and again from
    /// the main loop.
    ///
    /// Returns the next event, or `None` when no work is left for now.
    ///
    /// # Errors
    /// [`Error`]; the next call continues.
    pub fn poll<D: Dialer>(&mut self, dialer: &mut D) -> Option<Result<Event<'_>, Error>> {
        let happened = self.work(dialer)?;
        let (machine, io) = self.parts();
        Some(machine.event(io, happened))
    }

    /// Waits for the next message, and does all other work meanwhile.
    ///
    /// # Errors
    /// [`Error`]; the next call continues.
    pub fn wait<D: Dialer>(&mut self, dialer: &mut D) -> Result<Message<'_>, Error> {
        loop {
            match self.work(dialer) {
                Some(Happened::Message) => break,
                Some(Happened::Failed(error)) => return Err(error),
                Some(_) => {}
                None => {
                    let now_ms = dialer.now_ms();
                    dialer.idle(self.machine.due_in_ms(now_ms));
                }
            }
        }
        let (machine, io) = self.parts();
        Ok(machine.view(io))
    }

    /// Works until there is an event, or returns `None` when no work is left for now.
    fn work<D: Dialer>(&mut self, dialer: &mut D) -> Option<Happened> {
        loop {
            let now_ms = dialer.now_ms();
            let (machine, mut io) = self.parts();
            let step = machine.step(&mut io, now_ms);
            let moved = match step {
                Step::Tell(happened) => return Some(happened),
                Step::Wait => return None,
                Step::HangUp => 0,
                Step::Dial => match dialer.dial() {
                    Ok(false) => return None,
                    dialed => dialed.is_ok().into(),
                },
                step => match (step, dialer.link()) {
                    (_, None) => 0,
                    (Step::Write, Some(link)) => link.write(machine.outgoing(&io)).unwrap_or(0),
                    (Step::Flush, Some(link)) => link.flush().is_ok().into(),
                    (_, Some(link)) => match link.read_ready() {
                        Ok(false) => return None,
                        Ok(true) => link.read(machine.wanted(&mut io)).unwrap_or(0),
                        Err(_) => 0,
                    },
                },
            };
            if !machine.done(&mut io, step, moved, dialer.now_ms()) {
                dialer.hang_up();
            }
        }
    }

    /// Sends a piece of the payload that [`Event::PayloadWanted`] asked for. Returns the number of
    /// bytes sent; 0 when none are wanted.
    ///
    /// # Errors
    /// [`LinkDown`]; the payload will be asked for again.
    pub fn give_payload<D: Dialer>(&mut self, dialer: &mut D, piece: &[u8]) -> Result<usize, LinkDown> {
        let now_ms = dialer.now_ms();
        let (machine, mut io) = self.parts();
        let piece = machine.piece(piece);
        if piece.is_empty() {
            return Ok(0);
        }
        let Some(link) = dialer.link() else {
            machine.give_up();
            return Err(LinkDown);
        };
        let Ok(n @ 1..) = link.write(piece) else {
            machine.give_up();
            return Err(LinkDown);
        };
        machine.streamed(&mut io, n, now_ms);
        Ok(n)
    }

    /// Says goodbye and closes the link. Without a connection it returns at once, and dials nobody.
    ///
    /// The packet that is being written is completed, then DISCONNECT follows. If the link fails,
    /// or the payload of [`publish_in_pieces`](Self::publish_in_pieces) is not complete, the link
    /// is closed without it, and the server publishes the will.
    ///
    /// `reason` is `Success`, or `DisconnectWithWill` in MQTT 5. The outbox is kept; the next call
    /// to [`poll`](Self::poll) or [`wait`](Self::wait) connects again.
    pub fn hang_up<D: Dialer>(&mut self, dialer: &mut D, reason: ReasonCode) {
        let (machine, mut io) = self.parts();
        loop {
            let step = machine.last_step(&mut io, reason, dialer.now_ms());
            let moved = match (step, dialer.link()) {
                (Step::Write, Some(link)) => link.write(machine.outgoing(&io)).unwrap_or(0),
                (Step::Flush, Some(link)) => link.flush().is_ok().into(),
                _ => break,
            };
            if !machine.done(&mut io, step, moved, dialer.now_ms()) {
                break;
            }
        }
        dialer.hang_up();
        machine.closed(&mut io, dialer.now_ms());
    }
}
