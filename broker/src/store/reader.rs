//! The reader: looks up rows in the active table, then the frozen one, then the checkpoint. It is
//! one thread, so that no connection waits for the disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::OpenError;
use super::checkpoint::{self, CheckpointReader};
use super::read_request::ReadView;
use super::record::KeptSession;
use super::shared::Shared;
use crate::message::{Delivery, Message, Seq, SessionNumber};
use crate::store::memtable::{MemTable, Queues};
use crate::store::read_request::Wanted;
use crate::store::{Health, PageRequest, Paged};

/// Rows of a table scanned under its lock for one page, for each requested message.
const SCANNED_PER_MESSAGE: usize = 4;
/// Longest sleep of the reader while a request waits.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Runs until the store closes.
pub(super) fn run(shared: &Shared) {
    loop {
        let ready = {
            let mut requests = shared.reads.requests();
            let failed = shared.health() == Health::Failed;
            let applied = shared.reads.view().applied;
            let (ready, later): (Vec<_>, Vec<_>) =
                requests.drain(..).partition(|request| failed || request.after <= applied);
            *requests = later;
            if ready.is_empty() {
                if shared.supply.is_closed() {
                    requests.clear();
                    return;
                }
                // New requests, the end of the store and its failure are signalled under this lock.
                // Only records that wait to be written need the timer. An idle broker does not
                // wake.
                let at_most = (!requests.is_empty()).then_some(CHECK_EVERY);
                shared.reads.wait(requests, at_most);
                continue;
            }
            ready
        };
        for request in ready {
            answer(shared, request.wanted);
        }
    }
}

fn answer(shared: &Shared, wanted: Wanted) {
    let reading = shared.reads.reading();
    let mut bad = 0;
    let result = match wanted {
        Wanted::Queued(page, to) => page_of(shared, page, &mut bad).map(|rows| drop(to.send(rows))),
        Wanted::Placed(session, slots, to) => {
            let one = |seq: &Seq| PageRequest {
                session,
                from: *seq,
                until: seq + 1,
                messages_max: 1,
                bytes_max: usize::MAX,
            };
            let pages: std::io::Result<Vec<_>> =
                slots.iter().map(|seq| page_of(shared, one(seq), &mut bad)).collect();
            pages.map(|pages| drop(to.send(pages.into_iter().flat_map(|page| page.deliveries).collect())))
        }
        Wanted::Retained(topics, to) => topics
            .iter()
            .map(|topic| retained(shared, topic, &mut bad))
            .collect::<std::io::Result<Vec<_>>>()
            .map(|messages| drop(to.send(messages.into_iter().flatten().collect()))),
    };
    drop(reading);
    shared.counters.corrupt.add(bad);
    if let Err(error) = result {
        error!(%error, "failed to read the store");
    }
}

/// State of one moment, with a part of the active table.
fn snapshot<T>(
    shared: &Shared,
    look: impl FnOnce(&MemTable) -> T,
) -> std::io::Result<(T, Option<Arc<MemTable>>, CheckpointReader)> {
    let view = shared.reads.view();
    Ok((look(&view.active), view.frozen.clone(), view.checkpoint.read()?))
}

