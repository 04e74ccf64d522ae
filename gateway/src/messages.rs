//! Messages of a WebSocket, both ways at once: each is judged and written down before it is passed.
//!
//! Pings and pongs are answered on each side and not passed. What a message is judged by is what it is
//! by itself: texts that are spread over several messages are not put together.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use inspect::{Framing, Purpose};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::activity::Activity;
use crate::answer::Refusal;
use crate::answers::Judge;
use crate::content::Content;
use crate::excerpt::excerpt;
use crate::recorder::Event;
use crate::room::{Full, Peer, Room};
use crate::shared::Shared;

/// What one side reads ahead, in bytes.
const READ_AHEAD: usize = 16 << 10;
/// So much of a message that is not whole takes no room, in bytes.
const FREE: usize = 64 << 10;
/// The head of a control frame, with and without a mask, in bytes (RFC 6455 section 5.2).
const MASKED_HEAD: usize = 6;
const HEAD: usize = 2;
/// A message has so long to arrive; and to be taken, with a second for each [`SLOWEST`] bytes.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 32 << 10;
/// It is looked for so often.
const LOOK: Duration = Duration::from_secs(5);
/// Who is told that it ends has so long to say that it knows.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a route exempts to let binary messages pass.
const BYTES: &str = "application/octet-stream";

type Socket = WebSocketStream<Metered>;
type From = SplitStream<Socket>;
type To = SplitSink<Socket, Message>;

/// A WebSocket, between its handshake and its end.
pub(crate) struct Exchange {
    /// What its messages are judged by.
    pub(crate) judge: Judge,
    /// Whether its opening was overridden: then warnings are.
    pub(crate) is_overridden: bool,
    /// For so long nothing may move.
    pub(crate) idle: Duration,
    /// The longest message, in bytes.
    pub(crate) max: usize,
}

/// How it ended.
enum End {
    /// One side closed it, with this code, and the other one was told.
    Closed(Option<u16>),
    /// What came cannot be passed.
    Refused(Refusal),
    /// The caller broke off, or broke the protocol.
    Caller(tungstenite::Error),
    /// The agent did.
    Agent(tungstenite::Error),
    /// Nothing moved for too long.
    Idle,
    /// A message did not arrive, or was not taken, in time.
    Slow,
    /// The gateway ends.
    Ends,
}

