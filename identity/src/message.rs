//! What a key may sign.

/// Bytes that an identity's key may sign: a JWS signing input, the digest pair of a credential, or
/// a COSE Sig_structure with a tagged external_aad. Only this crate makes one, so a caller's bytes
/// never reach a key unframed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    pub(crate) fn jws(signing_input: &str) -> Self {
        Self(signing_input.as_bytes().to_vec())
    }

    pub(crate) fn credential(digests: [u8; 64]) -> Self {
        Self(digests.to_vec())
    }

    pub(crate) fn cose(sig_structure: Vec<u8>) -> Self {
        Self(sig_structure)
    }

    /// The bytes to sign or to verify.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// 64 bytes: Ed25519 `R || S` (RFC 8032), or P-256 `r || s` (RFC 7518 section 3.4).
pub type Signature = [u8; 64];
