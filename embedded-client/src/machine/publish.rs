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
                io.shelf.put_u32(from, u32::from_be_bytes([0, HEADER as u8, kind::NOTICE, flag::DROPPED]));
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
            if id != 0 && id != self.subscribing && shelf.find(kind::OUTBOUND | kind::NOTICE, id).kind() == 0
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
        self.foreign = false;
    }

    /// Number of bytes that stay free for inbound QoS 2 identifiers.
    pub(crate) fn kept(&self) -> usize {
        HEADER * usize::from(self.config.receive_maximum)
    }

    pub(crate) fn publish(
        &mut self,
        io: &mut Buffers<'_>,
        message: &Publication<'_>,
    ) -> Result<Token, PublishError> {
        let len = publication::check(message)?;
        let most = io.shelf.bytes.len().min(usize::from(u16::MAX));
        let policy = message.policy.unwrap_or(self.config.policy);
        let same_topic = if policy == Policy::LatestPerTopic { Some(message.topic) } else { None };
        // Nothing is given up before it is known that the new message fits then.
        let mut first_time = true;
        loop {
            let mut room = 0;
            let mut victim = io.shelf.oldest_unsent(same_topic, &mut room);
            let wanted = io.shelf.used() + len + self.kept();
            if first_time && wanted > most + if policy == Policy::Reject { 0 } else { room } {
                return Err(PublishError::Full);
            }
            first_time = false;
            if wanted <= most && (same_topic.is_none() || victim.kind() == 0) {
                break;
            }
            let notice = io.shelf.age(0);
            // The drop notice stands in place of the message. Notices are displaced when several
            // wait, or when nothing else is left.
            if victim.kind() == 0
                || notice.kind() != 0 && victim.at().wrapping_sub(notice.end()) >= DROP_NOTICES_MAX * HEADER
            {
                victim = notice;
            }
            self.discard(io, victim);
        }
        let tag = if message.flags & flag::QOS == 0 { 0 } else { self.allocate(&io.shelf) };
        io.shelf.enqueue(message, tag);
        self.dirty = true;
        Ok(Token(tag))
    }
}
