//! Locks whose data stays good when a holder panics: every change of it is whole.
//!
//! With the feature `shuttle` they are [shuttle](https://docs.rs/shuttle)'s, which tries the orders
//! in which threads may come to them (tests/interleavings). No program is built with it.

#[cfg(not(feature = "shuttle"))]
use std as threads;

#[cfg(feature = "shuttle")]
use shuttle as threads;
use std::sync::PoisonError;
pub(crate) use threads::sync::atomic::AtomicBool;
pub(crate) use threads::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(all(feature = "shuttle", not(debug_assertions)))]
compile_error!("the feature shuttle is for tests");

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
