//! The store that keeps nothing beyond the process: the state in memory is all there is, so all of it is durable at once.

use std::task::{Context, Poll};

use super::{Lsn, Record, Store};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn append(&self, _: Record) -> Lsn {
        0
    }

    fn poll_durable(&self, _: Lsn, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn keeps(&self) -> bool {
        false
    }
}
