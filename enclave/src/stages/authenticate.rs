//! Who asks, and for which identity. A caller with a key of its own signs each request, end to end,
//! past the parent; its proof is verified here, and used.

use attestation::Document;
use identity::caller::Proven;
use identity::request::CallerProof;
use identity::{Caller, Digest, PublicKey, UnixSeconds, sha256};
use policy::{Callers, IdentityPolicy, PeerEnclave, ProvenCaller};
use policy_engine::{Denied, among};
use protocol::{PresentedProof, Requester};

use crate::Error;
use crate::audit::Trail;
use crate::clock::Bounds;
use crate::env::Env;
use crate::identities::{Identity, IdentityCard};
use crate::stores::peers::Peer;
use crate::sync::lock;

/// A document of another enclave is believed for an hour after it was made.
const MAX_DOCUMENT_SECONDS: i64 = 60 * 60;

/// A well-formed request of a caller.
pub(crate) trait Request {
    /// Whom the parent saw, and which identity is meant.
    fn requester(&self) -> &Requester;
    /// The caller's own signature over it, if it has a key.
    fn proof(&self) -> Option<&PresentedProof>;
    /// Digest of its canonical form, for the identity of this name.
    fn digest(&self, identity: &str) -> Result<Digest<32>, Error>;
    /// Who may ask for it, as an identity's policy says.
    fn callers(policy: &IdentityPolicy) -> Option<&Callers> {
        Some(&policy.callers)
    }
}

/// A request whose caller is known, and may use the identity.
pub(crate) struct Asked<'e, R> {
    pub(crate) request: R,
    pub(crate) identity: &'e Identity,
    pub(crate) caller: Caller,
    pub(crate) digest: Digest<32>,
    pub(crate) now: Bounds,
    /// The version of the key that the caller's proof is for; none of a caller that the parent saw.
    pub(crate) proven_for: Option<u32>,
}

/// A caller's proof: signed by it, for this request and boot, in time.
struct UnspentProof {
    proof: CallerProof,
    key: PublicKey,
}

/// A request whose caller is known, and may use the identity; its proof, if it has one, is verified and
/// not spent yet, so that it works again.
pub(crate) struct Verified<'e, R> {
    asked: Asked<'e, R>,
    proof: Option<UnspentProof>,
}

/// Finds the identity and the caller. Nothing that was presented is looked at before the caller is
/// known.
pub(crate) fn authenticate<'e, R: Request>(
    env: &Env<'e>,
    request: R,
    trail: &mut Trail,
) -> Result<Asked<'e, R>, Error> {
    verify(env, request, trail)?.spend(env, trail)
}

/// The same, but for what happens once.
pub(crate) fn verify<'e, R: Request>(
    env: &Env<'e>,
    request: R,
    trail: &mut Trail,
) -> Result<Verified<'e, R>, Error> {
    let requester = request.requester();
    let asserted = Caller::Asserted(requester.caller.clone());
    env.check_annex()?;
    let claimed = request
        .proof()
        .map(|proof| unverified(env, proof).map(|caller| (caller, proof)))
        .transpose()?;
    let identity = match &claimed {
        Some((caller, _)) => {
            let named = requester.identity.as_deref();
            let found = env.provisioned.find_proven(named, &caller.name, R::callers);
            // Refused, too, the record says whose key was meant.
            if found.is_err()
                && let Some(name) = named
            {
                let card = env.provisioned.identity(name)?.card()?;
                trail.identity(&card);
            }
            found?
        }
        None => env.provisioned.find(requester, env.annex())?,
    };
    let card = identity.card()?;
    trail.identity(&card);
    let digest = request.digest(&identity.policy.name)?;
    trail.digest(digest);
    let now = env.now()?;
    let (caller, proof) = match claimed {
        None => (asserted, None),
        Some((claimed, proof)) => {
            let proof = claimed.verify(env, &proof.jws, digest, now)?;
            proof.check_version(card.version())?;
            (Caller::Proven(claimed.proven()), Some(proof))
        }
    };
    if !R::callers(&identity.policy).is_some_and(|callers| among(callers, env.annex(), &caller)) {
        return Err(Denied::CallerNotAllowed.into());
    }
    let asked = Asked {
        request,
        identity,
        caller,
        digest,
        now,
        proven_for: proof.as_ref().map(|proof| proof.proof.key_version),
    };
    Ok(Verified { asked, proof })
}

