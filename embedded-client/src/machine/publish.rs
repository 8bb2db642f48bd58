//! Messages into the outbox: packet identifiers, policies, and drop notices.

use super::{Buffers, Machine};
use crate::config::Policy;
use crate::publication::{self, Publication};
use crate::shelf::{HEADER, Record, Shelf, flag, kind};
use crate::{PublishError, Token};

/// Number of drop notices that may keep room from messages.
const DROP_NOTICES_MAX: usize = 8;

impl Machine<'_> {
    /// Drops an unsent message, while another one may be on its way out. Its token stays, and the
    /// next step reports it. For a token, it drops the token.
    #[inline(never)]
    pub(super) fn discard(&mut self, io: &mut Buffers<'_>, record: Record) {
        let mut from = record.at();
        if record.of(kind::PUBLISH) {
            self.dropped = self.dropped.wrapping_add(1);
            if record.tag() != 0 {
                io.shelf.put_u32(from, u32::from_be_bytes([0, HEADER as u8, kind::DROPPED, 0]));
                from = record.body();
            }
        }
        self.out.moved(from, record.end());
        io.shelf.cut(from, record.end());
        self.dirty = true;
    }

    /// Returns a packet identifier that is not in use (`[MQTT-2.2.1-4]`). One is always free: the
    /// shelf has no room for so many records.
    pub(crate) fn allocate(&mut self, shelf: &Shelf<'_>) -> u16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = self.last_id;
            if id != 0 && id != self.subscribing && shelf.find(kind::OUTBOUND | kind::DROPPED, id).kind() == 0
            {
                return id;
            }
        }
    }

    /// Continues after the packet identifiers of a restored session.
    pub(crate) fn resume_ids(&mut self, shelf: &Shelf<'_>) {
        let (mut record, mut last) = (shelf.first(), 0);
        while record.kind() != 0 {
            if record.of(kind::OUTBOUND) {
                last = record.tag();
            }
            record = shelf.after(record);
        }
        self.last_id = last;
    }

    /// Number of bytes that stay free for inbound QoS 2 identifiers.
    pub(crate) fn kept(&self) -> usize {
        HEADER * usize::from(self.config.receive_maximum)
    }

    #[inline(never)]
    pub(crate) fn publish(
        &mut self,
        io: &mut Buffers<'_>,
        message: &Publication<'_>,
    ) -> Result<Token, PublishError> {
        publication::check(message)?;
        // A message that never fits must not displace others.
        if message.topic.len() + message.payload.len() + 2 * HEADER + self.kept() > io.shelf.bytes.len() {
            return Err(PublishError::Full);
        }
        let policy = message.policy.unwrap_or(self.config.policy);
        let same_topic = if policy == Policy::LatestPerTopic { Some(message.topic) } else { None };
        let tag = if message.flags & flag::QOS == 0 { 0 } else { self.allocate(&io.shelf) };
        while let Err(error) = io.shelf.enqueue(message, tag, self.kept()) {
            let may_drop = error == PublishError::Full && policy != Policy::Reject;
            let mut victim = io.shelf.oldest_unsent(same_topic);
            let gone = io.shelf.age(0);
            // The drop notice stands in place of the message. Notices are displaced when several
            // wait, or when nothing else is left.
            if gone.kind() != 0 && victim.at().wrapping_sub(gone.end()) >= DROP_NOTICES_MAX * HEADER {
                victim = gone;
            }
            if !may_drop || victim.kind() == 0 {
                return Err(error);
            }
            self.discard(io, victim);
        }
        if same_topic.is_some() {
            let older = io.shelf.oldest_unsent(same_topic);
            if older.end() < io.shelf.used() {
                self.discard(io, older);
            }
        }
        self.dirty = true;
        Ok(Token(tag))
    }
}
