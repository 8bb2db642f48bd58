//! Requests of sessions to the reader.

use tokio::sync::oneshot::Sender;

use crate::message::{Delivery, Message, Seq, SessionNumber};
use crate::store::{Lsn, PageRequest, Paged};

/// A request to the reader, to be answered once records up to `after` can be read.
#[derive(Debug)]
pub(super) struct ReadRequest {
    pub(super) after: Lsn,
    pub(super) wanted: Wanted,
}

#[derive(Debug)]
pub(super) enum Wanted {
    Queued(PageRequest, Sender<Paged>),
    Placed(SessionNumber, Vec<Seq>, Sender<Vec<Delivery>>),
    Retained(Vec<Box<str>>, Sender<Vec<Message>>),
}
