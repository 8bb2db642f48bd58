//! Builds a frame of packed records. The threads that made the records pack them, while they are in
//! their caches; after that the messages can be freed. The writer, which all threads wait for, only
//! completes the frame.

use crate::message::Durability;
use crate::store::location::MessageRef;
use crate::store::memtable::AppliedRecord;
use crate::store::record::{Record, estimated_bytes};
use crate::store::wal::frame;
use crate::store::{Entry, Lsn, codec};

/// Maximum number of records of one frame, and of their memory in bytes; a single record may be
/// larger.
pub(in crate::store) const RECORDS_MAX: usize = 8_192;
pub(in crate::store) const BATCH_BYTES_MAX: usize = 1 << 20;
/// A record of more memory than this is packed by the writer, so that no other thread waits for it.
const PACKED_AT_ONCE_MAX: usize = 4 << 10;

impl Entry {
    /// Creates an entry for a reserved LSN.
    pub fn new(lsn: Lsn, record: Record, durability: Durability) -> Entry {
        let sum = match &record {
            Record::Published { message, .. } => crc32c::crc32c(message.as_bytes()),
            _ => 0,
        };
        let weight = estimated_bytes(&record);
        Entry { lsn, record, durability, sum, estimated_bytes: weight }
    }
}

/// A frame in construction, with the rows for the memtable.
#[derive(Debug, Default)]
pub(in crate::store) struct FrameBuilder {
    /// LSN of its first record.
    pub(in crate::store) first: Lsn,
    /// Rows of the records for the memtable. Offsets of messages count from the beginning of the
    /// frame.
    pub(in crate::store) rows: Vec<AppliedRecord>,
    pub(in crate::store) frame: frame::Buffer,
    /// Large records that are not packed yet, and the buffer in which the frame is completed then.
    large: Vec<UnpackedRecord>,
    whole: frame::Buffer,
    /// Estimated memory of the records, in bytes.
    pub(in crate::store) bytes: usize,
    /// Strictest durability of the records.
    pub(in crate::store) durability: Durability,
}

/// A record that is not packed yet.
#[derive(Debug)]
struct UnpackedRecord {
    /// Index of its row.
    row: usize,
    /// Size of the packed records before it, in bytes.
    before: usize,
    /// crc32c of its message.
    sum: u32,
}

impl FrameBuilder {
    /// Clears the builder, for records from this LSN on.
    pub(in crate::store) fn begin(&mut self, first: Lsn) {
        self.rows.clear();
        self.large.clear();
        self.frame.begin();
        (self.first, self.bytes, self.durability) = (first, 0, Durability::None);
    }

    /// LSN of its last record.
    pub(in crate::store) fn last(&self) -> Lsn {
        self.first + self.rows.len() as u64 - 1
    }

    /// True when there is no room for a record of this size.
    pub(in crate::store) fn is_full(&self, weight: usize) -> bool {
        !self.rows.is_empty() && (self.rows.len() >= RECORDS_MAX || self.bytes + weight > BATCH_BYTES_MAX)
    }

    pub(in crate::store) fn add(&mut self, entry: Entry) {
        let Entry { record, durability, estimated_bytes: weight, sum, .. } = entry;
        self.bytes += weight;
        self.durability = self.durability.max(durability);
        let row = if weight > PACKED_AT_ONCE_MAX {
            self.large.push(UnpackedRecord { row: self.rows.len(), before: self.frame.len(), sum });
            AppliedRecord::Record(Box::new(record))
        } else {
            add_to(&mut self.frame, record, sum)
        };
        self.rows.push(row);
    }

    /// Packs the records that are not packed yet.
    pub(in crate::store) fn complete(&mut self) {
        if self.large.is_empty() {
            return;
        }
        let whole = &mut self.whole;
        whole.begin();
        let mut large = std::mem::take(&mut self.large).into_iter().peekable();
        let (mut copied, mut shift) = (0, 0);
        for (at, row) in self.rows.iter_mut().enumerate() {
            let Some(UnpackedRecord { before, sum, .. }) = large.next_if(|large| large.row == at) else {
                row.shift(0, shift);
                continue;
            };
            whole.add_from(&self.frame, copied..before);
            copied = before;
            if let AppliedRecord::Record(record) = row {
                let record = std::mem::replace(&mut **record, Record::Nothing);
                *row = add_to(whole, record, sum);
            }
            shift = (whole.len() - copied) as u64;
        }
        whole.add_from(&self.frame, copied..self.frame.len());
        std::mem::swap(&mut self.frame, whole);
    }

