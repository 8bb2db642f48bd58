//! Encoding of the checkpoint's rows, with their checksums.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

pub(in crate::store) type RowBytes = &'static [u8];

/// Converts any error of redb to an I/O error.
pub(in crate::store) fn as_io(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        redb::Error::Corrupted(what) => io::Error::new(io::ErrorKind::InvalidData, what),
        other => io::Error::other(other.to_string()),
    }
}

/// Begins a row with room for its checksum.
pub(in crate::store) fn unsealed(row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&[0; 4]);
}

/// Writes the checksum in front of a row.
pub(in crate::store) fn seal(row: &mut [u8]) {
    if let Some((sum, body)) = row.split_at_mut_checked(4) {
        sum.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    }
}

/// Packs a row behind its checksum.
pub(in crate::store) fn checked(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
    unsealed(out);
    put(out);
    seal(out);
    out
}

/// Contents behind the checksum, if the checksum is right.
pub(in crate::store) fn verified(row: &[u8]) -> Option<&[u8]> {
    let (sum, body) = row.split_at_checked(4)?;
    (crc32c::crc32c(body).to_le_bytes() == sum).then_some(body)
}

/// Converts panics of redb on damaged pages to errors.
pub(in crate::store) fn guarded<T>(f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::InvalidData, "a page of the checkpoint is damaged"))
    })
}

pub(in crate::store) fn copy_table<K: redb::Key, V: redb::Value>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
) -> io::Result<()> {
    let from = from.open_table(table).map_err(as_io)?;
    let mut to = to.open_table(table).map_err(as_io)?;
    for row in from.iter().map_err(as_io)? {
        let (key, value) = row.map_err(as_io)?;
        to.insert(key.value(), value.value()).map_err(as_io)?;
    }
    Ok(())
}
