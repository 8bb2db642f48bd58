//! One frame of the log: the records of one write. It is padded to whole pages, so that an
//! acknowledged page is never written again. It has a checksum, and names its segment, so that old
//! contents of a recycled file are not taken for new.
//!
//! Here a record is bytes. Whoever reads them is told the format of their frame.

use std::ops::Range;

/// Frames begin at multiples of this, in bytes.
pub(in crate::store) use super::disk::PAGE;
use super::disk::lead;
use crate::message::Millis;
use crate::store::Lsn;

/// Size of the fixed part of a frame, in bytes.
pub(in crate::store) const HEAD: usize = 64;
/// Longest frame, in bytes: more than one batch or one packet can make.
pub(in crate::store) const FRAME_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"LWlg";
/// Flag of the last frame of a clean run, or of an export.
const LAST: u16 = 1;

/// Fixed part of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Head {
    /// Segment of the frame.
    pub segment: u64,
    /// LSN of its first record.
    pub first: Lsn,
    /// Number of records.
    pub count: u32,
    /// Size of the records, in bytes.
    pub len: u32,
    /// LSN that was durable when the frame was written.
    pub durable: Lsn,
    /// Time when it was written.
    pub clock: Millis,
    /// Highest number that was assigned to a session or a connection.
    pub number: u64,
    /// Set on the last frame of a run or export.
    pub is_last: bool,
    /// Random number of this state: a client cannot craft a payload that passes for a frame.
    pub salt: u32,
    /// Format of its records.
    pub format: u16,
}

impl Head {
    /// LSN of the last record.
    pub(in crate::store) fn last(&self) -> Lsn {
        self.first + u64::from(self.count) - 1
    }

    /// Size of the frame in the file, in bytes.
    pub(in crate::store) fn padded(&self) -> usize {
        (HEAD + self.len as usize).next_multiple_of(PAGE)
    }

    /// Packed head, without the checksum.
    fn packed(&self) -> [u8; HEAD] {
        let mut bytes = [0u8; HEAD];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            if let Some(target) = bytes.get_mut(at..at + field.len()) {
                target.copy_from_slice(field);
            }
            at += field.len();
        };
        put(&MAGIC);
        put(&[0; 4]);
        put(&self.format.to_le_bytes());
        put(&(if self.is_last { LAST } else { 0 }).to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.segment.to_le_bytes());
        put(&self.first.to_le_bytes());
        put(&self.durable.to_le_bytes());
        put(&self.clock.to_le_bytes());
        put(&self.number.to_le_bytes());
        put(&self.count.to_le_bytes());
        put(&self.salt.to_le_bytes());
        bytes
    }
}

/// A frame in construction. It begins at a multiple of [`PAGE`] in memory, so that it can be
/// written without a copy.
#[derive(Debug, Default)]
pub(in crate::store) struct Buffer {
    bytes: Vec<u8>,
    /// Offset of the frame in `bytes`.
    lead: usize,
}

impl Buffer {
    /// Makes room for the head; records are added behind it, then [`seal`](Self::seal) completes
    /// the frame.
    pub(in crate::store) fn begin(&mut self) {
        self.bytes.clear();
        self.lead = lead(&self.bytes);
        self.bytes.resize(self.lead + HEAD, 0);
    }

