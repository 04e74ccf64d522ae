//! Verifying that a key lives in a measured AWS Nitro enclave, and that a token came from it.
//!
//! The library is pure: bytes, a time and expectations go in, a typed verdict comes out. Genuine, debug and mock documents
//! are different types, so that none can pass for another; a mock root is an argument of one call, [`verify_mock`].
//!
//! ```
//! # fn check(evidence: &[u8], token: &str, at: identity::UnixSeconds) -> Result<(), attestation::Error> {
//! use attestation::{Evidence, Expectations, Genuine};
//!
//! let evidence = Evidence::parse(evidence)?;
//! let document: Genuine = attestation::verify_genuine(evidence.document(), at)?;
//! let expected = Expectations { nonce: Some(b"my own challenge".to_vec()), ..Expectations::default() };
//! let key = evidence.verify(&document, &expected, at)?;
//! let claims = key.verify_token(token, at, None)?;
//! # Ok(()) }
//! ```

pub mod anchor;
mod appraisal;
mod appraisal_policy;
mod binding;
mod chain;
mod document;
mod error;
mod evidence;
mod field;
#[doc = include_str!("../../docs/library.md")]
pub mod guide {}
mod judge;
mod measurement;
pub mod results;
mod rules;
#[cfg(test)]
mod rules_tests;
mod steps;
mod verdict;
mod verifier;
mod verify;

pub use crate::appraisal::Expectations;
pub use crate::appraisal_policy::AppraisalPolicy;
pub use crate::binding::{Binding, KeyDescription};
pub use crate::chain::{CertificateId, MockRoot, SKEW_SECONDS, aws_root_g1};
pub use crate::document::{Document, MAX_NONCE, Pcrs};
pub use crate::error::{Error, Rule};
pub use crate::evidence::{AttestedKey, AttestedSigner, Evidence, POSSESSION_TAG, Possession};
pub use crate::field::Field;
pub use crate::measurement::Measurements;
pub use crate::steps::{Check, Outcome, Step, Unchecked};
pub use crate::verdict::{Archive, KeyFacts, Reason, Refusal, Verdict};
pub use crate::verifier::{Subject, Verifier};
pub use crate::verify::{
    Attested, Debug, Genuine, Mock, unverified_nonce, unverified_time, verify_debug, verify_genuine, verify_mock,
};
/// Bundles and their digests, which evidence carries and expectations name.
pub use policy;
