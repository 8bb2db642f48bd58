//! The rows of the queues in a table: a lane for each session, in the order of their places. Rows come at the end and mostly go at
//! the front; one that goes elsewhere leaves a gap until its neighbours are gone.

use std::collections::VecDeque;
use std::ops::Range;

use super::Seq;
use super::numbers::NumberMap;
use super::table::Row;
use crate::message::SessionNumber;

/// A place of a lane.
#[derive(Debug)]
enum Cell {
    Row(Row),
    /// The row that was here is gone.
    Gap(Seq),
}

impl Cell {
    fn seq(&self) -> Seq {
        match self {
            Cell::Row(row) => row.seq(),
            Cell::Gap(seq) => *seq,
        }
    }

    fn row(&self) -> Option<&Row> {
        match self {
            Cell::Row(row) => Some(row),
            Cell::Gap(_) => None,
        }
    }
}

// Two of them in a cache line.
const _: () = assert!(size_of::<Cell>() <= 32);

type Lane = VecDeque<Cell>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: NumberMap<Lane>,
    /// An estimate of the memory of the rows in them, in bytes.
    bytes: usize,
}

impl Lanes {
    /// Adds a row, or replaces the one in its place.
    pub(super) fn insert(&mut self, session: SessionNumber, row: Row) {
        let lane = self.lanes.entry(session).or_default();
        let seq = row.seq();
        self.bytes += row.weight();
        if lane.back().is_none_or(|last| last.seq() < seq) {
            lane.push_back(Cell::Row(row));
            return;
        }
        match lane.binary_search_by_key(&seq, Cell::seq) {
            Ok(at) => {
                if let Some(cell) = lane.get_mut(at)
                    && let Cell::Row(old) = std::mem::replace(cell, Cell::Row(row))
                {
                    self.bytes -= old.weight();
                }
            }
            Err(at) => lane.insert(at, Cell::Row(row)),
        }
    }

    /// Takes a row out; `false`: it is not here.
    pub(super) fn take(&mut self, session: SessionNumber, seq: Seq) -> bool {
        let Some(lane) = self.lanes.get_mut(&session) else { return false };
        let at = match lane.front() {
            Some(first) if first.seq() == seq => Ok(0),
            _ => lane.binary_search_by_key(&seq, Cell::seq),
        };
        let cell = at.ok().and_then(|at| lane.get_mut(at));
        let taken = match cell.map(|cell| std::mem::replace(cell, Cell::Gap(seq))) {
            Some(Cell::Row(row)) => {
                self.bytes -= row.weight();
                true
            }
            Some(Cell::Gap(_)) | None => false,
        };
        while lane.front().is_some_and(|cell| cell.row().is_none()) {
            lane.pop_front();
        }
        while lane.back().is_some_and(|cell| cell.row().is_none()) {
            lane.pop_back();
        }
        taken
    }

    /// Whether a row is here.
    pub(super) fn contains(&self, session: SessionNumber, seq: Seq) -> bool {
        self.range(session, seq..seq.saturating_add(1)).next().is_some()
    }

    /// The rows of a session in this range.
    pub(super) fn range(&self, session: SessionNumber, range: Range<Seq>) -> impl Iterator<Item = &Row> {
        let lane = self.lanes.get(&session);
        let start = lane.map_or(0, |lane| lane.partition_point(|cell| cell.seq() < range.start));
        let rows = lane.into_iter().flat_map(move |lane| lane.range(start..));
        rows.take_while(move |cell| cell.seq() < range.end).filter_map(Cell::row)
    }

    /// All rows, in the order of sessions and places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionNumber, &Row)> {
        let mut lanes: Vec<(SessionNumber, &Lane)> =
            self.lanes.iter().map(|(session, lane)| (*session, lane)).collect();
        lanes.sort_unstable_by_key(|(session, _)| *session);
        lanes
            .into_iter()
            .flat_map(|(session, lane)| lane.iter().filter_map(move |cell| Some((session, cell.row()?))))
    }

    /// The sessions that have or had rows here.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionNumber> {
        self.lanes.keys().copied()
    }

    /// Forgets a session.
    pub(super) fn forget(&mut self, session: SessionNumber) {
        let lane = self.lanes.remove(&session).unwrap_or_default();
        self.bytes -= lane.iter().filter_map(Cell::row).map(Row::weight).sum::<usize>();
    }

    /// An estimate of the memory that they take, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.bytes + self.lanes.len() * size_of::<(SessionNumber, Lane)>()
    }
}
