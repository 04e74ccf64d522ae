//! Messages about a state that outlives the boot.

use minicbor::{Decode, Encode};
use state::{StateFacts, StateId};

use crate::refusal::Refusal;

/// Bytes of a part in one message.
pub const PIECE: usize = 32 * 1024;

/// A part of what is kept of a state outside the enclave. It is moved in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Part {
    /// The sealed state.
    #[n(0)]
    Sealed,
    /// The genesis record.
    #[n(1)]
    Genesis,
    /// The operator's word: the order of the birth, or a certificate.
    #[n(2)]
    Authority,
    /// The document of the secure module that attests the genesis record. Only given, never taken.
    #[n(3)]
    Document,
}

impl Part {
    /// The longest one, in bytes.
    pub fn max(self) -> usize {
        match self {
            Self::Sealed => state::MAX_SEALED,
            Self::Genesis => 128 * 1024,
            Self::Authority | Self::Document => 16 * 1024,
        }
    }
}

/// A piece of a part.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Piece {
    /// Of which part.
    #[n(0)]
    pub part: Part,
    /// Where it begins; 0 begins the part anew.
    #[n(1)]
    pub offset: u32,
    /// At most [`PIECE`] bytes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
    /// Length of the whole part.
    #[n(3)]
    pub total: u32,
}

/// How far a state has come in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Phase {
    /// The bundle has none: keys end with the boot.
    #[n(0)]
    None,
    /// It waits for a sealed state, or for an order of the operator to give birth to one.
    #[n(1)]
    Awaited,
    /// KMS is to be asked.
    #[n(2)]
    Asking,
    /// It is sealed, and signs once the seal is stored.
    #[n(3)]
    Sealed,
    /// It is open.
    #[n(4)]
    Open,
}

impl Phase {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Awaited => "awaited",
            Self::Asking => "asking",
            Self::Sealed => "sealed",
            Self::Open => "open",
        }
    }
}

/// How a state is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct StateStatus {
    /// How far it has come.
    #[n(0)]
    pub phase: Phase,
    /// Which it is, once that is known.
    #[n(1)]
    pub facts: Option<StateFacts>,
    /// Number of the last seal, once there is one.
    #[n(2)]
    pub sequence: Option<u64>,
    /// Version of the certificate that was taken last; 1 is the order of the birth.
    #[n(3)]
    pub certificate: Option<u64>,
    /// SHA-256 of a seal that waits to be stored.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub pending: Option<[u8; 32]>,
    /// Why it was not opened when that was tried last.
    #[n(5)]
    pub refused: Option<Refusal>,
    /// Identities that the state has and the bundle has not: their keys are kept, and sign nothing.
    #[n(6)]
    pub kept: Vec<String>,
}

/// A request to KMS that the parent signs (SigV4), since AWS's credentials are its own: `POST /` to
/// the host, with the headers content-type `application/x-amz-json-1.1`, host, x-amz-date,
/// x-amz-target, and x-amz-security-token if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SignKms {
    /// The enclave counts its questions: the signature must be for this one.
    #[n(0)]
    pub number: u64,
    /// `kms.<region>.amazonaws.com`.
    #[n(1)]
    pub host: String,
    /// Region of the key.
    #[n(2)]
    pub region: String,
    /// `X-Amz-Target`.
    #[n(3)]
    pub target: String,
    /// `X-Amz-Date`, of the enclave's clock.
    #[n(4)]
    pub amz_date: String,
    /// Seconds since 1970 of the same.
    #[n(5)]
    pub time: i64,
    /// SHA-256 of the body.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub body: [u8; 32],
}

/// The parent's signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KmsSigned {
    /// Of the question.
    #[n(0)]
    pub number: u64,
    /// `Authorization`.
    #[n(1)]
    pub authorization: String,
    /// `X-Amz-Security-Token`.
    #[n(2)]
    pub security_token: Option<String>,
}

/// Which state, for those who look.
impl StateStatus {
    /// Its id, once that is known.
    pub fn id(&self) -> Option<StateId> {
        self.facts.map(|facts| facts.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_lengths_and_phases_their_words() {
        let parts = [Part::Sealed, Part::Genesis, Part::Authority, Part::Document];
        let longest = [3 << 20, 128 << 10, 16 << 10, 16 << 10];
        assert_eq!((PIECE, parts.map(Part::max)), (32 << 10, longest));
        let phases = [
            Phase::None,
            Phase::Awaited,
            Phase::Asking,
            Phase::Sealed,
            Phase::Open,
        ];
        let words = ["none", "awaited", "asking", "sealed", "open"];
        assert_eq!(phases.map(Phase::as_str), words);
    }

    #[test]
    fn the_id_is_that_of_the_state_that_is_known() {
        let facts = StateFacts {
            state: StateId::new([7; 32]),
            epoch: 1,
            custody: state::Custody::Kms,
            rollback: state::Rollback::Accepted,
        };
        let mut status = StateStatus {
            phase: Phase::Open,
            facts: Some(facts),
            sequence: None,
            certificate: None,
            pending: None,
            refused: None,
            kept: Vec::new(),
        };
        assert_eq!(status.id(), Some(facts.state));
        status.facts = None;
        assert_eq!(status.id(), None);
    }
}
