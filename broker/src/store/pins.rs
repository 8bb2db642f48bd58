//! Pins of readers: what a checkpoint may not remove yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::store::sync::lock;

/// Who looks at which checkpoint: what was freed by a later one is not used again while somebody
/// may still read it.
#[derive(Debug, Default)]
pub(super) struct ReaderPins {
    /// The number of the newest checkpoint, and how many look at each.
    state: Mutex<(u64, BTreeMap<u64, usize>)>,
}

impl ReaderPins {
    /// Begins a look, before the checkpoint is read: it is one at the newest, or at a still newer
    /// one.
    pub(super) fn begin(self: &Arc<ReaderPins>) -> ReaderPin {
        let mut state = lock(&self.state);
        let at = state.0;
        *state.1.entry(at).or_default() += 1;
        ReaderPin { looks: self.clone(), at }
    }

    /// A checkpoint was made; its number.
    pub(super) fn made(&self) -> u64 {
        let mut state = lock(&self.state);
        state.0 += 1;
        state.0
    }

    /// The oldest checkpoint that somebody looks at; the newest if nobody does.
    pub(super) fn oldest(&self) -> u64 {
        let state = lock(&self.state);
        state.1.keys().next().copied().unwrap_or(state.0)
    }
}

/// While it lives, what its checkpoint refers to stays.
#[derive(Debug)]
pub(super) struct ReaderPin {
    looks: Arc<ReaderPins>,
    at: u64,
}

impl Drop for ReaderPin {
    fn drop(&mut self) {
        let mut state = lock(&self.looks.state);
        if let Some(count) = state.1.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                state.1.remove(&self.at);
            }
        }
    }
}