    /// Adds a record that `put` packs; returns its offset in the frame, and its bytes.
    pub(in crate::store) fn add(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> (usize, &[u8]) {
        let from = self.bytes.len();
        put(&mut self.bytes);
        (from - self.lead, self.bytes.get(from..).unwrap_or(&[]))
    }

    /// Adds records of another frame, by their range among its records.
    pub(in crate::store) fn add_from(&mut self, other: &Buffer, records: Range<usize>) {
        let from = other.lead + HEAD;
        self.bytes
            .extend_from_slice(other.bytes.get(from + records.start..from + records.end).unwrap_or(&[]));
    }

    /// Size of the records so far, in bytes.
    pub(in crate::store) fn len(&self) -> usize {
        self.bytes.len() - self.lead - HEAD
    }

    /// Size that the frame will have in the file, in bytes.
    pub(in crate::store) fn padded(&self) -> usize {
        (HEAD + self.len()).next_multiple_of(PAGE)
    }

    /// Completes the frame: head, checksum, padding.
    pub(in crate::store) fn seal(&mut self, head: &Head) {
        let packed = head.packed();
        let padded = self.padded();
        if let Some(target) = self.bytes.get_mut(self.lead..self.lead + HEAD) {
            target.copy_from_slice(&packed);
        }
        let sum = crc32c::crc32c(self.bytes.get(self.lead + 8..).unwrap_or(&[])).to_le_bytes();
        if let Some(target) = self.bytes.get_mut(self.lead + 4..self.lead + 8) {
            target.copy_from_slice(&sum);
        }
        self.bytes.resize(self.lead + padded, 0);
        // The buffer grew and moved in memory.
        let lead = lead(&self.bytes);
        if lead != self.lead {
            let frame = self.lead..self.bytes.len();
            self.bytes.resize(self.bytes.len().max(lead + padded), 0);
            self.bytes.copy_within(frame, lead);
            self.bytes.truncate(lead + padded);
            self.lead = lead;
        }
    }

    /// The bytes of the frame.
    pub(in crate::store) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.lead..).unwrap_or(&[])
    }

    /// Frees memory beyond this number of bytes, which only a large frame needed.
    pub(in crate::store) fn shrink(&mut self, most: usize) {
        if self.bytes.capacity() > most {
            *self = Buffer::default();
        }
    }
}

/// Size of the records that the frame at the front states, right or wrong.
pub(in crate::store) fn stated_len(bytes: &[u8]) -> Option<usize> {
    let len = bytes.get(..HEAD).filter(|head| head.starts_with(&MAGIC))?.get(12..16)?;
    Some(u32::from_le_bytes(len.try_into().ok()?) as usize).filter(|len| *len <= FRAME_MAX)
}

/// Finds a whole frame of `segment` at the front of `bytes`, with this salt or any.
pub(in crate::store) fn find(bytes: &[u8], segment: u64, salt: Option<u32>) -> Option<Head> {
    let head = bytes.get(..HEAD).filter(|head| head.starts_with(&MAGIC))?;
    let mut at = 4;
    let mut take = |n: usize| {
        let mut field = [0u8; 8];
        if let (Some(from), Some(to)) = (head.get(at..at + n), field.get_mut(..n)) {
            to.copy_from_slice(from);
        }
        at += n;
        u64::from_le_bytes(field)
    };
    let (sum, format, flags, len) = (take(4), take(2), take(2), take(4) as usize);
    let head = Head {
        len: len as u32,
        segment: take(8),
        first: take(8),
        durable: take(8),
        clock: take(8),
        number: take(8),
        count: take(4) as u32,
        salt: take(4) as u32,
        is_last: flags & u64::from(LAST) != 0,
        format: format as u16,
    };
    let body = bytes.get(8..HEAD.saturating_add(len))?;
    let salted = salt.is_none_or(|salt| salt == head.salt);
    if !salted || head.segment != segment || u64::from(crc32c::crc32c(body)) != sum {
        return None;
    }
    // A number near the end of the range would overflow later; no log reaches it.
    if head.count == 0 || head.first == 0 || head.first > u64::MAX / 2 || head.clock > u64::MAX / 4 {
        return None;
    }
    Some(head)
}

/// Records of a frame that [`find`] found at the front of `bytes`.
pub(in crate::store) fn records<'b>(bytes: &'b [u8], head: &Head) -> &'b [u8] {
    bytes.get(HEAD..HEAD + head.len as usize).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_stays_aligned_to_pages_while_it_grows() {
        let mut buffer = Buffer::default();
        for records in [1usize, 3_000, 2, 20_000] {
            buffer.begin();
            for _ in 0..records {
                buffer.add(|out| out.extend_from_slice(b"sensors/greenhouse/temperature"));
            }
            let head = Head {
                segment: 3,
                first: 1,
                count: records as u32,
                len: buffer.len() as u32,
                ..Head::default()
            };
            buffer.seal(&head);
            assert_eq!(lead(buffer.bytes()), 0);
            assert_eq!(buffer.bytes().len(), head.padded());
            assert_eq!(find(buffer.bytes(), 3, None), Some(head));
            assert_eq!(super::records(buffer.bytes(), &head).len(), records * 30);
        }
    }
}
