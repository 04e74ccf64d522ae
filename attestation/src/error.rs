//! Each rule and its error.

use identity::{Digest, Tee, UnixSeconds};

use crate::Field;

/// Why a document, evidence, a policy or a token was refused: one variant for each rule, [`Rule`]
/// without the details.
///
/// [`Error::code`] is stable: programs may match on it. The text is for people and may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::EnumDiscriminants)]
#[strum_discriminants(
    name(Rule),
    doc = "A rule that a document, its chain, evidence or a token must meet; each has its own error."
)]
#[strum_discriminants(
    derive(Hash, strum::IntoStaticStr, strum::EnumIter),
    strum(serialize_all = "snake_case")
)]
#[non_exhaustive]
pub enum Error {
    /// A format of the identity crate was refused; its own code counts.
    #[error(transparent)]
    Identity(#[from] identity::Error),

    // The envelope (AWS attestation process, section 3.1; RFC 9052 section 4.2).
    /// Longer than a document can be.
    #[error("longer than a document can be")]
    DocumentTooLong,
    /// No array of protected header, unprotected header, payload and signature, each of the type
    /// that it must have.
    #[error("not a COSE_Sign1: {0}")]
    DocumentNotCoseSign1(&'static str),
    /// A CBOR tag other than 18.
    #[error("a CBOR tag that is not that of COSE_Sign1")]
    DocumentTag,
    /// A head of the envelope is longer than needed, or a length indefinite.
    #[error("the envelope is not in its shortest encoding")]
    DocumentNotShortest,
    /// Something stands in the unprotected header.
    #[error("the unprotected header is not empty")]
    DocumentUnprotectedHeader,
    /// A well-formed document, and then more bytes.
    #[error("bytes follow after the document")]
    DocumentTrailingBytes,
    /// The protected header is not exactly `{1: -35}` (ES384).
    #[error("the protected header is not that of ES384 alone")]
    DocumentAlgorithm,
    /// The signature is not 96 bytes.
    #[error("the signature is not 96 bytes")]
    DocumentSignatureSize,
    /// The payload is empty or has more than 16384 bytes.
    #[error("the payload is empty or larger than 16384 bytes")]
    PayloadSize,

    // The payload map (section 3.2.1).
    /// The payload is no map of text keys.
    #[error("the payload is not a map with names for keys")]
    PayloadNotMap,
    /// The payload ends before its map does.
    #[error("the payload ends too early")]
    PayloadCut,
    /// Bytes follow after the payload map.
    #[error("bytes follow after the payload map")]
    PayloadTrailingBytes,
    /// The head of the payload map or of one of its keys is longer than needed.
    #[error("the payload map is not in its shortest encoding")]
    PayloadHeadNotShortest,
    /// A head in a field is longer than needed.
    #[error("{0} is not in its shortest encoding")]
    PayloadNotShortest(Field),
    /// A string, the register map or the bundle has no definite length.
    #[error("{0} is of indefinite length")]
    PayloadIndefinite(Field),
    /// A field that documents of enclaves do not have.
    #[error("the payload has a field that enclave documents do not have")]
    FieldUnknown,
    /// A field stands there twice.
    #[error("{0} stands there twice")]
    FieldTwice(Field),
    /// A field that must stand there does not.
    #[error("{0} is missing")]
    FieldMissing(Field),
    /// A field has another type than it must have.
    #[error("{0} is of the wrong type")]
    FieldType(Field),
    /// `module_id` is empty.
    #[error("module_id is empty")]
    ModuleIdEmpty,
    /// `digest` is not `SHA384`.
    #[error("digest is not SHA384")]
    DigestUnknown,
    /// `timestamp` is zero, or later than any date.
    #[error("timestamp is no time")]
    TimestampRange,
    /// `pcrs` has no entry or more than 32.
    #[error("pcrs has no entry, or more than 32")]
    PcrCount,
    /// A register beyond 31.
    #[error("pcrs has an index beyond 31")]
    PcrIndex,
    /// A register stands there twice.
    #[error("a register stands there twice")]
    PcrTwice,
    /// The value of a register is not 48 bytes.
    #[error("the value of a register is not 48 bytes")]
    PcrSize,
    /// `cabundle` has no certificate, or more than 4: root, region, zone, instance.
    #[error("cabundle has no certificate, or more than 4")]
    CabundleCount,
    /// A certificate is empty or has more than 1024 bytes.
    #[error("a certificate is empty or larger than 1024 bytes")]
    CertificateSize,
    /// `public_key` is empty or has more than 1024 bytes.
    #[error("public_key is empty or larger than 1024 bytes")]
    PublicKeySize,
    /// `user_data` has more than 512 bytes.
    #[error("user_data is larger than 512 bytes")]
    UserDataSize,
    /// `nonce` has more than 512 bytes.
    #[error("nonce is larger than 512 bytes")]
    NonceSize,

    // The chain (section 3.2.3; RFC 5280 section 6).
    /// The bundle does not begin with the root that is trusted for this call.
    #[error(
        "the document chains neither to the root of AWS Nitro nor to that of a mock that was given"
    )]
    RootUntrusted,
    /// A mock root was asked for that is AWS's own.
    #[error("the AWS root cannot be used as a mock root")]
    RootNotMock,
    /// A mock root that is no certificate.
    #[error("not a root certificate: {0}")]
    RootMalformed(&'static str),
    /// A certificate is not X.509 in DER.
    #[error("certificate {0} of the chain is not X.509 in DER")]
    CertificateMalformed(usize),
    /// A certificate is not of version 3.
    #[error("certificate {0} of the chain is not of version 3")]
    CertificateVersion(usize),
    /// A certificate is signed with something else than ECDSA and SHA-384.
    #[error("certificate {0} of the chain is not signed with ECDSA and SHA-384")]
    CertificateAlgorithm(usize),
    /// The key of a certificate is not on P-384.
    #[error("the key of certificate {0} of the chain is not on P-384")]
    CertificateKey(usize),
    /// An extension stands in a certificate twice.
    #[error("an extension stands in certificate {0} of the chain twice")]
    CertificateExtensionTwice(usize),
    /// A critical extension that is not known here.
    #[error("certificate {0} of the chain has a critical extension that is not known")]
    CertificateCriticalExtension(usize),
    /// A certificate was not valid yet at the time given. 0 is the root; the leaf comes last.
    #[error("certificate {index} of the chain is not valid before {from}; the time is {at}")]
    CertificateNotYetValid {
        /// 0 is the root; the leaf comes last.
        index: usize,
        /// The begin of its validity.
        from: UnixSeconds,
        /// The time that it was held against.
        at: UnixSeconds,
    },
    /// A certificate had expired at the time given. 0 is the root; the leaf comes last.
    #[error("certificate {index} of the chain expired at {until}; the time is {at}{}", .leaf.then_some("; evidence lasts for three hours: ask for new evidence, or bring a time-stamp").unwrap_or_default())]
    CertificateExpired {
        /// 0 is the root; the leaf comes last.
        index: usize,
        /// The end of its validity.
        until: UnixSeconds,
        /// The time that it was held against.
        at: UnixSeconds,
        /// It is the leaf.
        leaf: bool,
    },
    /// A CA certificate has no BasicConstraints, or not critical ones.
    #[error("certificate {0} of the chain has no critical basic constraints")]
    CaConstraints(usize),
    /// A certificate above the leaf is not marked as a CA.
    #[error("certificate {0} of the chain is not marked as a CA")]
    CaNotMarked(usize),
    /// More certificates follow than a path length allows.
    #[error(
        "more certificates follow after certificate {0} of the chain than its path length allows"
    )]
    CaPathLength(usize),
    /// A certificate above the leaf has no KeyUsage with keyCertSign.
    #[error("the key of certificate {0} of the chain may not sign certificates")]
    CaKeyUsage(usize),
    /// The leaf is marked as a CA.
    #[error("the leaf certificate is a CA")]
    LeafIsCa,
    /// The leaf has no KeyUsage with digitalSignature.
    #[error("the leaf certificate's key may not make signatures")]
    LeafKeyUsage,
    /// Two certificates have one subject.
    #[error("certificate {0} of the chain has the subject of an earlier one")]
    ChainSubjectTwice(usize),
    /// A certificate names another issuer than the one before it.
    #[error("certificate {0} of the chain names another issuer than the one before it")]
    ChainIssuer(usize),
    /// A certificate's signature is not that of the one before it.
    #[error("a certificate of the chain is not signed by the one before it")]
    ChainSignature,
    /// webpki, which looks at the same chain again, does not find the path that is given.
    #[error("no valid path from the leaf to the root: {0}")]
    ChainPath(&'static str),

    // The document as a whole.
    /// The ES384 signature does not belong to this document and its leaf certificate.
    #[error("the document's signature does not verify")]
    DocumentSignatureInvalid,
    /// The document says that it was made after the time of verification.
    #[error("the document was made at {made}, after the time of verification, {at}")]
    DocumentFromFuture {
        /// When it says that it was made.
        made: UnixSeconds,
        /// The time that it was held against.
        at: UnixSeconds,
    },
    /// The document's time is outside the validity of its own leaf certificate.
    #[error("the document was made at {made}, its leaf certificate holds from {from} to {until}")]
    DocumentOutsideLeaf {
        /// When it says that it was made.
        made: UnixSeconds,
        /// The begin of the leaf's validity.
        from: UnixSeconds,
        /// The end of the leaf's validity.
        until: UnixSeconds,
    },
    /// PCR0, PCR1 or PCR2 is missing.
    #[error("PCR{0} is missing")]
    PcrMissing(u8),
    /// PCR0-2 are zero: the enclave runs in debug mode and its console and memory are open.
    #[error("the enclave runs in debug mode: its measurements are zero")]
    DebugMode,
    /// A debug document was asked for, and this is none.
    #[error("the enclave does not run in debug mode")]
    NotDebugMode,

    // What the verifier expects.
    /// The verifier policy denies these measurements.
    #[error("the verifier policy denies this image: {0}")]
    MeasurementDenied(String),
    /// The verifier policy denies a certificate of the chain.
    #[error("the verifier policy denies certificate {index} of the chain: {reason}")]
    CertificateDenied {
        /// 0 is the root; the leaf comes last.
        index: usize,
        /// What the policy says of it.
        reason: String,
    },
    /// The document answers no challenge.
    #[error("the document has no nonce, so it answers no challenge")]
    NonceAbsent,
    /// The document answers another challenge.
    #[error("the nonce is {found}, and {expected} was asked for")]
    NonceMismatch {
        /// Hex.
        found: String,
        /// Hex.
        expected: String,
    },
    /// The document is older than the verifier accepts.
    #[error("the document is {age_seconds} s old; at most {max_seconds} s are accepted")]
    TooOld {
        /// Age at the time of verification.
        age_seconds: i64,
        /// What the verifier accepts.
        max_seconds: i64,
    },
    /// PCR0, 1 and 2 (and 3, 4 and 8, where given) are not those of an accepted image.
    #[error("the measurements are not those of an accepted image: {0}")]
    MeasurementMismatch(String),
    /// PCR16 is absent: no policy was committed, or it was not locked.
    #[error("PCR16 is missing: the enclave has committed to no policy bundle")]
    PolicyNotCommitted,
    /// PCR16 is not that of an accepted policy bundle.
    #[error("PCR16 is not that of an accepted bundle: {0}")]
    PolicyMismatch(String),
    /// A state is asked for, and the key is kept in none: it ends with its boot.
    #[error(
        "the verifier asks for the {wanted}, and this key is kept in none: it ends with its boot"
    )]
    StateAbsent {
        /// What was asked for.
        wanted: String,
    },
    /// The key is kept in another state.
    #[error("the key is kept in another state: {found}, and {expected} was expected")]
    StateMismatch {
        /// What the evidence names.
        found: String,
        /// What the verifier names.
        expected: String,
    },
    /// The state has not come as far as the verifier wants.
    #[error("the state's epoch is {found}, and the verifier takes none below {lowest}")]
    EpochTooLow {
        /// Of the evidence.
        found: u64,
        /// Of the verifier.
        lowest: u64,
    },
    /// The key is kept in a way that the verifier does not want.
    #[error("the key's custody is {found:?}, and the verifier takes none below {lowest:?}")]
    CustodyTooLow {
        /// Of the evidence; `ephemeral` where it names no state.
        found: String,
        /// Of the verifier.
        lowest: String,
    },
    /// The verifier policy asks for an epoch, and the binding commits to none.
    #[error("the verifier asks for epoch {lowest} or later, and this evidence commits to no epoch")]
    EpochAbsent {
        /// What the verifier accepts.
        lowest: u64,
    },
    /// The identity's DID is not one that the verifier accepts.
    #[error("the identity's DID is {found}; accepted: {accepted}")]
    DidNotAccepted {
        /// The identity's.
        found: String,
        /// Those that the verifier policy names.
        accepted: String,
    },
    /// The issuer of the token or credential is not one that the verifier accepts.
    #[error("the issuer is {found}; accepted: {accepted}")]
    IssuerNotAccepted {
        /// Of the token or credential.
        found: String,
        /// Those that the verifier policy names.
        accepted: String,
    },

    // Evidence: from the document to the key, and to what the key signed.
    /// `public_key` or `user_data` of the document are not those of the key that the evidence
    /// describes.
    #[error("the document does not bind the key that the evidence describes: its {0} is another")]
    BindingMismatch(Field),
    /// The token names another binding than the evidence proves.
    #[error(
        "it was made under another key, identity or bundle than the evidence proves: its binding is {found}, that of the evidence {expected}"
    )]
    TokenBindingMismatch {
        /// Of the token or credential.
        found: Digest<32>,
        /// Of the evidence.
        expected: Digest<32>,
    },
    /// The token says another kind of TEE than the evidence proves.
    #[error("it says that its key lives in {found}, the evidence proves {expected}")]
    TeeMismatch {
        /// Of the token or credential.
        found: Tee,
        /// Of the evidence.
        expected: Tee,
    },
    /// The key did not prove possession for this document and nonce.
    #[error("the proof of possession does not belong to this document and key")]
    PossessionInvalid,
    /// The bundle in the evidence has no such identity, or says other things about it.
    #[error("the bundle in the evidence does not describe this identity: {0}")]
    IdentityNotInPolicy(String),
    /// Another identity of the policy than the one that was expected.
    #[error("the evidence is for {found}, and {expected} was expected")]
    IdentityMismatch {
        /// Of the evidence: a name or a DID.
        found: String,
        /// What the verifier expects in its place.
        expected: String,
    },
    /// The pinned DID document does not list the attested key.
    #[error("the DID document does not list the attested key, {0}")]
    DidDocumentLacksKey(String),

    // An independent time anchor (RFC 3161).
    /// Not a time-stamp response or token.
    #[error("not an RFC 3161 time-stamp: {0}")]
    TimestampMalformed(&'static str),
    /// The time-stamp is for other bytes.
    #[error("the time-stamp is for another document or token")]
    TimestampImprint,
    /// The time-stamp's signature does not verify.
    #[error("the time-stamp's signature does not verify: {0}")]
    TimestampSignature(&'static str),
    /// The authority of the time-stamp does not chain to a root that was given, or may not make
    /// time-stamps.
    #[error("the time-stamping authority is not trusted: {0}")]
    TimestampUntrusted(&'static str),
    /// The witness's time is after the time of verification.
    #[error("the anchored time, {time}, is after the time of verification, {at}")]
    AnchorFromFuture {
        /// The witness's.
        time: UnixSeconds,
        /// The verifier's.
        at: UnixSeconds,
    },
    /// The anchored time is outside the time in which the leaf certificate could vouch for the
    /// document.
    #[error(
        "the anchored time, {time}, is after the end of the document's leaf certificate, {until}"
    )]
    AnchorOutsideLeaf {
        /// The witness's.
        time: UnixSeconds,
        /// The end of the leaf's validity.
        until: UnixSeconds,
    },
    /// The anchored time is before that of the document or token.
    #[error("the anchored time, {time}, is before the document or token was made, {made}")]
    AnchorTooEarly {
        /// The witness's.
        time: UnixSeconds,
        /// Of the document or token.
        made: UnixSeconds,
    },

    // Files that a verifier brings.
    /// The evidence file has not the documented form.
    #[error("not an evidence file: {0}")]
    EvidenceMalformed(String),
    /// The measurements file is not what nitro-cli and `anchorhold-eif describe` print.
    #[error("not a measurements file: {0}")]
    MeasurementsMalformed(String),
    /// The policy bundle is not one.
    #[error("{0}")]
    PolicyMalformed(String),
    /// The verifier policy is not one.
    #[error("not a verifier policy: {0}")]
    AppraisalPolicyMalformed(String),
    /// The verifier's own key is not one.
    #[error("not an Ed25519 private key in PEM (PKCS#8)")]
    VerifierKeyMalformed,
}

impl From<policy::Error> for Error {
    fn from(error: policy::Error) -> Self {
        match error {
            policy::Error::Identity(error) => Self::Identity(error),
            other => Self::PolicyMalformed(other.to_string()),
        }
    }
}

impl Error {
    /// The stable snake_case name of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.code(),
            other => Rule::from(other).code(),
        }
    }
}

impl Rule {
    /// The stable snake_case name of this rule: what [`Error::code`] gives where it is broken.
    pub fn code(self) -> &'static str {
        self.into()
    }
}
