//! Looks through what the agent answers, where a rule speaks of answers.

use std::fmt;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as _, Frame};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, IF_RANGE, RANGE, TRAILER};
use hyper::{HeaderMap, Method, Response, StatusCode};
use inspect::{Framing, Kinds, Purpose, Stream};
use rules::{Decision, Rules};

use crate::answer::Refusal;
use crate::body::{self, Body, Passed, Whole};
use crate::content::{Content, Encoding, Unreadable, media_type};
use crate::headers::follow;
use crate::read::{Broken, whole};
use crate::recorder::Event;
use crate::room::{Full, Peer, Room};
use crate::shared::Shared;
use crate::trace::Trace;

/// What is unpacked at once; it becomes a thousand times as much at most.
const UNPACKED_AT_ONCE: usize = 1024;

/// So much of each stream may be held back without room that is taken for it.
const FREE: usize = 64 << 10;

/// What an answer is judged by.
#[derive(Debug, Clone)]
pub struct Judge {
    /// What all connections share.
    pub(crate) shared: Arc<Shared>,
    /// Of the request.
    pub(crate) method: Method,
    /// The path as the agent read it.
    pub(crate) path: String,
    /// Under which it is written down.
    pub(crate) trace: Trace,
    /// Whether every reader finds the same segments in the path.
    pub(crate) is_plain: bool,
    /// Who gets it.
    pub(crate) peer: Peer,
}

/// Asks the agent for what can be looked through: the whole of it, in an encoding that is known.
pub fn prepare(headers: &mut HeaderMap) {
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
    let takes_gzip = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|coding| matches!(coding.trim(), "gzip" | "x-gzip"));
    let coding = if takes_gzip { "gzip" } else { "identity" };
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(coding));
}

impl Judge {
    fn rules(&self) -> Option<&Rules> {
        self.shared.policy.answers.as_ref()
    }

    fn masked(&self, rules: &Rules, kinds: Kinds) -> Kinds {
        let masked = rules.masked(kinds, self.method.as_str(), &self.path);
        masked.map_or(Kinds::default(), |masked| masked.kinds)
    }

    /// Whether what was found may be sent.
    fn check(&self, kinds: Kinds) -> Result<(), Refusal> {
        let Some(rules) = self.rules() else {
            return Ok(());
        };
        match rules.decide(kinds, self.method.as_str(), &self.path) {
            Decision::Allow => Ok(()),
            Decision::Block { rule } | Decision::Warn { rule } => Err(Refusal::AnswerBlocked {
                rule: rule.to_owned(),
            }),
        }
    }

    /// Writes down that an answer was masked.
    pub(crate) fn note_masked(&self, kinds: Kinds) {
        if !kinds.is_empty() {
            let kinds = kinds.iter().map(inspect::Kind::name).collect();
            self.note(&Event::Masked { kinds });
        }
    }

    fn note(&self, event: &Event) {
        if let Some(recorder) = &self.shared.recorder {
            recorder.note(&self.trace, event);
        }
    }

    /// Whether the path is one where bodies of this type pass unseen.
    pub(crate) fn exempts(&self, media_type: &str) -> bool {
        let route = self.shared.routes.of(&self.path);
        self.is_plain && route.is_some_and(|route| route.exempts(media_type))
    }

    /// A text that means something by itself: masked, if it is.
    pub(crate) fn look_at_text(&self, text: &str) -> Result<Option<String>, Refusal> {
        let Some(rules) = self.rules() else {
            return Ok(None);
        };
        let masked = self.masked(rules, rules.watched());
        let content = Content::Stream(Framing::Text);
        let unreadable = |error: Unreadable| Refusal::AnswerUnreadable(error.to_string());
        let found = content.look(text.as_bytes(), Purpose::Mask(masked));
        let found = found.map_err(unreadable)?;
        let kinds = found.kinds.intersection(rules.watched());
        self.check(kinds)?;
        let masked = found
            .masked
            .map(|text| String::from_utf8_lossy(&text).into_owned());
        if masked.is_some() {
            self.note_masked(self.masked(rules, kinds));
        }
        Ok(masked)
    }

