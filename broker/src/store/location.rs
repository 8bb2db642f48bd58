//! Locations of messages in the log.

use std::ops::Range;

/// Where a message begins in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::store) struct LogLocation {
    pub(in crate::store) segment: u64,
    /// The byte of the segment.
    pub(in crate::store) at: u64,
}

/// A message in the log, with what shows that it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct MessageRef {
    pub(in crate::store) spot: LogLocation,
    pub(in crate::store) len: u32,
    /// Its crc32c: the checksum of a frame would need all of it to be read.
    pub(in crate::store) sum: u32,
}

impl MessageRef {
    /// Of the message that stands here in bytes which begin at `base` of the segment.
    pub(in crate::store) fn of(bytes: &[u8], range: Range<usize>, segment: u64, base: u64) -> MessageRef {
        let sum = crc32c::crc32c(bytes.get(range.clone()).unwrap_or(&[]));
        MessageRef::with(sum, range, segment, base)
    }

    /// As [`of`](Self::of), where the checksum is known.
    pub(in crate::store) fn with(sum: u32, range: Range<usize>, segment: u64, base: u64) -> MessageRef {
        MessageRef {
            spot: LogLocation { segment, at: base + range.start as u64 },
            len: range.len() as u32,
            sum,
        }
    }
}
