//! Pins of readers: they keep the segments of older checkpoints from being recycled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::store::sync::lock;

/// Pins by checkpoint: a segment that a later checkpoint freed is not reused while a reader of an
/// older one may need it.
#[derive(Debug, Default)]
pub(super) struct ReaderPins {
    /// Number of the newest checkpoint, and the number of pins on each.
    state: Mutex<(u64, BTreeMap<u64, usize>)>,
}

impl ReaderPins {
    /// Pins the newest checkpoint. The caller reads it afterwards, and may get a still newer one.
    pub(super) fn begin(self: &Arc<ReaderPins>) -> ReaderPin {
        let mut state = lock(&self.state);
        let at = state.0;
        *state.1.entry(at).or_default() += 1;
        ReaderPin { pins: self.clone(), at }
    }

    /// Registers a new checkpoint; returns its number.
    pub(super) fn made(&self) -> u64 {
        let mut state = lock(&self.state);
        state.0 += 1;
        state.0
    }

    /// Oldest pinned checkpoint; the newest if none is pinned.
    pub(super) fn oldest(&self) -> u64 {
        let state = lock(&self.state);
        state.1.keys().next().copied().unwrap_or(state.0)
    }
}

/// Pin of one reader: while it lives, the data of its checkpoint stays.
#[derive(Debug)]
pub(super) struct ReaderPin {
    pins: Arc<ReaderPins>,
    at: u64,
}

impl Drop for ReaderPin {
    fn drop(&mut self) {
        let mut state = lock(&self.pins.state);
        if let Some(count) = state.1.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                state.1.remove(&self.at);
            }
        }
    }
}
