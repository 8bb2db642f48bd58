//! The checkpoint's table `meta`.

use crate::message::Millis;
use crate::store::Lsn;

/// Where the checkpoint stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Meta {
    /// Everything up to this record is in it.
    pub(in crate::store) lsn: Lsn,
    pub(in crate::store) clock: Millis,
    pub(in crate::store) number: u64,
    pub(in crate::store) last_group: u32,
    /// Of the frames of the log.
    pub(in crate::store) salt: u32,
    /// No segment before this one has records behind `lsn`.
    pub(in crate::store) segment: u64,
}