impl Exchange {
    /// Passes messages until one side ends it, or the gateway.
    pub(crate) async fn run(
        self,
        caller: OnUpgrade,
        agent: Upgraded,
        mut ends: watch::Receiver<bool>,
    ) {
        let Ok(caller) = caller.await else {
            return;
        };
        let activity = Activity::default();
        let (from_caller, caller) = self.side(caller, Role::Server, &activity).await;
        let (from_agent, agent) = self.side(agent, Role::Client, &activity).await;
        // A message is passed when the other side has taken the one before.
        let (mut to_caller, mut caller) = caller.split();
        let (mut to_agent, mut agent) = agent.split();
        let end = {
            let up = pin!(self.up(&mut caller, &mut to_agent, &from_caller));
            let down = pin!(self.down(&mut agent, &mut to_caller, &from_agent));
            let both = async {
                let (first, other) = match select(up, down).await {
                    Either::Left((first, other)) => (first, Either::Left(other)),
                    Either::Right((first, other)) => (first, Either::Right(other)),
                };
                // The other side says that it knows.
                if matches!(first, End::Closed(_)) {
                    let _ = tokio::time::timeout(FAREWELL, other).await;
                }
                first
            };
            tokio::select! {
                end = both => end,
                () = stands_still(&activity, self.idle) => End::Idle,
                () = from_caller.late() => End::Slow,
                () = from_agent.late() => End::Slow,
                _ = ends.wait_for(|ends| *ends) => End::Ends,
            }
        };
        let farewell = async {
            self.part(&end, &mut to_caller, &mut to_agent).await;
            // What is still on its way would make the system forget what was said last.
            while let Some(Ok(_)) = caller.next().await {
                from_caller.clear();
            }
            // What breaks the protocol is not read any further, only taken.
            if matches!(end, End::Caller(_))
                && let Ok(mut socket) = caller.reunite(to_caller)
            {
                let rest = &mut socket.get_mut().io;
                let _ = tokio::io::copy(rest, &mut tokio::io::sink()).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    async fn side(
        &self,
        upgraded: Upgraded,
        role: Role,
        activity: &Activity,
    ) -> (Arc<Held>, Socket) {
        let held = Arc::new(Held {
            state: Mutex::default(),
            shared: Arc::clone(&self.judge.shared),
            peer: self.judge.peer,
        });
        let metered = Metered {
            io: TokioIo::new(upgraded),
            held: Arc::clone(&held),
            activity: activity.clone(),
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_AHEAD)
            .write_buffer_size(0)
            .max_message_size(Some(self.max))
            .max_frame_size(Some(self.max));
        let socket = WebSocketStream::from_raw_socket(metered, role, Some(config)).await;
        (held, socket)
    }

    /// From the caller to the agent.
    async fn up(&self, caller: &mut From, to_agent: &mut To, held: &Held) -> End {
        while let Some(message) = caller.next().await {
            let judged = match &message {
                Ok(Message::Text(text)) => self.hear(text).await,
                Ok(Message::Binary(data)) => self.hear_bytes(data).await,
                _ => Ok(None),
            };
            let masked = match judged {
                Ok(masked) => masked,
                Err(refusal) => return End::Refused(refusal),
            };
            let message = match message {
                Ok(Message::Close(frame)) => return self.close(frame, to_agent).await,
                Ok(message) if is_control(&message) => {
                    // They are answered, and count as requests do.
                    held.forget(message.len() + MASKED_HEAD);
                    self.wait_for_turn().await;
                    continue;
                }
                Ok(message) => message,
                Err(error) => return End::Caller(error),
            };
            held.arrived();
            match pass(message, masked, to_agent).await {
                None => return End::Slow,
                Some(Err(error)) => return End::Agent(error),
                Some(Ok(())) => held.clear(),
            }
        }
        End::Closed(None)
    }

    /// From the agent to the caller.
    async fn down(&self, agent: &mut From, to_caller: &mut To, held: &Held) -> End {
        while let Some(message) = agent.next().await {
            let judged = match &message {
                Ok(Message::Text(text)) => self.judge.look_at_text(text),
                Ok(Message::Binary(_)) => self.judge.look_at_bytes().map(|()| None),
                _ => Ok(None),
            };
            let masked = match judged {
                Ok(masked) => masked,
                Err(refusal) => return End::Refused(refusal),
            };
            let message = match message {
                Ok(Message::Close(frame)) => return self.close(frame, to_caller).await,
                Ok(message) if is_control(&message) => {
                    held.forget(message.len() + HEAD);
                    continue;
                }
                Ok(message) => message,
                Err(error) => return End::Agent(error),
            };
            held.arrived();
            match pass(message, masked, to_caller).await {
                None => return End::Slow,
                Some(Err(error)) => return End::Caller(error),
                Some(Ok(())) => held.clear(),
            }
        }
        End::Closed(None)
    }

    /// One side has closed it; the other one is told.
    async fn close(&self, frame: Option<CloseFrame>, to: &mut To) -> End {
        let code = frame.as_ref().map(|frame| frame.code.into());
        let frame = frame.filter(|frame| frame.code.is_allowed());
        let frame = frame.map(|frame| {
            let (reason, _) = inspect::mask_text(&frame.reason, Purpose::Log);
            closing(frame.code, &reason)
        });
        // Who has closed it at the same time has said so.
        let _ = to.send(Message::Close(frame)).await;
        End::Closed(code)
    }

    /// A text of the caller's: masked, if it is.
    async fn hear(&self, text: &str) -> Result<Option<String>, Refusal> {
        let judge = &self.judge;
        self.may_say().await?;
        let content = Content::Stream(Framing::Text);
        let found = content.look(text.as_bytes(), Purpose::Decide)?;
        let path = judge.path.as_str();
        let (policy, kinds) = (&judge.shared.policy, found.kinds);
        let masked =
            policy.decide_message(kinds, judge.method.as_str(), path, self.is_overridden)?;
        let masked = match masked {
            Some(kinds) => content.look(text.as_bytes(), Purpose::Mask(kinds))?.masked,
            None => None,
        };
        let masked = masked.map(|masked| String::from_utf8_lossy(&masked).into_owned());
        let passed = masked.as_deref().unwrap_or(text);
        if judge.shared.recorder.is_some() {
            let scrubbed = content.look(passed.as_bytes(), Purpose::Log)?.masked;
            let payload = excerpt(scrubbed.as_deref().unwrap_or(passed.as_bytes()));
            self.write_down(payload, passed.as_bytes()).await;
        }
        if masked.is_some() {
            judge.note_masked(kinds);
        }
        Ok(masked)
    }

    /// Bytes of the caller's, which cannot be looked through.
    async fn hear_bytes(&self, data: &[u8]) -> Result<Option<String>, Refusal> {
        self.may_say().await?;
        if !self.judge.exempts(BYTES) {
            let why = "a binary message cannot be looked through, and this path is not exempt";
            return Err(Refusal::Unreadable(why));
        }
        self.write_down("[NOT_LOOKED_THROUGH]".into(), data).await;
        Ok(None)
    }

    /// A message counts as a request does, and who sends too many waits.
    async fn may_say(&self) -> Result<(), Refusal> {
        self.wait_for_turn().await;
        match &self.judge.shared.recorder {
            Some(recorder) if !recorder.is_good() => Err(Refusal::Unrecorded),
            _ => Ok(()),
        }
    }

    async fn wait_for_turn(&self) {
        let limits = &self.judge.shared.limits;
        while let Err(Refusal::TooMany(wait)) = limits.check(self.judge.peer) {
            tokio::time::sleep(wait).await;
        }
    }

    async fn write_down(&self, payload: String, passed: &[u8]) {
        if let Some(recorder) = &self.judge.shared.recorder {
            let digest = identity::sha256(passed).to_string();
            let event = Event::Message { payload, digest };
            recorder.record(&self.judge.trace, &event).await;
        }
    }

    fn note(&self, event: &Event) {
        if let Some(recorder) = &self.judge.shared.recorder {
            recorder.note(&self.judge.trace, event);
        }
    }

    /// Tells both sides how it ends, where they do not know.
    async fn part(&self, end: &End, to_caller: &mut To, to_agent: &mut To) {
        let away = || closing(CloseCode::Away, "");
        let (caller, agent) = match end {
            End::Closed(_) => (None, None),
            End::Refused(refusal) => {
                if let Some(event) = Event::of(refusal) {
                    self.note(&event);
                }
                (Some(closing(code(refusal), &refusal.text())), Some(away()))
            }
            End::Caller(error) => (fault(error), Some(away())),
            End::Agent(error) => {
                let why = closing(CloseCode::Error, "the agent broke off");
                (Some(why), fault(error))
            }
            End::Idle => {
                let why = closing(CloseCode::Away, "nothing was said for too long");
                (Some(why), Some(away()))
            }
            End::Slow => {
                let why = closing(CloseCode::Policy, "a message took too long");
                (Some(why), Some(away()))
            }
            End::Ends => {
                let why = closing(CloseCode::Away, "the gateway ends");
                (Some(why), Some(away()))
            }
        };
        let code = match end {
            End::Closed(code) => *code,
            _ => caller.as_ref().map(|frame| frame.code.into()),
        };
        self.note(&Event::Closed { code });
        futures_util::future::join(tell(caller, to_caller), tell(agent, to_agent)).await;
    }
}

/// Pings and pongs, which are of one side.
fn is_control(message: &Message) -> bool {
    !matches!(message, Message::Text(_) | Message::Binary(_))
}

/// Passes a message as it is, or its text as it was masked; none if it is not taken in time.
async fn pass(
    message: Message,
    masked: Option<String>,
    to: &mut To,
) -> Option<Result<(), tungstenite::Error>> {
    let message = match masked {
        Some(masked) => Message::text(masked),
        None => message,
    };
    let seconds = message.len() as u64 / SLOWEST;
    let patience = MESSAGE_DEADLINE + Duration::from_secs(seconds);
    tokio::time::timeout(patience, to.send(message)).await.ok()
}

/// Says why it ends, if there is something to say, and writes what is still to be written.
async fn tell(frame: Option<CloseFrame>, to: &mut To) {
    if frame.is_some() {
        let _ = to.send(Message::Close(frame)).await;
    }
    let _ = to.close().await;
}

/// With as much of the reason as there is place for (RFC 6455 section 5.5).
fn closing(code: CloseCode, reason: &str) -> CloseFrame {
    const PLACE: usize = 123;
    let reason = &reason[..reason.floor_char_boundary(PLACE)];
    CloseFrame {
        code,
        reason: reason.into(),
    }
}

/// What the caller is told of a refusal.
fn code(refusal: &Refusal) -> CloseCode {
    match refusal {
        Refusal::NoRoom | Refusal::Unrecorded => CloseCode::Again,
        Refusal::Unreadable(_) => CloseCode::Unsupported,
        Refusal::AnswerUnreadable(_) => CloseCode::Error,
        _ => CloseCode::Policy,
    }
}

/// What a side is told of what it did; nothing if it is gone.
fn fault(error: &tungstenite::Error) -> Option<CloseFrame> {
    let code = match error {
        tungstenite::Error::Capacity(_) => CloseCode::Size,
        tungstenite::Error::Utf8(_) => CloseCode::Invalid,
        tungstenite::Error::Protocol(_) => CloseCode::Protocol,
        tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            CloseCode::Again
        }
        _ => return None,
    };
    Some(closing(code, &error.to_string()))
}

/// Returns when nothing has moved for so long.
async fn stands_still(activity: &Activity, idle: Duration) {
    loop {
        let deadline = activity.deadline(idle);
        tokio::time::sleep_until(deadline).await;
        if activity.deadline(idle) <= deadline {
            return;
        }
    }
}

/// What one side sent of a message that is not passed yet: how much, since when, and its room.
struct Held {
    state: Mutex<(usize, Option<Instant>, Room)>,
    shared: Arc<Shared>,
    peer: Peer,
}

impl Held {
    fn add(&self, count: usize) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, since, room) = &mut *state;
        since.get_or_insert_with(Instant::now);
        *held += count;
        if *held > FREE && *held > room.taken() {
            let more = *held - room.taken() + FREE;
            let taken = self.shared.rooms.try_grow(room, self.peer, more);
            taken.map_err(|Full| io::Error::from(io::ErrorKind::OutOfMemory))?;
        }
        Ok(())
    }

    /// Returns when a message has been on its way for too long: what is more than a few bytes.
    async fn late(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (held, since, _) = &*state;
            let is_old = since.is_some_and(|since| since.elapsed() > MESSAGE_DEADLINE);
            if is_old && *held > READ_AHEAD {
                return;
            }
        }
    }

    /// It is whole: taking it has a deadline of its own.
    fn arrived(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }

    /// So much of it was a control frame, between those of a message.
    fn forget(&self, count: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, since, _) = &mut *state;
        *held = held.saturating_sub(count);
        if *held == 0 {
            *since = None;
        }
    }

    fn clear(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (0, None, Room::default());
    }
}

/// One side's bytes, which count.
struct Metered {
    io: TokioIo<Upgraded>,
    held: Arc<Held>,
    activity: Activity,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        self.activity.moved();
        Poll::Ready(self.held.add(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
