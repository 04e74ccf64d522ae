//! A state that is open: its keys, and how they are sealed.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use broker::Epoch;
use identity::{Algorithm, Digest, PublicKey, Signer, sha256};
use policy::IdentityPolicy;
use protocol::{Part, VersionFacts};
use state::{
    Admitted, Authority, GenesisRecord, Header, Sealed, SealedIdentity, StateFacts, Terms, Use,
    Wrap, first_authority,
};

use zeroize::Zeroizing;

use super::contents::{Contents, SealedEpoch, Secret, SecretIdentity};
use super::recipient::DataKey;
use super::seal::{open, seal};
use super::uploads::Uploads;
use super::{Change, Platform, Then};
use crate::budgets::SealedBudget;
use crate::identities::{BoundTo, Identity, IdentityCard, Kept, PastDids};
use crate::keys::KeyPair;
use crate::provisioned::{AnnexFloor, Committed};
use crate::{Error, authority};

/// What is needed to seal again, and what is told of it.
pub(crate) struct Open {
    facts: StateFacts,
    name: String,
    /// Of the last seal that is stored.
    sequence: u64,
    authority: Authority,
    terms: Terms,
    data_key: DataKey,
    wrap: Wrap,
    state_key: KeyPair,
    /// What opens credentials of others, oldest first.
    k3: Vec<SealedEpoch>,
    /// Of the seal that is stored, once it is.
    stored: Option<Digest<32>>,
    /// What the bundle has no more.
    dormant: Vec<Dormant>,
}

/// An identity that the bundle has no more, kept as it is.
type Dormant = (SealedIdentity, SecretIdentity);

/// What was born and is not sealed yet.
pub(crate) struct Birth {
    /// The operator's order, as it was signed.
    pub(super) order: Vec<u8>,
    pub(super) record: GenesisRecord,
    /// Of the secure module; it attests the record.
    pub(super) document: Vec<u8>,
    pub(super) state_key: KeyPair,
    pub(super) record_key: KeyPair,
    pub(super) k3: Secret,
    /// Of the bundle's identities, by name.
    pub(super) keys: Vec<(String, KeyPair)>,
}

/// What may be opened, as far as can be seen before it is.
pub(crate) struct Opening {
    pub(super) sealed: Sealed,
    pub(super) header: Header,
    pub(super) record: GenesisRecord,
    pub(super) admitted: Admitted,
    /// The operator's word, as it was signed.
    pub(super) word: Vec<u8>,
}

/// What a state brings to life.
pub(crate) struct Life {
    /// The bundle's identities.
    pub(crate) identities: Vec<Identity>,
    /// Signs the record.
    pub(crate) record_key: KeyPair,
    /// What every key is bound to.
    pub(crate) bound: BoundTo,
    /// No annex before this one is taken.
    pub(crate) annex: Option<AnnexFloor>,
    /// What opens credentials of others, oldest first.
    pub(crate) k3: Vec<Epoch>,
    /// What the authority of the ingress process follows from.
    pub(crate) authority: Zeroizing<[u8; 32]>,
    /// What was used of budgets that outlive the boot.
    pub(crate) budgets: Vec<SealedBudget>,
}

/// A seal that waits to be stored, and what must be stored with it.
pub(crate) struct Pending {
    sealed: Vec<u8>,
    genesis: Option<Vec<u8>>,
    document: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
}

impl Pending {
    /// SHA-256 of the seal.
    pub(super) fn digest(&self) -> Digest<32> {
        sha256(&self.sealed)
    }

    /// A part; empty if it does not change.
    pub(super) fn part(&self, part: Part) -> &[u8] {
        match part {
            Part::Sealed => &self.sealed,
            Part::Genesis => self.genesis.as_deref().unwrap_or_default(),
            Part::Document => self.document.as_deref().unwrap_or_default(),
            Part::Authority => self.authority.as_deref().unwrap_or_default(),
        }
    }

    /// Whether what was put is what was sealed: all without which it could not be opened again.
    pub(super) fn was_stored(&self, uploads: &Uploads) -> bool {
        let same = |part: Part| {
            let wanted = self.part(part);
            wanted.is_empty() || wanted == uploads.part(part)
        };
        let parts = [Part::Sealed, Part::Genesis, Part::Document, Part::Authority];
        parts.into_iter().all(same)
    }
}

/// An open state, the seal that must be stored first if there is one, and what it brings to life.
type Opened = (Open, Option<Pending>, Life);

impl Open {
    pub(super) fn facts(&self) -> StateFacts {
        self.facts
    }

