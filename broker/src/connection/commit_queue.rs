//! Packets that wait for the store: acknowledgements until their record is safe, messages until the
//! record of their sending is.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use lapwing_protocol::PacketId;

use crate::connection::Connection;
use crate::connection::output::Output;
use crate::message::Message;
use crate::session::Session;
use crate::store::{Failed, RecordBatch, Store, Ticket, WakerSlot};

/// The queue of one connection; it also holds the records of the turn, and the waker's slot at the
/// store.
pub(crate) struct CommitQueue {
    /// Records that this turn puts into the log.
    pub(crate) records: RecordBatch,
    /// Acknowledgements in the order in which they leave.
    pub(super) acks: VecDeque<HeldAck>,
    /// Encoded bytes of all of them, one behind the other.
    pub(super) bytes: VecDeque<u8>,
    /// Messages in the order in which they leave.
    pub(super) publishes: VecDeque<HeldPublish>,
    /// Sum of their sizes, in bytes.
    pub(super) publish_bytes: usize,
    pub(super) slot: WakerSlot,
    /// Set while the store has no room: no PUBLISH is taken in.
    pub(super) store_full: bool,
    /// Ticket of a record behind all that an earlier connection has sent.
    pub(super) resumed: Ticket,
}

/// An acknowledgement that waits for the store.
#[derive(Debug)]
pub(super) struct HeldAck {
    ticket: Ticket,
    /// Number of its encoded bytes.
    len: usize,
    is_puback: bool,
}

/// A PUBLISH that waits until the store knows that it was sent, or stands behind one that does; or
/// a PUBREL that is sent again.
#[derive(Debug)]
pub(super) struct HeldPublish {
    pub(super) ticket: Ticket,
    pub(super) header: Vec<u8>,
    pub(super) message: Option<Message>,
}

impl HeldPublish {
    fn len(&self) -> usize {
        self.header.len() + self.message.as_ref().map_or(0, Message::size)
    }
}

impl CommitQueue {
    /// Creates an empty queue. `resumed` is the ticket of a record behind all packets of an earlier
    /// connection.
    pub(crate) fn new(records: RecordBatch, resumed: Ticket) -> CommitQueue {
        CommitQueue {
            records,
            acks: VecDeque::new(),
            bytes: VecDeque::new(),
            publishes: VecDeque::new(),
            publish_bytes: 0,
            slot: WakerSlot::default(),
            store_full: false,
            resumed,
        }
    }

    /// Holds a message that waits for the store, or stands behind one that does.
    pub(super) fn hold_publish(&mut self, publish: HeldPublish) {
        self.publish_bytes += publish.len();
        self.publishes.push_back(publish);
    }

    /// Holds an encoded packet until its ticket is good.
    pub(crate) fn hold(&mut self, bytes: &[u8], ticket: Ticket) {
        self.bytes.extend(bytes);
        self.acks.push_back(HeldAck { ticket, len: bytes.len(), is_puback: false });
    }

    /// Holds a PUBACK; the Receive Maximum counts its message until it leaves.
    pub(super) fn hold_puback(&mut self, bytes: &[u8], ticket: Ticket, id: PacketId, session: &mut Session) {
        session.puback_held(id);
        self.bytes.extend(bytes);
        self.acks.push_back(HeldAck { ticket, len: bytes.len(), is_puback: true });
    }

    /// Writes the packets whose tickets are good: acknowledgements in their order, messages in
    /// theirs. Registers `cx` for the others.
    ///
    /// # Errors
    /// The store has failed for good.
    pub(super) fn release(
        &mut self,
        store: &dyn Store,
        session: &mut Session,
        output: &mut Output,
        cx: &mut Context<'_>,
    ) -> Result<(), Failed> {
        let mut ready = 0;
        while let Some(ack) = self.acks.front() {
            match store.poll(ack.ticket, &mut self.slot, cx) {
                Poll::Pending => break,
                Poll::Ready(kept) => kept?,
            }
            if ack.is_puback {
                session.puback_released();
            }
            ready += ack.len;
            self.acks.pop_front();
        }
        if ready > 0 {
            let (front, back) = self.bytes.as_slices();
            let split = ready.min(front.len());
            output.extend(front.get(..split).unwrap_or(&[]));
            output.extend(back.get(..ready - split).unwrap_or(&[]));
            self.bytes.drain(..ready);
            if self.bytes.is_empty() {
                self.bytes = VecDeque::new();
            }
        }
        while let Some(publish) = self.publishes.front() {
            match store.poll(publish.ticket, &mut self.slot, cx) {
                Poll::Pending => break,
                Poll::Ready(kept) => kept?,
            }
            output.extend(&publish.header);
            if let Some(message) = &publish.message {
                output.payload(message);
            }
            self.publish_bytes -= publish.len();
            self.publishes.pop_front();
        }
        Ok(())
    }
}

impl Connection {
    /// Puts the outcomes of the session's messages on record, after each call that may leave some.
    /// Returns the ticket that an answer to the client waits for.
    #[inline]
    pub(super) fn record_outcomes(&mut self) -> Ticket {
        if self.owned.session.outgoing.outcomes.is_empty() {
            return Ticket::default();
        }
        let level = self.level();
        self.commits.records.append_outcomes(&mut self.owned.session, level)
    }
}
