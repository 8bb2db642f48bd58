//! TODO header

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic while a lock of the store is held leaves values that are still values; the thread that
/// panicked is found out by its silence.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
