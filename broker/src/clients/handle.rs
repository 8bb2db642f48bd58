//! The handle by which other tasks reach a live connection: who its client is, its waker, and
//! commands to it.
//!
//! The session is owned by the task of its connection. A task that wants a report of it, or wants
//! it gone, leaves a command here and wakes the connection, which answers in its next turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

use crate::auth::Identity;
use crate::clients::report::SessionReport;
use crate::message::Millis;
use crate::net::Peer;
use crate::outbox::Outbox;

/// Number of commands that wait for one connection at most.
const COMMANDS_MAX: usize = 16;

/// Handle of one connection.
#[derive(Debug)]
pub struct ClientHandle {
    /// User of the session.
    pub user: Option<Arc<str>>,
    /// Address and listener of the client.
    pub peer: Peer,
    /// Name of the connection in the log.
    pub label: Arc<str>,
    /// Moment at which the client was let in.
    pub since: Millis,
    /// Waker of the connection's task.
    pub waker: Arc<AtomicWaker>,
    /// The queue of its session, from the moment that it has it.
    pub outbox: OnceLock<Arc<Outbox>>,
    has_commands: AtomicBool,
    /// `None` once the connection ends.
    commands: Mutex<Option<Vec<Command>>>,
    identity: Mutex<Arc<Identity>>,
}

/// Command to a connection.
#[derive(Debug)]
pub enum Command {
    /// Report on the session, with at most this many of its subscriptions.
    Report(usize, oneshot::Sender<SessionReport>),
    /// Disconnect. Answered once the session is handed over.
    Disconnect(DisconnectCommand),
}

/// Request of an operator to disconnect a client.
#[derive(Debug)]
pub struct DisconnectCommand {
    /// Set when the session ends, too.
    pub with_session: bool,
    /// Answered, or dropped, when that is done.
    pub done: oneshot::Sender<()>,
}

impl ClientHandle {
    /// Makes the handle of a connection that is let in.
    pub fn new(identity: Arc<Identity>, peer: Peer, since: Millis) -> ClientHandle {
        ClientHandle {
            label: peer.address.to_string().into(),
            user: identity.user.clone(),
            peer,
            since,
            waker: Arc::default(),
            outbox: OnceLock::new(),
            has_commands: AtomicBool::new(false),
            commands: Mutex::new(Some(Vec::new())),
            identity: Mutex::new(identity),
        }
    }

    /// Returns the identity of the client.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the identity, after its rights have changed.
    pub fn set_identity(&self, identity: Arc<Identity>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Leaves a command. It is dropped, with its sender, when too many wait or the connection ends.
    pub fn send(&self, question: Command) {
        let mut questions = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = questions.as_mut().filter(|waiting| waiting.len() < COMMANDS_MAX) {
            waiting.push(question);
            self.has_commands.store(true, Ordering::Release);
        }
        drop(questions);
        self.waker.wake();
    }

    /// Returns `true` when commands wait. Cheap enough for every turn.
    #[inline]
    pub fn has_commands(&self) -> bool {
        self.has_commands.load(Ordering::Acquire)
    }

    /// Takes the commands.
    pub fn questions(&self) -> Vec<Command> {
        let mut questions = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_commands.store(false, Ordering::Release);
        questions.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Drops all commands: the connection ends, and answers no more.
    pub fn close(&self) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
