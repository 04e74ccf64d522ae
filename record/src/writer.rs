//! Gives decisions their places, and signs them.

use data_encoding::BASE64URL_NOPAD;
use identity::cose::{self, Purpose};
use identity::{BootId, Digest, Error, Signer, cbor};

use crate::event::{Decision, write};
use crate::signature::{Head, InclusionProof};
use crate::tree;

/// One signature covers at most so many events.
pub const MAX_BATCH: usize = 64;

/// Where a record stands: what the next event of a boot follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    boot_id: BootId,
    next: u64,
    pub(crate) previous: Digest<32>,
}

/// Events that have their place and wait for their signature.
#[derive(Debug)]
pub struct Batch {
    boot_id: BootId,
    first: u64,
    leaves: Vec<Digest<32>>,
    texts: Vec<Vec<u8>>,
}

impl Tail {
    /// Of a boot that has decided nothing yet.
    pub fn new(boot_id: BootId) -> Self {
        Self {
            boot_id,
            next: 0,
            previous: Digest([0; 32]),
        }
    }

    /// Gives decisions their places. Every batch that is made must be signed, and none may be left
    /// out.
    pub fn append(&mut self, decisions: Vec<Decision>) -> Result<Batch, Error> {
        let mut batch = Batch {
            boot_id: self.boot_id,
            first: self.next,
            leaves: Vec::new(),
            texts: Vec::new(),
        };
        for decision in decisions {
            let text = write(&decision, self.boot_id, self.previous, self.next)?;
            self.previous = tree::leaf(&text);
            self.next += 1;
            batch.leaves.push(self.previous);
            batch.texts.push(text);
        }
        Ok(batch)
    }
}

impl Batch {
    /// Signs; gives the lines, without line ends.
    pub fn sign<S: Signer>(self, signer: &S) -> Result<Vec<Vec<u8>>, S::Error> {
        let root = tree::root(&self.leaves).0;
        let head = Head {
            boot_id: self.boot_id,
            first: self.first,
            size: self.leaves.len() as u64,
            root,
        };
        let head = cose::sign(Purpose::RECORD, &cbor::to_vec(&head), signer)?;
        let line = |(index, text): (usize, &Vec<u8>)| {
            let path = tree::path(index, &self.leaves)
                .into_iter()
                .map(|hash| hash.0.into())
                .collect();
            with_signature(
                text,
                &InclusionProof {
                    path,
                    head: head.clone(),
                },
            )
        };
        Ok(self.texts.iter().enumerate().map(line).collect())
    }
}

const MEMBER: &[u8] = b",\"signature\":\"";

/// Puts the signature where RFC 8785 wants it: of the members after `sequence` only `target`,
/// `timestamp` and `token_id` come later, and `sequence` is always there.
fn with_signature(text: &[u8], proof: &InclusionProof) -> Vec<u8> {
    let at = after_sequence(text).unwrap_or(text.len());
    let mut line = Vec::with_capacity(text.len() + 512);
    line.extend_from_slice(&text[..at]);
    line.extend_from_slice(MEMBER);
    line.extend_from_slice(BASE64URL_NOPAD.encode(&cbor::to_vec(proof)).as_bytes());
    line.push(b'"');
    line.extend_from_slice(&text[at..]);
    line
}

/// The end of the member `sequence`, which is one of the last. Its name can stand in no string of
/// the canonical text as such: quotes are escaped there.
fn after_sequence(text: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b",\"sequence\":";
    let begin = text
        .windows(NAME.len())
        .rposition(|window| window == NAME)?
        + NAME.len();
    Some(begin + text[begin..].iter().position(|b| !b.is_ascii_digit())?)
}
