//! The checkpoint's table `meta`.

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
