//! Verifying that a key lives in a measured AWS Nitro enclave, and that a token came from it.
//!
//! The library is pure: bytes, a time and expectations go in, a typed verdict comes out. Genuine,
//! debug and mock documents are different types, so that none can pass for another; a mock root is
//! an argument of one call, [`verify_mock`].
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

mod appraisal;
pub mod archive;
mod claimed;
mod document;
mod error;
mod evidence;
mod field;
#[doc = include_str!("../../docs/library.md")]
pub mod guide {}
mod rules;
#[cfg(test)]
mod rules_tests;
mod steps;

pub use crate::appraisal::{
    AppraisalPolicy, Archive, Expectations, KeyFacts, Measurements, Reason, Refusal, Subject,
    Verdict, Verifier, results,
};
pub use crate::claimed::{Claimed, ClaimedKey};
pub use crate::document::{
    Attested, CertificateId, Debug, Document, Genuine, KnownIssuers, MAX_NONCE, Mock, MockRoot,
    Pcrs, SKEW_SECONDS, aws_root_g1, unverified_nonce, unverified_time, verify_debug,
    verify_genuine, verify_mock,
};
pub use crate::error::{Error, Rule};
pub use crate::evidence::{
    AttestedKey, AttestedSigner, Binding, Evidence, KeyDescription, POSSESSION_TAG, Possession,
};
pub use crate::field::Field;
pub use crate::steps::{Check, Outcome, Step, Unchecked};
/// Bundles and their digests, which evidence carries and expectations name.
pub use policy;
