//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nobody panics while a lock is held; if somebody did, what it guards is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
