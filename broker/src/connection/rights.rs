//! What becomes of a live connection when the snapshot is replaced under it.

use std::sync::Arc;

use lapwing_protocol::ReasonCode;

use super::{Connection, Exit};
use crate::auth::{Identity, audit, ban};
use crate::clients::handle::Command;
use crate::clients::report::{self, SessionReport};
use crate::outbox::QueueLimits;

impl Connection {
    /// Who the client is from now on.
    pub(super) fn recognized_as(&mut self, identity: Identity) {
        self.resident.identity = Arc::new(identity);
        self.contact.recognize(self.resident.identity.clone());
    }

    /// Takes a new snapshot, if there is one; asks its policy whether the client may stay, and lets go of the subscriptions that it may not keep.
    /// What waits for it is judged when it is sent.
    pub(super) fn heed_news(&mut self) -> Result<(), Exit> {
        if self.core.live.is_current(&self.snapshot) {
            return Ok(());
        }
        let snapshot = self.core.live.get();
        self.snapshot = snapshot.clone();
        let policy = &*snapshot.auth.policy;
        let client_id = self.resident.session.client_id.clone();
        let (user, address) = (self.resident.identity.user.as_deref(), self.contact.peer.address.ip());
        if let Some(ban) = snapshot.bans.of(&client_id, user, address, ban::now_s()) {
            let text = format!("{} is banned ({})", ban.whom, ban.reason);
            audit::expelled(&client_id, &self.resident.identity, &text);
            return Err(Exit::Violation(
                ReasonCode::AdministrativeAction,
                "this client is banned".to_owned(),
            ));
        }
        match snapshot.gate(self.contact.peer.place) {
            Some(gate) => self.gate = gate.clone(),
            None => {
                let text =
                    format!("the listener {} was taken out of the configuration", self.contact.peer.listener);
                return Err(Exit::Violation(ReasonCode::AdministrativeAction, text));
            }
        }
        self.resident.outbox.bound(QueueLimits::of(&snapshot.config));
        let user = self.resident.identity.user.as_ref();
        self.state.allowances = self.core.users.allowances(user, &self.gate.limits);
        match policy.renew(&self.resident.identity, &client_id, Some(&self.contact.peer)) {
            Ok(identity) => {
                self.expires_at = identity.expires_at(self.core.now());
                self.recognized_as(identity);
            }
            Err(refused) => {
                audit::expelled(&client_id, &self.resident.identity, &refused.text);
                let told = refused.told.map_or(refused.text, str::to_owned);
                return Err(Exit::Violation(ReasonCode::AdministrativeAction, told));
            }
        }
        let revoked = self.core.revoke(policy, &mut self.resident);
        if revoked > 0 && snapshot.config.auth.revoked_disconnects {
            let text = "a subscription is not allowed any more".to_owned();
            return Err(Exit::Violation(ReasonCode::NotAuthorized, text));
        }
        Ok(())
    }

    /// Answers those who have asked.
    #[cold]
    pub(super) fn answer(&mut self) -> Result<(), Exit> {
        for question in self.contact.questions() {
            match question {
                Command::Account(subscriptions_max, to) => {
                    let mut account = SessionReport::of(&self.resident, subscriptions_max);
                    let (flow, rates) = self.state.pace.look(self.core.now(), &self.state.tally);
                    account.connection = Some(report::ConnectionReport {
                        flow,
                        rates,
                        version: self.agreement.version.to_string(),
                        keep_alive_s: self.agreement.keep_alive_s,
                    });
                    let _ = to.send(account);
                }
                Command::Leave(leave) => return Err(Exit::Expelled(leave)),
            }
        }
        Ok(())
    }
}
