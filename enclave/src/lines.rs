//! The lines that the parent lends to the egress process: connections to a listener of its own.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use egress::{Line, Lines};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::transport::{Listener, Stream};

/// Where lines are lent. Whoever may come to the window may lend one; TLS ends behind it, so nobody
/// has to prove anything.
#[derive(Debug)]
pub struct LentLines {
    listener: Listener,
}

impl LentLines {
    /// A listener that waits no longer than it is told to.
    pub fn new(listener: Listener) -> io::Result<Self> {
        listener.set_nonblocking()?;
        Ok(Self { listener })
    }

    /// Whether somebody waits, at most so long.
    fn is_ready(&self, within: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(within).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Lines for LentLines {
    fn next(&mut self, within: Duration) -> io::Result<Option<Box<dyn Line>>> {
        let deadline = Instant::now() + within;
        let mut newest: Option<Box<dyn Line>> = None;
        loop {
            let left = match &newest {
                Some(_) => Duration::ZERO,
                None => deadline.saturating_duration_since(Instant::now()),
            };
            if !self.is_ready(left)? {
                if newest.is_some() || Instant::now() >= deadline {
                    return Ok(newest);
                }
                continue;
            }
            match self.listener.accept() {
                Ok(Some(stream)) => newest = Some(Box::new(LentLine(stream))),
                Ok(None) => {}
                Err(error) if is_passing(error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Who came has gone again.
fn is_passing(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

struct LentLine(Box<dyn Stream>);

impl Read for LentLine {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for LentLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Line for LentLine {
    fn set_timeouts(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(timeout))?;
        self.0.set_write_timeout(Some(timeout))
    }
}
