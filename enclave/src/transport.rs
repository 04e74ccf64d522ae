//! The window: connections in, proofs, requests, answers. One thread for each connection, one more
//! for what is slow.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use identity::{PublicKey, cbor};
use protocol::{
    ChannelProof, FrameBuffer, Hello, Lane, Refusal, Request, RequestFrame, ResponseFrame, VERSION,
    Welcome, write_frame,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vsock::{VsockListener, VsockStream};

use crate::Error;
use crate::service::{Outcome, Service};

/// Connections that have proven nothing yet; more are closed at once.
const MAX_STRANGERS: usize = 8;
/// Connections of the proxy.
const MAX_CONNECTIONS: usize = 16;
/// For the proof, and for the rest of a frame that has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that wait for the NSM, in each lane.
const MAX_SLOW: usize = 64;
/// A request that has waited longer is not done any more: the proxy has told its caller by then.
const MAX_WAIT: Duration = Duration::from_secs(8);
/// Accepting may fail so many times in a row: half a minute.
const MAX_ACCEPT_FAILURES: u32 = 600;
/// Answers are written when so many have gathered, or none is left to make; one signature covers
/// their events.
const BATCH: usize = 16;
const READ_BYTES: usize = 64 * 1024;

/// Where the window is.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket: development, and hybrid vsock.
    Unix(UnixListener),
    /// AF_VSOCK.
    Vsock {
        /// The listening socket.
        listener: VsockListener,
        /// Who is let in.
        parent: Parent,
    },
}

/// Who may connect over vsock.
#[derive(Debug, Clone, Copy)]
pub struct Parent {
    /// Its context id: 3 on Nitro.
    pub cid: u32,
    /// Its source ports are below this one: 1024, which takes a privilege to bind, wherever ports
    /// are the parent's own.
    pub ports_below: u32,
}

pub(crate) trait Stream: Read + Write + Send + 'static {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>>;
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn shutdown(&self) -> io::Result<()>;
}

macro_rules! stream {
    ($type:ty) => {
        impl Stream for $type {
            fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
                Ok(Box::new(<$type>::try_clone(self)?))
            }
            fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                <$type>::set_read_timeout(self, timeout)
            }
            fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                <$type>::set_write_timeout(self, timeout)
            }
            fn shutdown(&self) -> io::Result<()> {
                <$type>::shutdown(self, Shutdown::Both)
            }
        }
    };
}
stream!(UnixStream);
stream!(VsockStream);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Vsock { listener, .. } => listener.as_fd(),
        }
    }
}

impl Listener {
    /// From now on [`Listener::accept`] does not wait.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        let flags = fcntl_getfl(self)?;
        Ok(fcntl_setfl(self, flags | OFlags::NONBLOCK)?)
    }

    /// The next connection; `None` for one that is turned away.
    pub(crate) fn accept(&self) -> io::Result<Option<Box<dyn Stream>>> {
        match self {
            Self::Unix(listener) => Ok(Some(Box::new(listener.accept()?.0))),
            Self::Vsock { listener, parent } => {
                let (stream, peer) = listener.accept()?;
                let admitted = peer.cid() == parent.cid && peer.port() < parent.ports_below;
                Ok(admitted.then(|| Box::new(stream) as Box<dyn Stream>))
            }
        }
    }
}

