//! What a verifier says of a refusal to whoever presented what it refuses.

use super::{Reason, Refusal};
use crate::steps::Step;
use crate::{Error, Rule};

impl Error {
    /// The text for whoever presented what is refused: what was found, and nothing of what the
    /// verifier accepts or denies.
    pub fn to_presenter(&self) -> String {
        match self {
            Self::MeasurementDenied(_) | Self::MeasurementMismatch(_) => {
                "the measurements are not those of an accepted image".into()
            }
            Self::CertificateDenied { index, .. } => {
                format!("certificate {index} of the chain is not accepted")
            }
            Self::PolicyMismatch(_) => "PCR16 is not that of an accepted bundle".into(),
            Self::DidNotAccepted { found, .. } => format!("the DID {found} is not accepted"),
            Self::IssuerNotAccepted { found, .. } => format!("the issuer {found} is not accepted"),
            Self::IdentityMismatch { found, .. } => format!("the identity {found} is not accepted"),
            Self::PolicyNotCommitted | Self::NonceAbsent | Self::NonceMismatch { .. } => {
                self.to_string()
            }
            // Whatever else is held against expectations.
            other => match Rule::from(other).step(Step::Signature) {
                step @ (Step::DenyLists
                | Step::Nonce
                | Step::Age
                | Step::Measurements
                | Step::Policy
                | Step::Identity
                | Step::Epoch
                | Step::DidDocument
                | Step::Issuer) => {
                    format!("the {} is not accepted", step.as_str().replace('_', " "))
                }
                _ => other.to_string(),
            },
        }
    }
}

impl Refusal {
    /// The text for whoever presented what is refused: nothing of what the verifier accepts.
    pub fn to_presenter(&self) -> String {
        match &self.reason {
            Reason::Wrong(error) => error.to_presenter(),
            Reason::Unchecked(_) => self.to_string(),
        }
    }
}