    /// What opens credentials of others, for whoever uses them.
    fn epochs(&self) -> Vec<Epoch> {
        let epoch = |epoch: &SealedEpoch| Epoch {
            number: epoch.number,
            key: Zeroizing::new(*epoch.key.bytes()),
        };
        self.k3.iter().map(epoch).collect()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn certificate(&self) -> u64 {
        self.authority.version
    }

    pub(super) fn dormant_names(&self) -> Vec<String> {
        self.dormant
            .iter()
            .map(|(public, _)| public.name.clone())
            .collect()
    }

    /// The seal that waited is stored.
    pub(super) fn stored(&mut self, seal: &Pending) {
        self.sequence += 1;
        self.stored = Some(seal.digest());
    }

    /// The seal of a change is stored: what follows from it.
    pub(super) fn changed(&mut self, seal: &Pending, change: Change) -> Then {
        self.stored(seal);
        match change {
            Change::Key(next) => Then::Replace(next),
            Change::Epochs(k3) => {
                self.k3 = k3;
                Then::Epochs(self.epochs())
            }
            Change::Budgets => Then::Budgets,
        }
    }

    /// Whether what is kept is this state, as it was sealed last, and would open.
    pub(super) fn compare(&self, opening: Opening, data_key: &DataKey) -> Result<(), Error> {
        let Opening {
            sealed,
            header,
            record,
            ..
        } = opening;
        let contents = open(&sealed, &header, data_key)?;
        key_of(Algorithm::EdDSA, &contents.state_key, &record.state_key()?)?;
        if header.state != self.facts.state || self.stored != Some(sha256(&sealed.to_vec())) {
            return Err(Error::StateDrillFailed("another state, or another seal"));
        }
        if verify_slices_are_equal(&**data_key, &*self.data_key).is_err() {
            return Err(Error::StateDrillFailed("under another data key"));
        }
        Ok(())
    }

    /// The first opening, of what was just born.
    pub(super) fn born(
        committed: &Committed,
        platform: &dyn Platform,
        birth: Birth,
        (data_key, wrapped): (DataKey, Vec<u8>),
    ) -> Result<Opened, Error> {
        let policy = committed.state()?;
        let terms = policy.terms();
        let facts = StateFacts {
            state: birth.record.id(),
            epoch: 1,
            custody: terms.custody,
            rollback: terms.rollback,
        };
        let bound = committed.bound_to(birth.record_key.public_key(), facts);
        let mut identities = Vec::new();
        for (name, key) in birth.keys {
            identities.push(Identity::new(committed.identity(&name)?, &bound, key)?);
        }
        let state = Self {
            facts,
            name: policy.name.clone(),
            sequence: 0,
            authority: first_authority(committed.bundle.state_operator(), &birth.order),
            wrap: Wrap::kms(policy.kms_key.clone(), wrapped),
            terms,
            data_key,
            state_key: birth.state_key,
            k3: vec![SealedEpoch {
                number: 1,
                key: birth.k3,
            }],
            stored: None,
            dormant: Vec::new(),
        };
        let mut pending = state.seal(
            committed,
            platform,
            identities.iter(),
            None,
            (None, Vec::new()),
        )?;
        pending.genesis = Some(birth.record.to_vec());
        pending.document = Some(birth.document);
        pending.authority = Some(birth.order);
        let life = Life {
            identities,
            record_key: birth.record_key,
            bound,
            annex: None,
            k3: state.epochs(),
            authority: state.state_key.derived(authority::CONTEXT)?,
            budgets: Vec::new(),
        };
        Ok((state, Some(pending), life))
    }

    /// Opens what was sealed. What contradicts itself was made by somebody who has the key.
    pub(super) fn reopen(
        committed: &Committed,
        platform: &dyn Platform,
        opening: Opening,
        data_key: DataKey,
    ) -> Result<Opened, Error> {
        let Opening {
            sealed,
            header,
            record,
            admitted,
            word,
        } = opening;
        let contents = open(&sealed, &header, &data_key)?;
        let state_key = key_of(Algorithm::EdDSA, &contents.state_key, &record.state_key()?)?;
        // One of this boot alone: whoever holds a token knows which boot's record must have it.
        let record_key = platform.new_key(Algorithm::EdDSA, "record", 0)?;
        // A state of before has none yet.
        let k3 = match contents.k3 {
            Some(k3) if !k3.is_empty() => k3,
            _ => Vec::new(),
        };
        let must_seal = admitted.must_seal(&header) || k3.is_empty();
        let k3 = match k3.is_empty() {
            false => k3,
            true => vec![SealedEpoch {
                number: 1,
                key: Secret::new(platform.new_secret("k3")?),
            }],
        };
        let facts = StateFacts {
            state: header.state,
            epoch: admitted.epoch,
            custody: committed.state()?.custody,
            rollback: admitted.terms.rollback,
        };
        let bound = committed.bound_to(record_key.public_key(), facts);
        let (mut identities, dormant) =
            wake(committed, &bound, header.identities, contents.identities)?;
        for name in &admitted.births {
            let policy = committed.identity(name)?;
            let key = platform.new_key(policy.algorithm, name, 1)?;
            identities.push(Identity::new(policy, &bound, key)?);
        }
        let state = Self {
            facts,
            name: header.name,
            sequence: header.sequence,
            authority: admitted.authority,
            terms: admitted.terms,
            data_key,
            wrap: sealed.wrap().clone(),
            state_key,
            k3,
            stored: Some(sha256(&sealed.to_vec())),
            dormant,
        };
        let budgets = contents.budgets.unwrap_or_default();
        let mut pending = must_seal
            .then(|| {
                let with = (contents.annex, budgets.clone());
                state.seal(committed, platform, identities.iter(), None, with)
            })
            .transpose()?;
        // The seal names the word; without it nothing would open the seal.
        if let Some(pending) = &mut pending {
            pending.authority = Some(word);
        }
        let life = Life {
            identities,
            record_key,
            bound,
            annex: contents.annex,
            k3: state.epochs(),
            authority: state.state_key.derived(authority::CONTEXT)?,
            budgets,
        };
        Ok((state, pending, life))
    }

    /// Seals everything, under the number that follows.
    pub(super) fn seal<'i>(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        identities: impl Iterator<Item = &'i Identity>,
        change: Option<&Change>,
        (annex, budgets): (Option<AnnexFloor>, Vec<SealedBudget>),
    ) -> Result<Pending, Error> {
        let (next, k3) = match change {
            Some(Change::Key(next)) => (Some(&**next), &self.k3),
            Some(Change::Epochs(k3)) => (None, k3),
            Some(Change::Budgets) | None => (None, &self.k3),
        };
        let mut all: Vec<_> = self
            .dormant
            .iter()
            .map(|(public, secret)| (public.clone(), secret.copy()))
            .collect();
        for identity in identities {
            let next = next.filter(|next| next.name() == identity.policy.name);
            all.push(identity.keep(next, parts_of)??);
        }
        all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        let (public, secret) = all.into_iter().unzip();
        let next_sequence = self.sequence.checked_add(1).ok_or(Error::SealTooLarge)?;
        let header = Header::new(
            self.facts.state,
            &self.name,
            next_sequence,
            self.authority.clone(),
            self.terms.clone(),
            committed.pair,
            platform.boot_id(),
            platform.now()?.earliest,
            public,
        );
        let contents = Contents::new(
            state::wraps_digest(std::slice::from_ref(&self.wrap)),
            Secret::new(self.state_key.secret()?),
            annex,
            secret,
            k3.iter().map(SealedEpoch::copy).collect(),
            budgets,
        );
        let mut nonce = [0; 12];
        platform.fill(&mut nonce)?;
        let keys = (&self.data_key, &self.state_key);
        Ok(Pending {
            sealed: seal(&header, self.wrap.clone(), &contents, keys, nonce)?,
            genesis: None,
            document: None,
            authority: None,
        })
    }
}

