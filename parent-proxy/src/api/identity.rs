//! Who the identity is, the proof of it, and its rotation.
#![allow(
    unused_qualifications,
    reason = "utoipa's derive of IntoParams writes them"
)]

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use identity::did::Document;
use identity::{Did, Digest, PublicKey, Tee};
use protocol::{Answer, Description, PresentedProof, Request, Requester, Rotate, VersionFacts};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::body::Strict;
use super::sign::{Proof, shown};
use super::{Admitted, Anyone, App, Problem};
use callers::Caller;
use enclave_client::RequestError;

const MAX_BODY: usize = 8 * 1024;
/// With a proof there may be the attestation document of the caller's enclave.
const MAX_ROTATION: usize = 32 * 1024;

/// Which identity.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Its name. May be left out by a caller that may use only one.
    identity: Option<String>,
}

/// An identity and its keys.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IdentityResponse {
    /// Name in the policy.
    name: String,
    /// Its DID now.
    did: String,
    /// DID URL of the key that signs now.
    kid: String,
    /// Version of that key.
    key_version: u32,
    /// `EdDSA` or `ES256`.
    algorithm: &'static str,
    /// That key as a JWK.
    #[schema(value_type = Object)]
    public_key_jwk: Value,
    /// That key as a Multikey.
    public_key_multibase: String,
    /// What its tokens name: SHA-256 of the `user_data` of its attestation documents, hex.
    #[schema(value_type = String)]
    binding: Digest<32>,
    /// Where the key says it lives: `aws-nitro` or `mock`. Evidence decides.
    #[schema(value_type = String)]
    tee: Tee,
    /// Where the key is kept. `ephemeral`: it ends with this boot of the enclave, and another boot has another one. `kms`:
    /// sealed under a key of AWS KMS, whose administrator could take it.
    custody: &'static str,
    /// The state that it is kept in: its id, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// The state's epoch: the version of the operator's certificate that was taken last.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    /// Whether the parent can bring an older state back: `accepted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback: Option<&'static str>,
    /// Random for each boot, hex.
    boot_id: String,
    /// Keys of this boot, or of the state, oldest first; the last one signs.
    versions: Vec<VersionResponse>,
}

/// One version of the key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionResponse {
    /// 1 for the first key of a boot, or of a state.
    key_version: u32,
    /// The DID for which it stood.
    did: String,
    /// DID URL of the key.
    kid: String,
    /// Multikey.
    public_key_multibase: String,
    /// What its tokens name, hex.
    #[schema(value_type = String)]
    binding: Digest<32>,
    /// The statement by which the version before named this one its successor: COSE_Sign1, base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    successor_statement: Option<String>,
}

/// Describe the identity
#[utoipa::path(get, path = "/identity", params(Which), responses(
    (status = 200, body = IdentityResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn identity(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<IdentityResponse>, Problem> {
    // The enclave lets anybody see whose key it is where callers prove themselves: they sign for this boot and version.
    if !caller.admitted && !app.admission.expects_proofs() {
        return Err(super::not_admitted());
    }
    let description = describe(&app, caller, which).await?;
    Ok(Json(respond(description)?))
}

/// The DID document
///
/// did:web: every version of this boot. did:key: the key that the DID is made of.
#[utoipa::path(get, path = "/.well-known/did.json", params(Which), responses(
    (status = 200, body = Object, content_type = "application/did+json"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn did_document(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let document = document(&describe(&app, caller, which).await?)?;
    let mut response = Json(document.to_json()).into_response();
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/did+json"),
    );
    Ok(response)
}

/// The keys of the DID document as a JWK set
#[utoipa::path(get, path = "/.well-known/jwks.json", params(Which), responses(
    (status = 200, body = Object),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn jwks(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let document = document(&describe(&app, caller, which).await?)?;
    Ok(Json(json!({ "keys": document.to_jwks() })))
}

/// A verifier's challenge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttestationRequest {
    /// 16 to 64 bytes that the verifier chose at random, hex.
    #[schema(pattern = "^([0-9a-fA-F]{2}){16,64}$")]
    nonce: String,
    /// Name of the identity. May be left out by a caller that may use only one.
    #[serde(default)]
    identity: Option<String>,
}

/// Fetch evidence for the key that signs now
///
/// The answer is the evidence file itself.
#[utoipa::path(post, path = "/attestation", request_body = AttestationRequest, responses(
    (status = 200, body = [u8], content_type = "application/vnd.anchorhold.evidence+cbor"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn attestation(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
    Strict(request): Strict<AttestationRequest, MAX_BODY>,
) -> Result<Response, Problem> {
    let nonce = HEXLOWER_PERMISSIVE.decode(request.nonce.as_bytes());
    let nonce = nonce.map_err(|_| Problem::new(422, "nonce_not_hex", "the nonce is not hex"))?;
    let requester = Requester {
        caller: caller.claim,
        identity: request.identity,
    };
    let Answer::Evidence(evidence) = app
        .ask(&caller.quota, Request::Attest { requester, nonce })
        .await?
    else {
        return Err(RequestError::Nonsense.into());
    };
    if app.evidence.wants(&evidence.evidence) {
        // Once in a boot; a disk may be slow, and others do not wait for it.
        let (app, kept) = (Arc::clone(&app), evidence.evidence.clone());
        let _ = tokio::task::spawn_blocking(move || app.evidence.keep(&kept)).await;
    }
    let kind = HeaderValue::from_static("application/vnd.anchorhold.evidence+cbor");
    Ok(([(CONTENT_TYPE, kind)], evidence.evidence).into_response())
}

/// A key is to be replaced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateRequest {
    /// Name of the identity. May be left out by a caller that may use only one, or has a proof and may rotate only one.
    #[serde(default)]
    identity: Option<String>,
    /// The operator's order: COSE_Sign1, base64url. Not needed by callers whom the policy lets rotate.
    #[serde(default)]
    order: Option<String>,
    /// The caller's own signature over this request, if the policy lets it rotate by a key of its own.
    #[serde(default)]
    proof: Option<Proof>,
}

/// A key was replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RotateResponse {
    /// The statement by which the old key named the new one: COSE_Sign1, base64url.
    successor_statement: String,
    /// The identity with its new key.
    identity: IdentityResponse,
}

