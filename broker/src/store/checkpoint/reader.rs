//! Reads a snapshot of the checkpoint. Corrupt rows are logged, counted and skipped.

use std::collections::{BTreeSet, HashMap};
use std::io;

use lapwing_protocol::PacketId;
use redb::{ReadTransaction, ReadableTable};
use tracing::error;

use super::{
    FLIGHTS, META, RECEIVED, RETAINED, SESSIONS, SUBSCRIPTIONS, WAITING, migrate, queue, retained_key,
};
use crate::message::{Delivery, Message, Seq, SessionNumber};
use crate::store::checkpoint::bodies::{self, Log};
use crate::store::checkpoint::meta::{Meta, StateIdentity};
use crate::store::checkpoint::row_format::{as_io, guarded, verified};
use crate::store::codec::{self, Reader};
use crate::store::location::MessageRef;
use crate::store::pins::ReaderPin;
use crate::store::record::{KeptFlight, KeptSession, SessionTerms, Waiting};
use crate::store::wal::segments;

/// Sessions by number.
type Sessions = HashMap<SessionNumber, KeptSession>;

/// A snapshot of the checkpoint.
pub(in crate::store) struct CheckpointReader {
    pub(super) txn: ReadTransaction,
    pub(super) path: String,
    pub(super) log: Log,
    pub(super) _pin: ReaderPin,
}

