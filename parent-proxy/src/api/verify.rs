//! `POST /verify`.

use std::sync::Arc;

use attestation::archive::{TimeAnchor, TimeStamp};
use attestation::results::{self, About};
use attestation::{AppraisalPolicy, Expectations, Measurements, MockRoot, Subject, Verifier};
use axum::Json;
use axum::extract::State;
use policy::Bundle;

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
    verdict
        .unwrap_or_else(|error| Err(Problem::new(500, "verifier_failed", error.to_string())))
        .map(Json)
}

fn answer(request: VerifyRequest) -> Result<Value, Problem> {
    let credential = request
        .credential
        .as_ref()
        .map(|credential| credential.to_string().into_bytes());
    let token = request.token.clone();
    let document = decode(&request.document, "the document")?;
    let evidence = decode(&request.evidence, "the evidence")?;
    let (about, subject) = match (&evidence, &document) {
        (Some(evidence), None) => (
            About::Evidence(evidence),
            of_evidence(evidence, &token, &credential)?,
        ),
        (None, Some(document)) if token.is_none() && credential.is_none() => {
            (About::Document(document), Subject::Document(document))
        }
        (None, Some(_)) => {
            let why = "what was signed needs evidence; a document alone names no key";
            return Err(invalid("document", why));
        }
        _ => return Err(invalid("evidence", "give either evidence or a document")),
    };
    let form = request.form;
    let verifier = verifier(request)?;
    let outcome = verifier.judge(subject);
    Ok(match (form, &outcome) {
        (Form::Ear, _) => results::ear(&outcome, verifier.at, about),
        (Form::Trace, Ok(verdict)) => {
            results::trace(verdict, verifier.at).map_err(|error| invalid("form", error))?
        }
        (_, Ok(verdict)) => serde_json::to_value(verdict).unwrap_or_default(),
        (_, Err(refusal)) => refusal.to_json(),
    })
}

fn of_evidence<'a>(
    evidence: &'a [u8],
    token: &'a Option<String>,
    credential: &'a Option<Vec<u8>>,
) -> Result<Subject<'a>, Problem> {
    match (token, credential) {
        (Some(_), Some(_)) => Err(invalid("token", "give a token or a credential, not both")),
        (Some(token), None) => Ok(Subject::Token { token, evidence }),
        (None, Some(credential)) => Ok(Subject::Credential {
            credential,
            evidence,
        }),
        (None, None) => Ok(Subject::Evidence(evidence)),
    }
}

/// The verifier that a request describes.
fn verifier(request: VerifyRequest) -> Result<Verifier, Problem> {
    let root = request
        .mock_root
        .as_ref()
        .map(|pem| MockRoot::from_pem(pem.as_bytes()))
        .transpose();
    let stamp = decode(&request.timestamp, "the time-stamp")?;
    let stamp = stamp
        .map(|der| TimeStamp::new(&der, &request.timestamp_roots))
        .transpose();
    let stamp = stamp.map_err(|error| invalid("timestamp", error))?;
    Ok(Verifier {
        at: request.at.unwrap_or_else(now),
        anchor: stamp.map(|stamp| Arc::new(stamp) as Arc<dyn TimeAnchor>),
        allow_debug: request.allow_debug,
        allow_mock: root.map_err(|error| invalid("mock_root", error))?,
        inspect: request.inspect,
        expectations: expectations(request)?,
    })
}

fn expectations(request: VerifyRequest) -> Result<Expectations, Problem> {
    let nonce = request
        .nonce
        .map(|nonce| HEXLOWER_PERMISSIVE.decode(nonce.as_bytes()))
        .transpose();
    let image = |value: &Value| Measurements::parse(value.to_string().as_bytes());
    let measurements = request
        .measurements
        .iter()
        .map(image)
        .collect::<Result<_, _>>();
    let digest = |text: &String| Bundle::from_either(text.as_bytes()).map(|bundle| bundle.digest());
    let policies = request
        .policies
        .iter()
        .map(digest)
        .collect::<Result<_, _>>();
    let did_document = request
        .did_document
        .map(|value| did::Document::parse(value.to_string().as_bytes()))
        .transpose();
    let appraisal = request
        .appraisal_policy
        .map(|text| AppraisalPolicy::from_toml(text.as_bytes()))
        .transpose();
    Ok(Expectations {
        nonce: nonce.map_err(|_| invalid("nonce", "not hex"))?,
        measurements: measurements.map_err(|error| invalid("measurements", error))?,
        policies: policies.map_err(|error| invalid("policies", error))?,
        max_age_seconds: request.max_age_seconds.map(i64::from),
        audience: request.audience,
        did: request.did,
        identity: request.identity,
        did_document: did_document.map_err(|error| invalid("did_document", error))?,
        appraisal: appraisal.map_err(|error| invalid("appraisal_policy", error))?,
    })
}

fn decode(text: &Option<String>, what: &'static str) -> Result<Option<Vec<u8>>, Problem> {
    let bytes = text
        .as_ref()
        .map(|text| BASE64URL_NOPAD.decode(text.as_bytes()))
        .transpose();
    bytes.map_err(|_| identity::Error::Base64(what).into())
}

fn invalid(what: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(422, "verify_request_invalid", format!("{what}: {why}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the verifier's own clock, and only where the caller gave no time"
)]
fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
