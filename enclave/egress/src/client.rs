//! The other end of the pipes, in the process that holds the keys. Whatever comes from the egress
//! process may be a lie.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::failure::{MAX_MESSAGE, is_printable};
use crate::frames::Frames;
use crate::wire::{Anchor, Answer, Ask, Failure, FailureKind, KmsAnswer, KmsCall};
use crate::{Error, kms};

const READY_WITHIN: Duration = Duration::from_secs(10);
/// What the egress process may take beyond a call's own deadline.
const GRACE: Duration = Duration::from_secs(2);

/// Asks the egress process. When it is dropped, the pipe to that process is closed and so it ends.
#[derive(Debug)]
pub struct Client {
    conversation: Mutex<Conversation>,
}

/// Questions and answers, which carry no numbers: they belong together because both are counted.
#[derive(Debug)]
struct Conversation {
    frames: Sender<Vec<u8>>,
    answers: Receiver<Answer>,
    /// Shared with the thread that reads.
    asked: Arc<AtomicU64>,
    answered: u64,
}

impl Client {
    /// Tells the egress process whom to trust and waits until it is ready, at most 10 s.
    ///
    /// From then on a thread reads what it answers, and calls `ended` with why once the pipe ends
    /// or what comes makes no sense. It does so as well after an error of this function, and after
    /// the client was dropped.
    pub fn start(
        from: impl Read + Send + 'static,
        to: impl Write + Send + 'static,
        anchors: Vec<Anchor>,
        ended: impl FnOnce(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        Self::start_within(READY_WITHIN, from, to, anchors, ended)
    }

    fn start_within(
        ready_within: Duration,
        from: impl Read + Send + 'static,
        to: impl Write + Send + 'static,
        anchors: Vec<Anchor>,
        ended: impl FnOnce(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        let asked = Arc::new(AtomicU64::new(0));
        let answers = read_answers(from, Arc::clone(&asked), ended)?;
        let mut conversation = Conversation {
            frames: write_frames(to)?,
            answers,
            asked,
            answered: 0,
        };
        conversation.ask(&Ask::Begin { anchors })?;
        // The reading thread lets nothing but Ready come first.
        match conversation.answer(Deadline::after(ready_within)) {
            Ok(_) => Ok(Self {
                conversation: Mutex::new(conversation),
            }),
            Err(RecvTimeoutError::Timeout) => Err(Error::NotReady),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Ended),
        }
    }

    /// Asks KMS. One question at a time: the others wait for their turn, and a question's own time
    /// begins with it. It is given up 2 s after its deadline.
    pub fn kms(&self, call: &KmsCall) -> Result<KmsAnswer, Failure> {
        // What the egress process would refuse need not go there.
        kms::request(call)?;
        let ask = Ask::Kms(call.clone());
        let guard = self.conversation.lock();
        let mut conversation = guard.unwrap_or_else(PoisonError::into_inner);
        let time = Duration::from_millis(call.deadline_ms.into()) + GRACE;
        match conversation.put(&ask, Deadline::after(time))? {
            Answer::Kms(answer) => {
                kms::check_answer(call.operation, &answer)?;
                Ok(answer)
            }
            Answer::Failed(failure) => Err(checked(failure)),
            Answer::Ready => Err(Failure::malformed("ready again")),
        }
    }
}

impl Conversation {
    /// The answer to `ask`. Answers to earlier questions that were given up come first and are
    /// dropped: while one is missing nothing is asked.
    fn put(&mut self, ask: &Ask, deadline: Deadline) -> Result<Answer, Failure> {
        while self.answered < self.asked.load(Ordering::SeqCst) {
            self.answer(deadline).map_err(no_answer)?;
        }
        self.ask(ask).map_err(|error| match error {
            Error::Frame(error) => Failure::malformed(error),
            _ => no_answer(RecvTimeoutError::Disconnected),
        })?;
        self.answer(deadline).map_err(no_answer)
    }

    fn ask(&mut self, ask: &Ask) -> Result<(), Error> {
        let mut frame = Vec::new();
        protocol::write_frame(ask, &mut frame)?;
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.frames.send(frame).map_err(|_| Error::Ended)
    }

    fn answer(&mut self, deadline: Deadline) -> Result<Answer, RecvTimeoutError> {
        let left = deadline.left().unwrap_or_default();
        let answer = self.answers.recv_timeout(left)?;
        self.answered += 1;
        Ok(answer)
    }
}

fn no_answer(error: RecvTimeoutError) -> Failure {
    match error {
        RecvTimeoutError::Timeout => Failure::too_slow(),
        RecvTimeoutError::Disconnected => {
            Failure::new(FailureKind::Broken, "the egress process ended")
        }
    }
}

/// A failure is what [`Failure`] says it is, or it is none.
fn checked(failure: Failure) -> Failure {
    if failure.message.len() <= MAX_MESSAGE && failure.message.chars().all(is_printable) {
        failure
    } else {
        Failure::malformed("the egress process failed, with words that are none")
    }
}

/// Starts the thread that reads.
fn read_answers(
    from: impl Read + Send + 'static,
    asked: Arc<AtomicU64>,
    ended: impl FnOnce(&str) + Send + 'static,
) -> Result<Receiver<Answer>, Error> {
    let (answers, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name("egress".into());
    thread.spawn(move || {
        let why = until_the_end(from, &asked, &answers);
        drop(answers);
        ended(&why.to_string());
    })?;
    Ok(receiver)
}

fn until_the_end(from: impl Read, asked: &AtomicU64, answers: &Sender<Answer>) -> Error {
    let mut frames = Frames::new(from);
    let mut answered = 0;
    loop {
        let answer: Answer = match frames.read() {
            Ok(Some(answer)) => answer,
            Ok(None) => return Error::Ended,
            Err(error) => return error,
        };
        let is_first = answered == 0;
        answered += 1;
        if answered > asked.load(Ordering::SeqCst) || is_first != (answer == Answer::Ready) {
            return Error::AnswerUnasked;
        }
        // Nobody is there to take it after the client was dropped.
        let _ = answers.send(answer);
    }
}

/// Starts the thread that writes: an egress process that does not read keeps nobody but it waiting.
fn write_frames(mut to: impl Write + Send + 'static) -> Result<Sender<Vec<u8>>, Error> {
    let (sender, frames) = mpsc::channel::<Vec<u8>>();
    let thread = thread::Builder::new().name("egress-ask".into());
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
    use std::io;

    use super::*;

    #[test]
    fn an_egress_process_that_is_not_ready_in_time_is_given_up() {
        let (_asks, to) = io::pipe().unwrap();
        let (from, _answers) = io::pipe().unwrap();
        let time = Duration::from_millis(50);
        let client = Client::start_within(time, from, to, vec![], |_| {});
        assert!(matches!(client, Err(Error::NotReady)));
    }
}
