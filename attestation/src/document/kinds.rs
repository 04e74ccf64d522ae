//! Documents of hardware, of debug mode and of a mock are different types.

use std::ops::RangeInclusive;

use identity::{Digest, Tee, UnixSeconds};

use super::chain::{self, CertificateId, Chain, MockRoot, SKEW_SECONDS, Trust, aws_root_g1};
use super::issuers::KnownIssuers;
use super::{Document, Unverified, parse};
use crate::Error;
use crate::rules::{Every, Rules};
use crate::steps::{Step, Steps};

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
                self.0.1.leaf.validity()
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
    /// A document of an enclave in debug mode, signed by AWS Nitro hardware. Its memory and console
    /// are open to the host.
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
    match verify_hardware(bytes, at, None, &mut Steps::default())? {
        Hardware::Genuine(document) => Ok(document),
        Hardware::Debug(_) => Err(Error::DebugMode),
    }
}

/// As [`verify_genuine`], for documents of debug mode only.
pub fn verify_debug(bytes: &[u8], at: UnixSeconds) -> Result<Debug, Error> {
    match verify_hardware(bytes, at, None, &mut Steps::default())? {
        Hardware::Debug(document) => Ok(document),
        Hardware::Genuine(_) => Err(Error::NotDebugMode),
    }
}

/// Verifies a document of a mock NSM to the mock's own root.
pub fn verify_mock(bytes: &[u8], root: &MockRoot, at: UnixSeconds) -> Result<Mock, Error> {
    let trust = Trust {
        root: root.as_der(),
        at,
        issuers: None,
    };
    verify_mock_by(bytes, trust, &Every, &mut Steps::default())
}

/// A document of hardware is of one kind or the other.
pub(crate) enum Hardware {
    Genuine(Genuine),
    Debug(Debug),
}

pub(crate) fn verify_hardware(
    bytes: &[u8],
    at: UnixSeconds,
    issuers: Option<&KnownIssuers>,
    steps: &mut Steps,
) -> Result<Hardware, Error> {
    let trust = Trust {
        root: aws_root_g1(),
        at,
        issuers,
    };
    let verified = verify(bytes, trust, &Every, steps)?;
    let debug = is_debug(&verified.0, &Every)?;
    Ok(if debug {
        Hardware::Debug(Debug(verified))
    } else {
        Hardware::Genuine(Genuine(verified))
    })
}

pub(crate) fn verify_mock_by(
    bytes: &[u8],
    trust: Trust<'_>,
    rules: &impl Rules,
    steps: &mut Steps,
) -> Result<Mock, Error> {
    let verified = verify(bytes, trust, rules, steps)?;
    let debug = is_debug(&verified.0, rules)?;
    rules.require(!debug, Error::DebugMode)?;
    Ok(Mock(verified))
}

/// The time that a document claims for itself, before anything is verified. For those who verify an
/// old document at its own time, knowing that this says nothing about when they look at it.
pub fn unverified_time(bytes: &[u8]) -> Result<UnixSeconds, Error> {
    Ok(parse(bytes, &Every)?.document.made())
}

/// The challenge that a document claims to answer, before anything is verified: to refuse those of
/// others cheaply.
pub fn unverified_nonce(bytes: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(parse(bytes, &Every)?.document.nonce)
}

/// What a document says, before anything is verified.
pub(crate) fn unverified_document(bytes: &[u8]) -> Result<Document, Error> {
    Ok(parse(bytes, &Every)?.document)
}

/// Every rule of documents but that of the mode, which depends on the kind.
fn verify(
    bytes: &[u8],
    trust: Trust<'_>,
    rules: &impl Rules,
    steps: &mut Steps,
) -> Result<(Document, Chain), Error> {
    let Unverified {
        document,
        chain,
        signed,
        signature,
    } = parse(bytes, rules)?;
    steps.passed(Step::DocumentForm, format!("{} bytes", bytes.len()));
    let Trust { root, at, .. } = trust;
    chain::check_root(&chain, root, rules)?;
    steps.passed(Step::Root, format!("the root {}", identity::sha256(root)));
    let chain = chain::verify(&chain, trust, rules)?;
    let certificates: Vec<String> = chain
        .certificates
        .iter()
        .map(|c| format!("serial {} of {}", c.serial, c.issuer))
        .collect();
    steps.passed(
        Step::Chain,
        format!(
            "{} certificates at {at}: {}",
            certificates.len(),
            certificates.join("; ")
        ),
    );
    rules.accept(chain.leaf.verify(&signed, signature))?;
    steps.passed(
        Step::DocumentSignature,
        "ES384 by the last certificate's key",
    );
    // From here on it is the module's text, and not anybody's.
    steps.passed(Step::DocumentForm, format!("of {}", document.module_id));
    let (made, validity) = (document.made(), chain.leaf.validity());
    let (from, until) = (*validity.start(), *validity.end());
    rules.require(
        made <= at.plus(SKEW_SECONDS),
        Error::DocumentFromFuture { made, at },
    )?;
    rules.require(
        validity.contains(&made),
        Error::DocumentOutsideLeaf { made, from, until },
    )?;
    steps.passed(
        Step::DocumentTime,
        format!(
            "made {made}, leaf valid {} to {}",
            validity.start(),
            validity.end()
        ),
    );
    Ok((document, chain))
}

/// Debug mode shows zeros for PCR0, 1 and 2. Any zero among them is taken for it: no image measures
/// to zero.
fn is_debug(document: &Document, rules: &impl Rules) -> Result<bool, Error> {
    for index in 0..=2 {
        rules.require(
            document.pcrs().get(index).is_some(),
            Error::PcrMissing(index),
        )?;
    }
    Ok((0..=2).any(|index| document.pcrs().get(index) == Some(&Digest([0; 48]))))
}
