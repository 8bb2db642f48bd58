//! Buffers of messages that their last owner is done with, kept for the next messages. Taking and
//! giving back memory is a tenth of the cost of a small message.
//!
//! Each thread has a pool of its own, without a lock. Where one thread only makes messages and
//! another only sends them, the second leaves many at once for the first ([`SharedPool`]). Both
//! pools are bounded. The buffer that was put away last is taken first, since the processor has it
//! in its cache.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Buffers are longer than a multiple of this by [`BEYOND`]: with the counters of an `Arc` and the
/// word of the allocator before it they are a multiple of it, so that nothing is lost to what the
/// allocator rounds up anyway.
const STEP: usize = 16;
const BEYOND: usize = 8;
/// Number of size classes, one for each length: buffers of up to 1,016 bytes are kept.
const CLASSES: usize = 64;
/// Bytes that one thread keeps at most.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Number of bundles that wait for other threads at most.
const BUNDLES_MAX: usize = 8;
/// Bytes that a buffer takes beyond its length: the counters, the allocator's word, and its entry
/// in the pool.
const OVERHEAD_BYTES: usize = 40;
/// Bytes of large buffers that one thread keeps at most, of all and of one.
const LARGE_KEPT_BYTES_MAX: usize = 512 * 1024;
const LARGE_BUFFER_BYTES_MAX: usize = 128 * 1024;

thread_local! {
    static POOL: RefCell<LocalPool> = const { RefCell::new(LocalPool::new()) };
    static LARGE: RefCell<LargeBuffers> = const { RefCell::new(LargeBuffers { buffers: VecDeque::new(), bytes: 0 }) };
}

/// Number of unused bytes behind a message of this length, in the buffer that has room for it.
pub(super) const fn padding(len: usize) -> usize {
    BEYOND.wrapping_sub(len) % STEP
}

/// A buffer of memory of this length, which nobody else has. Its content has no meaning.
#[inline]
pub(super) fn take(len: usize) -> Arc<[u8]> {
    let kept = POOL.try_with(|spare| spare.borrow_mut().take(len)).ok().flatten();
    kept.unwrap_or_else(|| std::iter::repeat_n(0, len).collect())
}

/// Keeps a buffer that only the caller has, if there is room.
#[inline]
pub(super) fn put(buffer: Arc<[u8]>) {
    // The thread may be at its end.
    let _ = POOL.try_with(|spare| spare.borrow_mut().put(buffer));
}

/// Empty memory for so many bytes, which nobody else has.
pub(super) fn take_large(len: usize) -> Arc<Vec<u8>> {
    let kept = LARGE.try_with(|large| large.borrow_mut().take(len)).ok().flatten();
    kept.unwrap_or_else(|| Arc::new(Vec::with_capacity(len)))
}

/// Keeps the memory of a large message that only the caller has, in place of what was kept first.
pub(super) fn put_large(buffer: Arc<Vec<u8>>) {
    let _ = LARGE.try_with(|large| large.borrow_mut().put(buffer));
}

/// Memory of large messages, which are of any length: the one put away last goes first, if it is
/// not much too long. The allocator would give that much memory back to the kernel, and ask for it
/// again, for every few of them.
#[derive(Debug)]
struct LargeBuffers {
    buffers: VecDeque<Arc<Vec<u8>>>,
    bytes: usize,
}

impl LargeBuffers {
    fn take(&mut self, len: usize) -> Option<Arc<Vec<u8>>> {
        let fits = |buffer: &Arc<Vec<u8>>| (len..=2 * len).contains(&buffer.capacity());
        let at = self.buffers.iter().rposition(fits)?;
        let mut buffer = self.buffers.remove(at)?;
        self.bytes -= buffer.capacity();
        Arc::get_mut(&mut buffer)?.clear();
        Some(buffer)
    }

    fn put(&mut self, buffer: Arc<Vec<u8>>) {
        let bytes = buffer.capacity();
        if bytes > LARGE_BUFFER_BYTES_MAX {
            return;
        }
        while self.bytes + bytes > LARGE_KEPT_BYTES_MAX {
            let Some(oldest) = self.buffers.pop_front() else { break };
            self.bytes -= oldest.capacity();
        }
        self.bytes += bytes;
        self.buffers.push_back(buffer);
    }
}

