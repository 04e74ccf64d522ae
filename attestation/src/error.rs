/// Why a document, evidence, a policy or a token was refused.
///
/// [`Error::code`] is stable: programs may match on it. The text is for people and may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// A format of the identity crate was refused; its own code counts.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// Not an NSM attestation document (AWS attestation process, "syntactical validation").
    #[error("not an attestation document: {0}")]
    DocumentMalformed(&'static str),
    /// A well-formed document, and then more bytes.
    #[error("bytes follow after the document")]
    DocumentTrailingBytes,
    /// The protected header is not exactly `{1: -35}` (ES384), or the signature is not 96 bytes.
    #[error("the document is not signed with ES384 in the form that the NSM uses")]
    DocumentAlgorithm,
    /// The ES384 signature does not belong to this document and its leaf certificate.
    #[error("the document's signature does not verify")]
    DocumentSignatureInvalid,
    /// The bundle does not begin with the root that is trusted for this call.
    #[error("the document does not chain to the trusted root; mock evidence, or another vendor's")]
    RootUntrusted,
    /// A mock root was asked for that is AWS's own.
    #[error("the AWS root cannot be used as a mock root")]
    RootNotMock,
    /// A certificate is not X.509 v3 DER, or not of the profile of the NSM's chain.
    #[error("certificate {index} of the chain is not usable: {why}")]
    CertificateInvalid {
        /// 0 is the root; the leaf comes last.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A certificate had expired at the time given.
    #[error("certificate {index} of the chain had expired at the time of verification")]
    CertificateExpired {
        /// 0 is the root; the leaf comes last.
        index: usize,
    },
    /// A certificate was not valid yet at the time given.
    #[error("certificate {index} of the chain was not valid yet at the time of verification")]
    CertificateNotYetValid {
        /// 0 is the root; the leaf comes last.
        index: usize,
    },
    /// The certificates do not issue one another in the order given, or a signature of theirs is wrong.
    #[error("the certificates do not form a chain: {0}")]
    ChainBroken(&'static str),
    /// The document says that it was made after the time of verification.
    #[error("the document's time is in the future of the verification time")]
    DocumentFromFuture,
    /// The document's time is outside the validity of its own leaf certificate.
    #[error("the document's time is outside the validity of its leaf certificate")]
    DocumentOutsideLeaf,
    /// PCR0, PCR1 or PCR2 is missing.
    #[error("PCR{0} is missing")]
    PcrMissing(u8),
    /// PCR0-2 are zero: the enclave runs in debug mode and its console and memory are open.
    #[error("the enclave runs in debug mode: its measurements are zero")]
    DebugMode,
    /// A debug document was asked for, and this is none.
    #[error("the enclave does not run in debug mode")]
    NotDebugMode,
    /// The document answers another challenge, or none.
    #[error("the nonce is not the one that was asked for")]
    NonceMismatch,
    /// The document is older than the verifier accepts.
    #[error("the document is {age_seconds} s old; at most {max_seconds} s are accepted")]
    TooOld {
        /// Age at the time of verification.
        age_seconds: i64,
        /// What the verifier accepts.
        max_seconds: i64,
    },
    /// PCR0, 1 and 2 (and 8, where given) are not those of an accepted image.
    #[error("the measurements are not those of an accepted image")]
    MeasurementMismatch,
    /// PCR16 is absent: no policy was committed, or it was not locked.
    #[error("PCR16 is missing: the enclave has committed to no policy")]
    PolicyNotCommitted,
    /// PCR16 is not that of an accepted policy bundle.
    #[error("PCR16 is not that of an accepted policy")]
    PolicyMismatch,
    /// `public_key` or `user_data` of the document are not those of the key that the evidence describes.
    #[error("the document does not bind the key that the evidence describes")]
    BindingMismatch,
    /// The token names another binding than the evidence proves.
    #[error("the token was made under another key, identity or policy than the evidence proves")]
    TokenBindingMismatch,
    /// The token says another kind of TEE than the evidence proves.
    #[error("the token names another kind of TEE than the evidence proves")]
    TeeMismatch,
    /// The key did not prove possession for this document and nonce.
    #[error("the proof of possession does not belong to this document and key")]
    PossessionInvalid,
    /// The bundle in the evidence has no such identity, or says other things about it.
    #[error("the policy in the evidence does not describe this identity")]
    IdentityNotInPolicy,
    /// Another identity of the policy than the one that was expected.
    #[error("the evidence is for another identity than the one expected")]
    IdentityMismatch,
    /// The pinned DID document does not list the attested key.
    #[error("the DID document does not list the attested key")]
    DidDocumentLacksKey,
    /// The evidence file has not the documented form.
    #[error("not an evidence file: {0}")]
    EvidenceMalformed(String),
    /// The measurements file is not what nitro-cli and `anchorhold-eif describe` print.
    #[error("not a measurements file: {0}")]
    MeasurementsMalformed(String),
    /// The policy bundle is not one.
    #[error("not a policy bundle: {0}")]
    PolicyMalformed(String),
}

impl Error {
    /// The stable snake_case name of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.code(),
            other => other.into(),
        }
    }
}
