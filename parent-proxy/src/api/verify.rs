//! `POST /verify`.

use std::sync::Arc;

use attestation::archive::{TimeAnchor, TimeStamp};
use attestation::results::{self, About};
use attestation::{AppraisalPolicy, Expectations, Measurements, MockRoot, Subject, Verifier};
use axum::Json;
use axum::extract::State;
use policy::{Bundle, PolicyDigest};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use identity::{UnixSeconds, did};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::body::Strict;
use super::{Admitted, App, Problem};

const MAX_BODY: usize = 256 * 1024;
/// Verifications at one time, bodies that still arrive included.
pub(crate) const MAX_VERIFYING: usize = 4;

/// What is to be verified, and what is expected. Give a `document` alone, or `evidence` and perhaps a `token` or a `credential`
/// with it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyRequest {
    /// Evidence file, base64url.
    #[serde(default)]
    evidence: Option<String>,
    /// Attestation document, base64url.
    #[serde(default)]
    document: Option<String>,
    /// Vouch token.
    #[serde(default)]
    token: Option<String>,
    /// Vouch credential.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    credential: Option<Value>,
    /// The challenge with which the evidence was asked for, hex.
    #[serde(default)]
    nonce: Option<String>,
    /// Accepted images, each as `nitro-cli describe-eif` prints them.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    measurements: Vec<Value>,
    /// Accepted policy bundles, TOML or canonical JSON text.
    #[serde(default)]
    policies: Vec<String>,
    /// The greatest accepted age of the document in seconds.
    #[serde(default)]
    max_age_seconds: Option<u32>,
    /// The audience that you are.
    #[serde(default)]
    audience: Option<String>,
    /// The DID document that you pinned; did:web needs it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    did_document: Option<Value>,
    /// The DID that must have signed; any of the accepted policies if left out.
    #[serde(default)]
    did: Option<String>,
    /// Name of the identity that must have signed; any of the accepted policies if left out.
    #[serde(default)]
    identity: Option<String>,
    /// Your own policy: the TOML text of a verifier's policy file.
    #[serde(default)]
    appraisal_policy: Option<String>,
    /// RFC 3161 time-stamp over SHA-256(document || token), base64url: then something old is judged at its own time.
    #[serde(default)]
    timestamp: Option<String>,
    /// Roots that the time-stamping authority may chain to, PEM.
    #[serde(default)]
    timestamp_roots: Vec<String>,
    /// The form of the answer: a verdict, the claims of an EAR, or a TRACE trust record of what was accepted.
    #[serde(default)]
    form: Form,
    /// Time of verification, RFC 3339. Left out: now, by this host's clock.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<UnixSeconds>,
    /// Accept an enclave in debug mode too.
    #[serde(default)]
    allow_debug: bool,
    /// Accept a mock of this root too, PEM.
    #[serde(default)]
    mock_root: Option<String>,
    /// Accept although nonce, measurements or policies were not given.
    #[serde(default)]
    inspect: bool,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// What `anchorhold-verify --json` prints.
    #[default]
    Verdict,
    /// What `anchorhold-verify --ear` prints.
    Ear,
    /// What `anchorhold-verify --trace` prints; a verdict where it was refused.
    Trace,
}

/// Verify a token, credential, evidence or document
///
/// The same verdict as `anchorhold-verify --json`, accepted or refused, with status 200. It is this host's word; who trusts
/// nobody here runs `anchorhold-verify`.
#[utoipa::path(post, path = "/verify", request_body = VerifyRequest, responses(
    (status = 200, body = Object),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn verify(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
    Strict(request): Strict<VerifyRequest, MAX_BODY>,
) -> Result<Json<Value>, Problem> {
    let slot = app.slot(&app.verifying, &caller.quota, None).await?;
    // A millisecond of arithmetic, during which other callers shall not wait.
    let verdict = tokio::task::spawn_blocking(move || {
        let verdict = answer(request);
        drop(slot);
        verdict
    })
    .await;
    verdict.unwrap_or_else(|error| Err(Problem::new(500, "verifier_failed", error.to_string()))).map(Json)
}

