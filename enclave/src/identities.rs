//! Identities: a policy, a key of now, and the public history of the keys before it.

use std::sync::Arc;

use attestation::{Binding, KeyDescription};
use identity::succession::{self, Statement};
use identity::{Did, Digest, KeyId, PublicKey, Signer, UnixSeconds, agent_id, sha256};
use minicbor::{Decode, Encode};
use policy::{IdentityPolicy, PolicyDigest};
use policy_engine::Usage;
use protocol::VersionFacts;
use state::StateFacts;

use crate::Error;
use crate::keys::KeyPair;
use crate::sync::{Mutex, RwLock, RwLockReadGuard, read, write};

/// How many versions an identity remembers; their public halves only.
const MAX_HISTORY: usize = 16;
/// The DIDs that are remembered of an identity: did:key has another one with each rotation.
const MAX_DIDS: usize = 512;

/// An identity. Its policy, and what was used of its limits, outlast a rotation.
pub(crate) struct Identity {
    pub(crate) policy: IdentityPolicy,
    /// What was used of its limits in this boot. Lock order: this, then approvals.
    pub(crate) usage: Mutex<Usage>,
    /// Lock order: release one identity's before taking another's; a queued writer would deadlock
    /// both.
    slot: RwLock<Option<KeySlot>>,
}

/// What is public of the key of now.
#[derive(Debug)]
pub(crate) struct IdentityCard {
    /// Name of the identity in the policy.
    pub(crate) name: String,
    /// The environment that its policy binds it to.
    pub(crate) environment: String,
    /// `agent:<name>:<kind>:<fingerprint>`.
    pub(crate) agent_id: String,
    pub(crate) did: Did,
    pub(crate) kid: KeyId,
    pub(crate) description: KeyDescription,
    pub(crate) binding: Binding,
    pub(crate) binding_digest: Digest<32>,
}

struct KeySlot {
    card: Arc<IdentityCard>,
    key: KeyPair,
    history: Vec<VersionFacts>,
    /// Every DID that it had, up to [`MAX_DIDS`].
    dids: PastDids,
}

/// The DIDs that an identity had, as the first half of their SHA-256, in the order in which it had them:
/// whoever revokes it by its name means its grants under each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct PastDids(Vec<Digest<16>>);

impl PastDids {
    fn add(&mut self, did: &Did) {
        let did = Self::digest(&did.to_string());
        if !self.0.contains(&did) {
            self.0.push(did);
        }
        if self.0.len() > MAX_DIDS {
            self.0.remove(0);
        }
    }

    /// As many as there can be.
    #[cfg(test)]
    pub(crate) fn full() -> Self {
        let of = |number: u16| Self::digest(&number.to_string());
        Self((0..u16::try_from(MAX_DIDS).unwrap()).map(of).collect())
    }

    fn has(&self, did: &str) -> bool {
        self.0.contains(&Self::digest(did))
    }

    fn digest(did: &str) -> Digest<16> {
        let mut half = [0; 16];
        half.copy_from_slice(&sha256(did.as_bytes()).0[..16]);
        Digest(half)
    }
}

/// What every key of an enclave is bound to.
#[derive(Debug, Clone)]
pub(crate) struct BoundTo {
    /// The policy that governs it.
    pub(crate) policy: PolicyDigest,
    /// SubjectPublicKeyInfo of the record in which its uses stand.
    pub(crate) record_spki: Vec<u8>,
    /// The state that it is kept in.
    pub(crate) state: Option<StateFacts>,
}

/// A key that follows another, not yet in its place.
pub(crate) struct NextKey {
    old: u32,
    card: Arc<IdentityCard>,
    key: KeyPair,
    statement: Vec<u8>,
}

/// An identity as it was kept: what it needs to go on.
pub(crate) struct Kept {
    /// Its key.
    pub(crate) key: KeyPair,
    /// Version of its key.
    pub(crate) version: u32,
    /// The versions, oldest first; the last one is that of the key.
    pub(crate) history: Vec<VersionFacts>,
    /// Every DID that it had.
    pub(crate) dids: PastDids,
}

/// Where a private key is used. Each is named once in this crate, which a test counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// What a request asked for, once everything about it is settled.
    Settled,
    /// That the key lives where an attestation document says.
    Possession,
    /// That another key follows.
    Succession,
    /// To be kept, sealed.
    Sealed,
}

/// The key of now, which is neither replaced nor wiped meanwhile.
pub(crate) struct KeyGuard<'a>(RwLockReadGuard<'a, Option<KeySlot>>);

impl KeyGuard<'_> {
    /// What is public of it.
    pub(crate) fn card(&self) -> &Arc<IdentityCard> {
        &self.slot().card
    }

    /// The key itself.
    pub(crate) fn key(&self, _: Crossing) -> &KeyPair {
        &self.slot().key
    }

    /// The versions of this boot, oldest first; at most the newest sixteen.
    pub(crate) fn versions(&self) -> &[VersionFacts] {
        &self.slot().history
    }

    /// Whether this is, or was, its DID.
    pub(crate) fn had_did(&self, did: &str) -> bool {
        self.slot().dids.has(did)
    }

    fn slot(&self) -> &KeySlot {
        self.0
            .as_ref()
            .expect("looked at when the guard was made, and nobody writes while it is held")
    }
}

/// The DID of an identity with this key.
pub(crate) fn did_of(policy: &IdentityPolicy, public: &PublicKey) -> Result<Did, Error> {
    if policy.did == "did:key" {
        Ok(Did::key(public))
    } else {
        Ok(Did::parse(&policy.did)?)
    }
}

