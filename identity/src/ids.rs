//! Names that more than one format has.

use serde::{Deserialize, Serialize};

use crate::{Digest, PublicKey, sha256};

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
            assert_eq!(agent_id("a", key.public_key()), format!("agent:a:{kind}:{fingerprint}"));
        }
    }
}
