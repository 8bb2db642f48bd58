//! Pieces of memory of small messages that their last owner is done with, kept for the next ones. What the allocator takes for a
//! message and for giving it back is a tenth of all that a small one costs.
//!
//! Each thread has its own, without a lock. Where one thread only makes messages and another only sends them, the second keeps what
//! it may and lets the others go, and the first asks the allocator, as without all this. What is kept is bounded for each thread, and
//! the piece that was put away last, which the processor has in its cache, is the first to be taken.

use std::cell::RefCell;
use std::sync::Arc;

/// Pieces are longer than a multiple of this by [`BEYOND`]: with the counters of an `Arc` and the word of the allocator before it they
/// are a multiple of it, so that nothing is lost to what the allocator rounds up anyway.
const STEP: usize = 16;
const BEYOND: usize = 8;
/// A shelf for each length: pieces of up to 1,016 bytes are kept.
const SHELVES: usize = 64;
/// What a thread keeps at most, in bytes.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// What a piece takes beyond its length: the counters, the allocator's word, and its place on the shelf.
const PIECE_BYTES: usize = 40;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare::new()) };
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

#[derive(Debug)]
struct Spare {
    shelves: [Vec<Arc<[u8]>>; SHELVES],
    bytes: usize,
}

impl Spare {
    const fn new() -> Spare {
        Spare { shelves: [const { Vec::new() }; SHELVES], bytes: 0 }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<Arc<[u8]>> {
        let piece = self.shelves.get_mut(len / STEP)?.pop()?;
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
            return self.make_room(shelf);
        }
        if let Some(shelf) = self.shelves.get_mut(shelf) {
            shelf.push(piece);
            self.bytes += len + PIECE_BYTES;
        }
    }

    /// It is full. What is on other shelves may be of a size that nobody asks for any more; where that is not much, there is enough here.
    #[cold]
    fn make_room(&mut self, wanted: usize) {
        let of = |shelf: &Vec<Arc<[u8]>>| shelf.iter().map(|piece| piece.len() + PIECE_BYTES).sum::<usize>();
        let own = self.shelves.get(wanted).map_or(0, of);
        if own > KEPT_BYTES_MAX / 2 {
            return;
        }
        for (at, shelf) in self.shelves.iter_mut().enumerate() {
            if at != wanted {
                *shelf = Vec::new();
            }
        }
        self.bytes = own;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(len: usize) -> Arc<[u8]> {
        std::iter::repeat_n(7, len).collect()
    }

    fn kept(spare: &Spare) -> usize {
        spare.shelves.iter().flatten().map(|piece| piece.len() + PIECE_BYTES).sum()
    }

    #[test]
    fn a_piece_is_given_to_who_asks_for_its_length_only() {
        let mut spare = Spare::new();
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
    fn what_is_kept_is_bounded_and_the_bound_is_not_used_up_by_sizes_of_the_past() {
        let mut spare = Spare::new();
        for _ in 0..10_000 {
            spare.put(piece(104));
            assert!(kept(&spare) <= KEPT_BYTES_MAX && kept(&spare) == spare.bytes);
        }
        let full = kept(&spare);
        assert!(full > KEPT_BYTES_MAX - 200);
        for _ in 0..10_000 {
            spare.put(piece(504));
            assert!(kept(&spare) <= KEPT_BYTES_MAX && kept(&spare) == spare.bytes);
        }
        assert!(spare.take(504).is_some() && spare.take(104).is_none());
    }
}
