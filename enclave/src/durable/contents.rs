//! What stands in a sealed state under encryption.

use identity::Digest;
use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder};
use protocol::VersionFacts;
use zeroize::{Zeroize, Zeroizing};

use crate::budgets::SealedBudget;
use crate::identities::PastDids;
use crate::provisioned::AnnexFloor;

/// With budgets that outlive the boot.
const TAG_BUDGETS: &str = "anchorhold/sealed-contents/v3";
const TAG: &str = "anchorhold/sealed-contents/v2";
/// Before there were credentials of others.
const TAG_BEFORE: &str = "anchorhold/sealed-contents/v1";

/// What AES-256-GCM appends, in bytes.
const SEALING: usize = 16;

/// 32 bytes of a private key, wiped when dropped. Written nowhere but into what is encrypted. They stay
/// where they are when a list of them grows.
pub(crate) struct Secret(Box<Zeroizing<[u8; 32]>>);

impl Secret {
    pub(crate) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(Box::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another copy, for another seal.
    pub(crate) fn copy(&self) -> Self {
        Self::new((*self.0).clone())
    }
}

impl<C> Encode<C> for Secret {
    fn encode<W: Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&**self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Secret {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes: &[u8; 32] = decoder
            .bytes()?
            .try_into()
            .map_err(|_| minicbor::decode::Error::message("a secret of another size"))?;
        Ok(Self::new(Zeroizing::new(*bytes)))
    }
}

/// The plaintext: `[tag, SHA-256 of the wraps, state key, annex floor or null, [[name,
/// secret, [versions], [first halves of the SHA-256 of DIDs]], ...], [[number, K3], ...], [budgets]]`; of
/// version 2, which is written where there are no budgets, without the last member, of version 1 without the
/// last two.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(crate) struct Contents {
    #[n(0)]
    tag: String,
    /// SHA-256 of the wraps: those of another state cannot stand beside it.
    #[n(1)]
    pub(crate) wraps: Digest<32>,
    /// The state key's secret: Ed25519.
    #[n(2)]
    pub(crate) state_key: Secret,
    /// The annex that was in force when this was sealed.
    #[n(3)]
    pub(crate) annex: Option<AnnexFloor>,
    /// In the order of the header.
    #[n(4)]
    pub(crate) identities: Vec<SecretIdentity>,
    /// The keys that open credentials of others, oldest first; none of version 1.
    #[n(5)]
    pub(crate) k3: Option<Vec<SealedEpoch>>,
    /// Budgets that outlive the boot; none where there are none.
    #[n(6)]
    pub(crate) budgets: Option<Vec<SealedBudget>>,
}

/// A key K3 and its number.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(crate) struct SealedEpoch {
    #[n(0)]
    pub(crate) number: u32,
    #[n(1)]
    pub(crate) key: Secret,
}

impl SealedEpoch {
    /// Another copy, for another seal.
    pub(crate) fn copy(&self) -> Self {
        Self {
            number: self.number,
            key: self.key.copy(),
        }
    }
}

/// What is secret of an identity, and what is told of its past.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(crate) struct SecretIdentity {
    /// Its name.
    #[n(0)]
    pub(crate) name: String,
    /// Its key.
    #[n(1)]
    pub(crate) secret: Secret,
    /// Its versions, oldest first, with the statements of succession.
    #[n(2)]
    pub(crate) history: Vec<VersionFacts>,
    /// Every DID that it had.
    #[n(3)]
    pub(crate) dids: PastDids,
}

impl SecretIdentity {
    /// Another copy, for another seal.
    pub(crate) fn copy(&self) -> Self {
        Self {
            name: self.name.clone(),
            secret: self.secret.copy(),
            history: self.history.clone(),
            dids: self.dids.clone(),
        }
    }
}

impl Contents {
    pub(crate) fn new(
        wraps: Digest<32>,
        state_key: Secret,
        annex: Option<AnnexFloor>,
        identities: Vec<SecretIdentity>,
        k3: Vec<SealedEpoch>,
        budgets: Vec<SealedBudget>,
    ) -> Self {
        let tag = if budgets.is_empty() { TAG } else { TAG_BUDGETS };
        Self {
            tag: tag.into(),
            wraps,
            state_key,
            annex,
            identities,
            k3: Some(k3),
            budgets: Some(budgets).filter(|budgets| !budgets.is_empty()),
        }
    }

    /// The same with these budgets.
    #[cfg(test)]
    pub(crate) fn set_budgets(&mut self, budgets: Vec<SealedBudget>) {
        self.tag = TAG_BUDGETS.into();
        self.budgets = Some(budgets);
    }

    /// As it was before there were credentials of others.
    #[cfg(test)]
    pub(crate) fn into_before(self) -> Self {
        Self {
            tag: TAG_BEFORE.into(),
            k3: None,
            ..self
        }
    }

    /// Its bytes, in memory that never moves, not even when it is encrypted in its place: what grows
    /// would leave copies behind.
    pub(crate) fn to_vec(&self) -> Zeroizing<Vec<u8>> {
        let length = identity::cbor::length(self);
        let mut bytes = Zeroizing::new(Vec::with_capacity(length + SEALING));
        identity::cbor::to_buffer(self, &mut bytes);
        bytes
    }

    /// Reads the one encoding.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let contents: Self = minicbor::decode(bytes).ok()?;
        let mut again = contents.to_vec();
        let tag = match (&contents.k3, &contents.budgets) {
            (Some(_), Some(_)) => TAG_BUDGETS,
            (_, None) if contents.k3.is_some() => TAG,
            _ => TAG_BEFORE,
        };
        // None are none, and not an empty list.
        let is_empty = contents.budgets.as_ref().is_some_and(Vec::is_empty);
        let same = contents.tag == tag && *again == bytes && !is_empty;
        again.zeroize();
        same.then_some(contents)
    }
}
