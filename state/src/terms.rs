//! What an operator agrees to, and a bundle must not weaken.

use identity::{Digest, Pcr};
use minicbor::{Decode, Encode};

use crate::{Custody, Error, KmsKey, Rollback};

/// What an operator agrees to, and a bundle must not weaken.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Terms {
    /// Whether a parent can roll the state back.
    #[n(0)]
    pub rollback: Rollback,
    /// The lowest custody.
    #[n(1)]
    pub custody: Custody,
    /// The KMS key that keeps the state.
    #[n(2)]
    pub kms_key: KmsKey,
}

impl Terms {
    /// Refuses what a bundle offers if it is not what the operator agreed to.
    pub fn accept(&self, bundle: &Self) -> Result<(), Error> {
        if bundle.rollback != self.rollback {
            return Err(Error::RollbackMismatch {
                found: bundle.rollback.to_string(),
                certified: self.rollback.to_string(),
            });
        }
        if bundle.custody < self.custody {
            return Err(Error::StateCustodyTooLow {
                found: bundle.custody.to_string(),
                lowest: self.custody.to_string(),
            });
        }
        if bundle.kms_key != self.kms_key {
            return Err(Error::KmsKeyMismatch {
                found: bundle.kms_key.to_string(),
                certified: self.kms_key.to_string(),
            });
        }
        Ok(())
    }
}

/// An image under a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(array)]
pub struct Pair {
    /// PCR0: the whole image.
    #[n(0)]
    pub pcr0: Pcr,
    /// PCR1: its kernel and how it boots.
    #[n(1)]
    pub pcr1: Pcr,
    /// PCR2: its program.
    #[n(2)]
    pub pcr2: Pcr,
    /// SHA-384 with which the bundle extends PCR16.
    #[n(3)]
    pub policy: Digest<48>,
}

impl Pair {
    /// A register of debug mode is zero, and stands for any image.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if [self.pcr0, self.pcr1, self.pcr2].contains(&Digest([0; 48])) {
            return Err("a measurement is zero, which only debug mode shows");
        }
        Ok(())
    }

    pub(crate) fn not_certified(&self) -> Error {
        Error::PairNotCertified {
            pcr0: self.pcr0.to_string(),
            policy: self.policy.to_string(),
        }
    }
}
