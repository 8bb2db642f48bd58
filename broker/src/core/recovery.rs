//! Recovery: sessions that an earlier run left in the store, and stored messages of sessions that
//! ended.

use std::collections::HashMap;
use std::sync::Arc;

use lapwing_protocol::flight::OutboundState;
use tracing::{debug, info};

use crate::auth::Identity;
use crate::clients::owned::OwnedSession;
use crate::core::Core;
use crate::core::will::PendingWill;
use crate::message::{Durability, Millis, REPLAYED, Seq, SessionNumber};
use crate::outbox::DiskPart;
use crate::router::Subscriber;
use crate::session::{KeptFlight, RetainedCursor, Session, SharedMessages};
use crate::store::{KeptSession, OpenError, PageRequest, Record, Recovered, SessionKind};
use crate::telemetry::drop_reason::Reason;

/// Largest number of messages, and of bytes, that one read of a queue takes.
pub(crate) const PAGE_MESSAGES: usize = 256;
const PAGE_BYTES: usize = 256 * 1024;
/// Number of packet identifiers that are skipped after a restart. A crash, now or in an earlier
/// run, may have lost the record of those that are on their way.
const UNKNOWN_IDS: u16 = 16_384;

/// Returns the request for the next page of a session queue, whose part on disk reaches from the
/// first slot up to the second, exclusive.
pub(crate) fn next_page(session: SessionNumber, from: Seq, until: Seq) -> PageRequest {
    PageRequest { session, from, until, messages_max: PAGE_MESSAGES, bytes_max: PAGE_BYTES }
}

/// Restores the sessions and retained messages of an earlier run.
pub(crate) fn restore(core: &Arc<Core>) -> Result<(), OpenError> {
    let Recovered { mut sessions, last_group, last_clock } = core.store.recover()?;
    core.store.each_retained(&mut |message| core.router.retained.restore(message))?;
    core.router.restore_last_group(last_group);
    if let Some(other) = sessions.iter().find(|kept| kept.terms.kind != SessionKind::Client) {
        return Err(OpenError::Foreign(format!(
            "the state has a session of kind {:?} ({}), which this version of lapwing does not serve",
            other.terms.kind, other.terms.client_id
        )));
    }
    // Of two sessions with one client identifier, the later one replaced the earlier one.
    sessions.sort_by_key(|kept| kept.terms.number);
    let mut newest: HashMap<Arc<str>, KeptSession> = HashMap::new();
    let mut over = Vec::new();
    for kept in sessions {
        over.extend(newest.insert(kept.terms.client_id.clone(), kept));
    }
    let mut wills = Vec::new();
    let (restored, messages) = (newest.len(), newest.values().map(|kept| kept.waiting.count).sum::<u64>());
    for kept in newest.into_values() {
        if kept.terms.expiry_s == 0 {
            over.push(kept);
        } else {
            session(core, kept, last_clock);
        }
    }
    for kept in over {
        let mut session =
            Session::restored(kept.terms.number, kept.terms.client_id, kept.terms.user, &[], 0, &[]);
        session.will = kept.terms.will;
        let identity = Identity::unpacked(session.user.clone(), kept.terms.identity.as_deref());
        wills.extend(PendingWill::take(&mut session, &identity));
        core.outcomes.drops.add(Reason::SessionEnded, kept.waiting.count);
        core.store.append(Record::SessionEnded { session: session.number }, Durability::None);
    }
    // The connections of ended sessions ended with the earlier run: their wills are due.
    wills.iter().for_each(|will| core.publish_will(will));
    let (retained, _) = core.router.retained.len();
    if restored + retained > 0 {
        info!(sessions = restored, messages, retained, "the state of the last run is back");
    }
    Ok(())
}

fn session(core: &Core, kept: KeptSession, last_clock: Millis) {
    let KeptSession { terms, subscriptions, flights, received, waiting } = kept;
    let last_id = waiting.packet_id.wrapping_add(UNKNOWN_IDS);
    // In a queue, messages that were sent stand before those that wait.
    let in_queue = |flight: &&KeptFlight| flight.seq & REPLAYED == 0 && flight.seq != 0;
    let sent = flights.iter().filter(in_queue).map(|flight| flight.seq).max().unwrap_or(0);
    let whole = |flight: &&KeptFlight| flight.state != OutboundState::AwaitPubComp && in_queue(flight);
    let (count, bytes) =
        flights.iter().filter(whole).fold((waiting.count, waiting.bytes), |(count, bytes), flight| {
            (count.saturating_sub(1), bytes.saturating_sub(u64::from(flight.size)))
        });
    let last = waiting.last.max(sent);
    let outbox = core.stored_outbox(
        terms.number,
        terms.client_id.clone(),
        last,
        DiskPart { from: sent + 1, count, bytes },
    );
    let mut session =
        Session::restored(terms.number, terms.client_id, terms.user, &flights, last_id, &received);
    session.expiry_s = terms.expiry_s;
    outbox.set_in_flight(flights.len());
    let mut replay = RetainedCursor::default();
    for (filter, kept) in subscriptions {
        session.subscriptions.insert(&filter, kept.held);
        core.router.restore(&filter, Subscriber::new(&outbox, &kept.held), kept.group);
        if kept.replay {
            replay.push(&filter, kept.held);
        }
    }
    if !replay.is_empty() {
        session.subscriptions.cursors.push_back(replay);
    }
    session.will = terms.will;
    if terms.connected {
        // The connection ended with the earlier run, without DISCONNECT.
        session.go_offline(last_clock);
    } else {
        (session.will_at, session.ends_at) = (terms.will_at, terms.ends_at);
    }
    let (due, client_id) = (session.due_at(), session.client_id.clone());
    let identity = Identity::unpacked(session.user.clone(), terms.identity.as_deref());
    debug!(client = %client_id, waiting = count, in_flight = flights.len(), "session restored");
    let generation = core.registry.restore(OwnedSession {
        identity: Arc::new(identity),
        session: Box::new(session),
        outbox,
    });
    if let Some(due) = due {
        core.timers.add(due, client_id, generation);
    }
}

/// Ends a session that has messages of shared groups on disk: reads them, reassigns them to other
/// members, then forgets the session.
pub(crate) async fn reassign_stored(core: &Arc<Core>, mut owned: OwnedSession) {
    let number = owned.session.number;
    loop {
        let OwnedSession { session, outbox, .. } = &mut owned;
        let missing = session.outgoing.all_unloaded(PAGE_MESSAGES);
        if !missing.is_empty() {
            let Ok(deliveries) = core.store.read_at(number, missing.clone()).await else { break };
            session.outgoing.load(&missing, deliveries);
        } else if let Some((from, until)) = outbox.on_disk() {
            let Ok(mut paged) = core.store.queued(next_page(number, from, until)).await else { break };
            outbox.on_page(&mut paged.deliveries, paged.next);
            session.outgoing.pending.extend(paged.deliveries);
        } else {
            break;
        }
        core.reassign_shared(&mut owned, SharedMessages::All);
        // No other member took the rest: it ends with the session.
        core.end_pending(&mut owned);
    }
    core.forget_session(&mut owned, Durability::None);
}
