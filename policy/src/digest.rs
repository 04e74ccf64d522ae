//! What PCR16 commits to.

use identity::{Digest, Pcr, extend};
use sha2::{Digest as _, Sha384};

/// SHA-384 of `"anchorhold/policy/v1\0"` and a bundle's canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyDigest(Digest<48>);

impl PolicyDigest {
    /// Of canonical bytes.
    pub(crate) fn of(canonical: &[u8]) -> Self {
        Self(Digest(
            Sha384::new()
                .chain_update(b"anchorhold/policy/v1\0")
                .chain_update(canonical)
                .finalize()
                .into(),
        ))
    }

    /// Of a digest that a verifier wrote down.
    pub fn from_digest(digest: Digest<48>) -> Self {
        Self(digest)
    }

    /// The 48 bytes with which the enclave extends PCR16.
    pub fn digest(&self) -> Digest<48> {
        self.0
    }

    /// The value of PCR16 afterwards, the same on every boot with this bundle.
    pub fn pcr16(&self) -> Pcr {
        extend(&Digest([0; 48]), self.0.as_bytes())
    }
}
