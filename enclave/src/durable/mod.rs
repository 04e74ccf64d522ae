//! The state in which an enclave's keys outlive its boot: born by the operator's order, opened
//! under the operator's certificate, sealed anew before anything changes for others.
//!
//! ```text
//! Awaited ── order ──> Asking (birth)   ─┐ KMS                    ┌── nothing new ──> Open
//!         ── parts ──> Asking (opening) ─┴──> data key ──> keys ──┴── Sealed ── stored ──> Open
//! Open ── rotation ──> Open, with a seal that waits ── stored ──> Open
//! ```
//!
//! What is refused before KMS is asked leaves everything as it was. What contradicts itself after
//! decryption is the end of the boot.

mod contents;
mod kms;
mod open;
mod recipient;
mod seal;
#[cfg(test)]
mod tests;
mod uploads;

use std::sync::OnceLock;

use broker::Epoch;
use egress::Envelope;
use identity::{Algorithm, BootId};
use policy::StatePolicy;
use protocol::{KmsSigned, Part, Phase, Piece, SignKms, StateStatus};
use state::{Attested, GenesisRecord, Newborn, Offer, Order, Sealed, Wanted, birth_data};
use zeroize::Zeroizing;

use self::contents::{SealedEpoch, Secret};
pub use self::kms::Kms;
use self::kms::Question;
use self::open::{Birth, Open, Pending};
pub(crate) use self::open::{Life, Opening};
use self::recipient::{DataKey, Recipient};
use self::uploads::{Uploads, piece};
use crate::Error;
use crate::clock::Bounds;
use crate::error::KmsError;
use crate::identities::NextKey;
use crate::keys::KeyPair;
use crate::provisioned::{Committed, Provisioned};
use crate::sync::{Mutex, lock};

