//! What an operator lets open a state.

use identity::cose::{self, Purpose};
use identity::{PublicKey, Signer, UnixSeconds, cbor};
use minicbor::{Decode, Encode};

use crate::{Error, MAX_IDENTITIES, Pair, StateId, Terms};

const TAG: &str = "anchorhold/state/v1";
/// The most pairs of one certificate.
pub const MAX_PAIRS: usize = 16;
/// Longer certificates are not looked at.
const MAX_BYTES: usize = 16 * 1024;

/// What an operator lets open a state: a COSE_Sign1 for [`Purpose::STATE_CERTIFICATE`] over `[tag,
/// name, state id, version, lowest epoch, [rollback, custody, KMS key], not after or null,
/// successor's SubjectPublicKeyInfo or null, [names of identities], [[PCR0, PCR1, PCR2, policy
/// digest], ...]]`.
///
/// Names and pairs are in ascending order, each once.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Certificate {
    #[n(0)]
    tag: String,
    /// Name of the state.
    #[n(1)]
    pub name: String,
    /// The state.
    #[n(2)]
    pub state: StateId,
    /// Rises: 2 for the first after a birth, whose order counts as 1.
    #[n(3)]
    pub version: u64,
    /// Seals of a lower epoch are not opened. Below the version: who takes it has an earlier one.
    #[n(4)]
    pub lowest_epoch: u64,
    /// What bundles must not weaken.
    #[n(5)]
    pub terms: Terms,
    /// Opens nothing after this time, in seconds since 1970.
    #[n(6)]
    pub not_after: Option<i64>,
    /// The operator's next key, DER SubjectPublicKeyInfo: certificates of later versions are signed
    /// by it alone.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub successor: Option<Vec<u8>>,
    /// The identities that bundles may have.
    #[n(8)]
    pub identities: Vec<String>,
    /// The images that may open it, each under its bundle.
    #[n(9)]
    pub pairs: Vec<Pair>,
}

impl Certificate {
    /// A certificate of this state; everything else may still be changed before it is signed.
    pub fn new(
        name: &str,
        state: StateId,
        version: u64,
        terms: Terms,
        mut identities: Vec<String>,
        mut pairs: Vec<Pair>,
    ) -> Self {
        identities.sort();
        identities.dedup();
        pairs.sort();
        pairs.dedup();
        Self {
            tag: TAG.into(),
            name: name.to_owned(),
            state,
            version,
            lowest_epoch: 0,
            terms,
            not_after: None,
            successor: None,
            identities,
            pairs,
        }
    }

    /// Signs it with the operator's key, if it says what can be.
    pub fn sign<S>(&self, operator: &S) -> Result<Vec<u8>, Error>
    where
        S: Signer,
        S::Error: std::fmt::Display,
    {
        self.check().map_err(Error::StateCertificateInvalid)?;
        cose::sign(Purpose::STATE_CERTIFICATE, &cbor::to_vec(self), operator)
            .map_err(|error| Error::StateCertificateInvalid(error.to_string()))
    }

    /// Verifies the operator's signature, and reads the one encoding.
    pub fn verify(signed: &[u8], operator: &PublicKey) -> Result<Self, Error> {
        let wrong = |why: &str| Error::StateCertificateInvalid(why.to_owned());
        if signed.len() > MAX_BYTES {
            return Err(wrong("longer than 16 KiB"));
        }
        let payload = cose::verify(Purpose::STATE_CERTIFICATE, signed, operator)
            .map_err(|_| wrong("not signed by the state's operator"))?;
        Self::read(payload)
    }

    /// What it says, before anything is verified: for people, never to decide by.
    pub fn unverified(signed: &[u8]) -> Result<Self, Error> {
        let payload = cose::unverified_payload(signed)
            .map_err(|error| Error::StateCertificateInvalid(error.to_string()))?;
        Self::read(payload)
    }

    fn read(payload: &[u8]) -> Result<Self, Error> {
        let certificate: Self = cbor::from_slice(payload)
            .map_err(|error| Error::StateCertificateInvalid(error.to_string()))?;
        certificate
            .check()
            .map_err(Error::StateCertificateInvalid)?;
        Ok(certificate)
    }

    fn check(&self) -> Result<(), String> {
        if self.tag != TAG {
            return Err("another tag".into());
        }
        if self.version < 2 {
            return Err("its version is below 2; 1 is the order of the birth".into());
        }
        if self.lowest_epoch >= self.version {
            return Err(
                "its lowest epoch is not below its version: nothing could be opened".into(),
            );
        }
        if self.pairs.is_empty() || self.pairs.len() > MAX_PAIRS {
            return Err("not 1 to 16 pairs of image and bundle".into());
        }
        if !self.pairs.is_sorted_by(|one, next| one < next) {
            return Err("its pairs are not in ascending order, each once".into());
        }
        self.pairs.iter().try_for_each(Pair::check)?;
        if self.identities.is_empty() || self.identities.len() > MAX_IDENTITIES {
            return Err("not 1 to 64 identities".into());
        }
        if !self.identities.is_sorted_by(|one, next| one < next) {
            return Err("its identities are not in ascending order, each once".into());
        }
        if let Some(successor) = &self.successor {
            PublicKey::from_spki(successor).map_err(|error| format!("its successor: {error}"))?;
        }
        Ok(())
    }

    /// The operator's next key, if it names one.
    pub fn successor(&self) -> Option<PublicKey> {
        // A certificate that was read has a good one.
        self.successor
            .as_ref()
            .and_then(|spki| PublicKey::from_spki(spki).ok())
    }

    /// Refuses a certificate whose time is over.
    pub fn require_time(&self, now: UnixSeconds) -> Result<(), Error> {
        match self.not_after {
            Some(not_after) if now.0 > not_after => Err(Error::StateCertificateInvalid(format!(
                "its time was over at {}",
                UnixSeconds(not_after)
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses an image under a bundle that it does not list.
    pub fn require_pair(&self, pair: &Pair) -> Result<(), Error> {
        if self.pairs.contains(pair) {
            Ok(())
        } else {
            Err(pair.not_certified())
        }
    }

    /// Refuses a bundle's identity that it does not list.
    pub fn require_identity(&self, name: &str) -> Result<(), Error> {
        if self.identities.iter().any(|listed| listed == name) {
            Ok(())
        } else {
            Err(Error::IdentityNotCertified(name.to_owned()))
        }
    }
}
