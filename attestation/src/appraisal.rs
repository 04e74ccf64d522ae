//! What a document is held against.

use identity::UnixSeconds;
use serde::Serialize;
use subtle::ConstantTimeEq;

use crate::rules::{Every, Rules};
use crate::{Document, Error, Measurements};
use policy::PolicyDigest;

/// What a verifier expects of a document. What is left out is reported as [`Unchecked`], never silently passed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expectations<'a> {
    /// The verifier's own challenge.
    pub nonce: Option<&'a [u8]>,
    /// The accepted images; empty for any.
    pub measurements: &'a [Measurements],
    /// The accepted policies; empty for any.
    pub policies: &'a [PolicyDigest],
    /// The greatest accepted age in seconds.
    pub max_age_seconds: Option<i64>,
}

/// A check that nobody asked for, and that was therefore not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unchecked {
    /// Any document of this enclave would do, however old within its leaf's three hours.
    Nonce,
    /// Any image would do.
    Measurements,
    /// Any policy would do.
    Policy,
    /// did:web only: whether the domain stands by this key.
    DidDocument,
    /// A document alone, under a policy that names identities: whose it is.
    Identity,
}

impl Expectations<'_> {
    /// Compares a verified document with what is expected.
    pub(crate) fn check(&self, document: &Document, at: UnixSeconds) -> Result<Vec<Unchecked>, Error> {
        self.check_by(document, at, &Every)
    }

    pub(crate) fn check_by(&self, document: &Document, at: UnixSeconds, rules: &impl Rules) -> Result<Vec<Unchecked>, Error> {
        let mut unchecked = Vec::new();
        match self.nonce {
            Some(expected) => check_nonce(document, expected, rules)?,
            None => unchecked.push(Unchecked::Nonce),
        }
        if let Some(max_seconds) = self.max_age_seconds {
            check_age(document, at, max_seconds)?;
        }
        if self.measurements.is_empty() {
            unchecked.push(Unchecked::Measurements);
        } else if !self.measurements.iter().any(|image| image.match_document(document)) {
            return Err(Error::MeasurementMismatch);
        }
        if self.policies.is_empty() {
            unchecked.push(Unchecked::Policy);
        } else {
            let committed = document.pcrs().get(16).ok_or(Error::PolicyNotCommitted)?;
            if !self.policies.iter().any(|policy| policy.pcr16() == *committed) {
                return Err(Error::PolicyMismatch);
            }
        }
        Ok(unchecked)
    }

    /// Compares a verified document alone with what is expected; for those who have no evidence file.
    pub fn check_document(&self, document: &impl crate::Attested, at: UnixSeconds) -> Result<Vec<Unchecked>, Error> {
        self.check(document.document(), at)
    }
}

fn check_nonce(document: &Document, expected: &[u8], rules: &impl Rules) -> Result<(), Error> {
    rules.require(document.nonce.is_some(), Error::NonceAbsent)?;
    // Where there is none, the rule above has spoken.
    let same = document.nonce.as_deref().is_none_or(|nonce| bool::from(nonce.ct_eq(expected)));
    rules.require(same, Error::NonceMismatch)
}

fn check_age(document: &Document, at: UnixSeconds, max_seconds: i64) -> Result<(), Error> {
    let age_seconds = at.0.saturating_sub(document.made().0);
    if age_seconds > max_seconds { Err(Error::TooOld { age_seconds, max_seconds }) } else { Ok(()) }
}