#[derive(Debug)]
struct LocalPool {
    classes: [Vec<Arc<[u8]>>; CLASSES],
    bytes: usize,
}

impl LocalPool {
    const fn new() -> LocalPool {
        LocalPool { classes: [const { Vec::new() }; CLASSES], bytes: 0 }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<Arc<[u8]>> {
        let class = len / STEP;
        let buffer = match self.classes.get_mut(class)?.pop() {
            Some(buffer) => buffer,
            None if SHARED.may_have(class) => self.restock(class)?,
            None => return None,
        };
        self.bytes -= len + OVERHEAD_BYTES;
        Some(buffer)
    }

    #[inline]
    fn put(&mut self, buffer: Arc<[u8]>) {
        let (class, len) = (buffer.len() / STEP, buffer.len());
        if class >= CLASSES || len % STEP != BEYOND {
            return;
        }
        if self.bytes + len + OVERHEAD_BYTES > KEPT_BYTES_MAX {
            self.make_room(class);
        }
        if let Some(class) = self.classes.get_mut(class) {
            class.push(buffer);
            self.bytes += len + OVERHEAD_BYTES;
        }
    }

    /// It is full. What is on other classes may be of a size that nobody asks for any more; where
    /// that is not much, another thread may need what was put here first.
    #[cold]
    fn make_room(&mut self, wanted: usize) {
        let Some(class) = self.classes.get_mut(wanted) else { return };
        let own = bytes_of(wanted, class.len());
        if own > KEPT_BYTES_MAX / 2 {
            let buffers: Vec<_> = class.drain(..class.len() / 2).collect();
            self.bytes -= bytes_of(wanted, buffers.len());
            return SHARED.leave(Bundle { class: wanted, buffers });
        }
        self.clear_but(wanted);
    }

    fn clear_but(&mut self, wanted: usize) {
        let others = self.classes.iter_mut().enumerate().filter(|(at, _)| *at != wanted);
        others.for_each(|(_, class)| *class = Vec::new());
        self.bytes = bytes_of(wanted, self.classes.get(wanted).map_or(0, Vec::len));
    }

    /// The size class is empty: takes a bundle of another thread.
    #[cold]
    fn restock(&mut self, wanted: usize) -> Option<Arc<[u8]>> {
        let mut bundle = SHARED.fetch(wanted)?;
        let bytes = bytes_of(wanted, bundle.len());
        if self.bytes + bytes > KEPT_BYTES_MAX {
            self.clear_but(wanted);
        }
        self.bytes += bytes;
        let buffer = bundle.pop();
        *self.classes.get_mut(wanted)? = bundle;
        buffer
    }
}

/// Bytes that this many buffers of one size class take.
fn bytes_of(class: usize, buffers: usize) -> usize {
    buffers * (class * STEP + BEYOND + OVERHEAD_BYTES)
}

/// Pool of all threads: one with too many buffers leaves half a size class for those that have
/// none. So a lock serves hundreds of messages, and nobody waits for it.
#[derive(Debug)]
struct SharedPool {
    bundles: Mutex<Vec<Bundle>>,
    /// A bit for each size class that has a bundle.
    known: AtomicU64,
}

/// Half of a size class.
#[derive(Debug)]
struct Bundle {
    class: usize,
    buffers: Vec<Arc<[u8]>>,
}

static SHARED: SharedPool = SharedPool { bundles: Mutex::new(Vec::new()), known: AtomicU64::new(0) };

impl SharedPool {
    #[inline]
    fn may_have(&self, class: usize) -> bool {
        self.known.load(Ordering::Relaxed) >> class & 1 != 0
    }

    /// Replaces the bundle that was left first, if there is no room.
    fn leave(&self, bundle: Bundle) {
        let Ok(mut bundles) = self.bundles.try_lock() else { return };
        let oldest = (bundles.len() >= BUNDLES_MAX).then(|| bundles.remove(0));
        bundles.push(bundle);
        self.tell(&bundles);
        drop(bundles);
        drop(oldest);
    }