/// What a state needs of the enclave around it.
pub(crate) trait Platform {
    /// This boot.
    fn boot_id(&self) -> BootId;
    /// The time.
    fn now(&self) -> Result<Bounds, Error>;
    /// Fills with the operating system's randomness.
    fn fill(&self, out: &mut [u8]) -> Result<(), Error>;
    /// A new key, of both sources of randomness.
    fn new_key(&self, algorithm: Algorithm, name: &str, version: u32) -> Result<KeyPair, Error>;
    /// 32 new secret bytes, of the secure module and of the operating system.
    fn new_secret(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, Error>;
    /// A document of the secure module.
    fn document(
        &self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, Error>;
    /// What a document of the secure module, of this boot or another, attests; verified to the
    /// module's own root.
    fn attested(&self, document: &[u8]) -> Result<Attested, state::Error>;
    /// Who asks KMS.
    fn kms(&self) -> &dyn Kms;
}

/// The state of this boot, if its bundle has one.
#[derive(Default)]
pub(crate) struct Durable {
    recipient: OnceLock<Recipient>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    stage: Stage,
    uploads: Uploads,
    /// Of the last question to KMS.
    number: u64,
    /// Why the last attempt came to nothing.
    refused: Option<Error>,
    /// What was born and is not sealed yet: the same birth, however often KMS is asked for it.
    birth: Option<Box<Birth>>,
    /// A question that only shows whether what is kept could be opened.
    drill: Option<(Question, Box<Opening>)>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Awaited,
    /// A question waits for the parent's signature.
    Asking(Question, What),
    /// KMS is being asked.
    Busy,
    /// Sealed, not stored yet.
    Sealed(Box<Open>, Pending, Box<Life>),
    /// Open; the seal of a change may wait.
    Open(Box<Open>, Option<(Pending, Change)>),
    /// The keys are gone.
    Wiped,
}

enum What {
    Birth,
    Opening(Box<Opening>),
}

/// What is sealed before it takes effect.
pub(crate) enum Change {
    /// The key that follows an identity's key.
    Key(Box<NextKey>),
    /// What opens credentials of others from then on, oldest first.
    Epochs(Vec<SealedEpoch>),
    /// How much of budgets that outlive the boot may be used. Each seal has them.
    Budgets,
}

impl Change {
    /// What opens credentials of others.
    pub(crate) fn epochs(epochs: Vec<Epoch>) -> Self {
        let sealed = epochs.into_iter().map(|epoch| SealedEpoch {
            number: epoch.number,
            key: Secret::new(epoch.key),
        });
        Self::Epochs(sealed.collect())
    }
}

/// What follows once a seal is stored.
pub(crate) enum Then {
    /// Its keys may be used from now on.
    Live(Box<Life>),
    /// The next key takes its place.
    Replace(Box<NextKey>),
    /// These open credentials of others.
    Epochs(Vec<Epoch>),
    /// More of budgets may be used.
    Budgets,
}

impl Durable {
    /// Makes the recipient's RSA pair, unless that was done: best while nobody waits for it.
    pub(crate) fn prepare(&self) {
        let _ = self.recipient();
    }

    fn recipient(&self) -> Result<&Recipient, Error> {
        if let Some(made) = self.recipient.get() {
            return Ok(made);
        }
        let made = Recipient::generate()?;
        Ok(self.recipient.get_or_init(|| made))
    }

    /// How it is.
    pub(crate) fn status(&self) -> StateStatus {
        let inner = lock(&self.inner);
        let (phase, open, pending) = match &inner.stage {
            // A question whose answer never came is none: what was kept may be shown anew.
            Stage::Awaited | Stage::Asking(..) | Stage::Wiped => (Phase::Awaited, None, None),
            Stage::Busy => (Phase::Asking, None, None),
            Stage::Sealed(open, pending, _) => (Phase::Sealed, Some(open), Some(pending)),
            Stage::Open(open, pending) => {
                let pending = pending.as_ref().map(|(pending, _)| pending);
                (Phase::Open, Some(open), pending)
            }
        };
        StateStatus {
            phase,
            facts: open.map(|open| open.facts()),
            sequence: open.map(|open| open.sequence()),
            certificate: open.map(|open| open.certificate()),
            pending: pending.map(|pending| pending.digest().0),
            refused: inner.refused.clone().map(Into::into),
            kept: open.map_or_else(Vec::new, |open| open.dormant_names()),
        }
    }

    /// What it waits for, for those who ask for a signature meanwhile.
    pub(crate) fn waits_for(&self) -> &'static str {
        match &lock(&self.inner).stage {
            Stage::Awaited | Stage::Asking(..) | Stage::Wiped => {
                "it waits for its sealed state, or for the operator's order to give birth to one"
            }
            Stage::Busy => "KMS is being asked for its key",
            Stage::Sealed(..) | Stage::Open(..) => "its seal waits to be stored",
        }
    }

    /// Takes a piece.
    pub(crate) fn put(&self, piece: &Piece) -> Result<(), Error> {
        lock(&self.inner).uploads.put(piece)
    }

    /// Gives a piece of the seal that waits.
    pub(crate) fn get(&self, part: Part, offset: u32) -> Result<Piece, Error> {
        let inner = lock(&self.inner);
        let pending = match &inner.stage {
            Stage::Sealed(_, pending, _) | Stage::Open(_, Some((pending, _))) => pending,
            _ => return Err(Error::SealNotPending),
        };
        piece(part, pending.part(part), offset)
    }

    /// A document for the operator who is to order a birth.
    pub(crate) fn birth_document(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        nonce: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let data = birth_data(platform.boot_id(), &committed.policy.digest());
        platform.document(None, Some(data.as_bytes()), Some(nonce))
    }

    /// Gives birth by the operator's order: keys and record, the same ones until they are sealed; then
    /// KMS is to be asked for a data key.
    pub(crate) fn birth(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        signed: Vec<u8>,
    ) -> Result<SignKms, Error> {
        let born = self.try_birth(committed, platform, signed);
        self.note(born)
    }

    fn try_birth(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        signed: Vec<u8>,
    ) -> Result<SignKms, Error> {
        let policy = committed.state()?;
        lock(&self.inner).check_unopened()?;
        let (operator, now) = (committed.bundle.state_operator(), platform.now()?);
        let order = Order::verify(&signed, operator)?;
        let boot_id = platform.boot_id();
        order.require(&policy.name, boot_id, &committed.pair, now.latest)?;
        let document = platform.document(Some(self.recipient()?.spki()), None, None)?;
        // Nobody waits for the lock while keys are made; births come one at a time.
        let known = lock(&self.inner).birth.take();
        let mut birth = match known {
            Some(birth) => birth,
            None => Box::new(give_birth(committed, policy, platform, now)?),
        };
        birth.order = signed;
        let state = birth.record.id();
        let question = Question::generate(&policy.kms_key, state, &document, now.earliest);
        let mut inner = lock(&self.inner);
        inner.check_unopened()?;
        inner.birth = Some(birth);
        Ok(inner.asks(question, What::Birth))
    }

    /// Looks at the parts that were put, and decides whether this image under this bundle may open
    /// them; then KMS is to be asked for the data key. Of a state that is open this is a drill:
    /// nothing changes but what is known of it.
    pub(crate) fn open(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
    ) -> Result<SignKms, Error> {
        let opening = self.try_open(committed, platform);
        self.note(opening)
    }

    fn try_open(&self, committed: &Committed, platform: &dyn Platform) -> Result<SignKms, Error> {
        let policy = committed.state()?;
        // What was put is looked at once: another attempt brings it anew.
        let uploads = {
            let mut inner = lock(&self.inner);
            inner.check_openable()?;
            std::mem::take(&mut inner.uploads)
        };
        let now = platform.now()?;
        let (sealed, header) = Sealed::parse(uploads.part(Part::Sealed))?;
        let record = GenesisRecord::parse(uploads.part(Part::Genesis))?;
        let terms = policy.terms();
        let offer = Offer {
            name: &policy.name,
            operator: committed.bundle.state_operator(),
            terms: &terms,
            pair: committed.pair,
            pcr16: committed.policy.pcr16(),
            identities: committed.wanted(),
        };
        let word = uploads.part(Part::Authority).to_vec();
        let birth = || platform.attested(uploads.part(Part::Document));
        let admitted = offer.admit(&header, &record, &word, birth, now.latest)?;
        if sealed.wrap().kms_key != policy.kms_key {
            return Err(state::Error::KmsKeyMismatch {
                found: policy.kms_key.to_string(),
                certified: sealed.wrap().kms_key.to_string(),
            }
            .into());
        }
        sealed.verify(&header, &record.state_key()?)?;
        let document = platform.document(Some(self.recipient()?.spki()), None, None)?;
        let question = Question::decrypt(
            &policy.kms_key,
            &sealed.wrap().wrapped,
            header.state,
            &document,
            now.earliest,
        );
        let opening = Box::new(Opening {
            sealed,
            header,
            record,
            admitted,
            word,
        });
        let mut inner = lock(&self.inner);
        inner.check_openable()?;
        if matches!(inner.stage, Stage::Open(..)) {
            return Ok(inner.drills(question, opening));
        }
        Ok(inner.asks(question, What::Opening(opening)))
    }

    /// Asks KMS with the parent's signature, and goes on with what it answers. Gives what may be
    /// used at once, if nothing has to be sealed first.
    pub(crate) fn ask_kms(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        signed: KmsSigned,
    ) -> Result<Option<Box<Life>>, Error> {
        let asked = self.try_kms(committed, platform, signed);
        self.note(asked)
    }

    fn try_kms(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        signed: KmsSigned,
    ) -> Result<Option<Box<Life>>, Error> {
        let drill = lock(&self.inner).drill.take();
        if let Some((question, opening)) = drill {
            return self
                .drill(platform, signed, &question, *opening)
                .map(|()| None);
        }
        let (question, what) = lock(&self.inner).begin()?;
        // Nobody waits for the lock while KMS is asked.
        let went = question
            .ask(platform.kms(), signed)
            .map_err(Error::from)
            .and_then(|answer| Ok((self.data_key(&answer.envelope)?, answer.ciphertext_blob)))
            .and_then(|(key, wrapped)| match what {
                What::Birth => {
                    let wrapped = wrapped.unwrap_or_default();
                    self.born(committed, platform, key, wrapped).map(Some)
                }
                What::Opening(opening) => {
                    Open::reopen(committed, platform, *opening, key).map(Some)
                }
            });
        let mut inner = lock(&self.inner);
        if matches!(inner.stage, Stage::Wiped) {
            return Err(Error::Halted);
        }
        let (open, pending, life) = match went {
            Ok(Some(went)) => went,
            Ok(None) => return Err(Error::Halted),
            Err(error) => {
                inner.stage = Stage::Awaited;
                return Err(error);
            }
        };
        inner.refused = None;
        Ok(match pending {
            Some(pending) => {
                inner.stage = Stage::Sealed(Box::new(open), pending, Box::new(life));
                None
            }
            None => {
                inner.stage = Stage::Open(Box::new(open), None);
                inner.uploads = Uploads::default();
                Some(Box::new(life))
            }
        })
    }

    /// Opens what is kept once more, and compares it with what is open.
    fn drill(
        &self,
        platform: &dyn Platform,
        signed: KmsSigned,
        question: &Question,
        opening: Opening,
    ) -> Result<(), Error> {
        let answer = question.ask(platform.kms(), signed)?;
        let key = self.data_key(&answer.envelope)?;
        let mut inner = lock(&self.inner);
        let compared = match &inner.stage {
            Stage::Open(open, _) => open.compare(opening, &key),
            _ => Err(Error::Halted),
        };
        if compared.is_ok() {
            inner.refused = None;
        }
        // What is open is as good as before.
        compared.map_err(|error| match error {
            Error::SealedStateForged(_) => Error::StateDrillFailed("it contradicts itself"),
            other => other,
        })
    }

    fn data_key(&self, envelope: &Envelope) -> Result<DataKey, Error> {
        Ok(self.recipient()?.open(envelope)?)
    }

    fn born(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        key: DataKey,
        wrapped: Vec<u8>,
    ) -> Result<(Open, Option<Pending>, Life), Error> {
        let birth = lock(&self.inner)
            .birth
            .take()
            .ok_or(Error::SealNotPending)?;
        Open::born(committed, platform, *birth, (key, wrapped))
    }

    /// Seals a change, which waits until the seal is stored.
    pub(crate) fn seal_change(
        &self,
        committed: &Committed,
        platform: &dyn Platform,
        provisioned: &Provisioned,
        change: Change,
    ) -> Result<(), Error> {
        let mut inner = lock(&self.inner);
        let Stage::Open(open, waiting) = &mut inner.stage else {
            return Err(Error::Halted);
        };
        if waiting.is_some() {
            return Err(Error::SealPending);
        }
        let with = (
            provisioned.annex_floor(),
            provisioned.budgets(platform.now()?.earliest),
        );
        let identities = provisioned.identities();
        let pending = open.seal(committed, platform, identities, Some(&change), with)?;
        *waiting = Some((pending, change));
        Ok(())
    }

    /// Refuses to begin what needs a seal while another one waits.
    pub(crate) fn check_idle(&self) -> Result<(), Error> {
        match &lock(&self.inner).stage {
            Stage::Open(_, Some(_)) => Err(Error::SealPending),
            _ => Ok(()),
        }
    }

    /// The seal that waited is stored, if what was put is what was sealed.
    pub(crate) fn stored(&self) -> Result<Then, Error> {
        let mut inner = lock(&self.inner);
        let pending = match &inner.stage {
            Stage::Sealed(_, pending, _) | Stage::Open(_, Some((pending, _))) => pending,
            _ => return Err(Error::SealNotPending),
        };
        if !pending.was_stored(&inner.uploads) {
            return Err(Error::SealNotStored);
        }
        inner.uploads = Uploads::default();
        inner.refused = None;
        match std::mem::replace(&mut inner.stage, Stage::Busy) {
            Stage::Sealed(mut open, seal, life) => {
                open.stored(&seal);
                inner.stage = Stage::Open(open, None);
                Ok(Then::Live(life))
            }
            Stage::Open(mut open, Some((seal, change))) => {
                let then = open.changed(&seal, change);
                inner.stage = Stage::Open(open, None);
                Ok(then)
            }
            other => {
                inner.stage = other;
                Err(Error::SealNotPending)
            }
        }
    }

    /// Wipes every key.
    pub(crate) fn wipe(&self) {
        let mut inner = lock(&self.inner);
        inner.stage = Stage::Wiped;
        inner.birth = None;
        inner.drill = None;
    }

    /// Remembers why an attempt came to nothing.
    fn note<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome {
            lock(&self.inner).refused = Some(error.clone());
        }
        outcome
    }
}

