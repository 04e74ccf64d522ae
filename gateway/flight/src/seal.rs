//! What a seal says.

use identity::token::Claims;
use identity::{Digest, json};
use record::{leaf_hash, tree_hash};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::Error;

/// The action of a seal's intent.
pub const ACTION: &str = "iatp.seal";

/// What is signed over a range of lines; the payload of a token whose intent is [`ACTION`] on the
/// recorder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Whose lines they are.
    pub recorder: Uuid,
    /// The first line's place among all that this recorder ever wrote, from 0.
    pub first: u64,
    /// How many lines; at least one.
    pub size: u64,
    /// Root of the Merkle tree over them, without their ends (RFC 9162 section 2.1).
    pub root: Digest<32>,
    /// [`Seal::digest`] of the one before; none of the first one.
    pub previous: Option<Digest<32>>,
}

impl Seal {
    /// Of these lines, after this seal.
    pub fn new<'a>(
        recorder: Uuid,
        first: u64,
        lines: impl Iterator<Item = &'a [u8]>,
        previous: Option<&Self>,
    ) -> Self {
        let leaves: Vec<Digest<32>> = lines.map(leaf_hash).collect();
        Self {
            recorder,
            first,
            size: leaves.len() as u64,
            root: tree_hash(&leaves),
            previous: previous.map(Self::digest),
        }
    }

    /// As the payload of a request.
    pub fn payload(&self) -> Value {
        serde_json::to_value(self).expect("digests and numbers are JSON")
    }

    /// SHA-256 of its RFC 8785 form. It names what was sealed, however the token over it was signed.
    pub fn digest(&self) -> Digest<32> {
        let text = json::canonical(self).expect("digests and numbers are canonical");
        identity::sha256(&text)
    }

    /// What a token seals. Its signature is not checked here.
    pub fn of_claims(claims: &Claims) -> Result<Self, Error> {
        let not_seal = |why: &str| Error::NotSeal(why.into());
        let intent = &claims.vouch.intent;
        if intent.action() != ACTION {
            return Err(not_seal("its action is another one"));
        }
        let payload = serde_json::to_value(&claims.vouch.payload);
        let seal = payload.and_then(serde_json::from_value::<Self>);
        let seal = seal.map_err(|error| Error::NotSeal(error.to_string()))?;
        if intent.target() != seal.recorder.to_string() {
            return Err(not_seal("its target is another recorder"));
        }
        if seal.size == 0 || seal.first.checked_add(seal.size).is_none() {
            return Err(not_seal("its range is none"));
        }
        Ok(seal)
    }

    /// The place behind its last line.
    pub fn end(&self) -> u64 {
        self.first + self.size
    }
}