impl<'e, R> Verified<'e, R> {
    /// From here on its proof works no second time, whatever is found of what it presents, and whatever
    /// the policy says. Only now is it said that the caller proved itself: a proof that is shown again
    /// may be anybody's.
    pub(crate) fn spend(self, env: &Env<'_>, trail: &mut Trail) -> Result<Asked<'e, R>, Error> {
        if let Some(proof) = self.proof {
            proof.spend(env, self.asked.now)?;
        }
        trail.caller(&self.asked.caller);
        Ok(self.asked)
    }
}

/// Who a proof says that it is from: its signature is still to be verified.
struct UnverifiedCaller {
    name: String,
    key: PublicKey,
    measurement: Option<Digest<48>>,
}

/// Finds out whose proof it claims to be.
fn unverified(env: &Env<'_>, proof: &PresentedProof) -> Result<UnverifiedCaller, Error> {
    let kid = CallerProof::unverified_kid(&proof.jws)
        .map_err(|_| Error::ProofOfNobody("not a JWS of a request"))?;
    let claimed = match &proof.document {
        Some(document) => {
            let peer = peer(env, document)?;
            UnverifiedCaller {
                name: peer.name,
                key: peer.key,
                measurement: Some(peer.measurement),
            }
        }
        None => {
            let keyed = |caller: &ProvenCaller| {
                caller
                    .key
                    .as_ref()
                    .is_some_and(|key| key.0.thumbprint() == kid)
            };
            let caller = env
                .provisioned
                .bundle
                .callers
                .iter()
                .find(|caller| keyed(caller));
            let named = caller.and_then(|caller| Some((caller, caller.key.as_ref()?)));
            let (caller, key) = named.ok_or(Error::ProofOfNobody(
                "the policy names no caller with this key",
            ))?;
            UnverifiedCaller {
                name: caller.name.clone(),
                key: key.0.clone(),
                measurement: None,
            }
        }
    };
    if claimed.key.thumbprint() == kid {
        Ok(claimed)
    } else {
        Err(Error::ProofOfNobody("another key than the document names"))
    }
}

impl UnverifiedCaller {
    /// Verifies its proof: the signature over this request and boot, in time.
    fn verify(
        &self,
        env: &Env<'_>,
        jws: &str,
        request: Digest<32>,
        now: Bounds,
    ) -> Result<UnspentProof, Error> {
        let proof =
            CallerProof::verify(jws, &self.key, now.latest).map_err(|error| match error {
                identity::Error::Expired { .. } => Error::ProofInvalid("it came too late"),
                identity::Error::ProofTooLong => {
                    Error::ProofInvalid("it would hold for more than 60 seconds")
                }
                _ => Error::ProofInvalid("its signature or form is not good"),
            })?;
        if proof.boot_id != env.boot_id {
            return Err(Error::ProofInvalid("for another boot"));
        }
        if proof.request != request {
            return Err(Error::ProofInvalid("for another request"));
        }
        Ok(UnspentProof {
            proof,
            key: self.key.clone(),
        })
    }

    fn proven(self) -> Proven {
        Proven {
            key: self.key.thumbprint(),
            measurement: self.measurement,
            name: self.name,
        }
    }
}

impl UnspentProof {
    fn check_version(&self, version: u32) -> Result<(), Error> {
        check_version(self.proof.key_version, version)
    }

    fn spend(self, env: &Env<'_>, now: Bounds) -> Result<(), Error> {
        lock(&env.provisioned.replay).spend(&self.proof, &self.key, now.latest)
    }
}

fn check_version(proven_for: u32, version: u32) -> Result<(), Error> {
    if proven_for == version {
        Ok(())
    } else {
        Err(Error::ProofInvalid("for another version of the key"))
    }
}

impl<R> Asked<'_, R> {
    /// Refuses to go on with another version of the key than the caller's proof is for. The key of
    /// this card is held from now until the signature exists.
    pub(crate) fn check_card(&self, card: &IdentityCard) -> Result<(), Error> {
        self.proven_for
            .map_or(Ok(()), |version| check_version(version, card.version()))
    }
}

/// The key that a document of another enclave names, if the policy names that enclave.
fn peer(env: &Env<'_>, document: &[u8]) -> Result<Peer, Error> {
    let (provisioned, digest, now) = (env.provisioned, sha256(document), env.now()?);
    if let Some(known) = lock(&provisioned.peers).known(&digest, now.latest) {
        return Ok(known);
    }
    let document = peer_document(env, document, now)?;
    let made = i64::try_from(document.timestamp_ms / 1000).unwrap_or(i64::MAX);
    let until = UnixSeconds(made).plus(MAX_DOCUMENT_SECONDS);
    if now.latest > until {
        return Err(Error::ProofOfNobody("the caller's document is too old"));
    }
    let is = |caller: &&ProvenCaller| {
        caller
            .enclave
            .as_ref()
            .is_some_and(|enclave| runs(&document, enclave))
    };
    let caller = provisioned.bundle.callers.iter().find(is);
    let caller = caller.ok_or(Error::ProofOfNobody("the policy names no such enclave"))?;
    let key = document
        .public_key
        .as_deref()
        .and_then(|spki| PublicKey::from_spki(spki).ok());
    let key = key.ok_or(Error::ProofOfNobody(
        "the caller's document names no key that can be used",
    ))?;
    let measurement = *document
        .pcrs()
        .get(0)
        .ok_or(Error::ProofOfNobody("the caller's document has no PCR0"))?;
    let peer = Peer {
        name: caller.name.clone(),
        key,
        measurement,
        until,
    };
    lock(&provisioned.peers).remember(digest, peer.clone(), now.latest);
    Ok(peer)
}

/// The document of an enclave that was asked for this boot.
fn peer_document(env: &Env<'_>, document: &[u8], now: Bounds) -> Result<Document, Error> {
    let bad = |_| Error::ProofOfNobody("the caller's document is not good");
    let for_this_boot = |nonce: Option<&[u8]>| match nonce {
        Some(nonce) if *nonce == env.boot_id.as_bytes()[..] => Ok(()),
        _ => Err(Error::ProofOfNobody(
            "the caller's document was made for another boot",
        )),
    };
    // What a document costs is spent on those only that may be for us.
    if env
        .provisioned
        .bundle
        .callers
        .iter()
        .all(|caller| caller.enclave.is_none())
    {
        return Err(Error::ProofOfNobody("the policy names no enclave"));
    }
    for_this_boot(
        attestation::unverified_nonce(document)
            .map_err(bad)?
            .as_deref(),
    )?;
    let document = (env.verify_peer)(document, now.latest).map_err(bad)?;
    for_this_boot(document.nonce.as_deref())?;
    Ok(document)
}

fn runs(document: &Document, enclave: &PeerEnclave) -> bool {
    let is = |index: u8, value: &Digest<48>| document.pcrs().get(index) == Some(value);
    is(0, &enclave.pcr0)
        && is(1, &enclave.pcr1)
        && is(2, &enclave.pcr2)
        && enclave.pcr16.as_ref().is_none_or(|value| is(16, value))
}
