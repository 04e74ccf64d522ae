//! The end of the machine, and its last words.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, VsockAddr, connect, getsockopt, socket, sockopt,
};
use protocol::{EXIT_PORT, ExitReason, write_frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vsock::VsockStream;

use super::machine::console;

/// For all whom it may concern to take the last words; then the machine ends, heard or not.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// sysexits(3): our own fault, or the machine's. The kernel shows it when it stops.
const EX_SOFTWARE: i32 = 70;

/// How this machine ends.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    name: &'static str,
    notified: &'static [u32],
}

impl Exit {
    /// `told` are the context ids of those who may be listening on [`EXIT_PORT`].
    pub fn new(name: &'static str, notified: &'static [u32]) -> Self {
        Self { name, notified }
    }

    /// Says why, to the console and to the parent, and ends the process. Of PID 1, that is the end
    /// of the machine (`panic=-1`), and memory is gone with it.
    pub fn end(&self, code: &str, message: &str) -> ! {
        self.say(&format!("powering off: {code}: {message}"));
        let _ = self.tell(&ExitReason::new(code, message));
        std::process::exit(EX_SOFTWARE)
    }

    /// Writes a line to the console, if it takes one.
    pub fn say(&self, text: &str) {
        let line: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        // In one piece: a console takes a line or loses it.
        console(&format!("{}: {line}\n", self.name));
    }

    /// Tells everybody at once; waits until each has closed, at most [`FAREWELL_TIMEOUT`].
    fn tell(&self, reason: &ExitReason) -> Result<(), protocol::Error> {
        let mut frame = Vec::new();
        write_frame(reason, &mut frame)?;
        let deadline = Instant::now() + FAREWELL_TIMEOUT;
        let mut waiting: Vec<Listener> = self
            .notified
            .iter()
            .filter_map(|cid| Listener::call(*cid).ok())
            .collect();
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else {
                break;
            };
            let mut polled: Vec<PollFd<'_>> = waiting.iter().map(Listener::polled).collect();
            if left.is_zero() || poll(&mut polled, Some(&timeout)).is_err() {
                break;
            }
            let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            waiting = waiting
                .into_iter()
                .zip(ready)
                .filter_map(|(one, ready)| if ready { one.go_on(&frame) } else { Some(one) })
                .collect();
        }
        Ok(())
    }
}

/// Somebody who may be listening.
enum Listener {
    Connecting(OwnedFd),
    /// It has the words; it closes when it has read them.
    Told(VsockStream),
}

impl Listener {
    fn call(cid: u32) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        match connect(fd.as_raw_fd(), &VsockAddr::new(cid, EXIT_PORT)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(Self::Connecting(fd)),
            Err(error) => Err(error),
        }
    }

    fn polled(&self) -> PollFd<'_> {
        match self {
            Self::Connecting(fd) => PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT),
            Self::Told(stream) => PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN),
        }
    }

    fn go_on(self, frame: &[u8]) -> Option<Self> {
        match self {
            Self::Connecting(fd) => {
                if getsockopt(&fd, sockopt::SocketError).is_ok_and(|error| error != 0) {
                    return None;
                }
                let mut stream = VsockStream::from(fd);
                stream.write_all(frame).ok()?;
                Some(Self::Told(stream))
            }
            // Nothing is expected but the end.
            Self::Told(mut stream) => match stream.read(&mut [0; 16]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    Some(Self::Told(stream))
                }
                _ => None,
            },
        }
    }
}
