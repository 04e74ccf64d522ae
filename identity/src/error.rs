//! Why a format was refused.

use crate::time::{TimeInvalid, UnixSeconds};

/// Why an identity, a token, a credential or a statement was refused.
///
/// [`Error::code`] is stable: programs may match on it. The text is for people and may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// The text is not JSON at all.
    #[error("not valid JSON: {0}")]
    JsonMalformed(String),
    /// A number with a fraction or an exponent: implementations of RFC 8785 print those
    /// differently.
    #[error(
        "JSON holds a number that is not a plain integer; write it in smaller units (cents), for bounds and limits compare integers, or as a string if nothing compares it"
    )]
    JsonFloat,
    /// An integer outside of -(2^53-1)..=2^53-1, which not every JSON reader keeps exact (RFC 8259
    /// section 6).
    #[error("JSON holds an integer beyond 2^53-1; write it as a string")]
    JsonIntegerRange,
    /// An object names a member twice, and readers disagree on which one counts (RFC 8259 section
    /// 4).
    #[error("JSON object holds the key {0:?} twice")]
    JsonDuplicateKey(String),
    /// An object that some readers take for something else than an object.
    #[error(
        "JSON object holds a name that is kept for a reader's own use ($serde_json::private::)"
    )]
    JsonPrivateName,
    /// Nested deeper than is read here.
    #[error("JSON nested too deeply")]
    JsonTooDeep,
    /// Valid JSON of another shape than the one asked for.
    #[error("JSON of the wrong shape: {0}")]
    JsonShape(String),
    /// Not base64url without padding and without stray bits (RFC 4648 section 5).
    #[error("not strict base64url in {0}")]
    Base64(&'static str),
    /// Not lowercase hex of the expected length.
    #[error("not {expected} bytes of lowercase hex")]
    Hex {
        /// Number of bytes that were expected.
        expected: usize,
    },
    /// Not CBOR, or not the one deterministic encoding (RFC 8949 section 4.2.1).
    #[error("not deterministic CBOR: {0}")]
    Cbor(String),
    /// A CBOR head is longer than it needs to be (RFC 8949 section 4.2.1).
    #[error("not deterministic CBOR: a head is longer than it needs to be")]
    CborNotShortest,
    /// A CBOR string, array or map without a length (RFC 8949 section 3.2).
    #[error("not deterministic CBOR: indefinite length")]
    CborIndefinite,
    /// The CBOR ends too early.
    #[error("not CBOR: it ends too early")]
    CborCut,
    /// Not a COSE_Sign1 of the profile used here (RFC 9052 section 4.2).
    #[error("not the expected COSE_Sign1: {0}")]
    Cose(&'static str),
    /// Not a DID of a supported method.
    #[error("not a did:key or did:web that is supported here: {0}")]
    DidInvalid(&'static str),
    /// A DID document that is not one, or not of the DID asked for.
    #[error("not the DID document that was expected: {0}")]
    DidDocumentInvalid(&'static str),
    /// Not a public key of a supported kind, or a weak one.
    #[error("not a usable Ed25519 or P-256 public key: {0}")]
    KeyInvalid(&'static str),
    /// The signature does not belong to these bytes and this key.
    #[error("the signature does not verify: what was signed was changed, or another key signed it")]
    SignatureInvalid,
    /// An intent without an action, or with fields that are too long or hold control characters.
    #[error("not a usable intent: {0}")]
    IntentInvalid(&'static str),
    /// The compact JWS has not the form that this profile fixes.
    #[error("not a JWS of the expected form: {0}")]
    TokenMalformed(&'static str),
    /// `alg` in the header is not the algorithm of the key.
    #[error("the token's alg is not the algorithm of its key")]
    AlgorithmMismatch,
    /// `kid` names another key than the one that verifies.
    #[error("the kid is not the id of the key that verifies")]
    KeyIdMismatch,
    /// Issuer and subject, or issuer and key id, do not belong together.
    #[error("issuer, subject and key id do not name one DID")]
    IssuerMismatch,
    /// The time given is after the end of validity.
    #[error("the {what} expired at {until}; the time is {at}")]
    Expired {
        /// `token`, `credential` and so on.
        what: &'static str,
        /// The end of its validity.
        until: UnixSeconds,
        /// The time that it was held against.
        at: UnixSeconds,
    },
    /// The time given is before the begin of validity.
    #[error("the {what} is not valid before {from}; the time is {at}")]
    NotYetValid {
        /// `token`, `credential` and so on.
        what: &'static str,
        /// The begin of its validity.
        from: UnixSeconds,
        /// The time that it was held against.
        at: UnixSeconds,
    },
    /// The verifier expected another audience, or the token names one and none was given.
    #[error("{}", audiences(.named.as_deref(), .expected.as_deref()))]
    AudienceMismatch {
        /// For whom it was made.
        named: Option<String>,
        /// Who the verifier is.
        expected: Option<String>,
    },
    /// Not a Vouch credential of this profile.
    #[error("not a Vouch credential: {0}")]
    CredentialMalformed(String),
    /// Credentials are signed with `eddsa-jcs-2022`, so only an Ed25519 identity can make one.
    #[error("credentials need an Ed25519 identity; this one is P-256")]
    CredentialNeedsEd25519,
    /// A credential's intent needs action, target and resource, none of them empty.
    #[error("a credential's intent needs action, target and resource")]
    CredentialIntentIncomplete,
    /// Not a time that RFC 3339 can write with whole seconds.
    #[error(transparent)]
    TimeInvalid(#[from] TimeInvalid),
    /// A delegation that this one may not take up.
    #[error("the delegation cannot be taken up: {0}")]
    DelegationInvalid(&'static str),
    /// More scope is wanted than was given.
    #[error("{} is more than was delegated, {}", clipped(.wanted), clipped(.given))]
    ScopeExceedsParent {
        /// What is asked for: words of a scope, or action and target.
        wanted: String,
        /// What was delegated.
        given: String,
    },
    /// Another resource is wanted than was given.
    #[error("the resource {} is not within the one that was delegated, {}", clipped(.wanted), clipped(.given))]
    ResourceExceedsParent {
        /// What is asked for.
        wanted: String,
        /// What was delegated.
        given: String,
    },
    /// A resource about which a label or a prefix decides, or a pattern of resources, is not
    /// spelled in the one way: see [`crate::resource`].
    #[error("the resource is not spelled in the one way that labels and prefixes compare: {0}")]
    ResourceNotCanonical(&'static str),
    /// A grant is not by the one to whom the grant before it was given.
    #[error("a grant is not by whom the one before it was given to")]
    SubjectIssuerMismatch,
    /// A grant is not valid now, or not within the one before it.
    #[error("outside of the time for which it was granted: {0}")]
    OutsideValidityWindow(String),
    /// The entry or the list of a credential's status is not as the standard has it.
    #[error("not a usable status: {0}")]
    StatusInvalid(&'static str),
    /// Not a scope (RFC 6749 section 3.3), or one of more than 64 words.
    #[error("not a scope")]
    ScopeInvalid,
    /// A caller's proof holds for longer than a minute.
    #[error("a proof of a request holds for at most 60 seconds")]
    ProofTooLong,
    /// The successor statement does not link these two keys.
    #[error("not a valid successor statement: {0}")]
    SuccessionInvalid(&'static str),
}

fn audiences(named: Option<&str>, expected: Option<&str>) -> String {
    match (named, expected) {
        (Some(named), Some(expected)) => format!(
            "made for the audience {}, and {} was expected",
            clipped(named),
            clipped(expected)
        ),
        (Some(named), None) => format!(
            "made for the audience {}; if that is you, say so",
            clipped(named)
        ),
        (None, Some(expected)) => format!(
            "made for no audience, and {} was expected; whoever has it could show it to anybody",
            clipped(expected)
        ),
        (None, None) => "made for another audience".into(),
    }
}

/// In quotation marks, and of what is long only the beginning: 200 characters.
fn clipped(text: &str) -> String {
    let mut characters = text.chars();
    let begin: String = characters.by_ref().take(200).collect();
    let rest = if characters.next().is_some() {
        "..."
    } else {
        ""
    };
    format!("{begin:?}{rest}")
}

impl Error {
    /// The stable snake_case name of this error.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}
