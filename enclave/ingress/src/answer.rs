//! The body of an answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};
use tokio::sync::mpsc::Receiver;

/// Of a refusal, or of what comes from a service.
pub(crate) type AnswerBody = Either<NeverFails, Streamed>;

/// It is all there.
pub(crate) fn whole(body: Full<Bytes>) -> AnswerBody {
    Either::Left(NeverFails(body))
}

/// What is all there does not break off.
pub(crate) struct NeverFails(Full<Bytes>);

/// The answer broke off: so does the connection, for else an agent would take it for whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(crate) struct BrokenOff;

/// What comes from a service: pieces, and at the end that it was whole.
pub(crate) struct Streamed {
    pub(crate) pieces: Receiver<Result<Bytes, BrokenOff>>,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let piece = self.pieces.poll_recv(context);
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

impl Body for NeverFails {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = Pin::new(&mut self.0).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(|error: Infallible| match error {})))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.0.size_hint()
    }
}
