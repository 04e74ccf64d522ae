//! Bodies, of requests to the agent and of answers to the caller.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::HeaderMap;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::activity::Activity;
use crate::room::Room;

/// Why a body broke off.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// That is whole.
    Whole(Whole),
    /// The agent's, as it comes.
    Passed(Passed),
    /// Made of it while it comes.
    Other(UnsyncBoxBody<Bytes, Error>),
}

impl From<Bytes> for Body {
    fn from(data: Bytes) -> Self {
        Self::Whole(Whole::new(data))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Passed(body) => Pin::new(body).poll_frame(context),
            Self::Other(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Passed(body) => body.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Passed(body) => body.size_hint(),
            Self::Other(body) => body.size_hint(),
        }
    }
}

/// A body that is whole, with its trailers. The room that it takes is given back when it is written.
#[derive(Debug, Default)]
pub struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

/// Data and the room that it takes until it is written.
struct Owned {
    data: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Whole {
    /// Without trailers, and without room that was taken for it.
    pub fn new(data: Bytes) -> Self {
        Self::taking(data, None, Room::default())
    }

    /// With all that belongs to it.
    pub fn taking(data: Bytes, trailers: Option<HeaderMap>, room: Room) -> Self {
        let is_counted = room.taken() > 0;
        let data = match is_counted {
            true => Bytes::from_owner(Owned { data, _room: room }),
            false => data,
        };
        Self {
            data: Some(data).filter(|data| !data.is_empty()),
            trailers,
        }
    }
}

impl hyper::body::Body for Whole {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let data = self.data.take().map(Frame::data);
        let next = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(next.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.data.as_ref().map_or(0, Bytes::len) as u64;
        // A body of known length has no trailers in HTTP/1.1.
        match self.trailers {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(length),
        }
    }
}

/// The agent's body as it comes. It breaks off where nothing comes for too long.
#[derive(Debug)]
pub struct Passed {
    agent: Incoming,
    idle: Duration,
    beside: Option<Activity>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Passed {
    /// Between two parts of it there may pass so much time.
    pub fn new(agent: Incoming, idle: Duration) -> Self {
        Self {
            agent,
            idle,
            beside: None,
            deadline: None,
        }
    }

    /// What moves the other way counts, too.
    pub fn beside(mut self, activity: Activity) -> Self {
        self.beside = Some(activity);
        self
    }
}

impl hyper::body::Body for Passed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.agent).poll_frame(context) {
            self.deadline = None;
            if let Some(activity) = &self.beside {
                activity.moved();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let body = self.get_mut();
        let end = Instant::now() + body.idle;
        let deadline = body
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        loop {
            ready!(deadline.as_mut().poll(context));
            let other = body.beside.as_ref().map(|it| it.deadline(body.idle));
            match other.filter(|other| *other > Instant::now()) {
                Some(other) => deadline.as_mut().reset(other),
                None => break,
            }
        }
        Poll::Ready(Some(Err("the agent's answer stopped coming".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.agent.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.agent.size_hint()
    }
}
