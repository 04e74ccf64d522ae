//! A connection on which only the process that connected may write.
//!
//! A child that inherited the socket, or a process that was handed it, writes with credentials of
//! its own (SCM_CREDENTIALS, unix(7)), which the kernel puts beside the bytes. The listener asks
//! for them (SO_PASSCRED), so no byte comes without.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// See the module.
pub struct OneWriter {
    stream: UnixStream,
    pid: i32,
}

impl OneWriter {
    /// `pid` is the process that connected.
    pub fn new(stream: UnixStream, pid: i32) -> Self {
        Self { stream, pid }
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut space = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(into)];
        // Descriptors that are sent along find no room, and the kernel drops them.
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let by_whom = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
            _ => None,
        });
        // The end of the stream was written by nobody.
        if received.bytes == 0 || by_whom == Some(self.pid) {
            Ok(received.bytes)
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "another process wrote than the one that connected",
            ))
        }
    }
}

impl AsyncRead for OneWriter {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_io(Interest::READABLE, || {
                self.receive(into.initialize_unfilled())
            }) {
                Ok(read) => {
                    into.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for OneWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// One end of a connection, and the other, of which the writer is taken for this process.
    fn pair(pid: u32) -> (OneWriter, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
        (OneWriter::new(ours, pid.cast_signed()), theirs)
    }

    #[tokio::test]
    async fn what_the_process_writes_that_connected_is_read_as_it_comes() {
        let (mut ours, mut theirs) = pair(std::process::id());
        let mut read = [0; 8];
        for _ in 0..3 {
            theirs.write_all(b"hello").await.unwrap();
            assert_eq!(ours.read(&mut read).await.unwrap(), 5);
            assert_eq!(&read[..5], b"hello");
            // Nothing is there, and then something is.
            let writes = async {
                tokio::task::yield_now().await;
                theirs.write_all(b"you").await.unwrap();
            };
            let (length, ()) = tokio::join!(ours.read(&mut read), writes);
            assert_eq!(&read[..length.unwrap()], b"you");
        }
        drop(theirs);
        assert_eq!(ours.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_another_process_writes_is_an_error_and_the_end_is_nobodys() {
        let (mut ours, mut theirs) = pair(std::process::id() + 1);
        theirs.write_all(b"hello").await.unwrap();
        drop(theirs);
        let mut read = [0; 8];
        let error = ours.read(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(ours.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_written_arrives_and_so_does_its_end() {
        let (mut ours, mut theirs) = pair(std::process::id());
        assert!(ours.is_write_vectored());
        let parts = [io::IoSlice::new(b"one"), io::IoSlice::new(b"two")];
        assert_eq!(ours.write_vectored(&parts).await.unwrap(), 6);
        ours.write_all(b"three").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"onetwothree");
        drop(ours);
    }
}
