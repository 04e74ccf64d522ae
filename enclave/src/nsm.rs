//! The Nitro Secure Module, as far as the enclave uses it.

use attestation::Document;
use identity::Pcr;
use identity::{Tee, UnixSeconds};

/// Why the NSM did not answer as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "nsm_")]
#[non_exhaustive]
pub enum NsmError {
    /// The device could not be opened.
    #[error("the device could not be opened")]
    NoDevice,
    /// It answered with an error of its own.
    #[error("it answered {0}")]
    Answered(String),
    /// It answered something else than what was asked.
    #[error("it answered something that was not asked")]
    Nonsense,
    /// A document of our own does not verify.
    #[error("its document does not verify: {0}")]
    Document(attestation::Error),
    /// A document of our own does not say what it was asked to say.
    #[error("its document lacks or changes what it was given")]
    DocumentContent,
    /// A register has not the value that it must have.
    #[error("PCR16 has another value than extending it once gives")]
    PcrValue,
    /// It gave all zeros for randomness.
    #[error("its randomness is all zeros")]
    RandomZero,
}

impl NsmError {
    /// The stable snake_case name; of a document that does not verify, why.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Document(error) => error.code(),
            other => other.into(),
        }
    }
}

/// Verifies a document of another enclave at a time.
pub type PeerVerifier =
    Box<dyn Fn(&[u8], UnixSeconds) -> Result<Document, attestation::Error> + Send + Sync>;

/// The Nitro Secure Module, as far as the enclave uses it, and the trust anchor that belongs to it.
///
/// The anchor stands behind this trait so that a mock's root can only be believed together with the
/// mock itself.
pub trait Nsm: Send + 'static {
    /// Where this NSM lives; tokens say so.
    const TEE: Tee;

    /// Asks for a document with these three fields.
    fn attest(
        &mut self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError>;

    /// Extends a register and gives its new value.
    fn extend_pcr(&mut self, index: u16, data: &[u8]) -> Result<Pcr, NsmError>;

    /// Locks the registers 0 to `range - 1`.
    fn lock_pcrs(&mut self, range: u16) -> Result<(), NsmError>;

    /// Fills `out` with the hypervisor's randomness.
    fn random(&mut self, out: &mut [u8]) -> Result<(), NsmError>;

    /// The name of the kernel's random number generator that this NSM feeds, as sysfs has it;
    /// `None` for a mock, which feeds none.
    fn hwrng(&self) -> Option<&'static str> {
        Some("nsm-hwrng")
    }

    /// Verifies a document of this very NSM at the document's own time.
    fn verify_own(&self, document: &[u8]) -> Result<Document, attestation::Error>;

    /// The roots that TLS to the outside trusts. They stand beside this module's own trust anchor: a
    /// mock of AWS can only be believed together with the mock.
    fn tls_roots(&self) -> Vec<egress::Anchor> {
        egress::amazon_roots()
    }

    /// What verifies documents of other enclaves: to the same root, and not in debug mode.
    fn peers(&self) -> PeerVerifier;
}