impl Inner {
    /// Refuses to begin again with what is open, or sealed and not stored.
    fn check_unopened(&self) -> Result<(), Error> {
        match &self.stage {
            Stage::Awaited | Stage::Asking(..) => Ok(()),
            Stage::Busy => Err(Error::Busy),
            Stage::Sealed(..) => Err(Error::SealPending),
            Stage::Open(..) => Err(Error::StateOpenAlready),
            Stage::Wiped => Err(Error::Halted),
        }
    }

    /// As [`Inner::check_unopened`], but for a drill.
    fn check_openable(&self) -> Result<(), Error> {
        match &self.stage {
            Stage::Open(_, None) => Ok(()),
            Stage::Open(_, Some(_)) => Err(Error::SealPending),
            _ => self.check_unopened(),
        }
    }

    fn drills(&mut self, mut question: Question, opening: Box<Opening>) -> SignKms {
        self.number += 1;
        let to_sign = question.ask_signature(self.number);
        self.drill = Some((question, opening));
        to_sign
    }

    fn asks(&mut self, mut question: Question, what: What) -> SignKms {
        self.number += 1;
        let to_sign = question.ask_signature(self.number);
        self.stage = Stage::Asking(question, what);
        to_sign
    }

    /// Takes the question that waits.
    fn begin(&mut self) -> Result<(Question, What), Error> {
        match std::mem::replace(&mut self.stage, Stage::Busy) {
            Stage::Asking(question, what) => Ok((question, what)),
            other => {
                self.stage = other;
                Err(KmsError::Number.into())
            }
        }
    }
}

