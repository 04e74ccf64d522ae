//! The body of a call, as it comes over its line.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::counted::Counted;
use crate::sync::lock;

/// A piece of a body.
pub(crate) enum Piece {
    /// Bytes of it.
    Data(Bytes),
    /// All of it, with the credential in it; and as it came.
    Placed {
        /// What is sent.
        sent: Bytes,
        /// What is counted.
        came: Bytes,
    },
    /// It is whole. Without this one it was cut off.
    Last,
}

/// The body was cut off: so is the request, for else the service would take it for whole.
#[derive(Debug, thiserror::Error)]
#[error("the caller went away")]
pub(crate) struct CutOff;

/// A body whose pieces come from elsewhere.
pub(crate) struct CallBody {
    pieces: Receiver<Piece>,
    length: Option<u64>,
    ended: bool,
    /// What was taken of it.
    taken: Arc<Mutex<Counted>>,
}

impl CallBody {
    /// With a length, if that is known before; and where its pieces are put. What the connection takes of
    /// it is counted.
    pub(crate) fn new(length: Option<u64>, taken: Arc<Mutex<Counted>>) -> (Sender<Piece>, Self) {
        let (sender, pieces) = mpsc::channel(1);
        let body = Self {
            pieces,
            length,
            ended: length == Some(0),
            taken,
        };
        (sender, body)
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(Piece::Data(bytes)) => {
                lock(&self.taken).add(&bytes);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Piece::Placed { sent, came }) => {
                lock(&self.taken).add(&came);
                Some(Ok(Frame::data(sent)))
            }
            Some(Piece::Last) => {
                self.ended = true;
                None
            }
            None => Some(Err(CutOff)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
