//! The body of a call, on its way to the service.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use identity::Digest;
use protocol::CallKind;
use tokio::sync::mpsc::Sender;

use crate::body::Piece;
use crate::counted::Counted;
use crate::frames::FramesFrom;
use crate::whole::Whole;
use crate::wire::{Call, Ending};

/// Of a body that was signed or approved, the last so many bytes go when all of it has come: one that is
/// no longer goes whole or not at all.
const HELD_BACK: usize = 256 * 1024;

/// Passes the body on to the request, and then watches whether the caller is still there. Ends only
/// if it is not.
pub(crate) async fn upload(
    from: &mut FramesFrom,
    mut first: Option<(CallKind, Bytes)>,
    pieces: Sender<Piece>,
    call: &Call,
    whole: &AtomicBool,
) -> Ending {
    let length = call.length;
    let mut came = 0;
    let mut signed = call.body.map(Signed::new);
    loop {
        let frame = match first.take() {
            Some(frame) => Some(frame),
            None => from.frame().await,
        };
        let Some(frame) = frame else {
            return Ending::Aborted;
        };
        match frame {
            (CallKind::Data, bytes) => {
                came += bytes.len() as u64;
                let too_much = length.is_some_and(|length| came > length);
                let ready = match &mut signed {
                    None => bytes,
                    Some(signed) => signed.push(&bytes),
                };
                let gone = !ready.is_empty() && pieces.send(Piece::Data(ready)).await.is_err();
                if too_much || gone {
                    break;
                }
            }
            (CallKind::End, _) => {
                if length.is_some_and(|length| came != length) {
                    return Ending::Aborted;
                }
                if let Some(signed) = signed.take() {
                    let Some(rest) = signed.rest() else {
                        return Ending::BodyMismatch;
                    };
                    if !rest.is_empty() {
                        let _ = pieces.send(Piece::Data(rest)).await;
                    }
                }
                whole.store(true, Ordering::Release);
                let _ = pieces.send(Piece::Last).await;
                break;
            }
            _ => return Ending::Aborted,
        }
    }
    if whole.load(Ordering::Acquire) {
        return until_gone(from).await;
    }
    if length.is_some_and(|length| came > length) {
        return Ending::Aborted;
    }
    // The service takes no more of it: what it answers counts.
    std::future::pending().await
}

/// The same with a body that has come already.
pub(crate) async fn upload_whole(
    from: &mut FramesFrom,
    body: Whole,
    pieces: Sender<Piece>,
) -> Ending {
    if body.length > 0 {
        let _ = pieces.send(body.piece).await;
    }
    let _ = pieces.send(Piece::Last).await;
    until_gone(from).await
}

/// Nothing comes before the answer is whole, unless the caller goes away.
async fn until_gone(from: &mut FramesFrom) -> Ending {
    let _ = from.more().await;
    Ending::Aborted
}

/// A body that was signed or approved: its end is held back until all of it has come, and is that one.
struct Signed {
    wanted: Digest<32>,
    came: Counted,
    held: BytesMut,
}

impl Signed {
    fn new(wanted: Digest<32>) -> Self {
        Self {
            wanted,
            came: Counted::new(),
            held: BytesMut::new(),
        }
    }

    /// What may be sent of all that came so far.
    fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.came.add(bytes);
        self.held.extend_from_slice(bytes);
        let more = self.held.len().saturating_sub(HELD_BACK);
        self.held.split_to(more).freeze()
    }

    /// The rest, if all of it is what was signed.
    fn rest(self) -> Option<Bytes> {
        (self.came.digest() == self.wanted.0).then(|| self.held.freeze())
    }
}

#[cfg(test)]
mod tests {
    use identity::sha256;

    use super::*;

    /// What is sent of these pieces before the end has come, and at the end.
    fn sent(wanted: &[u8], pieces: &[&[u8]]) -> (usize, Option<usize>) {
        let mut signed = Signed::new(sha256(wanted));
        let before = pieces.iter().map(|piece| signed.push(piece).len()).sum();
        (before, signed.rest().map(|rest| rest.len()))
    }

    #[test]
    fn of_a_body_that_was_signed_the_end_goes_only_when_it_is_that_one() {
        // 256 KiB, and a hundred bytes.
        let long = vec![7; 262_244];
        let (first, second) = long.split_at(262_143);
        assert_eq!(sent(b"hello", &[b"he", b"", b"llo"]), (0, Some(5)));
        assert_eq!(sent(b"hello", &[b"jello", b""]), (0, None));
        assert_eq!(sent(b"hello", &[b"hello", b"!"]), (0, None));
        assert_eq!(sent(&long, &[first, second]), (100, Some(262_144)));
        assert_eq!(
            sent(&long, &[first, second, b"", b""]),
            (100, Some(262_144))
        );
        assert_eq!(sent(&long, &[first]), (0, None));
        assert_eq!(sent(b"", &[]), (0, Some(0)));
    }
}
