//! Records of the log: what its frames hold, decoded.

use std::ops::Range;

use super::codec::{self, Reader};
use super::error::OpenError;
use super::record::Record;
use crate::store::Lsn;
use crate::store::location::MessageRef;
use crate::store::wal::disk::Disk;
use crate::store::wal::frame::{self, Head};
use crate::store::wal::segments::{self, OnDamage, Scan, ScanFrom};

/// A record, and the range of its message in the frame.
type Decoded = (Record, Option<Range<usize>>);

/// Reason why the records of a frame cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// They are no records.
    Invalid,
    /// A newer version wrote them: its format, or a kind of record.
    Newer(String),
}

/// Decodes the records of a sound frame.
pub(super) fn decode(bytes: &[u8], head: &Head) -> Result<Vec<Decoded>, Unreadable> {
    if !(codec::FORMAT_MIN..=codec::FORMAT).contains(&head.format) {
        return Err(Unreadable::Newer(format!("format {}", head.format)));
    }
    let records = frame::records(bytes, head);
    let end = frame::HEAD + records.len();
    let mut reader = Reader::of_format(records, head.format);
    let one = |reader: &mut Reader<'_>| {
        let packed = reader.rest();
        let at = end - packed.len();
        if let Some(kind) = packed.first().filter(|kind| !codec::is_known(**kind)) {
            return Err(Unreadable::Newer(format!("records of kind {kind}")));
        }
        let record = codec::record(reader).ok_or(Unreadable::Invalid)?;
        Ok((record, codec::message_in(packed).map(|within| at + within.start..at + within.end)))
    };
    let decoded = (0..head.count).map(|_| one(&mut reader)).collect::<Result<_, _>>()?;
    if reader.rest().is_empty() { Ok(decoded) } else { Err(Unreadable::Invalid) }
}

/// Reads the log; passes on each record with the location of its message.
pub(super) fn scan(
    disk: &dyn Disk,
    since: ScanFrom,
    beyond: OnDamage,
    give: &mut dyn FnMut(Lsn, Record, Option<MessageRef>),
) -> Result<Scan, OpenError> {
    segments::scan(disk, since, beyond, &mut |found| {
        let records = match decode(found.bytes, found.head) {
            Ok(records) => records,
            Err(Unreadable::Invalid) => return Ok(false),
            Err(Unreadable::Newer(what)) => {
                let file = disk.path(&segments::name(found.head.segment));
                return Err(OpenError::Foreign(format!(
                    "{file} has {what}, which this version of lapwing does not know"
                )));
            }
        };
        for (lsn, (record, message)) in (found.head.first..).zip(records) {
            if lsn > found.after {
                let within = |range| MessageRef::of(found.bytes, range, found.head.segment, found.at);
                give(lsn, record, message.map(within));
            }
        }
        Ok(true)
    })
}
