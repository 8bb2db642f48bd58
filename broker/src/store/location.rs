//! Locations of messages in the log.

use std::ops::Range;

/// Location of a message in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::store) struct LogLocation {
    pub(in crate::store) segment: u64,
    /// Offset in the segment, in bytes.
    pub(in crate::store) at: u64,
}

/// Reference to a message in the log, with its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct MessageRef {
    pub(in crate::store) location: LogLocation,
    pub(in crate::store) len: u32,
    /// crc32c of the message: the checksum of a frame would need the whole frame.
    pub(in crate::store) sum: u32,
}

impl MessageRef {
    /// Reference to the message in this range of bytes that begin at offset `base` of the segment.
    pub(in crate::store) fn of(bytes: &[u8], range: Range<usize>, segment: u64, base: u64) -> MessageRef {
        let sum = crc32c::crc32c(bytes.get(range.clone()).unwrap_or(&[]));
        MessageRef::with(sum, range, segment, base)
    }

    /// As [`of`](Self::of), with a known checksum.
    pub(in crate::store) fn with(sum: u32, range: Range<usize>, segment: u64, base: u64) -> MessageRef {
        MessageRef {
            location: LogLocation { segment, at: base + range.start as u64 },
            len: range.len() as u32,
            sum,
        }
    }
}
