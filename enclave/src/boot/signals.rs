//! PID 1 is who children without parents are given to, and who is told to stop.

use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use super::Exit;
use crate::Error;

const WATCHED: [Signal; 4] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
];

/// Blocks what [`watch`] waits for, in this thread and in those that it will start.
pub(super) fn block() -> Result<(), Error> {
    set().thread_block().map_err(|error| Error::Boot {
        step: "blocking signals",
        why: error.to_string(),
    })
}

/// Reaps what has died; ends when told to.
pub(super) fn watch(exit: Exit) {
    loop {
        match set().wait() {
            Ok(Signal::SIGCHLD) => {
                reap();
            }
            Ok(signal) => exit.end("stopped", &format!("{signal} was sent")),
            Err(_) => {}
        }
    }
}

/// Takes the status of every child that has died; says how many.
pub fn reap() -> usize {
    let mut reaped = 0;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => reaped += 1,
            Err(Errno::INTR) => {}
            _ => return reaped,
        }
    }
}

fn set() -> SigSet {
    WATCHED.into_iter().collect()
}
