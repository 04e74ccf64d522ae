//! What an enclave says last: its console cannot be read, so it tells the parent over vsock why it
//! ends.
//!
//! Anybody on this host who can open a vsock can say the same. So it is logged and counted, and
//! nothing else comes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::cbor;
use protocol::{EXIT_PORT, Endpoint, ExitReason, FrameBuffer};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};
use tracing::{debug, warn};

use crate::metrics::Metrics;
use callers::Socket;
use enclave_client::Stream;

const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(200);
/// The port may be another sidecar's, which may end.
const BIND_AGAIN: Duration = Duration::from_secs(3);
const MAX_SPEAKERS: usize = 16;

/// Listens as long as the value lives; where that is not possible yet, tries again.
pub(crate) struct ExitReasons(Option<JoinHandle<()>>);

impl ExitReasons {
    pub(crate) fn listen(enclave: &Endpoint, metrics: Arc<Metrics>) -> Self {
        let place = match enclave {
            Endpoint::Unix(_) => return Self(None),
            Endpoint::Vsock { .. } => Address::Vsock,
            // The hypervisor brings what the guest sends to its host's port there.
            Endpoint::HybridVsock { path, .. } => {
                let mut path = path.clone().into_os_string();
                path.push(format!("_{EXIT_PORT}"));
                Address::Unix(path.into())
            }
        };
        Self(Some(tokio::spawn(listen(place, metrics))))
    }
}

impl Drop for ExitReasons {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

enum Address {
    Vsock,
    Unix(PathBuf),
}

enum Listener {
    Vsock(VsockListener),
    Unix(Socket),
}

impl Listener {
    fn bind(address: &Address) -> Result<Self, String> {
        match address {
            Address::Vsock => {
                let bound = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, EXIT_PORT));
                bound.map(Self::Vsock).map_err(|error| error.to_string())
            }
            Address::Unix(path) => Socket::bind_private(path).map(Self::Unix),
        }
    }

    /// The next one who has something to say, and the context id that it has.
    async fn accept(&self) -> std::io::Result<(Box<dyn Stream>, Option<u32>)> {
        match self {
            Self::Vsock(listener) => listener
                .accept()
                .await
                .map(|(stream, peer)| (Box::new(stream) as Box<dyn Stream>, Some(peer.cid()))),
            Self::Unix(socket) => socket
                .listener
                .accept()
                .await
                .map(|(stream, _)| (Box::new(stream) as Box<dyn Stream>, None)),
        }
    }
}

async fn listen(address: Address, metrics: Arc<Metrics>) {
    let mut warned = false;
    let listener = loop {
        match Listener::bind(&address) {
            Ok(listener) => break listener,
            Err(why) => {
                if !warned {
                    warn!(
                        port = EXIT_PORT,
                        why, "cannot listen yet for why an enclave ends; another sidecar may"
                    );
                    warned = true;
                }
                sleep(BIND_AGAIN).await;
            }
        }
    };
    let places = Arc::new(Semaphore::new(MAX_SPEAKERS));
    loop {
        // A connection that says nothing keeps no other from speaking, until there are too many of them.
        let Ok(speaker) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, cid)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            match read(stream).await {
                Some(reason) => {
                    warn!(
                        code = reason.code,
                        reason = reason.message,
                        cid,
                        "an enclave says why it ends"
                    );
                    metrics.enclave_exits.inc();
                    // The place is taken a while longer: a flood fills no log.
                    sleep(PAUSE * 5).await;
                }
                None => debug!(
                    cid,
                    "somebody came to where enclaves say why they end, and said nothing of the kind"
                ),
            }
            drop(speaker);
        });
    }
}