    /// Whether bytes that nobody can look through may pass.
    pub(crate) fn look_at_bytes(&self) -> Result<(), Refusal> {
        match self.rules() {
            Some(_) if !self.exempts("application/octet-stream") => Err(Refusal::AnswerUnreadable(
                "binary messages cannot be looked through".into(),
            )),
            _ => Ok(()),
        }
    }

    /// An answer, as far as the caller may see it.
    pub async fn look(self, answer: Response<Passed>) -> Result<Response<Body>, Refusal> {
        let (mut parts, agent) = answer.into_parts();
        let has_body = !agent.is_end_stream();
        let Some(rules) = self.rules().filter(|_| has_body) else {
            return Ok(Response::from_parts(parts, Body::Passed(agent)));
        };
        if self.exempts(media_type(&parts.headers).unwrap_or_default()) {
            return Ok(Response::from_parts(parts, Body::Passed(agent)));
        }
        let unreadable = |why: &dyn fmt::Display| Refusal::AnswerUnreadable(why.to_string());
        if parts.status == StatusCode::PARTIAL_CONTENT {
            return Err(unreadable(&"it is a part, and nobody asked for one"));
        }
        let encoding = Encoding::of(&parts.headers).map_err(|error| unreadable(&error))?;
        let content = Content::of(&parts.headers).map_err(|error| unreadable(&error))?;
        let masked = self.masked(rules, rules.watched());
        let Content::Stream(framing) = content else {
            let body = self
                .look_at_whole(content, encoding, &mut parts.headers, agent)
                .await?;
            return Ok(Response::from_parts(parts, Body::Whole(body)));
        };
        parts.headers.remove(CONTENT_ENCODING);
        follow(&mut parts.headers, None);
        let max = self.shared.max_body;
        let body = Looked {
            agent,
            input: Bytes::new(),
            gunzip: (encoding == Encoding::Gzip).then(|| MultiGzDecoder::new(Vec::new())),
            stream: Stream::new(framing, rules.watched(), masked, max),
            masked,
            trailers: None,
            state: State::Comes,
            room: Room::default(),
            judge: self,
        };
        Ok(Response::from_parts(
            parts,
            Body::Other(UnsyncBoxBody::new(body)),
        ))
    }

    /// An answer that means something only as a whole.
    async fn look_at_whole(
        &self,
        content: Content,
        encoding: Encoding,
        headers: &mut HeaderMap,
        agent: Passed,
    ) -> Result<Whole, Refusal> {
        let max = self.shared.max_body;
        let mut room = Room::default();
        let taken = whole(agent, max, &self.shared.rooms, self.peer, &mut room).await;
        let (body, trailers) = taken.map_err(|error| match error {
            Broken::TooLong => Refusal::AnswerUnreadable(format!("it is longer than {max} bytes")),
            Broken::NoRoom => Refusal::NoRoom,
            Broken::Off => Refusal::BackendBroken("its answer broke off".into()),
        })?;
        let Some(rules) = self.rules().filter(|_| !body.is_empty()) else {
            return Ok(Whole::taking(body, trailers, room));
        };
        let unreadable = |error: Unreadable| match error {
            Unreadable::NoRoom => Refusal::NoRoom,
            other => Refusal::AnswerUnreadable(other.to_string()),
        };
        let (rooms, copy) = (&self.shared.rooms, body.clone());
        let seen = encoding
            .decode(copy, max, rooms, self.peer, &mut room)
            .await;
        let seen = seen.map_err(unreadable)?;
        let masked = self.masked(rules, rules.watched());
        let found = content
            .look(&seen, Purpose::Mask(masked))
            .map_err(unreadable)?;
        let kinds = found.kinds.intersection(rules.watched());
        self.check(kinds)?;
        let body = match found.masked {
            None => body,
            Some(masked) => {
                let masked = Bytes::from(masked);
                headers.remove(CONTENT_ENCODING);
                headers.remove(TRAILER);
                follow(headers, Some(&masked));
                self.note_masked(self.masked(rules, kinds));
                masked
            }
        };
        Ok(Whole::taking(body, trailers, room))
    }
}