    fn fetch(&self, class: usize) -> Option<Vec<Arc<[u8]>>> {
        let mut bundles = self.bundles.try_lock().ok()?;
        let at = bundles.iter().rposition(|bundle| bundle.class == class)?;
        let bundle = bundles.remove(at);
        self.tell(&bundles);
        Some(bundle.buffers)
    }

    fn tell(&self, bundles: &[Bundle]) {
        self.known
            .store(bundles.iter().fold(0, |known, bundle| known | 1 << bundle.class), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(len: usize) -> Arc<[u8]> {
        std::iter::repeat_n(7, len).collect()
    }

    fn kept(spare: &LocalPool) -> usize {
        spare.classes.iter().flatten().map(|buffer| buffer.len() + OVERHEAD_BYTES).sum()
    }

    #[test]
    fn a_piece_is_given_to_who_asks_for_its_length_only() {
        let mut spare = LocalPool::new();
        for len in 0..2_000 {
            let len = len + padding(len);
            assert!(len % STEP == BEYOND, "{len}");
            spare.put(buffer(len));
            assert!(spare.take(len + STEP).is_none());
            let again = spare.take(len);
            assert_eq!(again.is_some(), len < CLASSES * STEP, "{len}");
            assert!(again.is_none_or(|buffer| buffer.len() == len) && spare.take(len).is_none());
        }
        spare.put(buffer(100));
        assert_eq!((spare.bytes, kept(&spare)), (0, 0), "no buffer of ours");
    }

    #[test]
    fn what_one_thread_has_too_much_of_another_one_gets() {
        // Of a length that no other test here asks for.
        const LEN: usize = 808;
        let mut sends = LocalPool::new();
        for _ in 0..10_000 {
            sends.put(buffer(LEN));
            assert!(kept(&sends) <= KEPT_BYTES_MAX && kept(&sends) == sends.bytes);
        }
        let mut makes = LocalPool::new();
        makes.put(buffer(408));
        let taken =
            std::iter::from_fn(|| makes.take(LEN)).inspect(|buffer| assert_eq!(buffer.len(), LEN)).count();
        assert!(taken * (LEN + OVERHEAD_BYTES) > KEPT_BYTES_MAX, "{taken}");
        assert!(taken * (LEN + OVERHEAD_BYTES) <= BUNDLES_MAX * KEPT_BYTES_MAX / 2, "{taken}");
        assert_eq!(kept(&makes), makes.bytes);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_bound_is_not_used_up_by_sizes_of_the_past() {
        let mut spare = LocalPool::new();
        for _ in 0..10_000 {
            spare.put(buffer(104));
            assert!(kept(&spare) <= KEPT_BYTES_MAX && kept(&spare) == spare.bytes);
        }
        assert!(kept(&spare) > KEPT_BYTES_MAX / 2 - 200);
        for _ in 0..10_000 {
            spare.put(buffer(504));
            assert!(kept(&spare) <= KEPT_BYTES_MAX && kept(&spare) == spare.bytes);
        }
        assert!(spare.take(504).is_some() && spare.take(104).is_none());
    }
    #[test]
    fn the_memory_of_large_messages_is_given_to_those_that_fill_it_by_half_and_is_bounded() {
        let mut large = LargeBuffers { buffers: VecDeque::new(), bytes: 0 };
        let buffer = |len| Arc::new(Vec::with_capacity(len));
        large.put(buffer(20_000));
        assert!(large.take(20_001).is_none() && large.take(9_999).is_none());
        assert!(large.take(10_000).is_some_and(|buffer| buffer.is_empty() && buffer.capacity() == 20_000));
        large.put(buffer(LARGE_BUFFER_BYTES_MAX + 1));
        assert_eq!(large.bytes, 0);
        for _ in 0..1_000 {
            large.put(buffer(20_000));
            assert!(large.bytes <= LARGE_KEPT_BYTES_MAX);
        }
        large.put(buffer(100_000));
        assert!(large.take(100_000).is_some(), "what was kept before makes room");
        assert_eq!(large.bytes, large.buffers.iter().map(|buffer| buffer.capacity()).sum::<usize>());
    }
}