impl Committed {
    /// What the bundle says of its state.
    fn state(&self) -> Result<&StatePolicy, Error> {
        self.bundle.state.as_ref().ok_or(Error::StateNotWanted)
    }

    fn wanted(&self) -> Vec<Wanted<'_>> {
        let wanted = self.bundle.identities.iter().map(|identity| Wanted {
            name: &identity.name,
            environment: &identity.environment,
            did: &identity.did,
            algorithm: identity.algorithm,
        });
        wanted.collect()
    }
}

/// The keys of a state, its record, and the document that attests it.
fn give_birth(
    committed: &Committed,
    policy: &StatePolicy,
    platform: &dyn Platform,
    now: Bounds,
) -> Result<Birth, Error> {
    let state_key = platform.new_key(Algorithm::EdDSA, "state", 0)?;
    let record_key = platform.new_key(Algorithm::EdDSA, "record", 0)?;
    let k3 = Secret::new(platform.new_secret("k3")?);
    let mut keys = Vec::new();
    for identity in &committed.bundle.identities {
        let key = platform.new_key(identity.algorithm, &identity.name, 1)?;
        keys.push((identity.name.clone(), key));
    }
    let mut newborns = Vec::new();
    for ((name, key), identity) in keys.iter().zip(&committed.bundle.identities) {
        use identity::Signer;
        let did = crate::identities::did_of(identity, key.public_key())?;
        newborns.push(Newborn {
            name: name.clone(),
            environment: identity.environment.clone(),
            did: did.to_string(),
            spki: key.public_key().to_spki(),
        });
    }
    newborns.sort_by(|one, other| one.name.cmp(&other.name));
    let of = (platform.boot_id(), committed.policy.digest());
    let operator = committed.bundle.state_operator();
    let state_public = identity::Signer::public_key(&state_key);
    let record = GenesisRecord::new(
        &policy.name,
        operator,
        state_public,
        of,
        newborns,
        now.earliest,
    );
    let document = platform.document(None, Some(record.id().as_bytes()), None)?;
    Ok(Birth {
        order: Vec::new(),
        record,
        document,
        state_key,
        record_key,
        k3,
        keys,
    })
}
