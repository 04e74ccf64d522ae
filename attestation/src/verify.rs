//! Documents of hardware, of debug mode and of a mock are different types.

use std::ops::RangeInclusive;

use identity::{Digest, Tee, UnixSeconds};

use crate::chain::{self, CertificateId, Chain, MockRoot, aws_root_g1};
use crate::document::{self, Document};
use crate::rules::{Every, Rules};
use crate::{Error, SKEW_SECONDS};

mod sealed {
    pub trait Sealed {}
}

/// A verified document of one kind. Only [`Genuine`], [`struct@Debug`] and [`Mock`] are.
pub trait Attested: sealed::Sealed {
    /// The kind, as verdicts name it.
    const VERDICT: &'static str;
    /// What tokens of such an enclave say of it.
    const TEE: Tee;

    /// What the document says.
    fn document(&self) -> &Document;

    /// The certificates that it chains through, root first.
    fn certificates(&self) -> &[CertificateId];

    /// The time in which its leaf certificate can vouch for it: begin and end, both included.
    fn leaf_validity(&self) -> RangeInclusive<UnixSeconds>;
}

macro_rules! attested {
    ($(#[$doc:meta])* $name:ident, $verdict:literal, $tee:expr) => {
        $(#[$doc])*
        #[derive(std::fmt::Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub(crate) (Document, Chain));

        impl sealed::Sealed for $name {}

        impl Attested for $name {
            const VERDICT: &'static str = $verdict;
            const TEE: Tee = $tee;

            fn document(&self) -> &Document {
                &self.0.0
            }

            fn certificates(&self) -> &[CertificateId] {
                &self.0.1.certificates
            }

            fn leaf_validity(&self) -> RangeInclusive<UnixSeconds> {
                let validity = self.0.1.leaf.validity();
                UnixSeconds(*validity.start())..=UnixSeconds(*validity.end())
            }
        }
    };
}

attested!(
    /// A document of a production enclave, signed by AWS Nitro hardware.
    Genuine,
    "genuine",
    Tee::AwsNitro
);
attested!(
    /// A document of an enclave in debug mode, signed by AWS Nitro hardware. Its memory and console are open to the host.
    Debug,
    "debug",
    Tee::AwsNitro
);
attested!(
    /// A document of a mock NSM. No hardware is behind it.
    Mock,
    "mock",
    Tee::Mock
);

/// Verifies a document to the AWS root G1 at the time `at`; documents of debug mode are refused.
pub fn verify_genuine(bytes: &[u8], at: UnixSeconds) -> Result<Genuine, Error> {
    let document = verify(bytes, aws_root_g1(), at, &Every)?;
    not_debug(&document.0, &Every)?;
    Ok(Genuine(document))
}

/// As [`verify_genuine`], for documents of debug mode only.
pub fn verify_debug(bytes: &[u8], at: UnixSeconds) -> Result<Debug, Error> {
    let document = verify(bytes, aws_root_g1(), at, &Every)?;
    if is_debug(&document.0, &Every)? { Ok(Debug(document)) } else { Err(Error::NotDebugMode) }
}

/// Verifies a document of a mock NSM to the mock's own root.
pub fn verify_mock(bytes: &[u8], root: &MockRoot, at: UnixSeconds) -> Result<Mock, Error> {
    verify_mock_by(bytes, root, at, &Every)
}

pub(crate) fn verify_mock_by(bytes: &[u8], root: &MockRoot, at: UnixSeconds, rules: &impl Rules) -> Result<Mock, Error> {
    let document = verify(bytes, root.as_der(), at, rules)?;
    not_debug(&document.0, rules)?;
    Ok(Mock(document))
}

/// The time that a document claims for itself, before anything is verified. For those who verify an old document at its own
/// time, knowing that this says nothing about when they look at it.
pub fn unverified_time(bytes: &[u8]) -> Result<UnixSeconds, Error> {
    Ok(document::parse(bytes, &Every)?.document.made())
}

/// The challenge that a document claims to answer, before anything is verified: to refuse those of others cheaply.
pub fn unverified_nonce(bytes: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(document::parse(bytes, &Every)?.document.nonce)
}

fn verify(bytes: &[u8], root: &[u8], at: UnixSeconds, rules: &impl Rules) -> Result<(Document, Chain), Error> {
    let unverified = document::parse(bytes, rules)?;
    let chain = chain::verify(&unverified.chain, root, at, rules)?;
    rules.accept(chain.leaf.verify(&unverified.signed, unverified.signature))?;
    let document = unverified.document;
    let made = document.made();
    rules.require(made <= at.plus(SKEW_SECONDS), Error::DocumentFromFuture)?;
    rules.require(chain.leaf.valid_at(made.0), Error::DocumentOutsideLeaf)?;
    Ok((document, chain))
}

fn not_debug(document: &Document, rules: &impl Rules) -> Result<(), Error> {
    let debug = is_debug(document, rules)?;
    rules.require(!debug, Error::DebugMode)
}

/// Debug mode shows zeros for PCR0, 1 and 2. Any zero among them is taken for it: no image measures to zero.
fn is_debug(document: &Document, rules: &impl Rules) -> Result<bool, Error> {
    for index in 0..=2 {
        rules.require(document.pcrs().get(index).is_some(), Error::PcrMissing(index))?;
    }
    Ok((0..=2).any(|index| document.pcrs().get(index) == Some(&Digest([0; 48]))))
}
