//! Pieces of memory of messages that their last owner is done with, kept for the next ones. What
//! the allocator takes for a message and for giving it back is a tenth of all that a small one
//! costs.
//!
//! Each thread has its own, without a lock. Where one thread only makes messages and another only
//! sends them, the second leaves many at once for the first ([`Depot`]). What is kept is bounded
//! for each thread and in the depot, and the piece that was put away last, which the processor has
//! in its cache, is the first to be taken.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Pieces are longer than a multiple of this by [`BEYOND`]: with the counters of an `Arc` and the
/// word of the allocator before it they are a multiple of it, so that nothing is lost to what the
/// allocator rounds up anyway.
const STEP: usize = 16;
const BEYOND: usize = 8;
/// A shelf for each length: pieces of up to 1,016 bytes are kept.
const SHELVES: usize = 64;
/// What a thread keeps at most, in bytes.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// How many halves of a shelf wait for other threads at most.
const LOTS_MAX: usize = 8;
/// What a piece takes beyond its length: the counters, the allocator's word, and its place on the
/// shelf.
const PIECE_BYTES: usize = 40;
/// What a thread keeps of large messages at most, and of one of them, in bytes.
const LARGE_KEPT_BYTES_MAX: usize = 512 * 1024;
const LARGE_PIECE_BYTES_MAX: usize = 128 * 1024;

thread_local! {
    static SPARE: RefCell<LocalPool> = const { RefCell::new(LocalPool::new()) };
    static LARGE: RefCell<LargeBuffers> = const { RefCell::new(LargeBuffers { pieces: VecDeque::new(), bytes: 0 }) };
}

/// How many bytes stand behind so many, in the piece that has room for them.
pub(super) const fn padding(len: usize) -> usize {
    BEYOND.wrapping_sub(len) % STEP
}

/// A piece of memory of this length, which nobody else has. What is in it is of no meaning.
#[inline]
pub(super) fn take(len: usize) -> Arc<[u8]> {
    let kept = SPARE.try_with(|spare| spare.borrow_mut().take(len)).ok().flatten();
    kept.unwrap_or_else(|| std::iter::repeat_n(0, len).collect())
}

/// Keeps a piece that only the caller has, if there is room.
#[inline]
pub(super) fn put(piece: Arc<[u8]>) {
    // The thread may be at its end.
    let _ = SPARE.try_with(|spare| spare.borrow_mut().put(piece));
}

/// Empty memory for so many bytes, which nobody else has.
pub(super) fn take_large(len: usize) -> Arc<Vec<u8>> {
    let kept = LARGE.try_with(|large| large.borrow_mut().take(len)).ok().flatten();
    kept.unwrap_or_else(|| Arc::new(Vec::with_capacity(len)))
}

/// Keeps the memory of a large message that only the caller has, in place of what was kept first.
pub(super) fn put_large(piece: Arc<Vec<u8>>) {
    let _ = LARGE.try_with(|large| large.borrow_mut().put(piece));
}

/// Memory of large messages, which are of any length: the one put away last goes first, if it is
/// not much too long. The allocator would give that much memory back to the kernel, and ask for it
/// again, for every few of them.
#[derive(Debug)]
struct LargeBuffers {
    pieces: VecDeque<Arc<Vec<u8>>>,
    bytes: usize,
}

impl LargeBuffers {
    fn take(&mut self, len: usize) -> Option<Arc<Vec<u8>>> {
        let fits = |piece: &Arc<Vec<u8>>| (len..=2 * len).contains(&piece.capacity());
        let at = self.pieces.iter().rposition(fits)?;
        let mut piece = self.pieces.remove(at)?;
        self.bytes -= piece.capacity();
        Arc::get_mut(&mut piece)?.clear();
        Some(piece)
    }

    fn put(&mut self, piece: Arc<Vec<u8>>) {
        let bytes = piece.capacity();
        if bytes > LARGE_PIECE_BYTES_MAX {
            return;
        }
        while self.bytes + bytes > LARGE_KEPT_BYTES_MAX {
            let Some(oldest) = self.pieces.pop_front() else { break };
            self.bytes -= oldest.capacity();
        }
        self.bytes += bytes;
        self.pieces.push_back(piece);
    }
}

