//! Identities: a policy, a current key, and the public history of the keys before it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use attestation::{Binding, KeyDescription};
use identity::succession::{self, Statement};
use identity::{Did, Digest, KeyId, Signer, UnixSeconds};
use policy::{Bundle, IdentityPolicy};
use policy_engine::Usage;
use protocol::VersionFacts;

use crate::Error;
use crate::keys::KeyPair;

/// How many versions an identity remembers; their public halves only.
const MAX_HISTORY: usize = 16;

/// An identity with its living key.
pub(crate) struct Identity {
    pub(crate) policy: IdentityPolicy,
    pub(crate) current: Version,
    /// What was used of its limits in this boot.
    pub(crate) usage: Mutex<Usage>,
    history: Vec<VersionFacts>,
    /// Every DID that it had in this boot.
    dids: BTreeSet<String>,
}

/// A key with all that is said of it.
pub(crate) struct Version {
    pub(crate) key: KeyPair,
    pub(crate) did: Did,
    pub(crate) kid: KeyId,
    pub(crate) description: KeyDescription,
    pub(crate) binding: Binding,
    pub(crate) binding_digest: Digest<32>,
}

impl Version {
    fn new(policy: &IdentityPolicy, bundle: &Bundle, record_spki: &[u8], key: KeyPair, version: u32) -> Result<Self, Error> {
        let did = if policy.did == "did:key" { Did::key(key.public_key()) } else { Did::parse(&policy.did)? };
        let kid = KeyId::of(&did, key.public_key())?;
        let description = KeyDescription {
            name: policy.name.clone(),
            did: did.to_string(),
            kid: kid.to_string(),
            version,
            spki: key.public_key().to_spki(),
        };
        let binding = Binding::new(&description, &bundle.digest(), record_spki);
        let binding_digest = binding.digest();
        Ok(Self { key, did, kid, description, binding, binding_digest })
    }

    fn facts(&self, succession: Option<Vec<u8>>) -> VersionFacts {
        let described = &self.description;
        VersionFacts {
            version: described.version,
            did: described.did.clone(),
            kid: described.kid.clone(),
            spki: described.spki.clone(),
            binding: self.binding_digest.0,
            succession,
        }
    }
}

impl Identity {
    /// Gives birth to an identity: its first key.
    pub(crate) fn new(policy: &IdentityPolicy, bundle: &Bundle, record_spki: &[u8], key: KeyPair) -> Result<Self, Error> {
        let current = Version::new(policy, bundle, record_spki, key, 1)?;
        let history = vec![current.facts(None)];
        let dids = BTreeSet::from([current.did.to_string()]);
        Ok(Self { policy: policy.clone(), current, usage: Mutex::default(), history, dids })
    }

    /// Replaces the key: the old one signs who follows, the new one accepts, the old one is wiped. All or nothing.
    pub(crate) fn rotate(
        &mut self,
        bundle: &Bundle,
        record_spki: &[u8],
        key: KeyPair,
        now: UnixSeconds,
    ) -> Result<Vec<u8>, Error> {
        let version = self.current.description.version.checked_add(1).ok_or(Error::OrderInvalid("no version is left"))?;
        let next = Version::new(&self.policy, bundle, record_spki, key, version)?;
        let side = |v: &Version| succession::Version::new(&v.did, v.key.public_key(), v.description.version);
        let statement = Statement { tag: succession::TAG.into(), old: side(&self.current)?, new: side(&next)?, time: now.0 };
        let statement = succession::sign(&statement, &self.current.key, &next.key)?;
        self.history.push(next.facts(Some(statement.clone())));
        if self.history.len() > MAX_HISTORY {
            self.history.remove(0);
        }
        self.dids.insert(next.did.to_string());
        self.current = next;
        Ok(statement)
    }

    /// Whether this is, or was, its DID.
    pub(crate) fn had_did(&self, did: &str) -> bool {
        self.dids.contains(did)
    }

    pub(crate) fn versions(&self) -> Vec<VersionFacts> {
        self.history.clone()
    }
}
