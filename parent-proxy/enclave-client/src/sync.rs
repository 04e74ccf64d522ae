//! Locks; with the feature `shuttle` those of [shuttle](https://docs.rs/shuttle), which tries the
//! orders in which threads may come to them (tests/interleavings). No program is built with it.

#[cfg(not(feature = "shuttle"))]
use std as threads;

#[cfg(feature = "shuttle")]
use shuttle as threads;
pub(crate) use threads::sync::{Condvar, Mutex, MutexGuard};

#[cfg(all(feature = "shuttle", not(debug_assertions)))]
compile_error!("the feature shuttle is for tests");
