//! Lines: byte streams that the parent lends, each beginning with what it is and a ticket.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use protocol::{LineKind, Ticket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

/// Lines at a time, of all kinds.
pub(crate) const MAX_LINES: usize = 1024;
/// For what a line begins with.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// A byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A line.
pub type Line = Box<dyn Stream>;

/// Where lines are lent.
#[derive(Debug)]
pub struct Lines(Kind);

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Vsock {
        listener: VsockListener,
        cid: u32,
        ports_below: u32,
    },
}

/// What all of this runs on: one thread. It is made before the process confines itself.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Lines {
    /// At a Unix socket: development.
    pub fn unix(runtime: &Runtime, listener: StdUnixListener) -> io::Result<Self> {
        let _within = runtime.enter();
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(|listener| Self(Kind::Unix(listener)))
    }

    /// At a vsock port, for the parent of this context id and its ports below this one.
    pub fn vsock(runtime: &Runtime, port: u32, cid: u32, ports_below: u32) -> io::Result<Self> {
        let _within = runtime.enter();
        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))?;
        Ok(Self(Kind::Vsock {
            listener,
            cid,
            ports_below,
        }))
    }

    /// Serves each line once it has said what it is, so many at a time as there are places. A line has its
    /// place for as long as that is kept.
    pub async fn serve<F: Future<Output = ()> + Send + 'static>(
        mut self,
        serve: impl Fn(Line, (LineKind, Ticket), OwnedSemaphorePermit) -> F + Clone + Send + 'static,
    ) {
        let places = Arc::new(Semaphore::new(MAX_LINES));
        // Nobody closes it.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match self.accept().await {
                Ok(Some(mut line)) => {
                    let serve = serve.clone();
                    tokio::spawn(async move {
                        if let Some(opened) = opening(&mut line).await {
                            serve(line, opened, place).await;
                        }
                    });
                }
                Ok(None) => {}
                // Out of descriptors: it passes.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The next one; none for who is turned away.
    async fn accept(&mut self) -> io::Result<Option<Line>> {
        match &mut self.0 {
            Kind::Unix(listener) => Ok(Some(Box::new(listener.accept().await?.0))),
            Kind::Vsock {
                listener,
                cid,
                ports_below,
            } => {
                let (stream, peer) = listener.accept().await?;
                let admitted = peer.cid() == *cid && peer.port() < *ports_below;
                Ok(admitted.then(|| Box::new(stream) as Line))
            }
        }
    }
}

/// What a line is; none if it does not say so in time.
async fn opening(line: &mut Line) -> Option<(LineKind, Ticket)> {
    let mut bytes = [0; LineKind::BYTES];
    let read = timeout(OPENING_TIMEOUT, line.read_exact(&mut bytes)).await;
    read.ok()?.ok()?;
    LineKind::of(bytes)
}
