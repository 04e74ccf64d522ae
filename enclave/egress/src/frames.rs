//! Messages in frames, over a pipe.

use std::io::{self, Read, Write};

use identity::cbor;
use minicbor::{Decode, Encode};
use protocol::{FrameBuffer, write_frame};

use crate::Error;

const CHUNK: usize = 16 * 1024;

/// Reads whole messages.
#[derive(Debug)]
pub struct Frames<R> {
    from: R,
    buffer: FrameBuffer,
}

impl<R: Read> Frames<R> {
    /// Starts at the first byte of a frame.
    pub fn new(from: R) -> Self {
        Self {
            from,
            buffer: FrameBuffer::default(),
        }
    }

    /// The next message; `None` if the pipe ended before it began.
    pub fn read<T>(&mut self) -> Result<Option<T>, Error>
    where
        T: for<'b> Decode<'b, ()> + Encode<()>,
    {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(frame) = self.buffer.next_frame()? {
                let message = cbor::from_slice(frame).map_err(protocol::Error::from)?;
                return Ok(Some(message));
            }
            match self.from.read(&mut chunk) {
                Ok(0) if self.buffer.is_partial() => return Err(Error::FrameCut),
                Ok(0) => return Ok(None),
                Ok(read) => self.buffer.push(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Writes one message.
pub(crate) fn send<T: Encode<()>>(message: &T, to: &mut impl Write) -> Result<(), Error> {
    let mut frame = Vec::new();
    write_frame(message, &mut frame)?;
    to.write_all(&frame)?;
    Ok(to.flush()?)
}
