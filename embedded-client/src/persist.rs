//! The session across deep sleep and power cuts: the outbox in a flash page, or in RAM that keeps
//! its content.
//!
//! ```text
//! 0     4        6      8        12
//! | LWC1 | layout | used | CRC-32 | used bytes of records
//! ```
//!
//! The records are written first and the header last, so that the checksum finds a write that was
//! cut off.

use crate::Client;
use crate::shelf::{HEADER, Shelf, flag, kind};

/// Storage for a session.
///
/// Offsets are bytes from the start of the storage. All accesses lie within 12 bytes and the size
/// of the outbox. For flash: `save` is one erase, then writes without overlap.
pub trait Persist {
    /// Error of the storage.
    type Error;

    /// Makes room for `len` bytes. Old content may be erased.
    ///
    /// # Errors
    /// Errors of the storage.
    fn begin(&mut self, len: usize) -> Result<(), Self::Error>;

    /// Writes bytes at an offset that was not written since [`begin`](Self::begin).
    ///
    /// # Errors
    /// Errors of the storage.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Reads bytes.
    ///
    /// # Errors
    /// Errors of the storage.
    fn read(&mut self, offset: usize, out: &mut [u8]) -> Result<(), Self::Error>;
}

const MAGIC: [u8; 4] = *b"LWC1";
const HEAD: usize = 12;
/// Layout of records. It depends on the versions that are compiled in.
const LAYOUT: u16 = if cfg!(feature = "v5") { 5 } else { 3 };

impl<const OUTBOX: usize, const INBOX: usize> Client<'_, OUTBOX, INBOX> {
    /// Returns true if the state for [`save`](Self::save) has changed since it was saved.
    pub const fn is_dirty(&self) -> bool {
        self.machine.dirty
    }

    /// Saves the outbox: undelivered messages, flights, QoS 2 identifiers, and the client
    /// identifier that the server chose.
    ///
    /// Allowed at any time: before deep sleep, or whenever [`is_dirty`](Self::is_dirty) returns
    /// true.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn save<P: Persist>(&mut self, place: &mut P) -> Result<(), P::Error> {
        let bytes = self.outbox.get(..usize::from(self.used)).unwrap_or(&[]);
        place.begin(HEAD + bytes.len())?;
        place.write(HEAD, bytes)?;
        let ([a, b, c, d], [e, f]) = (MAGIC, LAYOUT.to_be_bytes());
        let ([g, h], [i, j, k, l]) = (self.used.to_be_bytes(), crc32(bytes).to_be_bytes());
        place.write(0, &[a, b, c, d, e, f, g, h, i, j, k, l])?;
        self.machine.dirty = false;
        Ok(())
    }

    /// Restores a saved session into the outbox, before the first connection.
    ///
    /// `slept_s` is the number of seconds since the save, for messages that expire; 0 if unknown.
    /// Returns `false`, and leaves the outbox empty, when no complete session is stored. The same
    /// holds for one that is larger than the outbox or made with other versions.
    ///
    /// The server finds its half by the client identifier, unless
    /// [`Config::clean_start`](crate::Config::clean_start) is set or the session has expired.
    /// Messages in flight are then sent as new.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn restore<P: Persist>(&mut self, place: &mut P, slept_s: u32) -> Result<bool, P::Error> {
        let mut head = [0; HEAD];
        place.read(0, &mut head)?;
        let [a, b, c, d, e, f, g, h, crc @ ..] = head;
        let used = usize::from(u16::from_be_bytes([g, h]));
        if [a, b, c, d] != MAGIC || u16::from_be_bytes([e, f]) != LAYOUT || used > OUTBOX {
            self.used = 0;
            return Ok(false);
        }
        self.used = 0;
        let Some(bytes) = self.outbox.get_mut(..used) else { return Ok(false) };
        place.read(HEAD, bytes)?;
        let whole = crc32(bytes).to_be_bytes() == crc;
        self.used = used as u16;
        let (machine, io) = self.parts();
        let mut shelf = io.shelf;
        if !whole || !shelf.is_sound() {
            *shelf.used = 0;
            return Ok(false);
        }
        shelf.forget(kind::ALIAS, flag::SENT | flag::COUNTED);
        shelf.age(slept_s);
        machine.resume_ids(&shelf);
        Ok(true)
    }
}

impl Shelf<'_> {
    /// Returns true if the records follow each other to the end, and their parts lie within them.
    fn is_sound(&self) -> bool {
        let mut record = self.first();
        let mut end = 0;
        while record.kind() != 0 {
            let payload = if record.of(kind::PUBLISH) { self.parts(record).1 } else { record.body() };
            let tail = if record.of(kind::PUBLISH) && record.is(flag::STREAM) { 4 } else { 0 };
            if record.end() < record.at() + HEADER
                || payload + tail > record.end()
                || !(record.kind() & !kind::UNUSED_ID).is_power_of_two()
            {
                return false;
            }
            end = record.end();
            record = self.after(record);
        }
        end == self.used()
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
