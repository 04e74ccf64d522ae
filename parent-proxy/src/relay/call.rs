//! One call over a line to the enclave's process for its service: the body goes there, the answer
//! comes back.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body as RequestBody;
use bytes::BytesMut;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode};
use identity::cbor;
use policy::Bundle;
use protocol::{
    CallFrame, CallFrames, CallKind, Endpoint, Failed, FramedHead, LineKind, LineTo, Ticket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::UnderWay;
use super::dial::{Addresses, NoLine};
use enclave_client::{Stream, open};

type Line = Box<dyn Stream>;

/// The enclave's process keeps a line for calls for two minutes.
const IDLE: Duration = Duration::from_secs(60);
const MAX_IDLE: usize = 64;
/// For the end of an answer of which nobody wants more.
const END_WITHIN: Duration = Duration::from_millis(100);
/// The enclave gives up after ten minutes of silence; this process soon after.
const SILENCE: Duration = Duration::from_secs(630);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The enclave's process said why.
    #[error("{}", .0.message)]
    Failed(Failed),
    /// No line to the service.
    #[error(transparent)]
    NoLine(#[from] NoLine),
    /// The line to the enclave broke.
    #[error("the line to the enclave's process for this service broke: {0}")]
    Line(#[from] io::Error),
}

/// Makes calls.
pub(crate) struct Calls {
    services: Vec<Arc<ServiceLines>>,
}

/// The lines of one service.
struct ServiceLines {
    service: policy::Service,
    endpoint: Endpoint,
    addresses: Addresses,
    idle: Mutex<Vec<(Line, Instant)>>,
}

impl Calls {
    /// To the services of a bundle, by the enclave at this endpoint.
    pub(crate) fn new(bundle: &Bundle, enclave: &Endpoint, addresses: &Addresses) -> Self {
        let lines = |(place, service): (u32, &policy::Service)| {
            Arc::new(ServiceLines {
                service: service.clone(),
                endpoint: enclave.service(place),
                addresses: addresses.clone(),
                idle: Mutex::default(),
            })
        };
        Self {
            services: (0..).zip(&bundle.services).map(lines).collect(),
        }
    }

    /// Makes the call of a ticket to the service of a place; gives its answer as soon as its head is
    /// there.
    pub(crate) async fn make(
        &self,
        place: usize,
        ticket: Ticket,
        body: RequestBody,
        under_way: UnderWay,
        closing: Closing,
    ) -> Result<Response<AnswerBody>, CallError> {
        let lines = self.services.get(place).ok_or_else(nonsense)?;
        let (line, begun) = lines.begin(ticket).await?;
        let (from, to) = tokio::io::split(line);
        let upload = Upload::begin(upload(to, begun, body));
        let mut call = Call {
            lines: Arc::clone(lines),
            from: Frames::new(from),
            upload,
            under_way,
            _closing: closing,
        };
        loop {
            match call.from.next().await? {
                (CallKind::LineWanted, to) => lines.lend(&to, ticket).await?,
                (CallKind::Head, bytes) => return answer(call, &bytes),
                (CallKind::Failed, bytes) => return Err(CallError::Failed(failed(&bytes))),
                _ => return Err(nonsense().into()),
            }
        }
    }
}

impl Calls {
    /// Passes the sealed frames of a call of the ingress process on, between its line for calls and one of the
    /// service of a place; until the answer is whole. After an error, or an answer that came before the body was whole,
    /// that line is out of step, and can only end: `false`.
    pub(crate) async fn carry(
        &self,
        place: usize,
        ticket: Ticket,
        (from, to): (&mut Frames, &mut WriteHalf<Line>),
        _closing: Closing,
    ) -> Result<bool, CallError> {
        let lines = self.services.get(place).ok_or_else(nonsense)?;
        let (line, begun) = lines.begin(ticket).await?;
        let (back, mut there) = tokio::io::split(line);
        let mut back = Frames::new(back);
        let is_whole = {
            let mut upload = pin!(pass_there(from, &mut there, begun));
            let mut download = pin!(pass_back(lines, ticket, &mut back, to));
            let (mut is_whole, mut is_done) = (false, false);
            loop {
                tokio::select! {
                    biased;
                    sent = &mut upload, if !is_done => {
                        is_done = true;
                        match sent {
                            Ok(()) => is_whole = true,
                            // Nobody takes more of it: what was answered counts.
                            Err(Unsent::Service) => {}
                            Err(Unsent::Agent(error)) => return Err(error.into()),
                        }
                    }
                    answered = &mut download => {
                        answered?;
                        break is_whole;
                    }
                }
            }
        };
        if is_whole && back.frames.is_empty() {
            lines.keep(back.line.unsplit(there));
        }
        Ok(is_whole)
    }
}

/// Why a body was not passed on whole.
enum Unsent {
    /// The ingress process, or the agent, is gone.
    Agent(io::Error),
    /// The process of the service takes no more of it.
    Service,
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Self {
        Self::Agent(error)
    }
}

/// Passes a body on, until its end.
async fn pass_there(
    from: &mut Frames,
    there: &mut WriteHalf<Line>,
    mut out: BytesMut,
) -> Result<(), Unsent> {
    loop {
        let mut is_last = false;
        while let Some((kind, bytes)) = from.ready()? {
            if !matches!(kind, CallKind::Data | CallKind::End) || is_last {
                return Err(nonsense().into());
            }
            CallFrame::write(kind, &bytes, &mut out);
            is_last = kind == CallKind::End;
            if is_last || out.len() >= CallFrame::MAX_BYTES {
                break;
            }
        }
        let written = there.write_all_buf(&mut out).await;
        written.map_err(|_| Unsent::Service)?;
        if is_last {
            return Ok(());
        }
        if from.frames.awaits_more() && from.line.read_buf(from.frames.room()).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Passes an answer on, until its end, and lends lines meanwhile.
async fn pass_back(
    lines: &ServiceLines,
    ticket: Ticket,
    back: &mut Frames,
    to: &mut WriteHalf<Line>,
) -> Result<(), CallError> {
    let mut out = BytesMut::new();
    let mut is_begun = false;
    loop {
        let frame = match back.ready()? {
            Some(frame) if out.len() < CallFrame::MAX_BYTES => frame,
            Some(frame) => {
                is_begun |= !out.is_empty();
                to.write_all_buf(&mut out).await?;
                frame
            }
            None => {
                is_begun |= !out.is_empty();
                to.write_all_buf(&mut out).await?;
                back.next().await?
            }
        };
        match frame {
            (CallKind::LineWanted, line_to) => lines.lend(&line_to, ticket).await?,
            (kind @ (CallKind::Head | CallKind::Data), bytes) => {
                CallFrame::write(kind, &bytes, &mut out);
            }
            (CallKind::End, bytes) => {
                CallFrame::write(CallKind::End, &bytes, &mut out);
                to.write_all_buf(&mut out).await?;
                return Ok(());
            }
            (CallKind::Failed, bytes) => {
                // What came before is the agent's still: why a WebSocket is closed, for one. But an answer that has not begun
                // is a refusal.
                if is_begun {
                    to.write_all_buf(&mut out).await?;
                }
                return Err(CallError::Failed(failed(&bytes)));
            }
            _ => return Err(nonsense().into()),
        }
    }
}

fn answer(mut call: Call, head: &[u8]) -> Result<Response<AnswerBody>, CallError> {
    let head: FramedHead = cbor::from_slice(head).map_err(|_| nonsense())?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| nonsense())?;
    for (name, value) in &head.headers {
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
        let value = hyper::header::HeaderValue::from_bytes(value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(nonsense().into());
        };
        response.headers_mut().append(name, value);
    }
    let (here, is_whole) = call.here();
    let pieces = if is_whole {
        let here = here.into_iter().map(|(_, bytes)| bytes);
        Pieces::Here {
            pieces: here.collect(),
            _under_way: call.end(),
        }
    } else {
        let (pieces, coming) = mpsc::channel(1);
        tokio::spawn(call.pass_on(here, pieces));
        Pieces::Coming(coming)
    };
    Ok(response.map(|()| AnswerBody {
        pieces,
        _held: None,
    }))
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it said nonsense")
}

fn failed(bytes: &[u8]) -> Failed {
    cbor::from_slice(bytes).unwrap_or_else(|_| Failed {
        code: "enclave_nonsense".into(),
        message: "the enclave's process said nonsense".into(),
    })
}

impl ServiceLines {
    /// A line, and what a call begins with on it.
    async fn begin(&self, ticket: Ticket) -> io::Result<(Line, BytesMut)> {
        let mut begun = BytesMut::new();
        if let Some(line) = self.kept() {
            CallFrame::write(CallKind::Ticket, &ticket.0, &mut begun);
            return Ok((line, begun));
        }
        begun.extend_from_slice(&LineKind::Calls.opening(ticket));
        Ok((open(&self.endpoint).await?, begun))
    }

    /// Lends a line to whom it is wanted.
    async fn lend(&self, to: &[u8], ticket: Ticket) -> Result<(), CallError> {
        let to = LineTo::of(to).ok_or_else(nonsense)?;
        let lent = self
            .addresses
            .lend((&self.service, to), &self.endpoint, ticket);
        Ok(lent.await?)
    }

    /// The newest line that is still open.
    fn kept(&self) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((mut line, since)) = idle.pop() {
            // Nothing comes over an idle line but its end.
            let quiet = line.read(&mut [0]).now_or_never().is_none();
            if quiet && since.elapsed() < IDLE {
                return Some(line);
            }
        }
        None
    }

    fn keep(&self, line: Line) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        if idle.len() < MAX_IDLE {
            idle.push((line, Instant::now()));
        }
    }
}

/// What is done when a call has ended, however it did.
pub(crate) struct Closing(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Closing {
    pub(crate) fn new(then: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(then)))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

/// A call whose answer is under way.
struct Call {
    lines: Arc<ServiceLines>,
    from: Frames,
    /// Gives its half back when the body was whole.
    upload: Upload,
    under_way: UnderWay,
    /// Dropped last, when the enclave has heard of the end.
    _closing: Closing,
}

/// A body that is sent.
enum Upload {
    /// It was all here, and is on its way.
    Done(Option<WriteHalf<Line>>),
    /// If nobody needs it any more it ends, and the line with it.
    UnderWay(AbortOnDrop),
}

struct AbortOnDrop(JoinHandle<Option<WriteHalf<Line>>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upload {
    fn begin(sending: impl Future<Output = Option<WriteHalf<Line>>> + Send + 'static) -> Self {
        let mut sending = Box::pin(sending);
        match sending.as_mut().now_or_never() {
            Some(done) => Self::Done(done),
            None => Self::UnderWay(AbortOnDrop(tokio::spawn(sending))),
        }
    }

    /// The half of the line, if the body was sent whole.
    fn done(mut self) -> Option<WriteHalf<Line>> {
        match &mut self {
            Self::Done(to) => to.take(),
            Self::UnderWay(sending) => (&mut sending.0).now_or_never()?.ok()?,
        }
    }
}

/// Sends a body, behind what the call begins with. If it breaks off, so does the line: half a body is
/// none.
async fn upload(
    mut to: WriteHalf<Line>,
    begun: BytesMut,
    body: RequestBody,
) -> Option<WriteHalf<Line>> {
    let whole = send(&mut to, begun, body).await;
    if whole.is_none() {
        let _ = to.shutdown().await;
    }
    whole.map(|()| to)
}

async fn send(to: &mut WriteHalf<Line>, mut out: BytesMut, mut body: RequestBody) -> Option<()> {
    loop {
        // What is there goes together; what is awaited holds nothing up.
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                to.write_all_buf(&mut out).await.ok()?;
                body.frame().await
            }
        };
        let Some(frame) = frame else {
            break;
        };
        let Ok(bytes) = frame.ok()?.into_data() else {
            continue;
        };
        for piece in bytes.chunks(CallFrame::MAX_BYTES) {
            CallFrame::write(CallKind::Data, piece, &mut out);
            if out.len() >= CallFrame::MAX_BYTES {
                to.write_all_buf(&mut out).await.ok()?;
            }
        }
    }
    CallFrame::write(CallKind::End, &[], &mut out);
    to.write_all_buf(&mut out).await.ok()
}

/// What comes over a line: frames.
pub(crate) struct Frames {
    line: ReadHalf<Line>,
    frames: CallFrames,
}

impl Frames {
    pub(crate) fn new(line: ReadHalf<Line>) -> Self {
        Self {
            line,
            frames: CallFrames::default(),
        }
    }

    /// The next one that is here already.
    fn ready(&mut self) -> io::Result<Option<(CallKind, Bytes)>> {
        self.frames.next_frame().map_err(|_| nonsense())
    }

    /// The next one, however long it takes.
    pub(crate) async fn wait(&mut self) -> io::Result<(CallKind, Bytes)> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(frame);
            }
            if self.line.read_buf(self.frames.room()).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next one of a call that is under way.
    async fn next(&mut self) -> io::Result<(CallKind, Bytes)> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let next = timeout(SILENCE, self.wait()).await;
        next.unwrap_or_else(|_| Err(late()))
    }
}

