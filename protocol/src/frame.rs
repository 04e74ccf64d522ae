//! Frames: a length, and so many bytes.

use identity::cbor;
use minicbor::Encode;

use crate::Error;

/// The longest frame, without its length: 64 KiB.
pub const MAX_FRAME: usize = 64 * 1024;
const HEAD: usize = 4;

/// Appends `message` as one frame. A message that does not fit is an error of the sender, and
/// leaves `out` as it was.
pub fn write_frame<T: Encode<()>>(message: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    cbor::to_buffer(message, out);
    let length = out.len() - start - HEAD;
    match u32::try_from(length) {
        Ok(head) if length <= MAX_FRAME => {
            out[start..start + HEAD].copy_from_slice(&head.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(Error::FrameTooLong(length))
        }
    }
}

/// How many bytes the frame of a message has, whether it is too long or not.
pub fn frame_length<T: Encode<()>>(message: &T) -> usize {
    HEAD + cbor::length(message)
}

/// Collects bytes as they arrive and hands out whole frames.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameBuffer {
    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived. An error means that the connection can only be
    /// closed.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Error> {
        let waiting = &self.bytes[self.start..];
        let Some(head) = waiting.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        match length {
            0 => Err(Error::FrameEmpty),
            _ if length > MAX_FRAME => Err(Error::FrameTooLong(length)),
            _ if waiting.len() < HEAD + length => Ok(None),
            _ => {
                let start = self.start + HEAD;
                self.start = start + length;
                Ok(Some(&self.bytes[start..self.start]))
            }
        }
    }

    /// Whether a frame has begun to arrive and is not whole.
    pub fn is_partial(&self) -> bool {
        self.start < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut wire = Vec::new();
        for n in 0..50_u64 {
            write_frame(&vec![n; usize::try_from(n).unwrap()], &mut wire).unwrap();
        }
        for chunk in [1, 2, 3, 7, 4096] {
            let mut buffer = FrameBuffer::default();
            let mut seen = 0;
            for part in wire.chunks(chunk) {
                buffer.push(part);
                while let Some(frame) = buffer.next_frame().unwrap() {
                    let values: Vec<u64> = cbor::from_slice(frame).unwrap();
                    assert_eq!(values.len(), seen);
                    seen += 1;
                }
            }
            assert_eq!(seen, 50);
            assert!(!buffer.is_partial());
            // What was handed out is not kept.
            assert!(buffer.bytes.len() <= chunk + 500, "{chunk}");
        }
    }

    #[test]
    fn a_frame_is_as_long_as_is_said_before_it_is_written() {
        for length in [0, 30, 300, MAX_FRAME] {
            let message = "x".repeat(length);
            let mut out = Vec::new();
            match write_frame(&message, &mut out) {
                Ok(()) => assert_eq!(frame_length(&message), out.len()),
                Err(error) => {
                    let beyond = frame_length(&message) - HEAD;
                    assert!(beyond > MAX_FRAME && error == Error::FrameTooLong(beyond));
                }
            }
        }
    }

    #[test]
    fn lengths_of_0_and_beyond_64_kib_are_refused() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&[0, 0, 0, 0]);
        assert_eq!(buffer.next_frame(), Err(Error::FrameEmpty));
        let mut buffer = FrameBuffer::default();
        buffer.push(&[0, 1, 0, 1]);
        assert_eq!(buffer.next_frame(), Err(Error::FrameTooLong(65537)));
        let mut buffer = FrameBuffer::default();
        buffer.push(&[0, 1, 0, 0]);
        assert_eq!(buffer.next_frame(), Ok(None));
        assert!(buffer.is_partial());

        let mut out = vec![7];
        let long = "x".repeat(MAX_FRAME);
        assert!(matches!(
            write_frame(&long, &mut out),
            Err(Error::FrameTooLong(_))
        ));
        assert_eq!(out, [7]);
    }
}
