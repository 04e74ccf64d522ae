//! What is waited for at the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::sync::watch;

/// What is under way at the end has so long.
const DRAIN: Duration = Duration::from_secs(30);

/// Connections of one worker: those on which something came, and those that are WebSockets now.
#[derive(Clone)]
pub(crate) struct Drain {
    graceful: Arc<Mutex<Option<GracefulShutdown>>>,
    ends: Arc<watch::Sender<bool>>,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            graceful: Arc::new(Mutex::new(Some(GracefulShutdown::new()))),
            ends: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Drain {
    /// Of a connection that is waited for; none once it ends.
    pub(crate) fn watcher(&self) -> Option<Watcher> {
        let graceful = self.graceful.lock().unwrap_or_else(PoisonError::into_inner);
        graceful.as_ref().map(GracefulShutdown::watcher)
    }

    /// Becomes true when it ends. Whoever holds it is waited for.
    pub(crate) fn ends(&self) -> watch::Receiver<bool> {
        self.ends.subscribe()
    }

    /// Waits until all are gone; not for ever.
    pub(crate) async fn end(&self) {
        let graceful = self
            .graceful
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.ends.send_replace(true);
        let gone = async {
            if let Some(graceful) = graceful {
                graceful.shutdown().await;
            }
            self.ends.closed().await;
        };
        let _ = tokio::time::timeout(DRAIN, gone).await;
    }
}
