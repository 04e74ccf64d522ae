use identity::{Digest, Tee, UnixSeconds};

use crate::chain::{self, MockRoot, aws_root_g1};
use crate::document::{self, Document};
use crate::{Error, SKEW_SECONDS};

mod sealed {
    pub trait Sealed {}
}

/// A verified document of one kind. Only [`Genuine`], [`Debug`] and [`Mock`] are.
pub trait Attested: sealed::Sealed {
    /// The kind, as verdicts name it.
    const VERDICT: &'static str;
    /// What tokens of such an enclave say of it.
    const TEE: Tee;

    /// What the document says.
    fn document(&self) -> &Document;
}

macro_rules! attested {
    ($(#[$doc:meta])* $name:ident, $verdict:literal, $tee:expr) => {
        $(#[$doc])*
        #[derive(std::fmt::Debug, Clone, PartialEq, Eq)]
        pub struct $name(Document);

        impl sealed::Sealed for $name {}

        impl Attested for $name {
            const VERDICT: &'static str = $verdict;
            const TEE: Tee = $tee;

            fn document(&self) -> &Document {
                &self.0
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
    let document = verify(bytes, aws_root_g1(), at)?;
    if is_debug(&document)? { Err(Error::DebugMode) } else { Ok(Genuine(document)) }
}

/// As [`verify_genuine`], for documents of debug mode only.
pub fn verify_debug(bytes: &[u8], at: UnixSeconds) -> Result<Debug, Error> {
    let document = verify(bytes, aws_root_g1(), at)?;
    if is_debug(&document)? { Ok(Debug(document)) } else { Err(Error::NotDebugMode) }
}

/// Verifies a document of a mock NSM to the mock's own root.
pub fn verify_mock(bytes: &[u8], root: &MockRoot, at: UnixSeconds) -> Result<Mock, Error> {
    let document = verify(bytes, root.as_der(), at)?;
    if is_debug(&document)? { Err(Error::DebugMode) } else { Ok(Mock(document)) }
}

/// The time that a document claims for itself, before anything is verified. For those who verify an old document at its own
/// time, knowing that this says nothing about when they look at it.
pub fn unverified_time(bytes: &[u8]) -> Result<UnixSeconds, Error> {
    made(&document::parse(bytes)?.document)
}

fn made(document: &Document) -> Result<UnixSeconds, Error> {
    i64::try_from(document.timestamp_ms / 1000).map(UnixSeconds).map_err(|_| Error::DocumentMalformed("timestamp"))
}

fn verify(bytes: &[u8], root: &[u8], at: UnixSeconds) -> Result<Document, Error> {
    let unverified = document::parse(bytes)?;
    let leaf = chain::verify(&unverified.chain, root, at)?;
    leaf.verify(&unverified.signed, unverified.signature)?;
    let document = unverified.document;
    let made = made(&document)?.0;
    if made > at.0.saturating_add(SKEW_SECONDS) {
        return Err(Error::DocumentFromFuture);
    }
    if !leaf.valid_at(made) {
        return Err(Error::DocumentOutsideLeaf);
    }
    Ok(document)
}

/// Debug mode shows zeros for PCR0, 1 and 2. Any zero among them is taken for it: no image measures to zero.
fn is_debug(document: &Document) -> Result<bool, Error> {
    let mut zero = false;
    for index in 0..=2 {
        let pcr = document.pcrs().get(index).ok_or(Error::PcrMissing(index))?;
        zero |= *pcr == Digest([0; 48]);
    }
    Ok(zero)
}
