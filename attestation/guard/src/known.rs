//! Keys that are known to live in an accepted enclave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use attestation::{AttestedSigner, Verdict};
use identity::token::ClaimedKey;
use identity::{Did, Digest, UnixSeconds};

use crate::Error;

/// Whose keys and tokens share a place: an identity of a policy, whatever DID it has after its next
/// rotation, and in however many enclaves it was booted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) policy: Digest<48>,
    pub(crate) name: String,
}

impl Holder {
    pub(crate) fn of(signer: &AttestedSigner) -> Self {
        Self {
            policy: signer.policy(),
            name: signer.name().to_owned(),
        }
    }
}

/// A key whose evidence was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) signer: AttestedSigner,
    pub(crate) verdict: Verdict,
    pub(crate) holder: Holder,
    /// When the enclave made the first evidence that this process has seen, by the enclave's clock.
    /// It answered a challenge of ours, so what was signed later was signed after we began.
    pub(crate) since: UnixSeconds,
    pub(crate) until: UnixSeconds,
    /// When this process was shown the first evidence, by its own clock.
    pub(crate) met: Instant,
}

/// Keys whose evidence was accepted, by DID and binding.
#[derive(Debug)]
pub(crate) struct KnownKeys {
    keys: BTreeMap<(String, Digest<32>), Arc<Known>>,
    most: usize,
    most_of_one: usize,
}

impl KnownKeys {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self {
            keys: BTreeMap::new(),
            most,
            most_of_one,
        }
    }

    /// What is known of a key at `now`.
    pub(crate) fn get(&self, claimed: ClaimedKey, now: UnixSeconds) -> Option<Arc<Known>> {
        self.keys
            .get(&(claimed.iss, claimed.binding))
            .filter(|known| now < known.until)
            .cloned()
    }

    /// Remembers a key, or that its evidence is newer now; gives when it was met. A holder of too
    /// many keys loses the one that would expire first.
    pub(crate) fn insert(&mut self, mut known: Known, now: UnixSeconds) -> Result<Instant, Error> {
        let name = (known.signer.did().to_string(), known.signer.binding());
        if let Some(before) = self.keys.get(&name) {
            known.since = known.since.min(before.since);
            known.met = before.met;
        } else {
            self.make_room(&known.holder, now)?;
        }
        let met = known.met;
        self.keys.insert(name, Arc::new(known));
        Ok(met)
    }

    fn make_room(&mut self, holder: &Holder, now: UnixSeconds) -> Result<(), Error> {
        let own = self
            .keys
            .iter()
            .filter(|(_, known)| known.holder == *holder);
        let (count, first) = (
            own.clone().count(),
            own.min_by_key(|(_, known)| known.until)
                .map(|(name, _)| name.clone()),
        );
        if let (true, Some(first)) = (count >= self.most_of_one, first) {
            self.keys.remove(&first);
        }
        if self.keys.len() >= self.most {
            self.keys.retain(|_, known| now < known.until);
        }
        if self.keys.len() >= self.most {
            Err(Error::KeysFull)
        } else {
            Ok(())
        }
    }

    /// Forgets every key of an identity.
    pub(crate) fn forget(&mut self, did: &Did) {
        self.keys.retain(|(one, _), _| one != did.as_str());
    }
}