/// What is public and what is secret of an identity.
fn parts_of(
    card: &IdentityCard,
    key: &KeyPair,
    history: &[VersionFacts],
    dids: &PastDids,
) -> Result<(SealedIdentity, SecretIdentity), Error> {
    let described = &card.description;
    let public = SealedIdentity {
        name: card.name.clone(),
        environment: card.environment.clone(),
        did: described.did.clone(),
        kid: described.kid.clone(),
        version: described.version,
        spki: described.spki.clone(),
        use_: Use::Active,
    };
    let secret = SecretIdentity {
        name: card.name.clone(),
        secret: Secret::new(key.secret()?),
        history: history.to_vec(),
        dids: dids.clone(),
    };
    Ok((public, secret))
}

/// The identities of the bundle, awake; and those that it has no more, kept as they are. Each key
/// must be that of the header.
fn wake(
    committed: &Committed,
    bound: &BoundTo,
    public: Vec<SealedIdentity>,
    secret: Vec<SecretIdentity>,
) -> Result<(Vec<Identity>, Vec<Dormant>), Error> {
    let forged = || Error::SealedStateForged("its identities");
    if public.len() != secret.len() {
        return Err(forged());
    }
    let (mut awake, mut dormant) = (Vec::new(), Vec::new());
    for (mut public, secret) in public.into_iter().zip(secret) {
        let expected = public.key().map_err(|_| forged())?;
        if public.name != secret.name {
            return Err(forged());
        }
        let key = key_of(expected.algorithm(), &secret.secret, &expected)?;
        let Ok(policy) = committed.identity(&public.name) else {
            public.use_ = Use::Kept;
            dormant.push((public, secret));
            continue;
        };
        let kept = Kept {
            key,
            version: public.version,
            history: secret.history,
            dids: secret.dids,
        };
        awake.push(Identity::restored(policy, bound, kept)?);
    }
    Ok((awake, dormant))
}

/// The key of a secret, which must be the expected one: two implementations compute it anew.
fn key_of(algorithm: Algorithm, secret: &Secret, expected: &PublicKey) -> Result<KeyPair, Error> {
    KeyPair::from_secret(algorithm, secret.bytes())
        .filter(|key| key.public_key() == expected)
        .ok_or(Error::SealedStateForged("a secret of another key"))
}

impl Committed {
    /// What the bundle says of an identity.
    fn identity(&self, name: &str) -> Result<&IdentityPolicy, Error> {
        self.bundle.identity(name).ok_or(Error::UnknownIdentity)
    }

    fn bound_to(&self, record: &PublicKey, facts: StateFacts) -> BoundTo {
        BoundTo {
            policy: self.policy,
            record_spki: record.to_spki(),
            state: Some(facts),
        }
    }
}
