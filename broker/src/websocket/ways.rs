//! What passes from an agent to a service, and back.

use std::ops::Deref;

use bytes::{Bytes, BytesMut};
use policy::Scrub;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use zeroize::Zeroizing;

use super::frames::{Frames, Malformed, Part, Piece, write};
use crate::{Error, Field, Needles, Reflected, Scrubber};

/// Why nothing passes any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    /// What came is no WebSocket's.
    Malformed,
    /// The credential came back.
    Reflected,
    /// It has no place in the text that should have one.
    Misplaced(Error),
}

impl From<Malformed> for Gone {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Reflected> for Gone {
    fn from(_: Reflected) -> Self {
        Self::Reflected
    }
}

/// What an agent says: unmasked, with the credential in its place, and masked anew.
pub struct FromAgent {
    frames: Frames,
    /// What is put into a text that has a place for it, until one had.
    field: Option<Field>,
    /// A text that may have one, as far as it has come.
    text: BytesMut,
    is_closed: bool,
}

impl FromAgent {
    /// With a credential to be put into the first text that has a place for it.
    pub fn new(field: Option<Field>) -> Self {
        Self {
            frames: Frames::new(true),
            field,
            text: BytesMut::new(),
            is_closed: false,
        }
    }

    /// Whether it has said that it closes: nothing of it passes behind that.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// What is sent of all that came so far, with these masks; what of messages goes is given to `seen` as the agent
    /// sent it. What was good goes before an error.
    pub fn push(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
        mut mask: impl FnMut() -> [u8; 4],
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), Gone> {
        self.frames.push(bytes);
        while !self.is_closed
            && let Some(part) = self.frames.next_part()?
        {
            let piece = match part {
                Part::Control(control, bytes) => {
                    write(OpCode::Control(control), true, Some(mask()), &bytes, out);
                    self.is_closed = control == Control::Close;
                    continue;
                }
                Part::Piece(piece) => piece,
            };
            if self.field.is_none() || piece.kind != Data::Text {
                seen(&piece.bytes);
                let opcode = opcode(piece.kind, piece.begins);
                write(opcode, piece.ends, Some(mask()), &piece.bytes, out);
                continue;
            }
            if self.text.len() + piece.bytes.len() > MAX_MESSAGE {
                let why = "a text before the one that has its place is too long";
                return Err(Gone::Misplaced(Error::PlaceholderMisplaced(why)));
            }
            self.text.extend_from_slice(&piece.bytes);
            if piece.ends {
                let text = std::mem::take(&mut self.text);
                let placed = self.place(&text)?;
                seen(&text);
                let sent = placed.as_deref().map_or(&text[..], Vec::as_slice);
                write(OpCode::Data(Data::Text), true, Some(mask()), sent, out);
            }
        }
        Ok(())
    }

    /// A text that may have a place for the credential, with it in there; none if it has no place.
    fn place(&mut self, text: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Gone> {
        let Some(field) = &self.field else {
            return Ok(None);
        };
        let placed = field.place_in_json(text).map_err(Gone::Misplaced)?;
        if placed.is_some() {
            self.field = None;
        }
        Ok(placed)
    }

    /// Whether the credential has its place still before it.
    pub fn is_unplaced(&self) -> bool {
        self.field.is_some()
    }
}

/// A text in which a credential is put, or before that: it is kept whole.
const MAX_MESSAGE: usize = 64 * 1024;

/// What a service says, without the credential.
pub struct FromService<N> {
    frames: Frames,
    needles: N,
    mode: Scrub,
    /// Of the message that is under way: its kind, and whether any of it was passed on.
    message: Option<(Scrubber<N>, Data, bool)>,
    is_closed: bool,
}

impl<N: Deref<Target = Needles> + Clone> FromService<N> {
    /// In which these are looked for.
    pub fn new(needles: N, mode: Scrub) -> Self {
        Self {
            frames: Frames::new(false),
            needles,
            mode,
            message: None,
            is_closed: false,
        }
    }

    /// Whether it has said that it closes: nothing of it passes behind that.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// What is passed on of all that came so far; each piece of a message is given to `seen` as it is passed.
    pub fn push(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), Gone> {
        self.frames.push(bytes);
        while !self.is_closed
            && let Some(part) = self.frames.next_part()?
        {
            match part {
                Part::Control(control, bytes) => {
                    let bytes = self.control(control, bytes)?;
                    write(OpCode::Control(control), true, None, &bytes, out);
                    self.is_closed = control == Control::Close;
                }
                Part::Piece(piece) => self.piece(piece, out, &mut seen)?,
            }
        }
        // Nothing more has come yet.
        if let Some((scrubber, kind, begun)) = &mut self.message {
            let rest = scrubber.pause();
            if !rest.is_empty() {
                seen(&rest);
                write(opcode(*kind, !*begun), false, None, &rest, out);
                *begun = true;
            }
        }
        Ok(())
    }

    fn control(&self, control: Control, bytes: Bytes) -> Result<Bytes, Gone> {
        if !self.needles.stand_in(&bytes) {
            return Ok(bytes);
        }
        if self.mode == Scrub::Refuse {
            return Err(Gone::Reflected);
        }
        // Why it closes, without words.
        let kept = if control == Control::Close { 2 } else { 0 };
        Ok(bytes.slice(..kept.min(bytes.len())))
    }

    fn piece(
        &mut self,
        piece: Piece,
        out: &mut BytesMut,
        seen: &mut impl FnMut(&[u8]),
    ) -> Result<(), Gone> {
        let (mut scrubber, kind, begun) = match self.message.take() {
            Some(under_way) => under_way,
            None => {
                let scrubber = Scrubber::new(self.needles.clone(), self.mode);
                (scrubber, piece.kind, false)
            }
        };
        let opcode = opcode(kind, !begun);
        let ends = piece.ends;
        let mut clean = scrubber.push(piece.bytes)?;
        if ends {
            let rest = scrubber.finish();
            if !rest.is_empty() {
                clean = [&clean[..], &rest].concat().into();
            }
        }
        // What is held back goes with what comes next.
        let passes = ends || !clean.is_empty();
        if passes {
            seen(&clean);
            write(opcode, ends, None, &clean, out);
        }
        if !ends {
            self.message = Some((scrubber, kind, begun || passes));
        }
        Ok(())
    }
}

/// Of the first piece of a message of this kind, or of another one.
fn opcode(kind: Data, is_first: bool) -> OpCode {
    OpCode::Data(if is_first { kind } else { Data::Continue })
}

/// A frame that tells an agent why nothing comes any more (section 5.5.1), as a service would: 1008, or 1011.
pub fn closing(why: &str, is_policy: bool) -> BytesMut {
    let code = if is_policy {
        CloseCode::Policy
    } else {
        CloseCode::Error
    };
    let text = [&u16::from(code).to_be_bytes()[..], why.as_bytes()].concat();
    let mut out = BytesMut::new();
    write(OpCode::Control(Control::Close), true, None, &text, &mut out);
    out
}

#[cfg(test)]
mod tests;
