//! One question, one verdict: what `anchorhold-verify`, `POST /verify` and the demonstration all ask.

use data_encoding::HEXLOWER;
use identity::did;
use identity::token::Claims;
use identity::{Digest, UnixSeconds};
use serde::Serialize;
use serde_json::{Value, json};

use crate::policy::PolicyDigest;
use crate::{
    Attested, AttestedKey, Error, Evidence, Expectations, Measurements, MockRoot, Unchecked, aws_root_g1, verify_debug,
    verify_genuine, verify_mock,
};

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
    /// Accept documents of debug mode too.
    pub allow_debug: bool,
    /// Accept documents of this mock too.
    pub allow_mock: Option<&'a MockRoot>,
    /// Accept although something that matters was not asked to be checked.
    pub inspect: bool,
}

impl<'a> Case<'a> {
    /// A case with no expectations, which is refused as [`Refusal::Unchecked`].
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
            allow_debug: false,
            allow_mock: None,
            inspect: false,
        }
    }
}

/// Why a case was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Something was checked and found wrong.
    #[error(transparent)]
    Wrong(#[from] Error),
    /// Everything checked was right, but not everything that matters was checked.
    #[error("not checked: {}; give what is expected, or say that you only want to look", names(.0))]
    Unchecked(Vec<Unchecked>),
}

impl Refusal {
    /// The stable snake_case name of this refusal.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Wrong(error) => error.code(),
            Self::Unchecked(_) => "unchecked",
        }
    }

    /// `{"verdict":"refused","error":{"code","message"}}`.
    pub fn to_json(&self) -> Value {
        json!({"verdict": "refused", "error": {"code": self.code(), "message": self.to_string()}})
    }
}

fn names(unchecked: &[Unchecked]) -> String {
    let name = |u: &Unchecked| match u {
        Unchecked::Nonce => "nonce",
        Unchecked::Measurements => "measurements",
        Unchecked::Policy => "policy",
        Unchecked::DidDocument => "DID document",
    };
    unchecked.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What was accepted. Its JSON is the answer of `anchorhold-verify --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// `genuine`, `debug` or `mock`.
    pub verdict: &'static str,
    /// What nobody asked to be checked.
    pub unchecked: Vec<Unchecked>,
    /// SHA-256 of the root certificate (DER).
    pub root: Digest<32>,
    /// The enclave's name.
    pub module_id: String,
    /// When the document was made.
    pub timestamp: UnixSeconds,
    /// Register index to value.
    pub pcrs: serde_json::Map<String, Value>,
    /// Hex, or null.
    pub nonce: Option<String>,
    /// Hex, or null.
    pub user_data: Option<String>,
    /// Hex, or null.
    pub public_key: Option<String>,
    /// The attested key, where evidence was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyFacts>,
    /// The claims of the token or the content of the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Value>,
}

/// The attested key.
#[derive(Debug, Clone, Serialize)]
pub struct KeyFacts {
    /// Name of the identity in the policy.
    pub name: String,
    /// Its DID.
    pub did: String,
    /// DID URL of the key.
    pub kid: String,
    /// Version within the boot.
    pub version: u32,
    /// What tokens of this key name.
    pub binding: Digest<32>,
    /// Digest of the policy that governs the key.
    pub policy: Digest<48>,
}

/// Judges: document, chain, expectations, then evidence and token where there are any.
pub fn judge(case: &Case<'_>) -> Result<Verdict, Refusal> {
    let evidence = match case.subject {
        Subject::Document(_) => None,
        Subject::Evidence(evidence) | Subject::Token { evidence, .. } | Subject::Credential { evidence, .. } => {
            Some(Evidence::parse(evidence)?)
        }
    };
    let document = match (&evidence, case.subject) {
        (Some(evidence), _) => evidence.document(),
        (None, Subject::Document(document)) => document,
        (None, _) => unreachable!("every other subject has evidence"),
    };
    let genuine = verify_genuine(document, case.at);
    match (genuine, case.allow_mock) {
        (Ok(document), _) => judge_as(case, &document, evidence.as_ref(), aws_root_g1()),
        (Err(Error::DebugMode), _) if case.allow_debug => {
            judge_as(case, &verify_debug(document, case.at)?, evidence.as_ref(), aws_root_g1())
        }
        (Err(Error::RootUntrusted), Some(root)) => {
            judge_as(case, &verify_mock(document, root, case.at)?, evidence.as_ref(), root.as_der())
        }
        (Err(error), _) => Err(error.into()),
    }
}

fn judge_as<A: Attested + Clone>(
    case: &Case<'_>,
    document: &A,
    evidence: Option<&Evidence>,
    root: &[u8],
) -> Result<Verdict, Refusal> {
    let expectations = Expectations {
        nonce: case.nonce,
        measurements: case.measurements,
        policies: case.policies,
        max_age_seconds: case.max_age_seconds,
    };
    let Some(evidence) = evidence else {
        let unchecked = expectations.check_document(document, case.at)?;
        return finish(case, verdict(document, root, unchecked));
    };
    let mut key = evidence.verify(document, &expectations, case.at)?;
    let described = key.description();
    if case.did.is_some_and(|did| did != described.did) || case.identity.is_some_and(|name| name != described.name) {
        return Err(Error::IdentityMismatch.into());
    }
    if let Some(did_document) = case.did_document {
        key.require_did_document(did_document)?;
    }
    let mut verdict = verdict(document, root, key.unchecked().to_vec());
    verdict.claims = claims(case, &key)?;
    verdict.key = Some(facts(&key));
    finish(case, verdict)
}

fn claims<A: Attested>(case: &Case<'_>, key: &AttestedKey<A>) -> Result<Option<Value>, Error> {
    match case.subject {
        Subject::Document(_) | Subject::Evidence(_) => Ok(None),
        Subject::Token { token, .. } => {
            let claims: Claims = key.verify_token(token, case.at, case.audience)?;
            Ok(serde_json::to_value(claims).ok())
        }
        Subject::Credential { credential, .. } => {
            key.verify_credential(credential, case.at, case.audience)?;
            Ok(Some(identity::json::parse(credential)?))
        }
    }
}

fn finish(case: &Case<'_>, verdict: Verdict) -> Result<Verdict, Refusal> {
    if verdict.unchecked.is_empty() || case.inspect { Ok(verdict) } else { Err(Refusal::Unchecked(verdict.unchecked)) }
}

fn verdict<A: Attested>(document: &A, root: &[u8], unchecked: Vec<Unchecked>) -> Verdict {
    let said = document.document();
    let hex = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| HEXLOWER.encode(bytes));
    Verdict {
        verdict: A::VERDICT,
        unchecked,
        root: identity::sha256(root),
        module_id: said.module_id.clone(),
        timestamp: said.made(),
        pcrs: said.pcrs().iter().map(|(index, pcr)| (index.to_string(), Value::String(pcr.to_string()))).collect(),
        nonce: hex(&said.nonce),
        user_data: hex(&said.user_data),
        public_key: hex(&said.public_key),
        key: None,
        claims: None,
    }
}

fn facts<A: Attested>(key: &AttestedKey<A>) -> KeyFacts {
    let described = key.description().clone();
    KeyFacts {
        name: described.name,
        did: described.did,
        kid: described.kid,
        version: described.version,
        binding: key.binding(),
        policy: key.bundle().digest().digest(),
    }
}