impl Call {
    /// What of an answer is here already, behind its head; and whether that is all of it.
    fn here(&mut self) -> (VecDeque<(CallKind, Bytes)>, bool) {
        let mut here = VecDeque::new();
        // What makes no sense is found by whoever looks at it in its turn.
        while let Ok(Some((kind, bytes))) = self.from.ready() {
            if kind == CallKind::End {
                return (here, true);
            }
            let goes_on = kind == CallKind::Data;
            here.push_back((kind, bytes));
            if !goes_on {
                break;
            }
        }
        (here, false)
    }

    /// Passes on what is here and what comes, and keeps the line if it ended in order.
    async fn pass_on(
        mut self,
        mut here: VecDeque<(CallKind, Bytes)>,
        pieces: mpsc::Sender<Result<Bytes, CallError>>,
    ) {
        loop {
            let next = match here.pop_front() {
                Some(frame) => Ok(frame),
                None => tokio::select! {
                    biased;
                    next = self.from.next() => next,
                    () = pieces.closed() => {
                        // Whoever knows the length has all of it before its end has come. Else the agent went
                        // away: the line ends, and so the enclave hears of it.
                        match timeout(END_WITHIN, self.from.next()).await {
                            Ok(Ok((CallKind::End, _))) => break,
                            _ => return,
                        }
                    }
                },
            };
            let piece = match next {
                Ok((CallKind::Data, bytes)) => Ok(bytes),
                Ok((CallKind::End, _)) => break,
                Ok((CallKind::Failed, bytes)) => Err(CallError::Failed(failed(&bytes))),
                Ok(_) => Err(nonsense().into()),
                Err(error) => Err(error.into()),
            };
            let ends = piece.is_err();
            if pieces.send(piece).await.is_err() || ends {
                return;
            }
        }
        drop(self.end());
    }

