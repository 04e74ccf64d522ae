//! Why a state cannot be opened, or what is said of one is not good.

/// Why a state cannot be opened, or what is said of one is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// Not the one encoding of a sealed state, or its parts do not fit together.
    #[error("the sealed state is not good: {0}")]
    SealedStateMalformed(String),
    /// Not the one encoding of a genesis record, or it says what cannot be.
    #[error("the genesis record is not good: {0}")]
    GenesisRecordMalformed(String),
    /// What should attest the birth does not.
    #[error("the document of the birth does not show that this state was born as ordered: {0}")]
    GenesisDocumentInvalid(String),
    /// Not a genesis order of this operator, or not for this boot, name, image or bundle, or too
    /// late.
    #[error("the genesis order is not good: {0}")]
    GenesisOrderInvalid(String),
    /// Not a state certificate of this operator, or it says what cannot be, or its time is over.
    #[error("the state certificate is not good: {0}")]
    StateCertificateInvalid(String),
    /// The genesis record is of another state.
    #[error(
        "the sealed state is of another state than the genesis record: {found}, not {expected}"
    )]
    SealedStateMismatch {
        /// What the header of the sealed state names.
        found: String,
        /// SHA-256 of the genesis record.
        expected: String,
    },
    /// The bundle names another state.
    #[error("the sealed state is called {found:?}, and the bundle wants {expected:?}")]
    StateNameMismatch {
        /// Of the sealed state.
        found: String,
        /// Of the bundle.
        expected: String,
    },
    /// The bundle names another operator than the state has.
    #[error(
        "the bundle's operator key for the state is not the one that signed what opens it; a certificate of the operator of before may name a successor, who then signs the next one"
    )]
    StateOperatorMismatch,
    /// No certificate lists this image under this bundle.
    #[error(
        "the certificate does not list this image under this bundle; have the operator certify both (PCR0 {pcr0}, bundle {policy})"
    )]
    PairNotCertified {
        /// PCR0 of this image.
        pcr0: String,
        /// Digest of the bundle.
        policy: String,
    },
    /// A later certificate was taken.
    #[error("the state certificate has version {found}, and version {known} was taken already")]
    StateCertificateOutdated {
        /// Of the one that was brought.
        found: u64,
        /// Of the one that was taken.
        known: u64,
    },
    /// Another certificate of the same version was taken.
    #[error(
        "the state certificate has the version {0} of the one that was taken, and is another one; raise its version"
    )]
    StateCertificateForked(u64),
    /// The state has not come as far as the certificate wants.
    #[error("the seal's epoch is {found}, and the certificate takes none below {lowest}")]
    StateEpochTooLow {
        /// Of the seal.
        found: u64,
        /// Of the certificate.
        lowest: u64,
    },
    /// The bundle would keep the state with another KMS key.
    #[error("the bundle names the KMS key {found}, and the certificate {certified}")]
    KmsKeyMismatch {
        /// Of the bundle.
        found: String,
        /// Of the certificate.
        certified: String,
    },
    /// The bundle's custody is below what the certificate wants.
    #[error("the bundle's custody is {found:?}, and the certificate takes none below {lowest:?}")]
    StateCustodyTooLow {
        /// Of the bundle.
        found: String,
        /// Of the certificate.
        lowest: String,
    },
    /// The bundle does another thing about rolling back than the certificate says.
    #[error("the bundle's rollback is {found:?}, and the certificate says {certified:?}")]
    RollbackMismatch {
        /// Of the bundle.
        found: String,
        /// Of the certificate.
        certified: String,
    },
    /// The bundle has an identity that the certificate does not let be born.
    #[error(
        "the bundle has the identity {0:?}, and the certificate does not list it; have it certified"
    )]
    IdentityNotCertified(String),
    /// A name comes back for another environment, algorithm or DID.
    #[error("the state has the identity {name:?} already, with another {what}")]
    IdentityChanged {
        /// Of the identity.
        name: String,
        /// What is not the same.
        what: &'static str,
    },
    /// More identities than a state can have, with those that the bundle has no more.
    #[error(
        "the state would have more than 64 identities, those included that the bundle has no more"
    )]
    TooManyIdentities,
    /// A custody, a way with rolling back, or a KMS key is none.
    #[error("{0}")]
    TermsInvalid(String),
}

impl Error {
    /// The stable snake_case name.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}
