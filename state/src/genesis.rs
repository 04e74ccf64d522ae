//! The birth of a state: the operator's order, and the record of what was born.

use std::fmt;

use identity::cose::{self, Purpose};
use identity::{BootId, Did, Digest, PublicKey, Signer, UnixSeconds, cbor, sha256};
use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{Error, MAX_IDENTITIES, Pair};

const RECORD_TAG: &str = "anchorhold/genesis/v1";
const ORDER_TAG: &str = "anchorhold/genesis-order/v1";
const BIRTH_TAG: &str = "anchorhold/genesis-request/v1";
/// Longer records are not looked at.
const MAX_RECORD: usize = 128 * 1024;

/// SHA-256 of a genesis record: what a state is called for ever. Lowercase hex as text, a byte
/// string in CBOR.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(transparent)]
#[cbor(transparent)]
pub struct StateId(Digest<32>);

impl StateId {
    /// Of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Digest(bytes))
    }

    /// Reads 64 lowercase hex digits.
    pub fn from_hex(text: &str) -> Result<Self, identity::Error> {
        Digest::from_hex(text).map(Self)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `user_data` of the document that an operator looks at before ordering a birth: it attests the
/// boot and the bundle. SHA-256 of the CBOR array `["anchorhold/genesis-request/v1", boot id, policy
/// digest]`.
pub fn birth_data(boot_id: BootId, policy: &Digest<48>) -> Digest<32> {
    sha256(&cbor::to_vec(&(BIRTH_TAG, boot_id, policy)))
}

/// What was born: an array `[tag, name, operator's SubjectPublicKeyInfo, state key's
/// SubjectPublicKeyInfo, boot id, policy digest, [[identity, environment, DID,
/// SubjectPublicKeyInfo], ...], seconds since 1970]`. A document of the secure module whose
/// `user_data` is the state id stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct GenesisRecord {
    #[n(0)]
    tag: String,
    /// Name of the state in the bundle.
    #[n(1)]
    pub name: String,
    /// The operator's key for this state, DER SubjectPublicKeyInfo.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub operator: Vec<u8>,
    /// The state key, DER SubjectPublicKeyInfo: it signs every seal.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub state_key: Vec<u8>,
    /// The boot of the birth.
    #[n(4)]
    pub boot_id: BootId,
    /// The policy of the birth.
    #[n(5)]
    pub policy: Digest<48>,
    /// What was born with it.
    #[n(6)]
    pub identities: Vec<Newborn>,
    /// When, in seconds since 1970.
    #[n(7)]
    pub time: i64,
}

/// An identity at its birth.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Newborn {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its environment.
    #[n(1)]
    pub environment: String,
    /// Its DID.
    #[n(2)]
    pub did: String,
    /// Its first key, DER SubjectPublicKeyInfo.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub spki: Vec<u8>,
}

impl GenesisRecord {
    /// A birth at `time`, under `pair.policy`.
    pub fn new(
        name: &str,
        operator: &PublicKey,
        state_key: &PublicKey,
        (boot_id, policy): (BootId, Digest<48>),
        identities: Vec<Newborn>,
        time: UnixSeconds,
    ) -> Self {
        Self {
            tag: RECORD_TAG.into(),
            name: name.to_owned(),
            operator: operator.to_spki(),
            state_key: state_key.to_spki(),
            boot_id,
            policy,
            identities,
            time: time.0,
        }
    }

