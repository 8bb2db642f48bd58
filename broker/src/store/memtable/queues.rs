//! Queue rows of a memtable: one sequence for each session, in the order of slots. Rows are added
//! at the end and mostly removed at the front. A removal elsewhere leaves a tombstone until its
//! neighbors are gone.

use std::collections::VecDeque;
use std::ops::Range;

use crate::message::{Seq, SessionNumber};
use crate::store::memtable::id_map::NumberMap;
use crate::store::memtable::row::Row;

/// One cell of a session's sequence.
#[derive(Debug)]
enum QueueCell {
    Row(Row),
    /// A removed row.
    Tombstone(Seq),
}

impl QueueCell {
    fn seq(&self) -> Seq {
        match self {
            QueueCell::Row(row) => row.seq(),
            QueueCell::Tombstone(seq) => *seq,
        }
    }

    fn row(&self) -> Option<&Row> {
        match self {
            QueueCell::Row(row) => Some(row),
            QueueCell::Tombstone(_) => None,
        }
    }
}

// Two cells fit into a cache line.
const _: () = assert!(size_of::<QueueCell>() <= 32);

type SessionRows = VecDeque<QueueCell>;

/// Queue rows of all sessions.
#[derive(Debug, Default)]
pub(in crate::store) struct QueueRows {
    sessions: NumberMap<SessionRows>,
    /// Estimated memory of the rows, in bytes.
    bytes: usize,
}

impl QueueRows {
    /// Adds a row, or replaces the one in its slot.
    pub(in crate::store) fn insert(&mut self, session: SessionNumber, row: Row) {
        let cells = self.sessions.entry(session).or_default();
        let seq = row.seq();
        self.bytes += row.weight();
        if cells.back().is_none_or(|last| last.seq() < seq) {
            cells.push_back(QueueCell::Row(row));
            return;
        }
        match cells.binary_search_by_key(&seq, QueueCell::seq) {
            Ok(at) => {
                if let Some(cell) = cells.get_mut(at)
                    && let QueueCell::Row(old) = std::mem::replace(cell, QueueCell::Row(row))
                {
                    self.bytes -= old.weight();
                }
            }
            Err(at) => cells.insert(at, QueueCell::Row(row)),
        }
    }

    /// Removes a row; `false` if it is not here.
    pub(in crate::store) fn take(&mut self, session: SessionNumber, seq: Seq) -> bool {
        let Some(cells) = self.sessions.get_mut(&session) else { return false };
        let at = match cells.front() {
            Some(first) if first.seq() == seq => Ok(0),
            _ => cells.binary_search_by_key(&seq, QueueCell::seq),
        };
        let cell = at.ok().and_then(|at| cells.get_mut(at));
        let taken = match cell.map(|cell| std::mem::replace(cell, QueueCell::Tombstone(seq))) {
            Some(QueueCell::Row(row)) => {
                self.bytes -= row.weight();
                true
            }
            Some(QueueCell::Tombstone(_)) | None => false,
        };
        while cells.front().is_some_and(|cell| cell.row().is_none()) {
            cells.pop_front();
        }
        while cells.back().is_some_and(|cell| cell.row().is_none()) {
            cells.pop_back();
        }
        taken
    }

    /// Returns true if the row is here.
    pub(in crate::store) fn contains(&self, session: SessionNumber, seq: Seq) -> bool {
        self.range(session, seq..seq.saturating_add(1)).next().is_some()
    }

    /// Rows of a session in this range.
    pub(in crate::store) fn range(
        &self,
        session: SessionNumber,
        range: Range<Seq>,
    ) -> impl Iterator<Item = &Row> {
        let cells = self.sessions.get(&session);
        let start = cells.map_or(0, |cells| cells.partition_point(|cell| cell.seq() < range.start));
        let rows = cells.into_iter().flat_map(move |cells| cells.range(start..));
        rows.take_while(move |cell| cell.seq() < range.end).filter_map(QueueCell::row)
    }

    /// All rows, in the order of sessions and slots.
    pub(in crate::store) fn iter(&self) -> impl Iterator<Item = (SessionNumber, &Row)> {
        let mut sessions: Vec<(SessionNumber, &SessionRows)> =
            self.sessions.iter().map(|(session, cells)| (*session, cells)).collect();
        sessions.sort_unstable_by_key(|(session, _)| *session);
        sessions
            .into_iter()
            .flat_map(|(session, cells)| cells.iter().filter_map(move |cell| Some((session, cell.row()?))))
    }

