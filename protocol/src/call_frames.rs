//! Frames on a line for calls.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::Error;

/// How much is read at once, at least.
const ROOM: usize = 16 * 1024;

/// What a frame on a line for calls is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CallKind {
    /// A call begins: its ticket.
    Ticket = 1,
    /// A piece of a body.
    Data = 2,
    /// The end of a body.
    End = 3,
    /// A line is wanted for this call: [`LineTo`].
    LineWanted = 4,
    /// The head of the answer: a [`FramedHead`].
    Head = 5,
    /// No answer, or none any more: [`Failed`].
    Failed = 6,
    /// The ingress process asks for a call: [`InsideRequest`](crate::InsideRequest).
    Ask = 7,
    /// What came of that, or of the call: [`Told`](crate::Told).
    Told = 8,
}

/// Whom a line that is wanted is to: what [`CallKind::LineWanted`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineTo {
    /// The service.
    Service,
    /// Who gives tokens for it.
    Tokens,
}

impl LineTo {
    /// As it is said.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::Service => &[],
            Self::Tokens => &[1],
        }
    }

    /// As it was said; none if that means nothing.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let both = [Self::Service, Self::Tokens];
        both.into_iter().find(|to| to.bytes() == bytes)
    }
}

/// The head of a frame on a line for calls: its kind, and the length of what follows, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFrame {
    /// What it is.
    pub kind: CallKind,
    /// How many bytes follow; at most 64 KiB.
    pub length: usize,
}

impl CallFrame {
    /// How many bytes the head of a frame has.
    pub const HEAD: usize = 5;
    /// How many may follow: the head of an answer, or a piece of a body.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// A frame with these bytes, whole. What is too long for one is an error of the sender.
    ///
    /// # Panics
    /// If there are more than 64 KiB.
    pub fn write(kind: CallKind, bytes: &[u8], out: &mut impl BufMut) {
        assert!(
            bytes.len() <= Self::MAX_BYTES,
            "a frame of {} bytes",
            bytes.len()
        );
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        out.put_u8(kind as u8);
        out.put_u32(length);
        out.put_slice(bytes);
    }

    /// Reads the head of a frame; none if it is none.
    pub fn read(head: [u8; Self::HEAD]) -> Option<Self> {
        use CallKind::{Ask, Data, End, Failed, Head, LineWanted, Ticket, Told};
        let kinds = [Ticket, Data, End, LineWanted, Head, Failed, Ask, Told];
        let kind = kinds.into_iter().find(|kind| *kind as u8 == head[0])?;
        let mut length = [0; 4];
        length.copy_from_slice(&head[1..]);
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        (length <= Self::MAX_BYTES).then_some(Self { kind, length })
    }
}

/// Frames of a line for calls, whole, however they come.
#[derive(Debug, Default)]
pub struct CallFrames {
    bytes: BytesMut,
}

impl CallFrames {
    /// Where the bytes that come next are put: room for some, behind those that came.
    pub fn room(&mut self) -> &mut BytesMut {
        // A frame of which a part has come is in one piece when it is whole.
        let missing = self.awaited().saturating_sub(self.bytes.len());
        self.bytes.reserve(missing.max(ROOM));
        &mut self.bytes
    }

    /// The next frame, if all of it has come. An error means that the line can only be closed.
    pub fn next_frame(&mut self) -> Result<Option<(CallKind, Bytes)>, Error> {
        let Some(head) = self.bytes.first_chunk() else {
            return Ok(None);
        };
        let frame = CallFrame::read(*head).ok_or(Error::CallFrameMalformed)?;
        if self.bytes.len() < CallFrame::HEAD + frame.length {
            return Ok(None);
        }
        self.bytes.advance(CallFrame::HEAD);
        Ok(Some((
            frame.kind,
            self.bytes.split_to(frame.length).freeze(),
        )))
    }

    /// Whether there is no whole frame.
    pub fn awaits_more(&self) -> bool {
        self.awaited() == 0 || self.bytes.len() < self.awaited()
    }

    /// Whether nothing has come behind the frames that were taken.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes the frame has whose head has come.
    fn awaited(&self) -> usize {
        let head = self.bytes.first_chunk();
        let frame = head.and_then(|head| CallFrame::read(*head));
        frame.map_or(0, |frame| CallFrame::HEAD + frame.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut out = Vec::new();
        CallFrame::write(CallKind::Data, b"hello", &mut out);
        let head = CallFrame::read(*out.first_chunk().unwrap());
        let wanted = CallFrame {
            kind: CallKind::Data,
            length: 5,
        };
        assert_eq!((head, &out[5..]), (Some(wanted), &b"hello"[..]));
        for (kind, length) in [(0, 5_u32), (9, 5), (2, 65537), (2, u32::MAX)] {
            let mut head = [kind, 0, 0, 0, 0];
            head[1..].copy_from_slice(&length.to_be_bytes());
            assert_eq!(CallFrame::read(head), None);
            let mut frames = CallFrames::default();
            frames.room().extend_from_slice(&head);
            assert_eq!(frames.next_frame(), Err(Error::CallFrameMalformed));
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let long = vec![b'x'; CallFrame::MAX_BYTES];
        let sent = [
            (CallKind::Ticket, &[7; 16][..]),
            (CallKind::Data, b"hello"),
            (CallKind::Data, &long),
            (CallKind::End, b""),
        ];
        let mut wire = Vec::new();
        for (kind, bytes) in sent {
            CallFrame::write(kind, bytes, &mut wire);
        }
        for size in [1, 4, 5, 6, 21, 70_000, wire.len()] {
            let (mut frames, mut came) = (CallFrames::default(), Vec::new());
            for piece in wire.chunks(size) {
                frames.room().extend_from_slice(piece);
                assert!(!frames.is_empty());
                loop {
                    let awaits_more = frames.awaits_more();
                    let Some(frame) = frames.next_frame().unwrap() else {
                        assert!(awaits_more);
                        break;
                    };
                    assert!(!awaits_more);
                    came.push(frame);
                }
            }
            let came: Vec<_> = came
                .iter()
                .map(|(kind, bytes)| (*kind, &bytes[..]))
                .collect();
            assert!(came == sent && frames.is_empty(), "{size}");
        }
    }

    #[test]
    fn there_is_room_for_the_whole_frame_whose_head_has_come() {
        assert!(CallFrames::default().room().capacity() >= 16 * 1024);
        for length in [1, 16 * 1024, CallFrame::MAX_BYTES] {
            let mut wire = Vec::new();
            CallFrame::write(CallKind::Data, &vec![b'x'; length], &mut wire);
            let mut frames = CallFrames::default();
            let room = frames.room();
            room.extend_from_slice(&wire[..CallFrame::HEAD]);
            *room = BytesMut::from(&room[..]);
            let room = frames.room();
            assert!(room.capacity() >= wire.len(), "{length}");
            // And not for more than that, if it is more than what is read at once.
            assert!(room.capacity() < 2 * (wire.len() + ROOM), "{length}");
        }
    }

    #[test]
    fn whom_a_line_is_to_is_read_as_it_was_said() {
        let said = [(LineTo::Service, &[][..]), (LineTo::Tokens, &[1])];
        for (to, bytes) in said {
            assert_eq!((to.bytes(), LineTo::of(bytes)), (bytes, Some(to)));
        }
        for other in [&[0][..], &[2], &[1, 1]] {
            assert_eq!(LineTo::of(other), None);
        }
    }
}