/// An answer that is looked through as it comes.
pub struct Looked {
    agent: Passed,
    /// What came, and is not looked through yet.
    input: Bytes,
    gunzip: Option<MultiGzDecoder<Vec<u8>>>,
    stream: Stream,
    masked: Kinds,
    trailers: Option<HeaderMap>,
    state: State,
    /// What is held back takes room.
    room: Room,
    judge: Judge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Comes,
    /// Only trailers follow.
    Ended,
    /// Nothing follows.
    Over,
}

impl fmt::Debug for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looked")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Looked {
    /// What may be sent of the input that there is; empty if nothing can be yet.
    fn advance(&mut self) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::new();
        while out.is_empty() && !self.input.is_empty() {
            let pushed = if let Some(gunzip) = &mut self.gunzip {
                let part = self.input.split_to(self.input.len().min(UNPACKED_AT_ONCE));
                gunzip.write_all(&part).map_err(|_| not_gzip())?;
                let part = std::mem::take(gunzip.get_mut());
                self.stream.push(&part, &mut out)
            } else {
                let pushed = self.stream.push(&self.input, &mut out);
                self.input.advance(self.input.len());
                pushed
            };
            pushed.map_err(|error| Refusal::AnswerUnreadable(error.to_string()))?;
            self.judge.check(self.stream.kinds())?;
            self.take_room()?;
        }
        Ok(out)
    }

    /// What is held back is as much as was taken for it, in steps.
    fn take_room(&mut self) -> Result<(), Refusal> {
        let held = self.stream.held();
        if held <= FREE {
            self.room = Room::default();
        } else if held > self.room.taken() {
            let more = held - self.room.taken() + FREE;
            let taken = self
                .judge
                .shared
                .rooms
                .try_grow(&mut self.room, self.judge.peer, more);
            taken.map_err(|Full| Refusal::NoRoom)?;
        }
        Ok(())
    }

    /// Nothing more comes.
    fn finish(&mut self) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::new();
        if let Some(gunzip) = &mut self.gunzip {
            gunzip.try_finish().map_err(|_| not_gzip())?;
            let part = std::mem::take(gunzip.get_mut());
            let pushed = self.stream.push(&part, &mut out);
            pushed.map_err(|error| Refusal::AnswerUnreadable(error.to_string()))?;
        }
        let finished = self.stream.finish(&mut out);
        finished.map_err(|error| Refusal::AnswerUnreadable(error.to_string()))?;
        self.judge.check(self.stream.kinds())?;
        self.judge
            .note_masked(self.stream.kinds().intersection(self.masked));
        Ok(out)
    }

    /// The answer ends here, without an end: its caller must not take it for whole.
    fn cut(&mut self, refusal: &Refusal) -> body::Error {
        self.state = State::Over;
        if let Some(event) = Event::of(refusal) {
            self.judge.note(&event);
        }
        let trace_id = self.judge.trace.id;
        let why = refusal.text();
        tracing::info!(%trace_id, why, "an answer was cut off");
        why.into()
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, body::Error>> {
        loop {
            let out = match self.advance() {
                Ok(out) => out,
                Err(refusal) => return Poll::Ready(Err(self.cut(&refusal))),
            };
            if !out.is_empty() {
                return Poll::Ready(Ok(out));
            }
            match ready!(Pin::new(&mut self.agent).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.input = data,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    self.state = State::Over;
                    return Poll::Ready(Err(error));
                }
                None => {
                    self.state = State::Ended;
                    let finished = self.finish();
                    return Poll::Ready(finished.map_err(|refusal| self.cut(&refusal)));
                }
            }
        }
    }
}

fn not_gzip() -> Refusal {
    Refusal::AnswerUnreadable("it is not gzip".into())
}

impl hyper::body::Body for Looked {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let body = self.get_mut();
        if body.state == State::Comes {
            let out = ready!(body.poll_data(context));
            match out {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out.into())))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        if body.state == State::Over {
            return Poll::Ready(None);
        }
        body.state = State::Over;
        Poll::Ready(
            body.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }
}