/// Of the shape that our codes have; anything else is not ours.
fn is_code(code: &str) -> bool {
    (1..=64).contains(&code.len())
        && code
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

async fn read(mut stream: Box<dyn Stream>) -> Option<ExitReason> {
    let reading = async {
        let (mut buffer, mut chunk) = (FrameBuffer::default(), [0; ExitReason::MAX_BYTES]);
        for _ in 0..8 {
            match stream.read(&mut chunk).await {
                Ok(read) if read > 0 => buffer.push(&chunk[..read]),
                _ => return None,
            }
            match buffer.next_frame() {
                Ok(Some(frame)) if frame.len() <= ExitReason::MAX_BYTES => {
                    return cbor::from_slice(frame).ok();
                }
                Ok(None) => {}
                _ => return None,
            }
        }
        None
    };
    timeout(READ_TIMEOUT, reading)
        .await
        .ok()
        .flatten()
        .filter(|reason: &ExitReason| is_code(&reason.code))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use protocol::write_frame;
    use tokio::io::AsyncRead;

    use super::*;

    /// What is heard of somebody who says this, a piece at a time, and leaves.
    fn heard(pieces: &[&[u8]]) -> Option<ExitReason> {
        let mut said: Box<dyn AsyncRead + Send + Unpin> = Box::new(tokio::io::empty());
        for piece in pieces {
            said = Box::new(said.chain(Cursor::new(piece.to_vec())));
        }
        let stream = Box::new(tokio::io::join(said, tokio::io::sink()));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        runtime.block_on(read(stream))
    }

    fn reason(code: &str, message: &str) -> ExitReason {
        ExitReason {
            code: code.into(),
            message: message.into(),
        }
    }

    fn framed(reason: &ExitReason) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(reason, &mut frame).unwrap();
        frame
    }

    #[test]
    fn last_words_are_one_whole_frame_in_a_few_pieces() {
        let last = reason("nsm_failed", "the NSM is gone");
        let frame = framed(&last);
        let pieces = |count: usize| -> Vec<&[u8]> {
            let (most, rest) = frame.split_at(count - 1);
            most.chunks(1).chain([rest]).collect()
        };
        for count in [1, 2, 5, 8] {
            assert_eq!(heard(&pieces(count)), Some(last.clone()), "{count}");
        }
        assert_eq!(heard(&pieces(9)), None, "who drips is not waited for");
        let more = [&frame[..], &framed(&reason("other", ""))].concat();
        assert_eq!(heard(&[&more]), Some(last), "what follows is not looked at");
        for bad in [
            &[][..],
            &frame[..3],
            &frame[..frame.len() - 1],
            &frame[4..],
            &[0, 0, 0, 0],
            &[0xff; 8],
            &[0, 0, 0, 1, 0x80],
            &[0, 0, 0, 3, 0x82, 0x61, 0x61],
            &[0, 0, 0, 6, 0x82, 0x61, 0x61, 0x61, 0x61, 0],
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(heard(&[bad]), None, "{bad:?}");
        }
    }

    #[test]
    fn last_words_are_short() {
        let of_length = |length: usize| {
            let encoded = |message: &str| cbor::to_vec(&reason("a", message)).len();
            let around = encoded(&"x".repeat(900)) - 900;
            let reason = reason("a", &"x".repeat(length - around));
            assert_eq!(cbor::to_vec(&reason).len(), length);
            reason
        };
        let longest = of_length(ExitReason::MAX_BYTES);
        assert_eq!(heard(&[&framed(&longest)]), Some(longest));
        let longer = of_length(ExitReason::MAX_BYTES + 1);
        assert_eq!(heard(&[&framed(&longer)]), None);
    }

    #[test]
    fn a_code_is_of_the_shape_that_ours_have_or_nothing_is_heard() {
        let (longest, longer) = ("a".repeat(64), "a".repeat(65));
        for (code, good) in [
            ("policy_mismatch", true),
            ("a", true),
            ("9_", true),
            (&longest, true),
            ("", false),
            (&longer, false),
            ("Policy", false),
            ("policy-mismatch", false),
            ("policy mismatch", false),
            ("policy\n", false),
            ("p\u{f6}licy", false),
            ("\u{1b}[2J", false),
        ] {
            assert_eq!(is_code(code), good, "{code:?}");
            let heard = heard(&[&framed(&reason(code, "\n\u{1b}"))]);
            assert_eq!(heard.is_some(), good, "{code:?}");
        }
    }
}
