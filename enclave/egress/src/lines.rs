//! Lines: byte streams that the parent lends. What comes over one may be anything.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::deadline::Deadline;

/// Where lines come from.
pub trait Lines {
    /// The **newest** line that waits; older ones are stale and closed. Waits for one if there is
    /// none: `None` if nobody came within that time, which is more than nothing.
    fn next(&mut self, within: Duration) -> io::Result<Option<Box<dyn Line>>>;
}

/// One line, which blocks.
pub trait Line: Read + Write {
    /// From now on a read or write that takes longer than this ends with
    /// [`io::ErrorKind::WouldBlock`] or [`io::ErrorKind::TimedOut`]. Never called with zero.
    fn set_timeouts(&self, timeout: Duration) -> io::Result<()>;
}

impl Line for UnixStream {
    fn set_timeouts(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

/// A line with one deadline for all that is read and written: a byte per second cannot stretch it.
pub(crate) struct TimedLine {
    line: Box<dyn Line>,
    deadline: Deadline,
}

impl TimedLine {
    /// Over `line`, until `deadline`.
    pub(crate) fn new(line: Box<dyn Line>, deadline: Deadline) -> Self {
        Self { line, deadline }
    }

    /// Does `act` with the time that is left, until it comes to something.
    fn timed<T>(&mut self, mut act: impl FnMut(&mut dyn Line) -> io::Result<T>) -> io::Result<T> {
        loop {
            let left = self.deadline.left().ok_or(io::ErrorKind::TimedOut)?;
            self.line.set_timeouts(left)?;
            match act(self.line.as_mut()) {
                // The kernel's clock is coarser: ours says when the time is over.
                Err(error) if is_passing(error.kind()) => {}
                done => return done,
            }
        }
    }
}

fn is_passing(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(kind, Interrupted | TimedOut | WouldBlock)
}

impl Read for TimedLine {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.timed(|line| line.read(into))
    }
}

impl Write for TimedLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timed(|line| line.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.timed(|line| line.flush())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    const TIME: Duration = Duration::from_millis(500);

    fn timed(line: UnixStream) -> TimedLine {
        TimedLine::new(Box::new(line), Deadline::after(TIME))
    }

    fn assert_over(start: Instant, error: &io::Error) {
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let took = start.elapsed();
        assert!(took >= TIME && took < TIME * 3 / 2, "{took:?}");
    }

    #[test]
    fn single_bytes_do_not_stretch_the_deadline() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let mut line = timed(near);
        thread::spawn(move || {
            while far.write_all(&[0]).is_ok() {
                thread::sleep(TIME / 10);
            }
        });
        assert_over(start, &line.read_to_end(&mut Vec::new()).unwrap_err());
    }

    #[test]
    fn silence_after_a_late_byte_does_not_stretch_it() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let mut line = timed(near);
        let late = thread::spawn(move || {
            thread::sleep(TIME * 4 / 5);
            far.write_all(&[0]).unwrap();
            far
        });
        assert_over(start, &line.read_to_end(&mut Vec::new()).unwrap_err());
        drop(late.join());
    }

    #[test]
    fn a_line_that_nobody_reads_does_not_stretch_it_either() {
        let (near, _far) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let mut line = timed(near);
        let error = loop {
            if let Err(error) = line.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_over(start, &error);
    }

    #[test]
    fn once_the_time_is_over_nothing_is_read_or_written() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut line = TimedLine::new(Box::new(near), Deadline::after(Duration::ZERO));
        far.write_all(&[0]).unwrap();
        let read = line.read(&mut [0]).unwrap_err();
        let written = line.write(&[0]).unwrap_err();
        assert_eq!([read.kind(), written.kind()], [io::ErrorKind::TimedOut; 2]);
    }
}
