//! The egress process: one question after the other.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;

use crate::deadline::Deadline;
use crate::frames::{self, Frames};
use crate::lines::{Lines, TimedLine};
use crate::wire::{Answer, Ask, Failure, FailureKind, KmsAnswer, KmsCall};
use crate::{Error, http, kms, tls};

/// Answers what comes over `input`, each question by one answer over `output`, until `input` ends
/// between two frames. After an error the two ends no longer agree about what comes next: the
/// process must end.
///
/// The caller has confined itself before. It has also drawn a byte of aws-lc's randomness once,
/// because the first one of a process opens `/dev/sysgenid`.
pub fn serve(input: impl Read, mut output: impl Write, mut lines: impl Lines) -> Result<(), Error> {
    let mut asks = Frames::new(input);
    let roots = match asks.read()? {
        Some(Ask::Begin { anchors }) if anchors.is_empty() => return Err(Error::NoAnchors),
        Some(Ask::Begin { anchors }) => tls::roots(anchors),
        Some(Ask::Kms(_)) => return Err(Error::NotBegun),
        None => return Ok(()),
    };
    frames::send(&Answer::Ready, &mut output)?;
    while let Some(ask) = asks.read()? {
        let Ask::Kms(call) = ask else {
            return Err(Error::BegunTwice);
        };
        let answer = match ask_kms(&call, &roots, &mut lines) {
            Ok(answer) => Answer::Kms(answer),
            Err(failure) => Answer::Failed(failure),
        };
        frames::send(&answer, &mut output)?;
    }
    Ok(())
}

/// One question over one line, which is closed afterwards.
fn ask_kms(
    call: &KmsCall,
    roots: &Arc<RootCertStore>,
    lines: &mut impl Lines,
) -> Result<KmsAnswer, Failure> {
    let deadline = Deadline::after(Duration::from_millis(call.deadline_ms.into()));
    let request = kms::request(call)?;
    let connection = tls::prepare(roots, call)?;
    let line = next_line(lines, deadline)?;
    let mut stream = tls::shake(connection, line)?;
    let sent = stream.write_all(&request).and_then(|()| stream.flush());
    sent.map_err(|error| Failure::of_line(&error))?;
    let reply = http::read(&mut stream)?;
    kms::parse(call.operation, reply.status, &reply.body)
}

fn next_line(lines: &mut impl Lines, deadline: Deadline) -> Result<TimedLine, Failure> {
    let left = deadline.left().ok_or_else(Failure::too_slow)?;
    match lines.next(left) {
        Ok(Some(line)) => Ok(TimedLine::new(line, deadline)),
        Ok(None) => Err(Failure::new(
            FailureKind::NoLine,
            "nobody lent a line in time",
        )),
        Err(error) => Err(Failure::of_line(&error)),
    }
}
