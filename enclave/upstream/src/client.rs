//! The other end of the pipes, in the process that holds the keys. Whatever comes from the process of
//! a service may be a lie.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use identity::cbor;
use protocol::{FrameBuffer, write_frame};
use zeroize::Zeroizing;

use crate::Error;
use crate::wire::{Answer, Ask, Call, Ended, Setup};

/// Messages that wait to be written: a process that does not read keeps nobody waiting.
const MAX_WAITING: usize = 256;

/// Tells the process of a service what it may do.
#[derive(Debug)]
pub struct Client {
    frames: SyncSender<Zeroizing<Vec<u8>>>,
    gone: Arc<AtomicBool>,
}

impl Client {
    /// From now on a thread calls `ended` with the end of each call, and another one writes. What makes
    /// no sense is the end of both, and `gone` is called with why.
    pub fn start(
        from: impl Read + Send + 'static,
        to: impl Write + Send + 'static,
        ended: impl Fn(Ended) + Send + 'static,
        gone: impl FnOnce(&Error) + Send + 'static,
    ) -> Result<Self, Error> {
        let is_gone = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_gone);
        let reader = thread::Builder::new().name("service".into());
        reader.spawn(move || {
            let why = until_the_end(from, ended);
            told.store(true, Ordering::Release);
            gone(&why);
        })?;
        Ok(Self {
            frames: write_frames(to)?,
            gone: is_gone,
        })
    }

    /// Says which service it is for.
    pub fn begin(&self, setup: Setup) -> Result<(), Unavailable> {
        self.send(&Ask::Begin(setup))
    }

    /// Lets a call be made.
    pub fn call(&self, call: Call) -> Result<(), Unavailable> {
        self.send(&Ask::Call(Box::new(call)))
    }

    /// Ends what is under way with the credential of an actor.
    pub fn revoke(&self, actor: [u8; 32]) -> Result<(), Unavailable> {
        self.send(&Ask::Revoke(actor))
    }

    fn send(&self, ask: &Ask) -> Result<(), Unavailable> {
        if self.gone.load(Ordering::Acquire) {
            return Err(Unavailable::Gone);
        }
        // It holds a credential, and must not move.
        let mut frame = Zeroizing::new(Vec::with_capacity(protocol::MAX_FRAME + 8));
        write_frame(ask, &mut frame).map_err(|_| Unavailable::TooLong)?;
        self.frames.try_send(frame).map_err(|error| match error {
            TrySendError::Full(_) => Unavailable::Busy,
            TrySendError::Disconnected(_) => Unavailable::Gone,
        })
    }
}

/// Why the process of a service was not told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// It does not read fast enough.
    Busy,
    /// It has ended.
    Gone,
    /// What it would be told is too long.
    TooLong,
}

fn until_the_end(mut from: impl Read, ended: impl Fn(Ended)) -> Error {
    let mut buffer = FrameBuffer::default();
    let mut chunk = [0; 4096];
    let mut is_ready = false;
    loop {
        match buffer.next_frame() {
            Ok(Some(frame)) => match cbor::from_slice::<Answer>(frame) {
                Ok(Answer::Ready) if !is_ready => is_ready = true,
                Ok(Answer::Ended(call)) if is_ready => ended(call),
                Ok(_) => return Error::NotBegun,
                Err(error) => return protocol::Error::from(error).into(),
            },
            Ok(None) => match from.read(&mut chunk) {
                Ok(0) => return Error::FrameCut,
                Ok(read) => buffer.push(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return error.into(),
            },
            Err(error) => return error.into(),
        }
    }
}

fn write_frames(
    mut to: impl Write + Send + 'static,
) -> Result<SyncSender<Zeroizing<Vec<u8>>>, Error> {
    let (sender, frames) = sync_channel::<Zeroizing<Vec<u8>>>(MAX_WAITING);
    let thread = thread::Builder::new().name("service-tell".into());
    thread.spawn(move || {
        for frame in frames {
            if to.write_all(&frame).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    })?;
    Ok(sender)
}
