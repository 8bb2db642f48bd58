//! Rewrites a checkpoint of an older format, and gives a copy of a state its own identity.

use std::io;

use lapwing_protocol::PacketId;
use redb::{Database, Durability, Key, ReadableTable, TableDefinition, WriteTransaction};

use super::meta::StateIdentity;
use super::row_format::{RowBytes, as_io, checked, guarded, verified};
use super::{Checkpoint, FLIGHTS, FORMAT, META, SESSIONS};
use crate::store::codec::{self, Reader};

/// Names in `meta`.
pub(super) const IDENTITY: &str = "identity";
pub(super) const KEY: &str = "key";
/// Set in a copy that nobody has opened yet.
pub(super) const COPY: &str = "copy";

/// Rewrites the rows that format 3 has changed, in one transaction.
pub(super) fn rewrite(checkpoint: &Checkpoint) -> io::Result<()> {
    let Some(db) = checkpoint.database() else { return Ok(()) };
    guarded(|| {
        let mut txn = begin(&db).map_err(as_io)?;
        rewrite_all(&mut txn).map_err(as_io)?;
        put_identity(&txn, &StateIdentity::random()?).map_err(as_io)?;
        txn.commit().map_err(as_io)
    })
}

fn begin(db: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

fn rewrite_all(txn: &mut WriteTransaction) -> Result<(), redb::Error> {
    rewrite_rows(txn, SESSIONS, |_, reader, out| {
        codec::session(reader).map(|terms| codec::put_session(out, &terms))
    })?;
    rewrite_rows(txn, FLIGHTS, |(_, id), reader, out| {
        codec::flight(reader, PacketId::new(id)?).map(|flight| codec::put_flight(out, &flight))
    })?;
    txn.open_table(META)?.insert("format", FORMAT.to_le_bytes().as_slice())?;
    Ok(())
}

/// Decodes each row of a table as the older formats have it, and writes it as this one does. A
/// corrupt row stays as it is: it is found when it is read.
fn rewrite_rows<K: Key + Copy + for<'k> redb::Value<SelfType<'k> = K> + 'static>(
    txn: &WriteTransaction,
    table: TableDefinition<'_, K, RowBytes>,
    put: impl Fn(K, &mut Reader<'_>, &mut Vec<u8>) -> Option<()>,
) -> Result<(), redb::Error> {
    let mut rows = txn.open_table(table)?;
    let mut rewritten = Vec::new();
    for row in rows.iter()? {
        let (key, value) = row?;
        let key = key.value();
        let mut packed = Vec::new();
        let mut decoded = false;
        checked(&mut packed, |out| {
            let reader = verified(value.value()).map(|row| Reader::of_format(row, codec::FORMAT_MIN));
            decoded = reader
                .is_some_and(|mut reader| put(key, &mut reader, out).is_some() && reader.rest().is_empty());
        });
        if decoded {
            rewritten.push((key, packed));
        }
    }
    for (key, row) in rewritten {
        rows.insert(key, row.as_slice())?;
    }
    Ok(())
}

fn put_identity(txn: &WriteTransaction, identity: &StateIdentity) -> Result<(), redb::Error> {
    let mut meta = txn.open_table(META)?;
    meta.insert(IDENTITY, u64::from(identity.number).to_le_bytes().as_slice())?;
    meta.insert(KEY, identity.key.as_slice())?;
    meta.remove(COPY)?;
    Ok(())
}

/// Writes the identity of a new state.
pub(super) fn write_identity(db: &Database, identity: &StateIdentity) -> Result<(), redb::Error> {
    let txn = begin(db)?;
    put_identity(&txn, identity)?;
    Ok(txn.commit()?)
}

/// Gives a copy that is opened for the first time a number of its own: it will use the numbers of
/// sessions and slots again that the original uses, too. The key stays.
pub(super) fn name_copy(checkpoint: &Checkpoint) -> io::Result<()> {
    let read = checkpoint.read()?;
    if read.meta_number(COPY)?.unwrap_or(0) == 0 {
        return Ok(());
    }
    let identity = StateIdentity { key: read.identity()?.key, ..StateIdentity::random()? };
    drop(read);
    let Some(db) = checkpoint.database() else { return Ok(()) };
    guarded(|| write_identity(&db, &identity).map_err(as_io))
}

/// Marks a copy, so that whoever opens it gives it a number of its own.
pub(super) fn mark_copy(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(META)?.insert(COPY, 1u64.to_le_bytes().as_slice())?;
    Ok(())
}
