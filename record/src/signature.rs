//! What is signed for a batch of events, and what each of them carries of it.

use identity::BootId;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

/// What the record key signs: one batch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Head {
    /// The boot.
    #[n(0)]
    pub boot_id: BootId,
    /// Sequence number of the first event.
    #[n(1)]
    pub first: u64,
    /// Number of events.
    #[n(2)]
    pub size: u64,
    /// Root of their tree.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub root: [u8; 32],
}

#[derive(Encode, Decode)]
#[cbor(array)]
pub(crate) struct InclusionProof {
    #[n(0)]
    pub(crate) path: Vec<ByteArray<32>>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) head: Vec<u8>,
}
