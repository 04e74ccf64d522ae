//! Parts that come and go in pieces.

use protocol::{PIECE, Part, Piece};

use crate::Error;

/// What the parent has put so far.
#[derive(Default)]
pub(crate) struct Uploads {
    sealed: Vec<u8>,
    genesis: Vec<u8>,
    authority: Vec<u8>,
    document: Vec<u8>,
}

impl Uploads {
    /// Takes the next piece of a part; one at 0 begins it anew.
    pub(crate) fn put(&mut self, piece: &Piece) -> Result<(), Error> {
        let wrong = |why| Err(Error::PieceInvalid(why));
        let part = piece.part;
        let room = self.room(part);
        if piece.offset == 0 {
            room.clear();
        }
        let (offset, total) = (piece.offset as usize, piece.total as usize);
        if offset != room.len() {
            return wrong("not the next piece");
        }
        if piece.bytes.is_empty() || piece.bytes.len() > PIECE {
            return wrong("a piece has 1 to 32768 bytes");
        }
        if total > part.max() || offset + piece.bytes.len() > total {
            return wrong("longer than this part may be");
        }
        room.extend_from_slice(&piece.bytes);
        Ok(())
    }

    /// What was put of a part.
    pub(crate) fn part(&self, part: Part) -> &[u8] {
        match part {
            Part::Sealed => &self.sealed,
            Part::Genesis => &self.genesis,
            Part::Authority => &self.authority,
            Part::Document => &self.document,
        }
    }

    fn room(&mut self, part: Part) -> &mut Vec<u8> {
        match part {
            Part::Sealed => &mut self.sealed,
            Part::Genesis => &mut self.genesis,
            Part::Authority => &mut self.authority,
            Part::Document => &mut self.document,
        }
    }
}

/// The piece of a part that begins at `offset`.
pub(crate) fn piece(part: Part, whole: &[u8], offset: u32) -> Result<Piece, Error> {
    let rest = whole
        .get(offset as usize..)
        .filter(|rest| !rest.is_empty())
        .ok_or(Error::PieceInvalid("there is none"))?;
    let total = u32::try_from(whole.len()).map_err(|_| Error::SealTooLarge)?;
    Ok(Piece {
        part,
        offset,
        bytes: rest[..rest.len().min(PIECE)].to_vec(),
        total,
    })
}
