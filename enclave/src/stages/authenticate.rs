//! Callers that prove themselves: a key of their own signs each request, end to end, past the parent.

use std::collections::{BTreeMap, BTreeSet};

use attestation::Document;
use identity::caller::Proven;
use identity::request::Proof;
use identity::{Digest, PublicKey, UnixSeconds, sha256};
use policy::{PeerEnclave, ProvenCaller};
use protocol::CallerProof;

use crate::cell::Cell;
use crate::clock::Bounds;
use crate::enclave::lock;
use crate::{Enclave, Error, Nsm};

/// Proofs that are remembered until they run out; more are refused until then. A thousand a second fit.
const MAX_SPENT: usize = 60 * 1024;
/// Verified documents of other enclaves.
const MAX_PEERS: usize = 64;

/// Who a proof says that it is from: its signature is still to be verified.
pub(crate) struct Claimed {
    pub(crate) name: String,
    key: PublicKey,
    measurement: Option<Digest<48>>,
}

/// Proofs that were used, by the time at which they run out, and the latest time at which any was: those that had run out by then
/// are forgotten, and not taken, whatever the time is for whoever asks more slowly.
pub(crate) struct Spent {
    used: BTreeSet<(i64, [u8; 32])>,
    latest: UnixSeconds,
}

impl Default for Spent {
    fn default() -> Self {
        Self { used: BTreeSet::new(), latest: UnixSeconds(i64::MIN) }
    }
}

/// Keys of other enclaves, by the digest of the document that names them.
#[derive(Default)]
pub(crate) struct Peers(BTreeMap<Digest<32>, Peer>);

#[derive(Clone)]
struct Peer {
    name: String,
    key: PublicKey,
    measurement: Digest<48>,
    /// The document was made for this boot, and is believed for so long.
    until: UnixSeconds,
}

/// A document of another enclave is believed for an hour after it was made.
const MAX_DOCUMENT_SECONDS: i64 = 60 * 60;

impl<N: Nsm> Enclave<N> {
    /// Finds out whose proof it claims to be.
    pub(crate) fn claimed(&self, cell: &Cell, proof: &CallerProof) -> Result<Claimed, Error> {
        let kid = Proof::unverified_kid(&proof.jws).map_err(|_| Error::ProofOfNobody("not a JWS of a request"))?;
        let claimed = match &proof.document {
            Some(document) => {
                let peer = self.peer(cell, document)?;
                Claimed { name: peer.name, key: peer.key, measurement: Some(peer.measurement) }
            }
            None => {
                let keyed = |caller: &ProvenCaller| caller.key.as_ref().is_some_and(|key| key.0.thumbprint() == kid);
                let caller = cell.bundle.callers.iter().find(|caller| keyed(caller));
                let named = caller.and_then(|caller| Some((caller, caller.key.as_ref()?)));
                let (caller, key) = named.ok_or(Error::ProofOfNobody("the policy names no caller with this key"))?;
                Claimed { name: caller.name.clone(), key: key.0.clone(), measurement: None }
            }
        };
        if claimed.key.thumbprint() != kid {
            Err(Error::ProofOfNobody("another key than the document names"))
        } else {
            Ok(claimed)
        }
    }

    /// Verifies the proof: the caller's signature over this request, boot and key version, in time, once.
    pub(crate) fn proven(
        &self,
        cell: &Cell,
        claimed: Claimed,
        jws: &str,
        request: Digest<32>,
        version: u32,
        now: Bounds,
    ) -> Result<Proven, Error> {
        let proof = Proof::verify(jws, &claimed.key, now.latest).map_err(|error| match error {
            identity::Error::Expired => Error::ProofInvalid("it came too late"),
            identity::Error::ProofTooLong => Error::ProofInvalid("it would hold for more than 60 seconds"),
            _ => Error::ProofInvalid("its signature or form is not good"),
        })?;
        if proof.boot_id != self.boot_id() {
            return Err(Error::ProofInvalid("for another boot"));
        }
        if proof.key_version != version {
            return Err(Error::ProofInvalid("for another version of the key"));
        }
        if proof.request != request {
            return Err(Error::ProofInvalid("for another request"));
        }
        lock(&cell.spent).spend(&proof, &claimed.key, now.latest)?;
        Ok(Proven { key: claimed.key.thumbprint(), measurement: claimed.measurement, name: claimed.name })
    }