#[derive(Debug)]
struct LocalPool {
    shelves: [Vec<Arc<[u8]>>; SHELVES],
    bytes: usize,
}

impl LocalPool {
    const fn new() -> LocalPool {
        LocalPool { shelves: [const { Vec::new() }; SHELVES], bytes: 0 }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<Arc<[u8]>> {
        let shelf = len / STEP;
        let piece = match self.shelves.get_mut(shelf)?.pop() {
            Some(piece) => piece,
            None if DEPOT.may_have(shelf) => self.restock(shelf)?,
            None => return None,
        };
        self.bytes -= len + PIECE_BYTES;
        Some(piece)
    }

    #[inline]
    fn put(&mut self, piece: Arc<[u8]>) {
        let (shelf, len) = (piece.len() / STEP, piece.len());
        if shelf >= SHELVES || len % STEP != BEYOND {
            return;
        }
        if self.bytes + len + PIECE_BYTES > KEPT_BYTES_MAX {
            self.make_room(shelf);
        }
        if let Some(shelf) = self.shelves.get_mut(shelf) {
            shelf.push(piece);
            self.bytes += len + PIECE_BYTES;
        }
    }

    /// It is full. What is on other shelves may be of a size that nobody asks for any more; where
    /// that is not much, another thread may need what was put here first.
    #[cold]
    fn make_room(&mut self, wanted: usize) {
        let Some(shelf) = self.shelves.get_mut(wanted) else { return };
        let own = bytes_of(wanted, shelf.len());
        if own > KEPT_BYTES_MAX / 2 {
            let pieces: Vec<_> = shelf.drain(..shelf.len() / 2).collect();
            self.bytes -= bytes_of(wanted, pieces.len());
            return DEPOT.leave(Bundle { shelf: wanted, pieces });
        }
        self.clear_but(wanted);
    }

    fn clear_but(&mut self, wanted: usize) {
        let others = self.shelves.iter_mut().enumerate().filter(|(at, _)| *at != wanted);
        others.for_each(|(_, shelf)| *shelf = Vec::new());
        self.bytes = bytes_of(wanted, self.shelves.get(wanted).map_or(0, Vec::len));
    }

    /// The shelf is empty: takes what another thread had too much of.
    #[cold]
    fn restock(&mut self, wanted: usize) -> Option<Arc<[u8]>> {
        let mut lot = DEPOT.fetch(wanted)?;
        let bytes = bytes_of(wanted, lot.len());
        if self.bytes + bytes > KEPT_BYTES_MAX {
            self.clear_but(wanted);
        }
        self.bytes += bytes;
        let piece = lot.pop();
        *self.shelves.get_mut(wanted)? = lot;
        piece
    }
}

/// What so many pieces of this shelf take, all of which are of one length.
fn bytes_of(shelf: usize, pieces: usize) -> usize {
    pieces * (shelf * STEP + BEYOND + PIECE_BYTES)
}

/// Where threads that have too many pieces leave them for those that have none: half a shelf at
/// once, so that a lock is for hundreds of messages. Nobody waits for it.
#[derive(Debug)]
struct SharedPool {
    lots: Mutex<Vec<Bundle>>,
    /// A bit for each shelf that there is something for.
    known: AtomicU64,
}

/// Half of a shelf.
#[derive(Debug)]
struct Bundle {
    shelf: usize,
    pieces: Vec<Arc<[u8]>>,
}

static DEPOT: SharedPool = SharedPool { lots: Mutex::new(Vec::new()), known: AtomicU64::new(0) };

impl SharedPool {
    #[inline]
    fn may_have(&self, shelf: usize) -> bool {
        self.known.load(Ordering::Relaxed) >> shelf & 1 != 0
    }

    /// In place of what was left first, if there is no room.
    fn leave(&self, lot: Bundle) {
        let Ok(mut lots) = self.lots.try_lock() else { return };
        let oldest = (lots.len() >= LOTS_MAX).then(|| lots.remove(0));
        lots.push(lot);
        self.tell(&lots);
        drop(lots);
        drop(oldest);
    }

