//! One frame of the log: what one write commits. Padded to whole pages, so that a page that was acknowledged is never written
//! again; checksummed; bound to its segment, so that what a recycled file held before is not taken for new.

use std::ops::Range;

use super::Lsn;
use super::codec::{self, Reader};
use super::record::Record;
use crate::message::Millis;

/// Frames begin at multiples of this, in bytes.
pub(super) const PAGE: usize = 4096;
/// The fixed part of a frame, in bytes.
pub(super) const HEAD: usize = 64;
/// The version of the format, here and in the checkpoint.
pub(super) const FORMAT: u16 = 1;
/// The longest frame, in bytes: above what one batch or one packet can make.
pub(super) const FRAME_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"LWlg";
/// The last frame of a run that was ended, or of an export.
const LAST: u16 = 1;

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The segment that it belongs to.
    pub segment: u64,
    /// Its first record.
    pub first: Lsn,
    /// How many records it has.
    pub count: u32,
    /// The bytes of its records.
    pub len: u32,
    /// What was durable when it was written.
    pub durable: Lsn,
    /// When it was written.
    pub clock: Millis,
    /// The highest number that was given to a session or a connection.
    pub number: u64,
    /// Nothing of this run or export comes behind it.
    pub ends: bool,
    /// Of this state only: nobody can put a frame into a payload that would be taken for one of ours.
    pub salt: u32,
}

impl Head {
    /// The last record.
    pub(super) fn last(&self) -> Lsn {
        self.first + u64::from(self.count) - 1
    }

    /// What the frame takes in the file, in bytes.
    pub(super) fn padded(&self) -> usize {
        (HEAD + self.len as usize).next_multiple_of(PAGE)
    }
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// A whole frame, its records still packed.
    Frame(Head),
    /// No frame of this segment.
    Nothing,
    /// A frame of this segment in a format that we do not know.
    Newer(u16),
}

/// Makes room for the head; records are added behind it, then [`seal`] completes it.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEAD, 0);
}

/// Completes a frame: head, checksum, padding.
pub(super) fn seal(out: &mut Vec<u8>, head: &Head) {
    let mut bytes = [0u8; HEAD];
    let mut at = 0;
    let mut put = |field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
        at += field.len();
    };
    put(&MAGIC);
    put(&[0; 4]);
    put(&FORMAT.to_le_bytes());
    put(&(if head.ends { LAST } else { 0 }).to_le_bytes());
    put(&head.len.to_le_bytes());
    put(&head.segment.to_le_bytes());
    put(&head.first.to_le_bytes());
    put(&head.durable.to_le_bytes());
    put(&head.clock.to_le_bytes());
    put(&head.number.to_le_bytes());
    put(&head.count.to_le_bytes());
    put(&head.salt.to_le_bytes());
    if let Some(place) = out.get_mut(..HEAD) {
        place.copy_from_slice(&bytes);
    }
    let sum = crc32c::crc32c(out.get(8..).unwrap_or(&[])).to_le_bytes();
    if let Some(place) = out.get_mut(4..8) {
        place.copy_from_slice(&sum);
    }
    out.resize(out.len().next_multiple_of(PAGE), 0);
}

/// How many bytes of records the frame at the front says that it has, right or wrong.
pub(super) fn stated_len(bytes: &[u8]) -> Option<usize> {
    let len = bytes.get(..HEAD).filter(|head| head.starts_with(&MAGIC))?.get(12..16)?;
    Some(u32::from_le_bytes(len.try_into().ok()?) as usize).filter(|len| *len <= FRAME_MAX)
}

/// Looks for a frame of `segment` at the front of `bytes`, with this salt or any.
pub(super) fn find(bytes: &[u8], segment: u64, salt: Option<u32>) -> Found {
    let Some(head) = bytes.get(..HEAD).filter(|head| head.starts_with(&MAGIC)) else { return Found::Nothing };
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
        ends: flags & u64::from(LAST) != 0,
    };
    let Some(body) = bytes.get(8..HEAD.saturating_add(len)) else { return Found::Nothing };
    let salted = salt.is_none_or(|salt| salt == head.salt);
    if !salted || head.segment != segment || u64::from(crc32c::crc32c(body)) != sum {
        return Found::Nothing;
    }
    if format != u64::from(FORMAT) {
        return Found::Newer(format as u16);
    }
    // A number near the end of the range would overflow later; no log gets there.
    if head.count == 0 || head.first == 0 || head.first > u64::MAX / 2 || head.clock > u64::MAX / 4 {
        return Found::Nothing;
    }
    Found::Frame(head)
}

/// The records of a frame that [`find`] found at the front of `bytes`, each with where in the frame its message stands;
/// `None` where they are not as they should be.
pub(super) fn records(bytes: &[u8], head: &Head) -> Option<Vec<(Record, Option<Range<usize>>)>> {
    let end = HEAD + head.len as usize;
    let body = bytes.get(HEAD..end)?;
    let one = |reader: &mut Reader<'_>| {
        let (packed, at) = (reader.0, end - reader.0.len());
        let record = codec::record(reader)?;
        Some((record, codec::message_in(packed).map(|within| at + within.start..at + within.end)))
    };
    Reader::all(body, |reader| (0..head.count).map(|_| one(reader)).collect())
}
