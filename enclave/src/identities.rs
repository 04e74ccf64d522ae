//! Identities: a policy, a key of now, and the public history of the keys before it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use attestation::{Binding, KeyDescription};
use identity::succession::{self, Statement};
use identity::{Did, Digest, KeyId, Signer, UnixSeconds, agent_id};
use policy::{Bundle, IdentityPolicy};
use policy_engine::Usage;
use protocol::VersionFacts;

use crate::Error;
use crate::keys::KeyPair;
use crate::sync::{read, write};

/// How many versions an identity remembers; their public halves only.
const MAX_HISTORY: usize = 16;

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
    /// Every DID that it had in this boot.
    dids: BTreeSet<String>,
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
        self.slot().dids.contains(did)
    }

    fn slot(&self) -> &KeySlot {
        self.0
            .as_ref()
            .expect("looked at when the guard was made, and nobody writes while it is held")
    }
}

impl IdentityCard {
    fn new(
        policy: &IdentityPolicy,
        bundle: &Bundle,
        record_spki: &[u8],
        key: &KeyPair,
        version: u32,
    ) -> Result<Self, Error> {
        let public = key.public_key();
        let did = if policy.did == "did:key" {
            Did::key(public)
        } else {
            Did::parse(&policy.did)?
        };
        let kid = KeyId::of(&did, public)?;
        let description = KeyDescription {
            name: policy.name.clone(),
            did: did.to_string(),
            kid: kid.to_string(),
            version,
            spki: public.to_spki(),
        };
        let binding = Binding::new(&description, &bundle.digest(), record_spki);
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

    /// Which version of the key it is; 1 for the first of a boot.
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
        bundle: &Bundle,
        record_spki: &[u8],
        key: KeyPair,
    ) -> Result<Self, Error> {
        let card = Arc::new(IdentityCard::new(policy, bundle, record_spki, &key, 1)?);
        let history = vec![card.facts(None)];
        let dids = BTreeSet::from([card.did.to_string()]);
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

    /// Replaces version `old` of the key: the old one signs who follows, the new one accepts, the
    /// old one is wiped. All or nothing. Gives the versions and the statement.
    pub(crate) fn rotate(
        &self,
        old: u32,
        bundle: &Bundle,
        record_spki: &[u8],
        key: KeyPair,
        now: impl FnOnce() -> Result<UnixSeconds, Error>,
    ) -> Result<(Vec<VersionFacts>, Vec<u8>), Error> {
        let mut slot = write(&self.slot);
        let slot = slot.as_mut().ok_or(Error::Halted)?;
        if slot.card.version() != old {
            return Err(Error::RotatedMeanwhile);
        }
        let version = old
            .checked_add(1)
            .ok_or(Error::OrderInvalid("no version is left"))?;
        let next = Arc::new(IdentityCard::new(
            &self.policy,
            bundle,
            record_spki,
            &key,
            version,
        )?);
        let side = |card: &IdentityCard, key: &KeyPair| {
            succession::Version::new(&card.did, key.public_key(), card.version())
        };
        let statement = Statement {
            tag: succession::TAG.into(),
            old: side(&slot.card, &slot.key)?,
            new: side(&next, &key)?,
            time: now()?.0,
        };
        let statement = succession::sign(&statement, slot.key(Crossing::Succession), &key)?;
        slot.history.push(next.facts(Some(statement.clone())));
        if slot.history.len() > MAX_HISTORY {
            slot.history.remove(0);
        }
        slot.dids.insert(next.did.to_string());
        (slot.card, slot.key) = (next, key);
        Ok((slot.history.clone(), statement))
    }

    /// Wipes the key. Waits for the request that holds it.
    pub(crate) fn wipe(&self) {
        *write(&self.slot) = None;
    }
}

impl KeySlot {
    fn key(&self, _: Crossing) -> &KeyPair {
        &self.key
    }
}
