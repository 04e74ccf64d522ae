//! What is to be judged, and what is expected of it.

use identity::{UnixSeconds, did};

use crate::anchor::TimeAnchor;
use crate::{AppraisalPolicy, Measurements, MockRoot};
use policy::PolicyDigest;

/// What is to be judged.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// An attestation document alone.
    Document(&'a [u8]),
    /// An evidence file alone.
    Evidence(&'a [u8]),
    /// A Vouch token and the evidence for its key.
    Token {
        /// Compact JWS.
        token: &'a str,
        /// Evidence file.
        evidence: &'a [u8],
    },
    /// A Vouch credential and the evidence for its key.
    Credential {
        /// JSON.
        credential: &'a [u8],
        /// Evidence file.
        evidence: &'a [u8],
    },
}

/// Subject, expectations, and what the verifier is willing to accept beyond genuine documents.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What is to be judged.
    pub subject: Subject<'a>,
    /// The time of verification.
    pub at: UnixSeconds,
    /// The verifier's own challenge.
    pub nonce: Option<&'a [u8]>,
    /// The accepted images; empty for any.
    pub measurements: &'a [Measurements],
    /// The accepted policies; empty for any.
    pub policies: &'a [PolicyDigest],
    /// The greatest accepted age of the document in seconds.
    pub max_age_seconds: Option<i64>,
    /// The audience that the verifier is.
    pub audience: Option<&'a str>,
    /// The pinned DID document, for did:web.
    pub did_document: Option<&'a did::Document>,
    /// The DID that must have signed; any identity of an accepted policy if not given.
    pub did: Option<&'a str>,
    /// The name of the identity that must have signed; any of an accepted policy if not given.
    pub identity: Option<&'a str>,
    /// The verifier's own policy; what it names must hold besides everything else that is given here.
    pub appraisal: Option<&'a AppraisalPolicy>,
    /// A witness of the time at which document and token existed. With it, both are verified at their own times, however long
    /// ago, and `at` only says that the witness is not of the future.
    pub anchor: Option<&'a dyn TimeAnchor>,
    /// Accept documents of debug mode too.
    pub allow_debug: bool,
    /// Accept documents of this mock too.
    pub allow_mock: Option<&'a MockRoot>,
    /// Accept although something that matters was not asked to be checked.
    pub inspect: bool,
}

impl<'a> Case<'a> {
    /// A case with no expectations, which is refused as [`Reason::Unchecked`](crate::judge::Reason::Unchecked).
    pub fn new(subject: Subject<'a>, at: UnixSeconds) -> Self {
        Self {
            subject,
            at,
            nonce: None,
            measurements: &[],
            policies: &[],
            max_age_seconds: None,
            audience: None,
            did_document: None,
            did: None,
            identity: None,
            appraisal: None,
            anchor: None,
            allow_debug: false,
            allow_mock: None,
            inspect: false,
        }
    }
}