    /// Frees memory that only large frames needed.
    pub(in crate::store) fn shrink(&mut self) {
        self.frame.shrink(4 * BATCH_BYTES_MAX);
        self.whole.shrink(4 * BATCH_BYTES_MAX);
        self.rows.shrink_to(RECORDS_MAX);
    }
}

/// Packs a record. Its segment, and the frame's offset there, are not known yet.
fn add_to(frame: &mut frame::Buffer, record: Record, sum: u32) -> AppliedRecord {
    let (from, packed) = frame.add(|out| codec::put_record(out, &record));
    let message = codec::message_in(packed);
    AppliedRecord::of(record, message.map(|within| MessageRef::with(sum, within, 0, from as u64)))
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::QoS;

    use super::*;
    use crate::message::{DeliveryTerms, Message, MessageParts};
    use crate::store::log_records;
    use crate::store::record::{QueueSlot, QueueSlots};
    use crate::store::wal::frame::{HEAD, Head};

    fn published(n: u64, payload: usize) -> Record {
        let message = Message::new(&MessageParts {
            topic: "t",
            properties: &[],
            payload: &vec![n as u8; payload],
            qos: QoS::AtLeastOnce,
            retain: false,
            publisher: 1,
            published_at: 0,
            expires_at: None,
        });
        let queued =
            QueueSlots::One(QueueSlot { session: 1, seq: n, terms: DeliveryTerms::plain(QoS::AtLeastOnce) });
        Record::Published { message, retained: false, queued, beside: None }
    }

    #[test]
    fn records_of_any_size_keep_their_order_and_rows_locate_their_messages() {
        let sizes = [1, 10_000, 20_000, 64, 4_000, 100_000, 7];
        let records: Vec<Record> = (1..).zip(sizes).map(|(n, size)| published(n, size)).collect();
        let mut builder = FrameBuilder::default();
        // Twice: contents of the first frame must not matter.
        for first in [5, 12] {
            builder.begin(first);
            records.iter().for_each(|record| builder.add(Entry::new(0, record.clone(), Durability::Always)));
            builder.complete();
            assert_eq!((builder.last(), builder.durability), (first + 6, Durability::Always));
            let head = Head {
                segment: 3,
                first,
                count: builder.rows.len() as u32,
                len: builder.frame.len() as u32,
                format: codec::FORMAT,
                ..Head::default()
            };
            builder.frame.seal(&head);
            let bytes = builder.frame.bytes();
            assert_eq!(frame::find(bytes, 3, None), Some(head));
            let found = log_records::decode(bytes, &head).unwrap();
            assert!(found.iter().map(|(record, _)| record).eq(&records));
            for ((_, range), row) in found.into_iter().zip(&mut builder.rows) {
                let range = range.unwrap();
                assert!(range.start >= HEAD);
                assert_eq!(row.reference(), Some(MessageRef::of(bytes, range, 0, 0)));
            }
        }
    }

    #[test]
    fn a_packed_message_stays_in_memory_only_if_it_is_retained() {
        let mut builder = FrameBuilder::default();
        builder.begin(1);
        for retained in [false, true] {
            let record = match published(1, 64) {
                Record::Published { message, queued, beside, .. } => {
                    Record::Published { message, retained, queued, beside }
                }
                other => other,
            };
            let Record::Published { message, .. } = &record else { panic!("a message") };
            let message = message.clone();
            builder.add(Entry::new(0, record, Durability::Always));
            let kept = match builder.rows.last() {
                Some(AppliedRecord::Queued(..)) => None,
                Some(AppliedRecord::Published(published)) => published.retained.as_ref(),
                other => panic!("{other:?}"),
            };
            assert_eq!(kept, Some(&message).filter(|_| retained));
        }
    }
}
