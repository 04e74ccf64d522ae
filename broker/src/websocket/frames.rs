//! Frames, read as they come and written anew (RFC 6455 section 5).

use std::io::Cursor;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Of a frame that is longer, this much is passed on at once.
pub(super) const MAX_PIECE: usize = 32 * 1024;
// Each piece begins with the mask's first byte.
const _: () = assert!(MAX_PIECE.is_multiple_of(4));
/// Section 5.5.
const MAX_CONTROL: u64 = 125;

/// What came is no frame that its side may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A whole control frame, or a piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Control(Control, Bytes),
    Piece(Piece),
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Text or binary.
    pub(super) kind: Data,
    /// It is the message's first.
    pub(super) begins: bool,
    /// It is the message's last.
    pub(super) ends: bool,
    pub(super) bytes: Bytes,
}

/// Frames of one side.
#[derive(Debug)]
pub(super) struct Frames {
    /// An agent masks, a service does not (section 5.1).
    masked: bool,
    came: BytesMut,
    /// The frame whose payload is coming.
    current: Option<Payload>,
    /// What of a message is under way, and whether any of it was given.
    message: Option<(Data, bool)>,
}

#[derive(Debug)]
struct Payload {
    left: u64,
    mask: Option<[u8; 4]>,
    is_final: bool,
    opcode: OpCode,
}

impl Frames {
    pub(super) fn new(masked: bool) -> Self {
        Self {
            masked,
            came: BytesMut::new(),
            current: None,
            message: None,
        }
    }

    /// More of what a side says.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
    }

    /// How much waits.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.came.len()
    }

    /// The next part, if enough of it has come.
    pub(super) fn next_part(&mut self) -> Result<Option<Part>, Malformed> {
        if self.current.is_none() {
            self.current = self.head()?;
        }
        let Some(payload) = &mut self.current else {
            return Ok(None);
        };
        let most = payload.left.min(MAX_PIECE as u64);
        let now = usize::try_from(most).map_err(|_| Malformed)?;
        if self.came.len() < now {
            return Ok(None);
        }
        let mut bytes = self.came.split_to(now);
        if let Some(mask) = payload.mask {
            apply(mask, &mut bytes);
        }
        payload.left -= most;
        let is_whole = payload.left == 0;
        let (opcode, is_final) = (payload.opcode, payload.is_final);
        if is_whole {
            self.current = None;
        }
        let bytes = bytes.freeze();
        let OpCode::Data(_) = opcode else {
            let OpCode::Control(control) = opcode else {
                return Err(Malformed);
            };
            return Ok(Some(Part::Control(control, bytes)));
        };
        let (kind, begun) = self.message.ok_or(Malformed)?;
        let ends = is_whole && is_final;
        self.message = (!ends).then_some((kind, true));
        Ok(Some(Part::Piece(Piece {
            kind,
            begins: !begun,
            ends,
            bytes,
        })))
    }

    /// Reads the head of the next frame, and judges it.
    fn head(&mut self) -> Result<Option<Payload>, Malformed> {
        let mut cursor = Cursor::new(&self.came[..]);
        let Some((head, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Malformed)? else {
            return Ok(None);
        };
        let read = usize::try_from(cursor.position()).map_err(|_| Malformed)?;
        // No extension was agreed on, which could mean something by them.
        let is_reserved = head.rsv1 || head.rsv2 || head.rsv3;
        if is_reserved || head.mask.is_some() != self.masked || length >= 1 << 63 {
            return Err(Malformed);
        }
        match head.opcode {
            OpCode::Control(_) if length > MAX_CONTROL || !head.is_final => return Err(Malformed),
            OpCode::Control(_) => {}
            OpCode::Data(Data::Continue) => {
                self.message.ok_or(Malformed)?;
            }
            OpCode::Data(_) if self.message.is_some() => return Err(Malformed),
            OpCode::Data(kind) => self.message = Some((kind, false)),
        }
        self.came.advance(read);
        Ok(Some(Payload {
            left: length,
            mask: head.mask,
            is_final: head.is_final,
            opcode: head.opcode,
        }))
    }
}

fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    for (byte, mask) in bytes.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes a frame.
pub(super) fn write(
    opcode: OpCode,
    is_final: bool,
    mask: Option<[u8; 4]>,
    bytes: &[u8],
    out: &mut BytesMut,
) {
    let head = FrameHeader {
        is_final,
        opcode,
        mask,
        ..FrameHeader::default()
    };
    out.reserve(head.len(bytes.len() as u64) + bytes.len());
    head.format(bytes.len() as u64, &mut out.writer())
        .expect("memory takes all");
    let from = out.len();
    out.extend_from_slice(bytes);
    if let Some(mask) = mask {
        apply(mask, &mut out[from..]);
    }
}
