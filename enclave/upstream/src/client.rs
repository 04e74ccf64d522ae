//! The other end of the pipes, in the process that holds the keys. Whatever comes from the process of
//! a service may be a lie.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use egress::Frames;
use identity::json::MAX_SAFE_INTEGER;
use protocol::{frame_length, write_frame};
use zeroize::Zeroizing;

use crate::Error;
use crate::wire::{Answer, Ask, Call, Ended, Revoked, Setup};

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

    /// Ends what is under way with a credential.
    pub fn revoke(&self, revoked: Revoked) -> Result<(), Unavailable> {
        self.send(&Ask::Revoke(revoked))
    }

    fn send(&self, ask: &Ask) -> Result<(), Unavailable> {
        if self.gone.load(Ordering::Acquire) {
            return Err(Unavailable::Gone);
        }
        // It holds a credential, and must not move.
        let mut frame = Zeroizing::new(Vec::with_capacity(frame_length(ask)));
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

fn until_the_end(from: impl Read, ended: impl Fn(Ended)) -> Error {
    let mut frames = Frames::new(from);
    let mut is_ready = false;
    loop {
        match frames.read() {
            Ok(Some(Answer::Ready)) if !is_ready => is_ready = true,
            Ok(Some(Answer::Ended(call))) if is_ready && can_be(&call) => ended(call),
            Ok(Some(_)) => return Error::Nonsense,
            Ok(None) => return Error::Ended,
            Err(error) => return error.into(),
        }
    }
}

/// Whether the record has a form for it: a line with a larger number nobody could read.
fn can_be(call: &Ended) -> bool {
    let [input, output] = call.tokens.unwrap_or_default();
    let numbers = [call.sent, call.received, input, output];
    numbers.iter().all(|number| *number <= MAX_SAFE_INTEGER)
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

#[cfg(test)]
mod tests {
    use std::io::{Cursor, sink};
    use std::sync::mpsc::channel;

    use protocol::Ticket;

    use super::*;
    use crate::shared::unsent;
    use crate::wire::Ending;

    /// What is heard of these answers, and whether the process is believed until it ends by itself.
    fn heard(answers: &[Answer]) -> (usize, bool) {
        let mut frames = Vec::new();
        for answer in answers {
            write_frame(answer, &mut frames).unwrap();
        }
        let (say, said) = channel();
        let (end, ended) = channel();
        let _client = Client::start(
            Cursor::new(frames),
            sink(),
            move |call| say.send(call).unwrap(),
            move |why| end.send(matches!(why, Error::Ended)).unwrap(),
        )
        .unwrap();
        let by_itself = ended.recv().unwrap();
        (said.iter().count(), by_itself)
    }

    #[test]
    fn what_a_process_says_must_make_sense() {
        let ended = |sent, received| {
            Answer::Ended(Ended {
                sent,
                received,
                ..unsent(Ticket([1; 16]), Ending::Complete)
            })
        };
        let (good, most) = (ended(1, 2), MAX_SAFE_INTEGER);
        assert_eq!(
            heard(&[Answer::Ready, good.clone(), ended(most, most)]),
            (2, true)
        );
        for bad in [ended(most + 1, 0), ended(0, u64::MAX), Answer::Ready] {
            assert_eq!(
                heard(&[Answer::Ready, good.clone(), bad, good.clone()]),
                (1, false)
            );
        }
        assert_eq!(heard(&[good, Answer::Ready]), (0, false));
    }
}
