//! What operators and actors are called in the places where credentials are kept. AgentKeys calls
//! such a name an omni: it stays the same whatever keys change.

use std::fmt;

use identity::{Digest, PublicKey, sha256};
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

const CHILD: &[u8] = b"agentkeys-hdkd-v1";
const OPERATOR: &[u8] = b"anchorhold/operator/v1";

/// The name of an operator or an actor: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Omni(Digest<32>);

impl Omni {
    /// Of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Digest(bytes))
    }

    /// Of an operator who has no wallet: SHA-256 of `anchorhold/operator/v1` and the DER
    /// SubjectPublicKeyInfo of its key.
    pub fn of_operator(key: &PublicKey) -> Self {
        Self(sha256(&[OPERATOR, &key.to_spki()].concat()))
    }

    /// Of what belongs to this one under a name: SHA-256 of `agentkeys-hdkd-v1`, these 32 bytes, `//`
    /// and the name, as AgentKeys derives its children.
    pub fn child(&self, name: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [CHILD, &self.0.0, b"//", name.as_bytes()] {
            hash.update(part);
        }
        Self(Digest(hash.finalize().into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Omni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Omni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an envelope is kept: `bots/<actor>/credentials/<service>.enc`.
pub fn object_path(actor: &Omni, service: &str) -> String {
    format!("bots/{actor}/credentials/{service}.enc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_named_as_agentkeys_names_it() {
        // SHA-256 of "agentkeys-hdkd-v1", 32 zeros and "//crew", by coreutils.
        let child = Omni::new([0; 32]).child("crew");
        assert_eq!(
            child.to_string(),
            "90f6e03b53c8448d8397281c129e4a2a98000b1b94e62f18b4cdf77a44a35193"
        );
        assert_eq!(
            object_path(&child, "openrouter"),
            "bots/90f6e03b53c8448d8397281c129e4a2a98000b1b94e62f18b4cdf77a44a35193/credentials/openrouter.enc"
        );
    }
}
