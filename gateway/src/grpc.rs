//! gRPC over HTTP/2: which requests are calls, what a refusal is for who called, and how a call ended.
//!
//! A call is passed as it comes, both ways at once; its messages are not looked through. So it passes
//! only where its route exempts `application/grpc`.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, Version};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::activity::Activity;
use crate::answer::Refusal;
use crate::body::{Body, Error};
use crate::content::media_type;
use crate::limits::Place;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// What is encoded in a message (gRPC over HTTP/2, Responses), with all that is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// The media type of calls; what follows a plus sign says how messages are encoded.
pub const MEDIA_TYPE: &str = "application/grpc";

/// Whether a media type, without parameters and in lower case, is that of calls.
pub fn is_grpc(essence: &str) -> bool {
    essence
        .strip_prefix(MEDIA_TYPE)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

/// Whether a request is a call.
pub fn is_call<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.method() == Method::POST
        && is_of_call(request.headers())
}

/// Whether a body is one of a call.
pub fn is_of_call(headers: &HeaderMap) -> bool {
    let kind = media_type(headers).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    is_grpc(&essence.to_ascii_lowercase())
}

/// A refusal as callers of gRPC read it: an answer that is nothing but a status.
pub fn respond(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(STATUS, code(refusal).into());
    let message = utf8_percent_encode(&refusal.text(), ENCODED).to_string();
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(MESSAGE, message);
    }
    response
}

/// Its number among the status codes of gRPC.
fn code(refusal: &Refusal) -> u16 {
    const INVALID_ARGUMENT: u16 = 3;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const FAILED_PRECONDITION: u16 = 9;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match refusal {
        Refusal::Malformed(_) | Refusal::NotJson(_) | Refusal::NotValid(_) => INVALID_ARGUMENT,
        Refusal::TooSlow | Refusal::BackendSlow => DEADLINE_EXCEEDED,
        Refusal::WrongOrigin | Refusal::Blocked { .. } | Refusal::AnswerBlocked { .. } => {
            PERMISSION_DENIED
        }
        Refusal::TooLarge(_) | Refusal::TooMany(_) => RESOURCE_EXHAUSTED,
        Refusal::Warned { .. } => FAILED_PRECONDITION,
        Refusal::Unreadable(_)
        | Refusal::NotSupported(_)
        | Refusal::WebSocketVersion
        | Refusal::NotFound
        | Refusal::WrongMethod => UNIMPLEMENTED,
        Refusal::AnswerUnreadable(_) => INTERNAL,
        Refusal::AuthenticationUnavailable(_)
        | Refusal::NoRoom
        | Refusal::Unrecorded
        | Refusal::BackendBroken(_) => UNAVAILABLE,
        Refusal::Unauthenticated(_) => UNAUTHENTICATED,
    }
}

/// What the caller sends, as it comes.
#[derive(Debug)]
pub struct Sent {
    body: Incoming,
    activity: Activity,
}

impl Sent {
    /// What comes counts as activity.
    pub fn new(body: Incoming, activity: Activity) -> Self {
        Self { body, activity }
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.activity.moved();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the agent answers; it is told how the call ends.
pub struct Answered<F: FnOnce(Option<u16>)> {
    body: Body,
    ended: Option<F>,
    /// Among all calls, until it ends.
    _place: Place,
}

impl<F: FnOnce(Option<u16>)> fmt::Debug for Answered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered").finish_non_exhaustive()
    }
}

impl<F: FnOnce(Option<u16>)> Answered<F> {
    /// `ended` gets the call's status, or none where it has none.
    pub fn new(body: Body, place: Place, ended: F) -> Self {
        Self {
            body,
            _place: place,
            ended: Some(ended),
        }
    }

    fn end(&mut self, status: Option<u16>) {
        if let Some(ended) = self.ended.take() {
            ended(status);
        }
    }
}

/// The status in trailers, or in the head of an answer that is nothing else.
pub fn status(headers: &HeaderMap) -> Option<u16> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

impl<F: FnOnce(Option<u16>) + Unpin> hyper::body::Body for Answered<F> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.end(status(trailers));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A call that breaks off has no status.
impl<F: FnOnce(Option<u16>)> Drop for Answered<F> {
    fn drop(&mut self) {
        self.end(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_media_type() {
        for (kind, is_it) in [
            ("application/grpc", true),
            ("Application/gRPC+proto; a=b", true),
            ("application/grpc ; a=b", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_of_call(&headers), is_it, "{kind}");
            headers.append(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert!(!is_of_call(&headers));
        }
    }

    #[test]
    fn a_refusal_is_a_status_with_a_message() {
        let refusal = Refusal::Blocked {
            rule: "100 % \n\u{e9}".into(),
        };
        let response = respond(&refusal);
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(header("grpc-status"), "7");
        assert_eq!(
            header("grpc-message"),
            "blocked by the rule 100 %25 %0A%C3%A9"
        );
        assert_eq!(status(response.headers()), Some(7));
    }
}
