//! The life of a session beyond a single connection: its record, revoked rights, its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Waker;

use lapwing_protocol::topic;
use tracing::debug;

use crate::auth::{Action, Policy, audit};
use crate::clients::owned::{OfflineGeneration, OwnedSession};
use crate::core::Core;
use crate::core::will::PendingWill;
use crate::message::{Durability, Millis};
use crate::session::{Session, SharedMessages};
use crate::store::publish_record::PublishRecord;
use crate::store::{Failed, PreviousSlot, Record, SessionKind, SessionTerms, Ticket, WakerSlot};
use crate::telemetry::drop_reason::Reason;

impl Core {
    /// Records that a session has a connection, if it outlives that or its will does. Of any other
    /// session, only the end is recorded.
    pub fn record_connected(&self, owned: &mut OwnedSession) {
        self.record_session(owned, true);
    }

    /// Like [`record_connected`](Self::record_connected), for a session that is offline.
    pub fn record_offline(&self, owned: &mut OwnedSession) {
        self.record_session(owned, false);
    }

    fn record_session(&self, owned: &mut OwnedSession, connected: bool) {
        let OwnedSession { session, outbox, identity } = owned;
        let worth = outbox.is_stored() || session.will.is_some();
        if !self.store.is_durable() || !(worth || session.recorded) {
            return;
        }
        session.recorded = true;
        let terms = SessionTerms {
            number: session.number,
            client_id: session.client_id.clone(),
            user: session.user.clone(),
            expiry_s: if outbox.is_stored() { session.expiry_s } else { 0 },
            will: session.will.clone(),
            connected,
            will_at: session.will_at,
            ends_at: session.ends_at,
            kind: SessionKind::Client,
            state: None,
            identity: identity.packed(),
        };
        self.store.append(Record::Session(Box::new(terms)), Durability::None);
    }

