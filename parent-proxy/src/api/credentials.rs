//! Credentials of others, for those who run the sidecar: put, looked at, forgotten. None of it shows one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use broker::Omni;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use protocol::{Answer, Request};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Strict;
use super::{Anyone, App, Problem};
use crate::relay::Relay;
use callers::Caller;
use enclave_client::RequestError;

const MAX_BODY: usize = 16 * 1024;

/// The operator's challenge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealingKeyRequest {
    /// 16 to 64 bytes that the operator chose at random, hex.
    nonce: String,
}

/// The operator's order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutCredentialRequest {
    /// COSE_Sign1, base64url; `anchorhold credential put` makes it.
    order: String,
}

/// The credentials that are kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CredentialsResponse {
    /// Of each identity for each service.
    credentials: Vec<CredentialFacts>,
}

/// A credential, but for what it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CredentialFacts {
    /// The identity that uses it.
    identity: String,
    /// The service that it is for.
    service: String,
    /// Name of that identity where credentials are kept, 64 hex digits.
    actor: String,
    /// Its version.
    version: u64,
    /// Number of the enclave's key that opens it.
    epoch: u32,
}

/// List the credentials that are kept
#[utoipa::path(get, path = "/credentials", responses(
    (status = 200, body = CredentialsResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<Json<CredentialsResponse>, Problem> {
    let relay = relay(&app, &caller)?;
    let (policy, mut credentials) = (app.admission.policy(), Vec::new());
    for service in &policy.services {
        for identity in &policy.identities {
            let actor = actor(&app, &identity.name);
            if let Some(kept) = relay.store.get(actor, &service.name).await? {
                credentials.push(CredentialFacts {
                    identity: identity.name.clone(),
                    service: service.name.clone(),
                    actor: actor.to_string(),
                    version: kept.version,
                    epoch: kept.epoch,
                });
            }
        }
    }
    Ok(Json(CredentialsResponse { credentials }))
}

/// Fetch a document that attests the key to which credentials are sealed
///
/// Its `public_key` is an HPKE key (RFC 9180) for X25519, HKDF-SHA-256 and AES-256-GCM; its `user_data` is SHA-256 of the CBOR
/// array `["anchorhold/sealing-key/v1", policy digest, key]`.
#[utoipa::path(post, path = "/credentials/sealing-key", request_body = SealingKeyRequest, responses(
    (status = 200, body = [u8], content_type = "application/octet-stream"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn sealing_key(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(request): Strict<SealingKeyRequest, MAX_BODY>,
) -> Result<Response, Problem> {
    relay(&app, &caller)?;
    let nonce = HEXLOWER_PERMISSIVE.decode(request.nonce.as_bytes());
    let nonce = nonce.map_err(|_| Problem::new(422, "nonce_not_hex", "the nonce is not hex"))?;
    let asked = Request::SealingKey { nonce };
    let Answer::Document(document) = app.ask(&caller.quota, asked).await? else {
        return Err(RequestError::Nonsense.into());
    };
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(CONTENT_TYPE, kind)], document.evidence).into_response())
}

/// Put a credential by the operator's order
///
/// The enclave opens it, seals it for itself, and it is kept. What is kept is replaced only by a later version.
#[utoipa::path(post, path = "/credentials", request_body = PutCredentialRequest, responses(
    (status = 200, body = CredentialFacts),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(request): Strict<PutCredentialRequest, MAX_BODY>,
) -> Result<Json<CredentialFacts>, Problem> {
    let relay = relay(&app, &caller)?;
    let order = BASE64URL_NOPAD.decode(request.order.as_bytes());
    let order = order.map_err(|_| Problem::from(identity::Error::Base64("the order")))?;
    let answer = app.ask(&caller.quota, Request::PutCredential { order });
    let Answer::Credential(sealed) = answer.await? else {
        return Err(RequestError::Nonsense.into());
    };
    let actor_name = Omni::new(sealed.actor);
    let identities = app.admission.policy().identities.iter();
    let mut names = identities.map(|identity| &identity.name);
    let identity = names.find(|name| actor(&app, name) == actor_name);
    let identity = identity.ok_or(RequestError::Nonsense)?.clone();
    let service = sealed.service.clone();
    relay
        .store
        .put(actor_name, &service, sealed.envelope)
        .await?;
    let kept = relay.store.get(actor_name, &service).await?;
    let kept = kept.ok_or(RequestError::Nonsense)?;
    tracing::info!(
        identity,
        service,
        version = kept.version,
        "a credential is kept"
    );
    Ok(Json(CredentialFacts {
        identity,
        service,
        actor: actor_name.to_string(),
        version: kept.version,
        epoch: kept.epoch,
    }))
}

/// Forget a credential
///
/// Who has a copy of what was kept could bring it again: revoke it in the annex, or at its service, as well.
#[utoipa::path(delete, path = "/credentials/{identity}/{service}", params(
    ("identity" = String, Path, description = "The identity that uses it"),
    ("service" = String, Path, description = "The service that it is for"),
), responses(
    (status = 204),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path((identity, service)): Path<(String, String)>,
) -> Result<axum::http::StatusCode, Problem> {
    let relay = relay(&app, &caller)?;
    let policy = app.admission.policy();
    let known = policy.identity(&identity).is_some() && policy.service(&service).is_some();
    let nothing = || Problem::new(404, "credential_missing", "no such credential is kept");
    if !known || !relay.store.remove(actor(&app, &identity), &service).await? {
        return Err(nothing());
    }
    Ok(axum::http::StatusCode::NO_CONTENT)
}

fn actor(app: &App, identity: &str) -> Omni {
    Omni::of_operator(&app.admission.policy().operator_key.0).child(identity)
}

fn relay<'a>(app: &'a App, caller: &Caller) -> Result<&'a Relay, Problem> {
    if !caller.operator {
        return Err(Problem::new(
            403,
            "caller_not_allowed",
            "credentials are for those who run the sidecar",
        ));
    }
    app.relay
        .as_ref()
        .ok_or_else(|| Problem::new(404, "unknown_service", "the bundle has no [[services]]"))
}
