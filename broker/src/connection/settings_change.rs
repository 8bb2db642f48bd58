//! New settings on a live connection: its identity, its rights, its listener.

use std::sync::Arc;

use lapwing_protocol::ReasonCode;

use super::{Connection, Exit};
use crate::auth::{Identity, audit, ban};
use crate::clients::handle::Command;
use crate::clients::report::{self, SessionReport};
use crate::outbox::QueueLimits;

impl Connection {
    /// Sets the identity of the client.
    pub(super) fn set_identity(&mut self, identity: Identity) {
        self.owned.identity = Arc::new(identity);
        self.handle.set_identity(self.owned.identity.clone());
    }

    /// Applies a new snapshot, if there is one. Its policy decides whether the client may stay, and
    /// which subscriptions it keeps. Messages that wait are checked when they are sent.
    pub(super) fn apply_settings(&mut self) -> Result<(), Exit> {
        if self.core.settings.is_current(&self.snapshot) {
            return Ok(());
        }
        let snapshot = self.core.settings.get();
        self.snapshot = snapshot.clone();
        let policy = &*snapshot.auth.policy;
        let client_id = self.owned.session.client_id.clone();
        let (user, address) = (self.owned.identity.user.as_deref(), self.handle.peer.address.ip());
        if let Some(ban) = snapshot.bans.of(&client_id, user, address, ban::now_s()) {
            let text = format!("{} is banned ({})", ban.whom, ban.reason);
            audit::expelled(&client_id, &self.owned.identity, &text);
            return Err(Exit::Violation(
                ReasonCode::AdministrativeAction,
                "this client is banned".to_owned(),
            ));
        }
        match snapshot.endpoint(self.handle.peer.endpoint) {
            Some(endpoint) => self.endpoint = endpoint.clone(),
            None => {
                let text =
                    format!("the listener {} was taken out of the configuration", self.handle.peer.listener);
                return Err(Exit::Violation(ReasonCode::AdministrativeAction, text));
            }
        }
        self.owned.outbox.set_limits(QueueLimits::of(&snapshot.config));
        let user = self.owned.identity.user.as_ref();
        self.inbound.rates = self.core.user_rates.rate_limits(user, &self.endpoint.limits);
        match policy.renew(&self.owned.identity, &client_id, Some(&self.handle.peer)) {
            Ok(identity) => {
                self.expires_at = identity.expires_at(self.core.now());
                self.set_identity(identity);
            }
            Err(refused) => {
                audit::expelled(&client_id, &self.owned.identity, &refused.text);
                let text = refused.client_text.map_or(refused.text, str::to_owned);
                return Err(Exit::Violation(ReasonCode::AdministrativeAction, text));
            }
        }
        let revoked = self.core.revoke(policy, &mut self.owned);
        if revoked > 0 && snapshot.config.auth.revoked_disconnects {
            let text = "a subscription is not allowed any more".to_owned();
            return Err(Exit::Violation(ReasonCode::NotAuthorized, text));
        }
        Ok(())
    }

    /// Handles the commands that wait.
    #[cold]
    pub(super) fn answer(&mut self) -> Result<(), Exit> {
        for question in self.handle.questions() {
            match question {
                Command::Report(subscriptions_max, to) => {
                    let mut account = SessionReport::of(&self.owned, subscriptions_max);
                    let (flow, rates) = self.stats.window.rates(self.core.now(), &self.stats.counters);
                    account.connection = Some(report::ConnectionReport {
                        flow,
                        rates,
                        version: self.negotiated.version.to_string(),
                        keep_alive_s: self.negotiated.keep_alive_s,
                    });
                    let _ = to.send(account);
                }
                Command::Disconnect(leave) => return Err(Exit::Expelled(leave)),
            }
        }
        Ok(())
    }
}