/// Serves for ever; returns only if the listener is good for nothing any more.
pub fn serve<S: Service>(service: &Arc<S>, listener: &Listener) -> io::Result<()> {
    // Two lanes: a flood of challenges must not keep the operator from rotating.
    let lanes = Lanes {
        evidence: lane(service, "evidence")?,
        control: lane(service, "control")?,
    };
    let counts = Arc::new(Counts::default());
    let mut failures = 0;
    loop {
        let accepted = match listener.accept() {
            Ok(accepted) => accepted,
            // Out of memory or descriptors, or interrupted: it passes, and the keys shall not end
            // for it.
            Err(_) if failures < MAX_ACCEPT_FAILURES => {
                failures += 1;
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            Err(error) => return Err(error),
        };
        failures = 0;
        let Some(stream) = accepted else { continue };
        let Some(place) = ConnectionSlot::take(&counts, |c| &c.strangers, MAX_STRANGERS) else {
            continue;
        };
        let connection = Connection {
            service: Arc::clone(service),
            lanes: lanes.clone(),
            counts: Arc::clone(&counts),
        };
        // A thread that cannot be started is a connection that is closed.
        let _ = thread::Builder::new()
            .name("window".into())
            .spawn(move || connection.run(stream, place));
    }
}

#[derive(Clone)]
struct Lanes {
    evidence: SyncSender<Job>,
    control: SyncSender<Job>,
}

fn lane<S: Service>(service: &Arc<S>, name: &str) -> io::Result<SyncSender<Job>> {
    let (sender, jobs) = sync_channel::<Job>(MAX_SLOW);
    let worker = Arc::clone(service);
    thread::Builder::new().name(name.into()).spawn(move || {
        for job in jobs {
            job.run(&*worker);
        }
    })?;
    Ok(sender)
}

#[derive(Default)]
struct Counts {
    strangers: AtomicUsize,
    connections: AtomicUsize,
}

/// A counted slot, given back when dropped.
struct ConnectionSlot {
    counts: Arc<Counts>,
    which: fn(&Counts) -> &AtomicUsize,
}

impl ConnectionSlot {
    fn take(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicUsize, max: usize) -> Option<Self> {
        let place = Self {
            counts: Arc::clone(counts),
            which,
        };
        // Dropping the place gives back also what was one too many.
        if which(counts).fetch_add(1, Ordering::AcqRel) < max {
            Some(place)
        } else {
            None
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        (self.which)(&self.counts).fetch_sub(1, Ordering::AcqRel);
    }
}

struct Connection<S> {
    service: Arc<S>,
    lanes: Lanes,
    counts: Arc<Counts>,
}

/// Why a connection ends. Nobody is told: the other side sees it closed.
enum End {
    Closed,
    Wrong,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

impl From<protocol::Error> for End {
    fn from(_: protocol::Error) -> Self {
        Self::Wrong
    }
}

impl<S: Service> Connection<S> {
    fn run(&self, mut stream: Box<dyn Stream>, stranger: ConnectionSlot) {
        // Either end is an end; what was wrong is the other side's to find out.
        let (Ok(()) | Err(End::Closed | End::Wrong)) = self.talk(&mut stream, stranger);
        let _ = stream.shutdown();
    }

    fn talk(&self, stream: &mut Box<dyn Stream>, stranger: ConnectionSlot) -> Result<(), End> {
        stream.set_read_timeout(Some(FRAME_TIMEOUT))?;
        stream.set_write_timeout(Some(FRAME_TIMEOUT))?;
        let mut input = Input {
            buffer: FrameBuffer::default(),
            chunk: vec![0; READ_BYTES],
            partial_since: None,
        };
        let key = self.handshake(stream, &mut input)?;
        let Some(_place) = ConnectionSlot::take(&self.counts, |c| &c.connections, MAX_CONNECTIONS)
        else {
            return refuse(stream, Error::Busy.into());
        };
        drop(stranger);
        send(stream, &Welcome::Welcome)?;
        let writer = Arc::new(Mutex::new(stream.try_clone()?));
        self.requests(stream, &mut input, &writer, &key)
    }

    /// Challenges the other side to prove a key; once there is a policy, the one that it names.
    fn handshake(&self, stream: &mut Box<dyn Stream>, input: &mut Input) -> Result<PublicKey, End> {
        let challenge = self.service.challenge().map_err(|_| End::Closed)?;
        let hello = Hello {
            version: VERSION,
            boot_id: self.service.boot_id(),
            challenge,
        };
        send(stream, &hello)?;
        let deadline = Instant::now() + FRAME_TIMEOUT;
        let proven = loop {
            if let Some(frame) = input.buffer.next_frame()? {
                break ChannelProof::decode(frame).and_then(|proof| proof.verify(&hello));
            }
            if Instant::now() > deadline || input.read(stream)? == 0 {
                return Err(End::Closed);
            }
        };
        let expected = self.service.proxy_key();
        let proven = proven.map_err(Error::from).and_then(|key| match expected {
            Some(expected) if *expected != key => Err(Error::ProxyKeyMismatch),
            _ => Ok(key),
        });
        match proven {
            Ok(key) => Ok(key),
            Err(error) => refuse(stream, error.into()).and(Err(End::Wrong)),
        }
    }

    fn requests(
        &self,
        stream: &mut Box<dyn Stream>,
        input: &mut Input,
        writer: &Arc<Mutex<Box<dyn Stream>>>,
        key: &PublicKey,
    ) -> Result<(), End> {
        let mut out = Vec::with_capacity(READ_BYTES);
        let mut done = Vec::with_capacity(BATCH);
        loop {
            while let Some(frame) = input.buffer.next_frame()? {
                // Who came before the policy and proved another key than it names has nothing more
                // to say.
                if self.service.proxy_key().is_some_and(|named| named != key) {
                    return Err(End::Wrong);
                }
                let RequestFrame { id, request } =
                    cbor::from_slice(frame).map_err(protocol::Error::from)?;
                match self.lane(&request) {
                    None => done.push((id, self.service.handle(request, key))),
                    Some(lane) => {
                        let job = Job {
                            id,
                            request,
                            key: key.clone(),
                            writer: Arc::clone(writer),
                            since: Instant::now(),
                        };
                        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
                            lane.try_send(job)
                        {
                            done.push((job.id, Outcome::refused(Error::Busy)));
                        }
                    }
                }
                if done.len() >= BATCH {
                    answer(&*self.service, &mut done, &mut out);
                    flush(writer, &mut out)?;
                }
            }
            answer(&*self.service, &mut done, &mut out);
            flush(writer, &mut out)?;
            if input.is_too_slow() {
                return Err(End::Wrong);
            }
            match input.read(stream) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // The proxy may be silent between frames. Others, who came before the policy, keep
                // no place by it.
                Err(error)
                    if is_timeout(&error)
                        && !input.buffer.is_partial()
                        && self.service.proxy_key() == Some(key) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where a request waits that may have to wait for the NSM.
    fn lane(&self, request: &Request) -> Option<&SyncSender<Job>> {
        match request.traits().lane {
            Lane::Connection => None,
            Lane::Evidence => Some(&self.lanes.evidence),
            Lane::Control => Some(&self.lanes.control),
        }
    }
}

/// A request that waits for the NSM.
struct Job {
    id: u64,
    request: Request,
    key: PublicKey,
    writer: Arc<Mutex<Box<dyn Stream>>>,
    since: Instant,
}

impl Job {
    fn run<S: Service>(self, service: &S) {
        let mut out = Vec::new();
        let outcome = if self.since.elapsed() > MAX_WAIT {
            Outcome::refused(Error::Busy)
        } else {
            service.handle(self.request, &self.key)
        };
        answer(service, &mut vec![(self.id, outcome)], &mut out);
        if flush(&self.writer, &mut out).is_err() {
            // Part of a frame may be out; nothing may follow it.
            let _ = self
                .writer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .shutdown();
        }
    }
}

struct Input {
    buffer: FrameBuffer,
    chunk: Vec<u8>,
    partial_since: Option<Instant>,
}

impl Input {
    fn read(&mut self, stream: &mut Box<dyn Stream>) -> io::Result<usize> {
        let read = stream.read(&mut self.chunk)?;
        self.buffer.push(&self.chunk[..read]);
        Ok(read)
    }

    /// Whether the frame that has begun has had its time. To be asked when no whole frame is left.
    fn is_too_slow(&mut self) -> bool {
        if !self.buffer.is_partial() {
            self.partial_since = None;
            return false;
        }
        self.partial_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            > FRAME_TIMEOUT
    }
}

/// Writes what came of some requests, each with its event of the record. One signature covers the
/// events of all.
fn answer<S: Service>(service: &S, done: &mut Vec<(u64, Outcome)>, out: &mut Vec<u8>) {
    let (ids, batch): (Vec<u64>, Vec<Outcome>) = done.drain(..).unzip();
    if batch.is_empty() {
        return;
    }
    for (id, released) in ids.into_iter().zip(service.release(batch)) {
        let outcome = match released.answer {
            Ok(answer) => protocol::Outcome::Done(answer),
            Err(error) => protocol::Outcome::Refused(error.into()),
        };
        let response = ResponseFrame {
            id,
            outcome,
            event: released.event,
        };
        if write_frame(&response, out).is_err() {
            // A refusal is a few hundred bytes, an event a few thousand, and both together always
            // fit.
            let outcome = protocol::Outcome::Refused(Error::PayloadTooLarge.into());
            let _ = write_frame(
                &ResponseFrame {
                    outcome,
                    ..response
                },
                out,
            );
        }
    }
}

fn flush(writer: &Mutex<Box<dyn Stream>>, out: &mut Vec<u8>) -> Result<(), End> {
    if !out.is_empty() {
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + FRAME_TIMEOUT;
        let mut written = 0;
        while written < out.len() {
            // A reader that takes a few bytes at a time would hold up all who share this writer.
            let more = writer.write(&out[written..])?;
            written += more;
            if more == 0 || (written < out.len() && Instant::now() > deadline) {
                return Err(End::Closed);
            }
        }
        out.clear();
    }
    Ok(())
}

fn send<T: minicbor::Encode<()>>(stream: &mut Box<dyn Stream>, message: &T) -> Result<(), End> {
    let mut out = Vec::new();
    write_frame(message, &mut out)?;
    Ok(stream.write_all(&out)?)
}

fn refuse(stream: &mut Box<dyn Stream>, refusal: Refusal) -> Result<(), End> {
    send(stream, &Welcome::Refused(refusal))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