    /// Sessions that have or had rows here.
    pub(in crate::store) fn sessions(&self) -> impl Iterator<Item = SessionNumber> {
        self.sessions.keys().copied()
    }

    /// Removes a session.
    pub(in crate::store) fn forget(&mut self, session: SessionNumber) {
        let cells = self.sessions.remove(&session).unwrap_or_default();
        self.bytes -= cells.iter().filter_map(QueueCell::row).map(Row::weight).sum::<usize>();
    }

    /// Estimated memory of the sequences, in bytes.
    pub(in crate::store) fn weight(&self) -> usize {
        self.bytes + self.sessions.len() * size_of::<(SessionNumber, SessionRows)>()
    }
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::QoS;

    use super::*;
    use crate::message::{DeliveryTerms, Message, MessageParts, SubscriptionIds};
    use crate::store::location::{LogLocation, MessageRef};
    use crate::store::memtable::{AppliedRecord, MemTable, Queues};
    use crate::store::record::{QueueSlot, QueueSlots, Record};

    /// A message in this slot of the queue of session 1.
    fn published(seq: Seq, subscription_ids: SubscriptionIds) -> Record {
        let message = Message::new(&MessageParts {
            topic: "t",
            properties: &[],
            payload: b"m",
            qos: QoS::AtLeastOnce,
            retain: false,
            publisher: 1,
            published_at: 0,
            expires_at: None,
        });
        let terms = DeliveryTerms { subscription_ids, ..DeliveryTerms::plain(QoS::AtLeastOnce) };
        let queued = QueueSlots::One(QueueSlot { session: 1, seq, terms });
        Record::Published { message, retained: false, queued, beside: None }
    }

    #[test]
    fn the_memory_of_rows_is_freed_whatever_the_order_of_removal() {
        let (mut table, mut queues) = (MemTable::default(), Queues::default());
        let reference = MessageRef { location: LogLocation { segment: 1, at: 0 }, len: 9, sum: 0 };
        let kinds = [
            (SubscriptionIds::None, Some(reference)),
            (SubscriptionIds::One(7), Some(reference)),
            (SubscriptionIds::None, None),
        ];
        let mut weights = vec![table.queue.weight()];
        for (seq, (ids, reference)) in (1..).zip(kinds) {
            table.apply(seq, AppliedRecord::of(published(seq, ids), reference), &mut queues);
            weights.push(table.queue.weight());
        }
        assert!(weights.is_sorted_by(|less, more| less < more), "{weights:?}");
        // The same message again takes no more memory.
        table.apply(4, AppliedRecord::of(published(1, SubscriptionIds::None), Some(reference)), &mut queues);
        assert_eq!(Some(&table.queue.weight()), weights.last());
        for (seq, is_there) in [(2, true), (2, false), (1, true), (3, true)] {
            assert_eq!(table.queue.take(1, seq), is_there);
        }
        table.queue.forget(1);
        assert_eq!(Some(&table.queue.weight()), weights.first());
    }

    #[test]
    fn a_location_too_large_for_a_compact_row_is_kept() {
        let (mut table, mut queues) = (MemTable::default(), Queues::default());
        let spots = [(3, 64), (3, u64::from(u32::MAX)), (u64::from(u32::MAX) + 9, 64)];
        for (seq, (segment, at)) in (1..).zip(spots) {
            let reference = MessageRef { location: LogLocation { segment: 0, at: 8 }, len: 9, sum: 5 };
            let mut logged = AppliedRecord::of(published(seq, SubscriptionIds::None), Some(reference));
            logged.shift(segment, at);
            table.apply(seq, logged, &mut queues);
            let row = table.queue.range(1, seq..seq + 1).next().expect("a row");
            assert_eq!(
                row.body().err(),
                Some(MessageRef { location: LogLocation { segment, at: 8 + at }, ..reference })
            );
            assert_eq!((row.seq(), row.terms()), (seq, DeliveryTerms::plain(QoS::AtLeastOnce)));
        }
        assert_eq!(queues.get(&1).map(|waiting| waiting.count), Some(3));
    }
}
