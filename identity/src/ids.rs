//! Names that more than one format has.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{Digest, PublicKey, sha256};

/// 16 random bytes: lowercase hex as text and in JSON, a byte string in CBOR.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
        #[serde(transparent)]
        #[cbor(transparent)]
        pub struct $name(Digest<16>);

        impl $name {
            /// Of these bytes.
            pub fn new(bytes: [u8; 16]) -> Self {
                Self(Digest(bytes))
            }

            /// Reads 32 lowercase hex digits.
            pub fn from_hex(text: &str) -> Result<Self, crate::Error> {
                Digest::from_hex(text).map(Self)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

random_id! {
    /// One boot of an enclave.
    BootId
}

random_id! {
    /// A request that waits for an approval.
    ApprovalId
}

/// Which annex was in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnexId {
    /// SHA-256 of its canonical bytes.
    pub digest: Digest<32>,
    /// Its version.
    pub version: u32,
}

/// `agent:<name>:<ed25519 or p256>:<SHA-256 of the SubjectPublicKeyInfo, hex>`.
pub fn agent_id(name: &str, key: &PublicKey) -> String {
    let kind = match key {
        PublicKey::Ed25519(_) => "ed25519",
        PublicKey::P256(_) => "p256",
    };
    format!("agent:{name}:{kind}:{}", sha256(&key.to_spki()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signer;

    #[test]
    fn an_agent_is_named_by_its_key() {
        for (key, kind) in crate::signer::tests::both().iter().zip(["ed25519", "p256"]) {
            let fingerprint = sha256(&key.public_key().to_spki());
            assert_eq!(
                agent_id("a", key.public_key()),
                format!("agent:a:{kind}:{fingerprint}")
            );
        }
    }
}
