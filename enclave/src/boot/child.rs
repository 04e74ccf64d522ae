//! The same program once more, as a process that holds no key. It inherits two pipes and the console,
//! and nothing else.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Error;

/// What such a process says once, before anything else: nothing can be got out of it any more.
pub(super) const CONFINED: u8 = 0x01;

/// Starts a program. Its standard input and output are the pipes.
pub(super) fn spawn(program: &Path, arguments: &[&str]) -> io::Result<Child> {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
}

/// Waits until it has confined itself; gives the pipes from it and to it.
pub(super) fn confined(mut child: Child) -> io::Result<(File, File)> {
    let pipes = (child.stdout.take(), child.stdin.take());
    let (Some(from), Some(to)) = pipes else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut from = File::from(OwnedFd::from(from));
    let mut said = [0];
    from.read_exact(&mut said)?;
    if said != [CONFINED] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((from, File::from(OwnedFd::from(to))))
}

/// A step of the boot that failed.
#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
pub(super) fn failed(step: &'static str, error: io::Error) -> Error {
    Error::Boot {
        step,
        why: error.to_string(),
    }
}
