//! What an enclave says last: its console cannot be read, so it tells the parent over vsock why it ends.
//!
//! Anybody on this host who can open a vsock can say the same. So it is logged and counted, and nothing else comes of it.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use identity::cbor;
use protocol::{EXIT_PORT, Endpoint, ExitReason, FrameBuffer};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};
use tracing::{info, warn};

use crate::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(1);
/// Between two of them: a flood fills no log.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens as long as the value lives; where that is not possible, says so and does without.
pub(crate) struct ExitReasons {
    task: Option<tokio::task::JoinHandle<()>>,
    socket: Option<PathBuf>,
}

enum Listener {
    Vsock(VsockListener),
    Unix(UnixListener),
}

impl ExitReasons {
    pub(crate) fn listen(enclave: &Endpoint, metrics: Arc<Metrics>) -> Self {
        let (listener, socket) = match enclave {
            Endpoint::Unix(_) => return Self { task: None, socket: None },
            Endpoint::Vsock { .. } => (VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, EXIT_PORT)).map(Listener::Vsock), None),
            // The hypervisor brings what the guest sends to its host's port there.
            Endpoint::HybridVsock { path, .. } => {
                let mut path = path.clone().into_os_string();
                path.push(format!("_{EXIT_PORT}"));
                let path = PathBuf::from(path);
                (bind(&path).map(Listener::Unix), Some(path))
            }
        };
        match listener {
            Ok(listener) => Self { task: Some(tokio::spawn(hear(listener, metrics))), socket },
            Err(error) => {
                warn!(port = EXIT_PORT, %error, "cannot listen for why an enclave ends; another sidecar may");
                Self { task: None, socket: None }
            }
        }
    }
}

impl Drop for ExitReasons {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Binds where a sidecar that was killed may have left its socket.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let left = StdUnixStream::connect(path).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    if left {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

async fn hear(listener: Listener, metrics: Arc<Metrics>) {
    loop {
        let heard = match &listener {
            Listener::Vsock(listener) => match listener.accept().await {
                Ok((stream, peer)) => Some((read(stream).await, Some(peer.cid()))),
                Err(_) => None,
            },
            Listener::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => Some((read(stream).await, None)),
                Err(_) => None,
            },
        };
        match heard {
            Some((Some(reason), cid)) => {
                warn!(code = reason.code, reason = reason.message, cid, "an enclave says why it ends");
                metrics.enclave_exits.inc();
            }
            Some((None, cid)) => info!(cid, "somebody connected where enclaves say why they end, and said nothing of the kind"),
            None => {}
        }
        sleep(PAUSE).await;
    }
}

async fn read(mut stream: impl AsyncRead + Unpin) -> Option<ExitReason> {
    let reading = async {
        let (mut buffer, mut chunk) = (FrameBuffer::default(), [0; ExitReason::MAX_BYTES]);
        for _ in 0..8 {
            match stream.read(&mut chunk).await {
                Ok(read) if read > 0 => buffer.push(&chunk[..read]),
                _ => return None,
            }
            match buffer.next_frame() {
                Ok(Some(frame)) if frame.len() <= ExitReason::MAX_BYTES => return cbor::from_slice(frame).ok(),
                Ok(None) => {}
                _ => return None,
            }
        }
        None
    };
    timeout(PATIENCE, reading).await.ok().flatten()
}
