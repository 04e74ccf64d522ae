//! A WebSocket of an agent by base URL: once the enclave's process says that the service has agreed, its bytes pass as they
//! are. That process reads them.

use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink, split};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::call::AnswerBody;
use super::placeholders::{WhileHeld, not_held};
use super::tunnels::{LINGER, Place};

const BUFFER: usize = 32 * 1024;

/// What an agent says, as the body of its call. It has no end but that of the line.
pub(crate) struct Said {
    pieces: mpsc::Receiver<Bytes>,
}

#[derive(Debug, thiserror::Error)]
#[error("the agent says no more")]
pub(crate) struct SaysNoMore;

impl Body for Said {
    type Data = Bytes;
    type Error = SaysNoMore;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SaysNoMore>>> {
        let piece = self.pieces.poll_recv(context);
        piece.map(|piece| Some(piece.map(Frame::data).ok_or(SaysNoMore)))
    }
}

/// A WebSocket that an agent asks for.
pub(crate) struct Socket {
    upgrading: OnUpgrade,
    said: mpsc::Sender<Bytes>,
    place: Place,
    /// It ends with the placeholder by which it was asked for.
    while_held: Option<WhileHeld>,
}

impl Socket {
    /// And what the agent will say.
    pub(crate) fn new(
        upgrading: OnUpgrade,
        place: Place,
        while_held: Option<WhileHeld>,
    ) -> (Self, Said) {
        let (said, pieces) = mpsc::channel(1);
        let socket = Self {
            upgrading,
            said,
            place,
            while_held,
        };
        (socket, Said { pieces })
    }

    /// The answer to the agent. If the service has agreed, what is said passes from here on.
    pub(crate) fn answer(self, answer: Response<AnswerBody>) -> Response<axum::body::Body> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // As long as the answer is under way the call is, too.
            return answer.map(|body| axum::body::Body::new(body.holding(self.said)));
        }
        let (mut head, heard) = answer.into_parts();
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
        tokio::spawn(self.pass(heard));
        Response::from_parts(head, axum::body::Body::empty())
    }

    async fn pass(mut self, mut heard: AnswerBody) {
        let agent = match self.upgrading.await {
            Ok(agent) => TokioIo::new(agent),
            Err(error) => {
                debug!(%error, "a WebSocket did not begin");
                return;
            }
        };
        let (mut from, mut to) = split(agent);
        let there = async {
            let mut came = BytesMut::new();
            loop {
                came.reserve(BUFFER);
                match from.read_buf(&mut came).await {
                    Ok(read) if read > 0 => {}
                    _ => return,
                }
                if self.said.send(came.split().freeze()).await.is_err() {
                    // Nobody takes it any more: what is answered counts.
                    return pending().await;
                }
            }
        };
        let back = async {
            while let Some(mut piece) = heard.piece().await {
                if to.write_all_buf(&mut piece).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = there => return,
            () = back => {}
            () = self.place.until_stopped() => {}
            () = not_held(&mut self.while_held) => {}
        }
        // An agent that is still speaking would lose what it has not read, if it were not heard out.
        let _ = to.shutdown().await;
        let _ = timeout(LINGER, copy(&mut from, &mut sink())).await;
    }
}
