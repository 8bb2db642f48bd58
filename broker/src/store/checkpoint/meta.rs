//! The checkpoint's table `meta`.

use std::io;

use crate::message::Millis;
use crate::store::Lsn;

/// Position of the checkpoint in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Meta {
    /// The checkpoint has all records up to this one.
    pub(in crate::store) lsn: Lsn,
    pub(in crate::store) clock: Millis,
    pub(in crate::store) number: u64,
    pub(in crate::store) last_group: u32,
    /// Salt of the log's frames.
    pub(in crate::store) salt: u32,
    /// First segment that can have records behind `lsn`.
    pub(in crate::store) segment: u64,
}

/// Values that a new checkpoint begins with.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Birth {
    /// Salt of the log's frames.
    pub(in crate::store) salt: u32,
    /// Key of the state that this one is a copy of.
    pub(in crate::store) key: Option<[u8; 32]>,
}

/// Number and key of a state. Both are made with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateIdentity {
    /// Random number: the state of another broker has another one, and so has a copy.
    pub number: u32,
    /// Secret key for what clients may hand back, such as receipts.
    pub key: [u8; 32],
}

impl StateIdentity {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(in crate::store) fn random() -> io::Result<StateIdentity> {
        let failed = |error: getrandom::Error| io::Error::other(error.to_string());
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(failed)?;
        Ok(StateIdentity { number: getrandom::u32().map_err(failed)?, key })
    }
}
