//! A connection that can be cut, or slow, in the middle of an answer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Between two bytes of a slow answer.
const PAUSE: Duration = Duration::from_millis(20);

/// What becomes of the next bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Plan {
    /// They go out.
    #[default]
    Whole,
    /// So many go out, then the connection ends.
    CutAt(usize),
    /// They go out one by one.
    Slow,
}

/// Changes the plan of a connection from within its handler.
#[derive(Debug, Clone, Default)]
pub(super) struct Planner(Arc<Mutex<Plan>>);

impl Planner {
    pub(super) fn set(&self, plan: Plan) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    fn plan(&self) -> Plan {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection.
pub(super) struct Line<S> {
    inner: S,
    planner: Planner,
    pause: Pin<Box<Sleep>>,
}

impl<S> Line<S> {
    pub(super) fn new(inner: S, planner: Planner) -> Self {
        let pause = Box::pin(sleep(Duration::ZERO));
        Self {
            inner,
            planner,
            pause,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = match self.planner.plan() {
            Plan::Whole => bytes.len(),
            Plan::CutAt(0) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Plan::CutAt(left) => left,
            Plan::Slow => {
                ready!(self.pause.as_mut().poll(context));
                self.pause = Box::pin(sleep(PAUSE));
                1
            }
        };
        let some = &bytes[..bytes.len().min(most)];
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, some))?;
        if let Plan::CutAt(left) = self.planner.plan() {
            self.planner.set(Plan::CutAt(left - written));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
