//! What of answers is on its way to a caller that does not take it.
//!
//! The deadline for writing is one of the connection: over HTTP/2 a caller may answer pings and open no
//! window, over HTTP/1.1 it may take a byte now and then.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::body::{Body, Error};

/// What is handed over is taken after so long, and as much longer as [`RATE`] needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The slowest caller, in bytes for each second.
const RATE: u32 = 32 << 10;
/// Less is not worth counting.
const SMALL: usize = 4096;
/// It is looked for so often.
const LOOK: Duration = Duration::from_secs(15);

/// Of one connection, until when each part must be taken.
#[derive(Debug, Clone, Default)]
pub struct Untaken {
    parts: Arc<Mutex<Parts>>,
    /// Whether small parts count: over HTTP/2 each may wait for a window of its own.
    all: bool,
}

#[derive(Debug, Default)]
struct Parts {
    next: u64,
    deadlines: BTreeMap<u64, Instant>,
    /// Requests under way, and since when there are none.
    open: usize,
    idle: Option<Instant>,
}

/// A request under way.
#[derive(Debug)]
pub struct Open(Untaken);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.parts(|parts| {
            parts.open -= 1;
            parts.idle = Some(Instant::now());
        });
    }
}

/// A part that counts until it is written.
struct Part {
    data: Bytes,
    number: u64,
    of: Untaken,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.of.parts(|parts| parts.deadlines.remove(&self.number));
    }
}

impl Untaken {
    /// In which every part counts.
    pub fn of_all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Returns when the caller has left something lying for too long.
    pub async fn wait(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            if self.parts(|parts| parts.deadlines.values().any(|deadline| *deadline < now)) {
                return;
            }
        }
    }

    /// A request comes.
    pub fn open(&self) -> Open {
        self.parts(|parts| parts.open += 1);
        Open(self.clone())
    }

    /// Returns when no request was under way for so long.
    pub async fn idle(&self, longest: Duration) {
        self.parts(|parts| *parts.idle.get_or_insert_with(Instant::now));
        loop {
            tokio::time::sleep(longest / 4).await;
            let is_idle = self.parts(|parts| {
                let since = parts.idle.filter(|_| parts.open == 0);
                since.is_some_and(|since| since.elapsed() > longest)
            });
            if is_idle {
                return;
            }
        }
    }

    fn count(&self, data: Bytes) -> Bytes {
        if data.len() < SMALL && !self.all || data.is_empty() {
            return data;
        }
        let seconds = u32::try_from(data.len()).unwrap_or(u32::MAX) / RATE;
        let deadline = Instant::now() + PATIENCE + Duration::from_secs(seconds.into());
        let number = self.parts(|parts| {
            parts.next += 1;
            parts.deadlines.insert(parts.next, deadline);
            parts.next
        });
        let of = self.clone();
        Bytes::from_owner(Part { data, number, of })
    }

    fn parts<T>(&self, with: impl FnOnce(&mut Parts) -> T) -> T {
        with(&mut self.parts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A body whose parts count.
#[derive(Debug, Default)]
pub struct Counted {
    body: Body,
    untaken: Untaken,
    _open: Option<Open>,
}

impl Counted {
    /// On this connection.
    pub fn new(body: Body, untaken: Untaken, open: Open) -> Self {
        Self {
            body,
            untaken,
            _open: Some(open),
        }
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let count = |frame: Frame<Bytes>| frame.map_data(|data| self.untaken.count(data));
        Poll::Ready(frame.map(|frame| frame.map(count)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle() {
        let untaken = Untaken::default();
        let is_idle = async || {
            let idle = untaken.idle(Duration::from_secs(30));
            tokio::time::timeout(Duration::from_secs(50), idle)
                .await
                .is_ok()
        };
        let (one, other) = (untaken.open(), untaken.open());
        assert!(!is_idle().await);
        drop(one);
        assert!(!is_idle().await);
        drop(other);
        assert!(is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_late_and_what_is_taken_is_not() {
        let untaken = Untaken::default();
        let is_late = async || {
            let wait = tokio::time::timeout(Duration::from_secs(120), untaken.wait());
            wait.await.is_ok()
        };
        let _small = untaken.count(Bytes::from_static(b"small"));
        let all = Untaken::of_all();
        let _one = all.count(Bytes::from_static(b"small"));
        assert!(
            tokio::time::timeout(Duration::from_secs(120), all.wait())
                .await
                .is_ok()
        );
        let taken = untaken.count(Bytes::from(vec![0; 1 << 20]));
        drop(taken);
        assert!(!is_late().await);
        let left = untaken.count(Bytes::from(vec![0; 1 << 20]));
        assert!(is_late().await);
        drop(left);
        // Ten megabytes may take five minutes more.
        let _long = untaken.count(Bytes::from(vec![0; 10 << 20]));
        assert!(!is_late().await);
        assert!(!is_late().await);
    }
}