    /// Reassigns messages of shared groups that this session's client did not acknowledge to other
    /// members.
    pub fn reassign_shared(&self, owned: &mut OwnedSession, messages: SharedMessages) {
        let OwnedSession { session, outbox, .. } = owned;
        let outgoing = &mut session.outgoing;
        outbox.take(&mut outgoing.pending, Waker::noop());
        let mut wakers = Vec::new();
        outgoing.reassign_shared(messages, |delivery, packet_id| {
            let mut record = PublishRecord::new(&*self.store, Durability::None);
            let given = self.router.reassign(delivery, session.number, &mut wakers, &mut record);
            if given {
                let size = u32::try_from(delivery.message.size()).unwrap_or(u32::MAX);
                let (session, seq) = (session.number, delivery.seq);
                let origin = (seq != 0).then_some(PreviousSlot::new(session, seq, size, packet_id));
                // One record moves the message: after a crash it is with exactly one of the two
                // sessions.
                record.commit(&delivery.message, false, None, origin);
            }
            given
        });
        owned.sync_counts();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Removes the subscriptions that the user of a session has no right to any more, and returns
    /// their number. Where the rights are not known, nothing is removed.
    pub fn revoke(&self, policy: &dyn Policy, owned: &mut OwnedSession) -> usize {
        if owned.identity.unresolved.is_some() {
            return 0;
        }
        let OwnedSession { session, identity, .. } = owned;
        let denied = |filter: &&str| {
            let inner = topic::shared(filter).map_or(*filter, |(_, inner)| inner);
            !policy.allows(identity, &session.client_id, Action::Subscribe, inner)
        };
        let revoked: Vec<Box<str>> =
            session.subscriptions.iter().map(|(filter, _)| filter).filter(denied).map(Box::from).collect();
        let count = revoked.len();
        for filter in revoked {
            let OwnedSession { session, identity, .. } = &*owned;
            let inner = topic::shared(&filter).map_or(&*filter, |(_, inner)| inner);
            let rule = policy.rule(identity, &session.client_id, Action::Subscribe, inner);
            audit::revoked(&session.client_id, identity, &filter, &rule);
            self.metrics.denied.add(1);
            self.remove_subscription(owned, &filter, Durability::None);
        }
        count
    }

    /// Removes a subscription from the session, the router and the store, and reassigns messages of
    /// its shared group. Returns `None` when there was no such subscription.
    pub fn remove_subscription(
        &self,
        owned: &mut OwnedSession,
        filter: &str,
        durability: Durability,
    ) -> Option<Ticket> {
        let (group, session) = (self.router.group(filter), owned.session.number);
        if !owned.session.subscriptions.remove(filter) {
            return None;
        }
        self.router.unsubscribe(filter, session);
        if let Some(group) = group {
            self.reassign_shared(owned, SharedMessages::Queued(group));
        }
        if !owned.outbox.is_stored() {
            return Some(Ticket::default());
        }
        let record = Record::Unsubscribed { session, filter: filter.into() };
        Some(self.store.append(record, durability))
    }

    /// Ends a session for good, and publishes its will if that still waits (`[MQTT-3.1.2-8]`).
    /// Returns the ticket of the end's record, of this durability.
    pub fn end_session(self: &Arc<Self>, mut owned: OwnedSession, durability: Durability) -> Ticket {
        owned.outbox.disconnect(&self.outcomes);
        self.reassign_shared(&mut owned, SharedMessages::All);
        let OwnedSession { session, outbox, identity } = &mut owned;
        let mut shared = false;
        for (filter, _) in session.subscriptions.iter() {
            shared |= topic::shared(filter).is_some();
            self.router.unsubscribe(filter, session.number);
        }
        if let Some(will) = PendingWill::take(session, identity) {
            self.publish_will(&will);
        }
        if shared && (outbox.on_disk().is_some() || session.outgoing.is_missing_any()) {
            // Messages of shared groups are on disk: a task reads them, gives them to other
            // members, and then ends the session.
            let core = self.clone();
            tokio::spawn(async move { super::recovery::reassign_stored(&core, owned).await });
            return Ticket::default();
        }
        self.forget_session(&mut owned, durability)
    }

    /// Ends a session that is still offline in this generation. Returns `false` when it is not.
    pub fn end_offline(self: &Arc<Self>, client_id: &Arc<str>, generation: OfflineGeneration) -> bool {
        let Some(owned) = self.registry.remove_offline(client_id, generation) else { return false };
        if let Some(due) = owned.session.due_at() {
            self.timers.remove(due, client_id, generation);
        }
        self.end_session(owned, Durability::None);
        true
    }

    /// Waits until all earlier records are on disk.
    pub async fn durable(&self) -> Result<(), Failed> {
        let ticket = self.store.append(Record::Nothing, Durability::Always);
        let mut slot = WakerSlot::default();
        poll_fn(|cx| self.store.poll(ticket, &mut slot, cx)).await
    }

    /// Drops the messages in memory that wait for a session that is over.
    pub fn end_pending(&self, owned: &mut OwnedSession) {
        let OwnedSession { session, outbox, .. } = owned;
        for delivery in session.outgoing.pending.take_all() {
            self.outcomes.dropped(Reason::SessionEnded, &delivery.message, outbox.recipient());
        }
        owned.sync_counts();
    }

    /// Drops all messages that wait for a session, and writes its last record.
    pub fn forget_session(&self, owned: &mut OwnedSession, durability: Durability) -> Ticket {
        self.end_pending(owned);
        let OwnedSession { session, outbox, .. } = owned;
        let (on_disk, _) = outbox.waiting();
        if on_disk > 0 {
            self.outcomes.dropped_on_disk(Reason::SessionEnded, on_disk, outbox.recipient());
        }
        outbox.close();
        match session.recorded {
            true => self.store.append(Record::SessionEnded { session: session.number }, durability),
            false => Ticket::default(),
        }
    }

    /// Handles a due timer of an offline session.
    pub fn on_session_timer(
        self: &Arc<Self>,
        client_id: &Arc<str>,
        generation: OfflineGeneration,
        now: Millis,
    ) {
        let ended = |session: &Session| session.ends_at.is_some_and(|at| at <= now);
        if self.registry.with_offline_session(client_id, generation, |session| ended(session)) == Some(true) {
            if let Some(owned) = self.registry.remove_offline(client_id, generation) {
                debug!(client = %client_id, "the session has expired");
                self.metrics.sessions_expired.add(1);
                self.end_session(owned, Durability::None);
            }
            return;
        }
        let due = self.registry.with_offline(
            client_id,
            generation,
            |OwnedSession { session, identity, .. }| {
                let due = session.will_at.take_if(|at| *at <= now);
                (due.and_then(|_| PendingWill::take(session, identity)), session.due_at())
            },
        );
        let Some((will, next)) = due else { return };
        if let Some(will) = will {
            self.publish_will(&will);
            self.registry.with_offline(client_id, generation, |owned| self.record_offline(owned));
        }
        if let Some(next) = next {
            self.timers.add(next, client_id.clone(), generation);
        }
    }
}