fn page_of(shared: &Shared, page: PageRequest, bad: &mut u64) -> std::io::Result<Paged> {
    let PageRequest { session, from, mut until, messages_max, bytes_max } = page;
    if from >= until {
        return Ok(Paged { deliveries: Vec::new(), next: until });
    }
    let ((active, gone), frozen, read) = snapshot(shared, |active| {
        // The page ends where the scan of the table ended.
        let most = messages_max.saturating_mul(SCANNED_PER_MESSAGE).max(1);
        let (mut rows, mut gone) = (Vec::new(), BTreeSet::new());
        for ((_, seq), ()) in active.gone.range((session, from)..(session, until)) {
            if gone.len() >= most {
                until = *seq;
                break;
            }
            gone.insert(*seq);
        }
        for row in active.queue.range(session, from..until) {
            if rows.len() >= most {
                until = row.seq();
                break;
            }
            rows.push(row.clone());
        }
        (rows, gone)
    })?;
    let empty = MemTable::default();
    let frozen = frozen.as_deref().unwrap_or(&empty);
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut full = |found: &mut Vec<Delivery>, delivery: Delivery| {
        bytes += delivery.message.size();
        found.push(delivery);
        found.len() >= messages_max || bytes >= bytes_max
    };
    // A row is in one table only, and later rows are in the later table: three sorted runs follow
    // each other.
    let mut done = false;
    read.queue(session, from..until, bad, |seq, row| {
        if gone.contains(&seq)
            || frozen.gone.contains_key(&(session, seq))
            || frozen.queue.contains(session, seq)
        {
            return true;
        }
        done = row().is_some_and(|delivery| full(&mut found, delivery));
        !done
    })?;
    let newer = frozen.queue.range(session, from..until).filter(|row| !gone.contains(&row.seq()));
    for row in newer.chain(&active) {
        if done {
            break;
        }
        let message = match row.body() {
            Ok(message) => Some(message.clone()),
            Err(reference) => read.logged(&reference, bad)?,
        };
        done = message.is_some_and(|message| {
            full(&mut found, Delivery { message, terms: row.terms(), seq: row.seq() })
        });
    }
    let next = found.last().filter(|_| done).map_or(until, |last| last.seq + 1);
    Ok(Paged { deliveries: found, next })
}

fn retained(shared: &Shared, topic: &str, bad: &mut u64) -> std::io::Result<Option<Message>> {
    let (active, frozen, read) = snapshot(shared, |active| active.retained.get(topic).cloned())?;
    match active.or_else(|| frozen.and_then(|frozen| frozen.retained.get(topic).cloned())) {
        Some(known) => Ok(known),
        None => read.retained(topic, bad),
    }
}

/// All sessions: those of the checkpoint with the changes of the log.
pub(super) fn sessions(
    mut all: HashMap<SessionNumber, KeptSession>,
    table: &MemTable,
    queues: &Queues,
) -> Vec<KeptSession> {
    for session in &table.ended {
        all.remove(session);
    }
    for (number, terms) in &table.sessions {
        match terms {
            Some(terms) => {
                let known = all.entry(*number).or_insert_with(|| checkpoint::kept((**terms).clone()));
                known.terms = (**terms).clone();
            }
            None => drop(all.remove(number)),
        }
    }
    for ((session, filter), kept) in &table.subscriptions {
        let Some(known) = all.get_mut(session) else { continue };
        known.subscriptions.retain(|(known, _)| known != filter);
        known.subscriptions.extend(kept.map(|kept| (filter.clone(), kept)));
    }
    for ((session, packet_id), layered) in &table.flights {
        let Some(known) = all.get_mut(session) else { continue };
        known.flights.retain(|flight| flight.packet_id != *packet_id);
        known.flights.extend(layered.row);
    }
    for ((session, packet_id), layered) in &table.received {
        let Some(known) = all.get_mut(session) else { continue };
        known.received.retain(|id| id != packet_id);
        known.received.extend(layered.row.map(|()| *packet_id));
    }
    for (session, known) in &mut all {
        known.waiting = queues.get(session).copied().unwrap_or_default();
        known.flights.sort_by_key(|flight| flight.order);
    }
    all.into_values().collect()
}

/// All retained messages: the log's over the checkpoint's.
pub(super) fn each_retained(
    view: &ReadView,
    bad: &mut u64,
    give: &mut dyn FnMut(Message),
) -> Result<(), OpenError> {
    let mut newer = view.frozen.as_ref().map(|frozen| frozen.retained.clone()).unwrap_or_default();
    newer.extend(view.active.retained.iter().map(|(topic, message)| (topic.clone(), message.clone())));
    let read = view.checkpoint.read();
    read.and_then(|read| {
        read.each_retained(bad, &mut |message| {
            if !newer.contains_key(message.topic_str()) {
                give(message);
            }
        })
    })
    .map_err(OpenError::io("reading the retained messages"))?;
    newer.into_values().flatten().for_each(give);
    Ok(())
}