impl IdentityCard {
    fn new(
        policy: &IdentityPolicy,
        bound: &BoundTo,
        key: &KeyPair,
        version: u32,
    ) -> Result<Self, Error> {
        let public = key.public_key();
        let did = did_of(policy, public)?;
        let kid = KeyId::of(&did, public)?;
        let description = KeyDescription {
            name: policy.name.clone(),
            did: did.to_string(),
            kid: kid.to_string(),
            version,
            spki: public.to_spki(),
        };
        let binding = Binding::new(&description, &bound.policy, &bound.record_spki, bound.state);
        Ok(Self {
            name: policy.name.clone(),
            environment: policy.environment.clone(),
            agent_id: agent_id(&policy.name, public),
            did,
            kid,
            description,
            binding_digest: binding.digest(),
            binding,
        })
    }

    /// Which version of the key it is; 1 for the first of a boot, or of a state.
    pub(crate) fn version(&self) -> u32 {
        self.description.version
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
    pub(crate) fn new(
        policy: &IdentityPolicy,
        bound: &BoundTo,
        key: KeyPair,
    ) -> Result<Self, Error> {
        let kept = Kept {
            key,
            version: 1,
            history: Vec::new(),
            dids: PastDids::default(),
        };
        Self::restored(policy, bound, kept)
    }

    /// An identity that goes on as it was kept. What its key is bound to may have changed; what is
    /// told of the versions before stays.
    pub(crate) fn restored(
        policy: &IdentityPolicy,
        bound: &BoundTo,
        kept: Kept,
    ) -> Result<Self, Error> {
        let Kept {
            key,
            version,
            mut history,
            mut dids,
        } = kept;
        let card = Arc::new(IdentityCard::new(policy, bound, &key, version)?);
        let succession = history.pop().and_then(|last| last.succession);
        history.push(card.facts(succession));
        dids.add(&card.did);
        let slot = RwLock::new(Some(KeySlot {
            card,
            key,
            history,
            dids,
        }));
        Ok(Self {
            policy: policy.clone(),
            usage: Mutex::default(),
            slot,
        })
    }

    /// Holds the key of now. Never held while another identity is looked at.
    pub(crate) fn hold(&self) -> Result<KeyGuard<'_>, Error> {
        let slot = read(&self.slot);
        if slot.is_some() {
            Ok(KeyGuard(slot))
        } else {
            Err(Error::Halted)
        }
    }

    /// What is public of the key of now; it may be replaced as soon as this returns.
    pub(crate) fn card(&self) -> Result<Arc<IdentityCard>, Error> {
        Ok(Arc::clone(self.hold()?.card()))
    }

    /// Prepares the key that follows version `old`: the old one signs who follows, the new one
    /// accepts. Nothing is replaced yet.
    pub(crate) fn prepare(
        &self,
        old: u32,
        bound: &BoundTo,
        key: KeyPair,
        now: impl FnOnce() -> Result<UnixSeconds, Error>,
    ) -> Result<NextKey, Error> {
        let held = self.hold()?;
        if held.card().version() != old {
            return Err(Error::RotatedMeanwhile);
        }
        let version = old
            .checked_add(1)
            .ok_or(Error::OrderInvalid("no version is left"))?;
        let card = Arc::new(IdentityCard::new(&self.policy, bound, &key, version)?);
        let side = |card: &IdentityCard, key: &KeyPair| {
            succession::Version::new(&card.did, key.public_key(), card.version())
        };
        let by = held.key(Crossing::Succession);
        let statement = Statement {
            tag: succession::TAG.into(),
            old: side(held.card(), by)?,
            new: side(&card, &key)?,
            time: now()?.0,
        };
        let statement = succession::sign(&statement, by, &key)?;
        Ok(NextKey {
            old,
            card,
            key,
            statement,
        })
    }

    /// Puts the next key into the place of the one before, which is wiped. All or nothing. Gives the
    /// versions and the statement.
    pub(crate) fn replace(&self, next: NextKey) -> Result<(Vec<VersionFacts>, Vec<u8>), Error> {
        let mut slot = write(&self.slot);
        let slot = slot.as_mut().ok_or(Error::Halted)?;
        if slot.card.version() != next.old {
            return Err(Error::RotatedMeanwhile);
        }
        slot.history = next.history_after(&slot.history);
        slot.dids.add(&next.card.did);
        (slot.card, slot.key) = (next.card, next.key);
        Ok((slot.history.clone(), next.statement))
    }

    /// Shows what is to be kept of it: the card, the key, the versions and the DIDs; as they will be
    /// with the next key, if one is given.
    pub(crate) fn keep<T>(
        &self,
        next: Option<&NextKey>,
        with: impl FnOnce(&IdentityCard, &KeyPair, &[VersionFacts], &PastDids) -> T,
    ) -> Result<T, Error> {
        let held = self.hold()?;
        let slot = held.slot();
        let Some(next) = next else {
            let key = held.key(Crossing::Sealed);
            return Ok(with(&slot.card, key, &slot.history, &slot.dids));
        };
        if slot.card.version() != next.old {
            return Err(Error::RotatedMeanwhile);
        }
        let mut dids = slot.dids.clone();
        dids.add(&next.card.did);
        let history = next.history_after(&slot.history);
        Ok(with(&next.card, &next.key, &history, &dids))
    }

    /// Wipes the key. Waits for the request that holds it.
    pub(crate) fn wipe(&self) {
        *write(&self.slot) = None;
    }
}

impl NextKey {
    /// Name of the identity.
    pub(crate) fn name(&self) -> &str {
        &self.card.name
    }

    fn history_after(&self, before: &[VersionFacts]) -> Vec<VersionFacts> {
        let mut history = before.to_vec();
        history.push(self.card.facts(Some(self.statement.clone())));
        if history.len() > MAX_HISTORY {
            history.remove(0);
        }
        history
    }
}