fn answer(request: VerifyRequest) -> Result<Value, Problem> {
    let invalid = |what: &str, why: String| Problem::new(422, "verify_request_invalid", format!("{what}: {why}"));
    let decode = |text: &Option<String>, what| {
        let bytes = text.as_ref().map(|text| BASE64URL_NOPAD.decode(text.as_bytes())).transpose();
        bytes.map_err(|_| Problem::from(identity::Error::Base64(what)))
    };
    let document = decode(&request.document, "the document")?;
    let alone = document.is_some();
    let judged = match (decode(&request.evidence, "the evidence")?, document) {
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        _ => return Err(invalid("evidence", "give either evidence or a document".into())),
    };
    let evidence = &judged;
    let credential = request.credential.map(|credential| credential.to_string().into_bytes());
    let subject = match (&request.token, &credential) {
        (Some(_), Some(_)) => return Err(invalid("token", "give a token or a credential, not both".into())),
        (None, None) if alone => Subject::Document(evidence),
        _ if alone => return Err(invalid("document", "what was signed needs evidence; a document alone names no key".into())),
        (Some(token), None) => Subject::Token { token, evidence },
        (None, Some(credential)) => Subject::Credential { credential, evidence },
        (None, None) => Subject::Evidence(evidence),
    };
    let nonce = request.nonce.map(|nonce| HEXLOWER_PERMISSIVE.decode(nonce.as_bytes())).transpose();
    let nonce = nonce.map_err(|_| invalid("nonce", "not hex".into()))?;
    let measurements = request.measurements.iter().map(|value| Measurements::parse(value.to_string().as_bytes()));
    let measurements = measurements.collect::<Result<Vec<_>, _>>().map_err(|e| invalid("measurements", e.to_string()))?;
    let policies = request.policies.iter().map(|text| Bundle::from_either(text.as_bytes()).map(|bundle| bundle.digest()));
    let policies: Vec<PolicyDigest> = policies.collect::<Result<_, _>>().map_err(|e| invalid("policies", e.to_string()))?;
    let did_document = request.did_document.map(|value| did::Document::parse(value.to_string().as_bytes())).transpose();
    let did_document = did_document.map_err(|e| invalid("did_document", e.to_string()))?;
    let root = request.mock_root.map(|pem| MockRoot::from_pem(pem.as_bytes())).transpose();
    let root = root.map_err(|e| invalid("mock_root", e.to_string()))?;
    let appraisal = request.appraisal_policy.map(|text| AppraisalPolicy::from_toml(text.as_bytes())).transpose();
    let appraisal = appraisal.map_err(|e| invalid("appraisal_policy", e.to_string()))?;
    let timestamp = decode(&request.timestamp, "the time-stamp")?;
    let timestamp = timestamp.map(|der| TimeStamp::new(&der, &request.timestamp_roots)).transpose();
    let timestamp = timestamp.map_err(|e| invalid("timestamp", e.to_string()))?;
    let at = request.at.unwrap_or_else(now);
    let verifier = Verifier {
        at,
        expectations: Expectations {
            nonce,
            measurements,
            policies,
            max_age_seconds: request.max_age_seconds.map(i64::from),
            audience: request.audience,
            did_document,
            did: request.did,
            identity: request.identity,
            appraisal,
        },
        anchor: timestamp.map(|stamp| Arc::new(stamp) as Arc<dyn TimeAnchor>),
        allow_debug: request.allow_debug,
        allow_mock: root,
        inspect: request.inspect,
    };
    let outcome = verifier.judge(subject);
    Ok(match (request.form, &outcome) {
        (Form::Ear, _) if alone => results::ear(&outcome, at, About::Document(evidence)),
        (Form::Ear, _) => results::ear(&outcome, at, About::Evidence(evidence)),
        (Form::Trace, Ok(verdict)) => results::trace(verdict, at).map_err(|e| invalid("form", e.to_string()))?,
        (_, Ok(verdict)) => serde_json::to_value(verdict).unwrap_or_default(),
        (_, Err(refusal)) => refusal.to_json(),
    })
}

#[expect(clippy::disallowed_methods, reason = "the verifier's own clock, and only where the caller gave no time")]
fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