impl CheckpointReader {
    pub(super) fn meta_number(&self, name: &str) -> io::Result<Option<u64>> {
        let table = match self.txn.open_table(META) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(as_io(error)),
        };
        let value = table.get(name).map_err(as_io)?;
        Ok(value.and_then(|value| value.value().try_into().ok().map(u64::from_le_bytes)))
    }

    /// Identity of the state.
    pub(in crate::store) fn identity(&self) -> io::Result<StateIdentity> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "the state has no identity");
        let number = self.meta_number(migrate::IDENTITY)?.and_then(|number| u32::try_from(number).ok());
        let table = self.txn.open_table(META).map_err(as_io)?;
        let key = table.get(migrate::KEY).map_err(as_io)?.and_then(|key| key.value().try_into().ok());
        Ok(StateIdentity { number: number.ok_or_else(missing)?, key: key.ok_or_else(missing)? })
    }

    pub(in crate::store) fn meta(&self) -> io::Result<Meta> {
        let number = |name| self.meta_number(name).map(Option::unwrap_or_default);
        Ok(Meta {
            lsn: number("lsn")?,
            clock: number("clock")?,
            number: number("number")?,
            last_group: u32::try_from(number("last_group")?).unwrap_or(0),
            salt: u32::try_from(number("salt")?).unwrap_or(0),
            segment: number("segment")?,
        })
    }

    /// Logs, counts and skips a corrupt row.
    fn corrupt(&self, table: &str, key: &dyn std::fmt::Debug, bad: &mut u64) {
        *bad += 1;
        error!(file = %self.path, table, ?key, "a row of the checkpoint is corrupt and is skipped");
    }

    /// Reads rows of a queue, until `give` returns false.
    pub(in crate::store) fn queue(
        &self,
        session: SessionNumber,
        range: std::ops::Range<Seq>,
        bad: &mut u64,
        mut give: impl FnMut(Seq, &mut dyn FnMut() -> Option<Delivery>) -> bool,
    ) -> io::Result<()> {
        let mut corrupt = |session, seq: Seq| self.corrupt("queue_chunks", &(session, seq), bad);
        guarded(|| queue::read(&self.txn, &self.log, session, range, &mut corrupt, &mut give))
    }

    /// Reads a message from the log; `None` when it is damaged.
    pub(in crate::store) fn logged(
        &self,
        reference: &MessageRef,
        bad: &mut u64,
    ) -> io::Result<Option<Message>> {
        let message = self.log.message(reference);
        self.log.failure()?;
        if message.is_none() {
            *bad += 1;
            let file = segments::name(reference.location.segment);
            error!(file, offset = reference.location.at, "a message in the log is damaged: it is skipped");
        }
        Ok(message)
    }

    /// Segments that hold messages of the checkpoint.
    pub(in crate::store) fn segments(&self) -> io::Result<BTreeSet<u64>> {
        guarded(|| bodies::needed(&self.txn))
    }

    pub(in crate::store) fn retained(&self, topic: &str, bad: &mut u64) -> io::Result<Option<Message>> {
        guarded(|| {
            let rows = self.txn.open_table(RETAINED).map_err(as_io)?;
            let Some(row) = rows.get(&*retained_key(topic)).map_err(as_io)? else { return Ok(None) };
            let message = verified(row.value()).and_then(|row| Reader::all(row, codec::message));
            if message.is_none() {
                self.corrupt("retained", &topic, bad);
            }
            Ok(message)
        })
    }

    /// All retained messages, in the broker's order of topics.
    pub(in crate::store) fn each_retained(
        &self,
        bad: &mut u64,
        give: &mut dyn FnMut(Message),
    ) -> io::Result<()> {
        guarded(|| {
            let rows = self.txn.open_table(RETAINED).map_err(as_io)?;
            for row in rows.iter().map_err(as_io)? {
                let (key, value) = row.map_err(as_io)?;
                match verified(value.value()).and_then(|row| Reader::all(row, codec::message)) {
                    Some(message) => give(message),
                    None => self.corrupt("retained", &String::from_utf8_lossy(key.value()), bad),
                }
            }
            Ok(())
        })
    }

    /// All sessions with their state, except their queues.
    pub(in crate::store) fn sessions(
        &self,
        bad: &mut u64,
    ) -> io::Result<HashMap<SessionNumber, KeptSession>> {
        guarded(|| {
            let mut all = Sessions::new();
            self.session_terms(&mut all, bad)?;
            self.subscriptions(&mut all, bad)?;
            self.flights(&mut all, bad)?;
            self.received(&mut all)?;
            self.waiting(&mut all, bad)?;
            Ok(all)
        })
    }

    fn session_terms(&self, all: &mut Sessions, bad: &mut u64) -> io::Result<()> {
        for row in self.txn.open_table(SESSIONS).map_err(as_io)?.iter().map_err(as_io)? {
            let (key, value) = row.map_err(as_io)?;
            match verified(value.value()).and_then(|row| Reader::all(row, codec::session)) {
                Some(terms) => drop(all.insert(key.value(), kept(terms))),
                None => self.corrupt("sessions", &key.value(), bad),
            }
        }
        Ok(())
    }

    fn subscriptions(&self, all: &mut Sessions, bad: &mut u64) -> io::Result<()> {
        for row in self.txn.open_table(SUBSCRIPTIONS).map_err(as_io)?.iter().map_err(as_io)? {
            let (key, value) = row.map_err(as_io)?;
            let (session, filter) = key.value();
            let Some(kept) = all.get_mut(&session) else { continue };
            match verified(value.value()).and_then(|row| Reader::all(row, codec::subscription)) {
                Some(subscription) => kept.subscriptions.push((filter.into(), subscription)),
                None => self.corrupt("subscriptions", &(session, filter), bad),
            }
        }
        Ok(())
    }

    fn flights(&self, all: &mut Sessions, bad: &mut u64) -> io::Result<()> {
        for row in self.txn.open_table(FLIGHTS).map_err(as_io)?.iter().map_err(as_io)? {
            let (key, value) = row.map_err(as_io)?;
            let (session, id) = key.value();
            let Some(kept) = all.get_mut(&session) else { continue };
            let flight: Option<KeptFlight> = PacketId::new(id)
                .zip(verified(value.value()))
                .and_then(|(id, row)| Reader::all(row, |reader| codec::flight(reader, id)));
            match flight {
                Some(flight) => kept.flights.push(flight),
                None => self.corrupt("flights", &(session, id), bad),
            }
        }
        Ok(())
    }

    fn received(&self, all: &mut Sessions) -> io::Result<()> {
        for row in self.txn.open_table(RECEIVED).map_err(as_io)?.iter().map_err(as_io)? {
            let (session, id) = row.map_err(as_io)?.0.value();
            if let Some(kept) = all.get_mut(&session) {
                kept.received.extend(PacketId::new(id));
            }
        }
        Ok(())
    }

    fn waiting(&self, all: &mut Sessions, bad: &mut u64) -> io::Result<()> {
        for row in self.txn.open_table(WAITING).map_err(as_io)?.iter().map_err(as_io)? {
            let (key, value) = row.map_err(as_io)?;
            let Some(kept) = all.get_mut(&key.value()) else { continue };
            match verified(value.value()).and_then(|row| Reader::all(row, codec::waiting)) {
                Some(waiting) => kept.waiting = waiting,
                None => self.corrupt("waiting", &key.value(), bad),
            }
        }
        Ok(())
    }
}

pub(in crate::store) fn kept(terms: SessionTerms) -> KeptSession {
    KeptSession {
        terms,
        subscriptions: Vec::new(),
        flights: Vec::new(),
        received: Vec::new(),
        waiting: Waiting::default(),
    }
}
