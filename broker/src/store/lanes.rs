//! The rows of the queues in a table: a lane for each session, in the order of their places. Rows come at the end and mostly go at
//! the front; one that goes elsewhere leaves a gap until its neighbours are gone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::Seq;
use super::table::QueueRow;
use crate::message::SessionNumber;

type Lane = VecDeque<(Seq, Option<QueueRow>)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lanes(BTreeMap<SessionNumber, Lane>);

impl Lanes {
    /// Adds a row, or replaces the one in its place.
    pub(super) fn insert(&mut self, row: QueueRow) {
        let lane = self.0.entry(row.queued.session).or_default();
        let seq = row.queued.seq;
        if lane.back().is_none_or(|(last, _)| *last < seq) {
            lane.push_back((seq, Some(row)));
            return;
        }
        match lane.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Ok(at) => {
                if let Some((_, place)) = lane.get_mut(at) {
                    *place = Some(row);
                }
            }
            Err(at) => lane.insert(at, (seq, Some(row))),
        }
    }

    /// Takes a row out; `false`: it is not here.
    pub(super) fn take(&mut self, session: SessionNumber, seq: Seq) -> bool {
        let Some(lane) = self.0.get_mut(&session) else { return false };
        let at = match lane.front() {
            Some((first, _)) if *first == seq => Ok(0),
            _ => lane.binary_search_by_key(&seq, |(seq, _)| *seq),
        };
        let taken = at.ok().and_then(|at| lane.get_mut(at)?.1.take()).is_some();
        while lane.front().is_some_and(|(_, row)| row.is_none()) {
            lane.pop_front();
        }
        while lane.back().is_some_and(|(_, row)| row.is_none()) {
            lane.pop_back();
        }
        taken
    }

    /// Whether a row is here.
    pub(super) fn contains(&self, session: SessionNumber, seq: Seq) -> bool {
        self.range(session, seq..seq.saturating_add(1)).next().is_some()
    }

    /// The rows of a session in this range.
    pub(super) fn range(
        &self,
        session: SessionNumber,
        range: Range<Seq>,
    ) -> impl Iterator<Item = (Seq, &QueueRow)> {
        let lane = self.0.get(&session);
        let start = lane.map_or(0, |lane| lane.partition_point(|(seq, _)| *seq < range.start));
        let rows = lane.into_iter().flat_map(move |lane| lane.range(start..));
        rows.take_while(move |(seq, _)| *seq < range.end).filter_map(|(seq, row)| Some((*seq, row.as_ref()?)))
    }

    /// All rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionNumber, Seq, &QueueRow)> {
        self.0.iter().flat_map(|(session, lane)| {
            lane.iter().filter_map(|(seq, row)| Some((*session, *seq, row.as_ref()?)))
        })
    }

    /// The sessions that have or had rows here.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionNumber> {
        self.0.keys().copied()
    }

    /// Forgets a session.
    pub(super) fn forget(&mut self, session: SessionNumber) {
        self.0.remove(&session);
    }
}