    /// Reads the one encoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |why: String| Error::GenesisRecordMalformed(why);
        if bytes.len() > MAX_RECORD {
            return Err(wrong("longer than 128 KiB".into()));
        }
        let record: Self = cbor::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        record.check().map_err(wrong)?;
        Ok(record)
    }

    fn check(&self) -> Result<(), String> {
        if self.tag != RECORD_TAG {
            return Err("another tag".into());
        }
        let text = |error: identity::Error| error.to_string();
        PublicKey::from_spki(&self.operator).map_err(text)?;
        PublicKey::from_spki(&self.state_key).map_err(text)?;
        if self.identities.is_empty() || self.identities.len() > MAX_IDENTITIES {
            return Err("not 1 to 64 identities".into());
        }
        if !self
            .identities
            .is_sorted_by(|one, next| one.name < next.name)
        {
            return Err("its identities are not in the order of their names, each once".into());
        }
        for born in &self.identities {
            let did = Did::parse(&born.did).map_err(text)?;
            let key = PublicKey::from_spki(&born.spki).map_err(text)?;
            if did.embedded_key().is_some_and(|embedded| embedded != key) {
                return Err(format!("the DID of {:?} is of another key", born.name));
            }
        }
        Ok(())
    }

    /// Its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// What the state is called.
    pub fn id(&self) -> StateId {
        StateId(sha256(&self.to_vec()))
    }

    /// The state key.
    pub fn state_key(&self) -> Result<PublicKey, Error> {
        PublicKey::from_spki(&self.state_key)
            .map_err(|error| Error::GenesisRecordMalformed(error.to_string()))
    }
}

/// The operator's order to give birth to a state: a COSE_Sign1 for [`Purpose::GENESIS_ORDER`] over
/// `[tag, name, boot id, [PCR0, PCR1, PCR2, policy digest], seconds since 1970]`.
///
/// It names the boot, so it works in no other; it counts as certificate 1 of what it gives birth to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Order {
    #[n(0)]
    tag: String,
    /// Name of the state in the bundle.
    #[n(1)]
    pub name: String,
    /// The boot in which it may be born.
    #[n(2)]
    pub boot_id: BootId,
    /// The image and the bundle that the operator saw in that boot's document.
    #[n(3)]
    pub pair: Pair,
    /// Not to be obeyed after this time, in seconds since 1970.
    #[n(4)]
    pub not_after: i64,
}

impl Order {
    /// An order.
    pub fn new(name: &str, boot_id: BootId, pair: Pair, not_after: UnixSeconds) -> Self {
        Self {
            tag: ORDER_TAG.into(),
            name: name.to_owned(),
            boot_id,
            pair,
            not_after: not_after.0,
        }
    }

    /// Signs it with the operator's key.
    pub fn sign<S: Signer>(&self, operator: &S) -> Result<Vec<u8>, S::Error> {
        cose::sign(Purpose::GENESIS_ORDER, &cbor::to_vec(self), operator)
    }

    /// What an order says, before anything is verified: for people, never to decide by.
    pub fn unverified(signed: &[u8]) -> Result<Self, Error> {
        let wrong = |error: identity::Error| Error::GenesisOrderInvalid(error.to_string());
        let payload = cose::unverified_payload(signed).map_err(wrong)?;
        cbor::from_slice(payload).map_err(wrong)
    }

    /// Verifies the operator's signature. Boot, pair and time are the caller's to look at.
    pub fn verify(signed: &[u8], operator: &PublicKey) -> Result<Self, Error> {
        let wrong = |why: &str| Error::GenesisOrderInvalid(why.to_owned());
        let payload = cose::verify(Purpose::GENESIS_ORDER, signed, operator)
            .map_err(|_| wrong("not signed by the operator"))?;
        let order: Self = cbor::from_slice(payload).map_err(|error| wrong(&error.to_string()))?;
        if order.tag != ORDER_TAG {
            return Err(wrong("another tag"));
        }
        order.pair.check().map_err(wrong)?;
        Ok(order)
    }

    /// Refuses what is not for this boot of this image under this bundle, or came too late.
    pub fn require(
        &self,
        name: &str,
        boot_id: BootId,
        pair: &Pair,
        now: UnixSeconds,
    ) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::GenesisOrderInvalid(why.to_owned()));
        if self.name != name {
            return wrong("for a state of another name");
        }
        if self.boot_id != boot_id {
            return wrong("for another boot");
        }
        if self.pair != *pair {
            return wrong("for another image or bundle");
        }
        if now.0 > self.not_after {
            return wrong("it came too late");
        }
        Ok(())
    }
}

/// A SubjectPublicKeyInfo, for encoders.
pub(crate) fn bytes(spki: &[u8]) -> &ByteSlice {
    spki.into()
}