    /// The key that a document of another enclave names, if the policy names that enclave.
    fn peer(&self, cell: &Cell, document: &[u8]) -> Result<Peer, Error> {
        let (digest, now) = (sha256(document), self.now()?);
        if let Some(known) = lock(&cell.peers).0.get(&digest).filter(|peer| now.latest <= peer.until) {
            return Ok(known.clone());
        }
        let bad = |_| Error::ProofOfNobody("the caller's document is not good");
        // What a document costs is spent on those only that may be for us.
        if cell.bundle.callers.iter().all(|caller| caller.enclave.is_none()) {
            return Err(Error::ProofOfNobody("the policy names no enclave"));
        }
        if attestation::unverified_nonce(document).map_err(bad)?.as_deref() != Some(&self.boot_id().as_bytes()[..]) {
            return Err(Error::ProofOfNobody("the caller's document was made for another boot"));
        }
        let document =
            (self.peers)(document, now.latest).map_err(|_| Error::ProofOfNobody("the caller's document is not good"))?;
        if document.nonce.as_deref() != Some(&self.boot_id().as_bytes()[..]) {
            return Err(Error::ProofOfNobody("the caller's document was made for another boot"));
        }
        let made = i64::try_from(document.timestamp_ms / 1000).unwrap_or(i64::MAX);
        let until = UnixSeconds(made).plus(MAX_DOCUMENT_SECONDS);
        if now.latest > until {
            return Err(Error::ProofOfNobody("the caller's document is too old"));
        }
        let is = |caller: &&ProvenCaller| caller.enclave.as_ref().is_some_and(|enclave| runs(&document, enclave));
        let caller = cell.bundle.callers.iter().find(is).ok_or(Error::ProofOfNobody("the policy names no such enclave"))?;
        let key = document.public_key.as_deref().and_then(|spki| PublicKey::from_spki(spki).ok());
        let key = key.ok_or(Error::ProofOfNobody("the caller's document names no key that can be used"))?;
        let measurement = *document.pcrs().get(0).ok_or(Error::ProofOfNobody("the caller's document has no PCR0"))?;
        let peer = Peer { name: caller.name.clone(), key, measurement, until };
        lock(&cell.peers).remember(digest, peer.clone(), now.latest);
        Ok(peer)
    }
}

fn runs(document: &Document, enclave: &PeerEnclave) -> bool {
    let is = |index: u8, value: &Digest<48>| document.pcrs().get(index) == Some(value);
    is(0, &enclave.pcr0)
        && is(1, &enclave.pcr1)
        && is(2, &enclave.pcr2)
        && enclave.pcr16.as_ref().is_none_or(|value| is(16, value))
}

impl Spent {
    fn spend(&mut self, proof: &Proof, key: &PublicKey, latest: UnixSeconds) -> Result<(), Error> {
        self.latest = self.latest.max(latest);
        if proof.exp < self.latest.0 {
            return Err(Error::ProofInvalid("it came too late"));
        }
        self.used = self.used.split_off(&(self.latest.0, [0; 32]));
        if self.used.len() >= MAX_SPENT {
            return Err(Error::ProofsFull);
        }
        let id = sha256(&[proof.jti.as_bytes(), &key.to_spki()[..]].concat());
        if self.used.insert((proof.exp, id.0)) { Ok(()) } else { Err(Error::ProofInvalid("it was used before")) }
    }
}

impl Peers {
    fn remember(&mut self, digest: Digest<32>, peer: Peer, latest: UnixSeconds) {
        self.0.retain(|_, peer| latest <= peer.until);
        if self.0.len() >= MAX_PEERS {
            self.0.clear();
        }
        self.0.insert(digest, peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_forgotten_only_when_nobody_takes_it_any_more() {
        let key = PublicKey::ed25519(&[1; 32]).unwrap();
        let proof = |jti: u8, exp: i64| Proof {
            boot_id: identity::BootId::new([1; 16]),
            exp,
            jti: uuid::Uuid::from_bytes([jti; 16]),
            key_version: 1,
            request: sha256(b""),
        };
        let mut spent = Spent::default();
        let mut spend = |jti, exp, at| spent.spend(&proof(jti, exp), &key, UnixSeconds(at)).map_err(|error| error.to_string());
        assert_eq!(spend(1, 100, 100), Ok(()));
        assert!(spend(1, 100, 100).unwrap_err().contains("used before"));
        // Another one comes a second later; then the first again, by somebody for whom it is not later yet.
        assert_eq!(spend(2, 130, 101), Ok(()));
        assert!(spend(1, 100, 100).unwrap_err().contains("too late"));
        assert!(spend(2, 130, 90).unwrap_err().contains("used before"));
        assert_eq!(spend(3, 101, 90), Ok(()));
    }
}
