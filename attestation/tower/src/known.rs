use std::collections::BTreeMap;
use std::sync::Arc;

use attestation::AttestedSigner;
use attestation::judge::Verdict;
use identity::token::ClaimedKey;
use identity::{Did, Digest, UnixSeconds};

use crate::Error;

/// A key whose evidence was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) signer: AttestedSigner,
    pub(crate) verdict: Verdict,
    pub(crate) until: UnixSeconds,
}

/// Keys whose evidence was accepted, by DID and binding.
#[derive(Debug)]
pub(crate) struct KnownKeys {
    keys: BTreeMap<(String, Digest<32>), Arc<Known>>,
    most: usize,
}

impl KnownKeys {
    pub(crate) fn new(most: usize) -> Self {
        Self { keys: BTreeMap::new(), most }
    }

    /// What is known of a key at `now`.
    pub(crate) fn get(&self, claimed: ClaimedKey, now: UnixSeconds) -> Option<Arc<Known>> {
        self.keys.get(&(claimed.iss, claimed.binding)).filter(|known| now < known.until).cloned()
    }

    /// Remembers a key, or that its evidence is newer now.
    pub(crate) fn insert(&mut self, known: Known, now: UnixSeconds) -> Result<(), Error> {
        let name = (known.signer.did().to_string(), known.signer.binding());
        if self.keys.len() >= self.most && !self.keys.contains_key(&name) {
            self.keys.retain(|_, known| now < known.until);
            if self.keys.len() >= self.most {
                return Err(Error::KeysFull);
            }
        }
        self.keys.insert(name, Arc::new(known));
        Ok(())
    }

    /// Forgets every key of an identity.
    pub(crate) fn forget(&mut self, did: &Did) {
        self.keys.retain(|(one, _), _| one != did.as_str());
    }
}