    fn fetch(&self, shelf: usize) -> Option<Vec<Arc<[u8]>>> {
        let mut lots = self.lots.try_lock().ok()?;
        let at = lots.iter().rposition(|lot| lot.shelf == shelf)?;
        let lot = lots.remove(at);
        self.tell(&lots);
        Some(lot.pieces)
    }

    fn tell(&self, lots: &[Bundle]) {
        self.known.store(lots.iter().fold(0, |known, lot| known | 1 << lot.shelf), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(len: usize) -> Arc<[u8]> {
        std::iter::repeat_n(7, len).collect()
    }

    fn kept(spare: &LocalPool) -> usize {
        spare.shelves.iter().flatten().map(|piece| piece.len() + PIECE_BYTES).sum()
    }

    #[test]
    fn a_piece_is_given_to_who_asks_for_its_length_only() {
        let mut spare = LocalPool::new();
        for len in 0..2_000 {
            let len = len + padding(len);
            assert!(len % STEP == BEYOND, "{len}");
            spare.put(piece(len));
            assert!(spare.take(len + STEP).is_none());
            let again = spare.take(len);
            assert_eq!(again.is_some(), len < SHELVES * STEP, "{len}");
            assert!(again.is_none_or(|piece| piece.len() == len) && spare.take(len).is_none());
        }
        spare.put(piece(100));
        assert_eq!((spare.bytes, kept(&spare)), (0, 0), "no piece of ours");
    }

    #[test]
    fn what_one_thread_has_too_much_of_another_one_gets() {
        // Of a length that no other test here asks for.
        const LEN: usize = 808;
        let mut sends = LocalPool::new();
        for _ in 0..10_000 {
            sends.put(piece(LEN));
            assert!(kept(&sends) <= KEPT_BYTES_MAX && kept(&sends) == sends.bytes);
        }
        let mut makes = LocalPool::new();
        makes.put(piece(408));
        let taken =
            std::iter::from_fn(|| makes.take(LEN)).inspect(|piece| assert_eq!(piece.len(), LEN)).count();
        assert!(taken * (LEN + PIECE_BYTES) > KEPT_BYTES_MAX, "{taken}");
        assert!(taken * (LEN + PIECE_BYTES) <= LOTS_MAX * KEPT_BYTES_MAX / 2, "{taken}");
        assert_eq!(kept(&makes), makes.bytes);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_bound_is_not_used_up_by_sizes_of_the_past() {
        let mut spare = LocalPool::new();
        for _ in 0..10_000 {
            spare.put(piece(104));
            assert!(kept(&spare) <= KEPT_BYTES_MAX && kept(&spare) == spare.bytes);
        }
        assert!(kept(&spare) > KEPT_BYTES_MAX / 2 - 200);
        for _ in 0..10_000 {
            spare.put(piece(504));
            assert!(kept(&spare) <= KEPT_BYTES_MAX && kept(&spare) == spare.bytes);
        }
        assert!(spare.take(504).is_some() && spare.take(104).is_none());
    }
    #[test]
    fn the_memory_of_large_messages_is_given_to_those_that_fill_it_by_half_and_is_bounded() {
        let mut large = LargeBuffers { pieces: VecDeque::new(), bytes: 0 };
        let piece = |len| Arc::new(Vec::with_capacity(len));
        large.put(piece(20_000));
        assert!(large.take(20_001).is_none() && large.take(9_999).is_none());
        assert!(large.take(10_000).is_some_and(|piece| piece.is_empty() && piece.capacity() == 20_000));
        large.put(piece(LARGE_PIECE_BYTES_MAX + 1));
        assert_eq!(large.bytes, 0);
        for _ in 0..1_000 {
            large.put(piece(20_000));
            assert!(large.bytes <= LARGE_KEPT_BYTES_MAX);
        }
        large.put(piece(100_000));
        assert!(large.take(100_000).is_some(), "what was kept before makes room");
        assert_eq!(large.bytes, large.pieces.iter().map(|piece| piece.capacity()).sum::<usize>());
    }
}