/// Replace the key
///
/// The old key signs who follows it, the new key countersigns, the old key is wiped.
#[utoipa::path(post, path = "/rotate", request_body = RotateRequest, responses(
    (status = 200, body = RotateResponse),
    (status = 403, body = Problem, content_type = "application/problem+json", description = "Neither a caller that may rotate, nor a proof of one, nor a good order"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn rotate(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(request): Strict<RotateRequest, MAX_ROTATION>,
) -> Result<Json<RotateResponse>, Problem> {
    let expects = |proof: &PresentedProof| app.admission.expects_rotation(proof);
    let proof = shown(&caller, request.proof, expects)?;
    let order = request
        .order
        .map(|text| BASE64URL_NOPAD.decode(text.as_bytes()))
        .transpose();
    let order = order.map_err(|_| Problem::from(identity::Error::Base64("the order")))?;
    let requester = Requester {
        caller: caller.claim,
        identity: request.identity,
    };
    let asked = Request::Rotate(Rotate {
        requester,
        order,
        proof,
    });
    let answer = match caller.admitted {
        true => app.ask(&caller.quota, asked).await?,
        false => app.ask_unadmitted(&caller.quota, asked).await?,
    };
    let Answer::Rotated(rotated) = answer else {
        return Err(RequestError::Nonsense.into());
    };
    tracing::info!(identity = rotated.description.name, "key rotated");
    let successor_statement = BASE64URL_NOPAD.encode(&rotated.statement);
    Ok(Json(RotateResponse {
        successor_statement,
        identity: respond(rotated.description)?,
    }))
}

async fn describe(
    app: &Arc<App>,
    caller: Caller,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Description, Problem> {
    let Query(which) =
        which.map_err(|error| Problem::new(422, "query_invalid", error.body_text()))?;
    let requester = Requester {
        caller: caller.claim,
        identity: which.identity,
    };
    match app.ask(&caller.quota, Request::Describe(requester)).await? {
        Answer::Description(description) if !description.versions.is_empty() => Ok(description),
        _ => Err(RequestError::Nonsense.into()),
    }
}

/// The keys that the DID of now has, as far as the enclave remembers them.
fn document(description: &Description) -> Result<Document, Problem> {
    let nonsense = |_: identity::Error| Problem::from(RequestError::Nonsense);
    let current = description.versions.last().ok_or(RequestError::Nonsense)?;
    let of_now = description
        .versions
        .iter()
        .filter(|version| version.did == current.did);
    let keys = of_now
        .map(|version| PublicKey::from_spki(&version.spki))
        .collect::<Result<Vec<_>, _>>()
        .map_err(nonsense)?;
    Document::new(Did::parse(&current.did).map_err(nonsense)?, &keys).map_err(nonsense)
}

fn respond(description: Description) -> Result<IdentityResponse, Problem> {
    let versions = description
        .versions
        .iter()
        .map(version)
        .collect::<Result<Vec<_>, _>>()?;
    let current = description.versions.last().ok_or(RequestError::Nonsense)?;
    let key = key(current)?;
    Ok(IdentityResponse {
        name: description.name,
        did: current.did.clone(),
        kid: current.kid.clone(),
        key_version: current.version,
        algorithm: key.algorithm().as_str(),
        public_key_jwk: serde_json::to_value(key.to_jwk()).unwrap_or_default(),
        public_key_multibase: key.to_multikey(),
        binding: Digest(current.binding),
        tee: description.tee,
        custody: description
            .state
            .map_or("ephemeral", |state| state.custody.as_str()),
        state: description.state.map(|state| state.state.to_string()),
        epoch: description.state.map(|state| state.epoch),
        rollback: description.state.map(|state| state.rollback.as_str()),
        boot_id: description.boot_id.to_string(),
        versions,
    })
}

fn version(facts: &VersionFacts) -> Result<VersionResponse, Problem> {
    Ok(VersionResponse {
        key_version: facts.version,
        did: facts.did.clone(),
        kid: facts.kid.clone(),
        public_key_multibase: key(facts)?.to_multikey(),
        binding: Digest(facts.binding),
        successor_statement: facts
            .succession
            .as_ref()
            .map(|statement| BASE64URL_NOPAD.encode(statement)),
    })
}

fn key(facts: &VersionFacts) -> Result<PublicKey, Problem> {
    PublicKey::from_spki(&facts.spki).map_err(|_| RequestError::Nonsense.into())
}
