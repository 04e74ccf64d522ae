//! Whether something still moves where both sides may send at any time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When something of an exchange last moved, either way.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Mutex<Instant>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Activity {
    /// Something moves now.
    pub fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When it has stood still for so long, if nothing moves any more.
    pub fn deadline(&self, idle: Duration) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) + idle
    }
}