    /// Its end has come: the line is kept if it is in step. An answer that came before the body was whole ends it. It counts
    /// until its answer has gone.
    fn end(self) -> UnderWay {
        let Self {
            lines,
            from,
            upload,
            under_way,
            ..
        } = self;
        if let Some(to) = upload.done()
            && from.frames.is_empty()
        {
            lines.keep(from.line.unsplit(to));
        }
        under_way
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    pieces: Pieces,
    /// What a call needs as long as its answer is under way.
    _held: Option<mpsc::Sender<Bytes>>,
}

#[derive(Debug)]
enum Pieces {
    /// All of them; their call counts as long.
    Here {
        pieces: VecDeque<Bytes>,
        _under_way: UnderWay,
    },
    Coming(mpsc::Receiver<Result<Bytes, CallError>>),
}

impl AnswerBody {
    pub(super) fn holding(self, held: mpsc::Sender<Bytes>) -> Self {
        Self {
            _held: Some(held),
            ..self
        }
    }

    /// The next piece; none at the end, or where it broke off.
    pub(super) async fn piece(&mut self) -> Option<Bytes> {
        match &mut self.pieces {
            Pieces::Here { pieces, .. } => pieces.pop_front(),
            Pieces::Coming(pieces) => pieces.recv().await?.ok(),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        match &mut self.pieces {
            Pieces::Here { pieces, .. } => {
                Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
            }
            Pieces::Coming(pieces) => pieces
                .poll_recv(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }
}
