//! Credentials of others, for those who run the sidecar: put, looked at, forgotten. None of it shows one.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use broker::{Omni, object_path};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use protocol::{Answer, CredentialEpochs, KeptCredential, Request};
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
    #[schema(pattern = "^([0-9a-fA-F]{2}){16,64}$")]
    nonce: String,
}

/// The operator's order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutCredentialRequest {
    /// COSE_Sign1, base64url; `anchorhold credential put` makes it.
    order: String,
}

/// The operator's order about the keys that open credentials.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EpochsRequest {
    /// COSE_Sign1, base64url; `anchorhold credential rotate` and `retire` make it.
    order: String,
}

/// A lease.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseRequest {
    /// COSE_Sign1, base64url; `anchorhold lease` makes it.
    lease: String,
}

/// While when credentials are used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeaseResponse {
    /// Seconds since 1970: from then on none is.
    not_after: i64,
}

/// The credentials that are kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CredentialsResponse {
    /// Of each identity for each service.
    credentials: Vec<CredentialFacts>,
    /// Those that cannot be read, each with why.
    unreadable: Vec<LeftCredential>,
    /// What is kept beside them, of no identity and service of the bundle.
    others: Vec<OtherCredential>,
    /// The enclave's keys that open them.
    epochs: EpochsResponse,
}

/// Something that is kept and is of no identity and service of the bundle.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OtherCredential {
    /// Name of the file or object.
    object: String,
    /// Number of the key that opens it, if it is a sealed credential.
    epoch: Option<u32>,
}

/// The enclave's keys that open credentials, by number: all from one to another.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EpochsResponse {
    /// What is sealed under one below it opens no more.
    lowest: u32,
    /// The one that seals.
    current: u32,
}

/// What came of making what is kept anew.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RewrapResponse {
    /// Now sealed under the key of now.
    rewrapped: Vec<CredentialFacts>,
    /// As they were, each with why.
    left: Vec<LeftCredential>,
}

/// A credential that is kept as it was.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeftCredential {
    /// The identity that uses it.
    identity: String,
    /// The service that it is for.
    service: String,
    /// Why, as of a refusal.
    code: String,
    /// The same for people.
    detail: String,
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
    let (kept, unreadable) = kept(&app, relay).await;
    let credentials = kept.into_iter().map(|(facts, _)| facts).collect();
    let others = relay.store.others(names(&app)).await?;
    let others = others
        .into_iter()
        .map(|(object, epoch)| OtherCredential { object, epoch });
    let epochs = epochs(&app.ask(&caller.quota, Request::Epochs).await?)?;
    Ok(Json(CredentialsResponse {
        credentials,
        unreadable,
        others: others.collect(),
        epochs,
    }))
}

/// Change by the operator's order which of the enclave's keys open credentials
///
/// One more key, under which credentials are sealed from then on; or an end to old ones, so that what is sealed under them opens no
/// more. Where the bundle keeps a state, the change is stored in it before it takes effect.
#[utoipa::path(post, path = "/credentials/epochs", request_body = EpochsRequest, responses(
    (status = 200, body = EpochsResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn set_epochs(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(request): Strict<EpochsRequest, MAX_BODY>,
) -> Result<Json<EpochsResponse>, Problem> {
    relay(&app, &caller)?;
    let order = BASE64URL_NOPAD.decode(request.order.as_bytes());
    let order = order.map_err(|_| Problem::from(identity::Error::Base64("the order")))?;
    let set = epochs(&app.ask(&caller.quota, Request::SetEpochs { order }).await?)?;
    tracing::info!(
        lowest = set.lowest,
        current = set.current,
        "the keys that open credentials have changed"
    );
    Ok(Json(set))
}

/// Bring a lease, while which credentials are used
///
/// Only of a bundle with `[lease]`; the lease key has signed it.
#[utoipa::path(post, path = "/credentials/lease", request_body = LeaseRequest, responses(
    (status = 200, body = LeaseResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn lease(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(request): Strict<LeaseRequest, { 32 * 1024 }>,
) -> Result<Json<LeaseResponse>, Problem> {
    relay(&app, &caller)?;
    let signed = BASE64URL_NOPAD.decode(request.lease.as_bytes());
    let signed = signed.map_err(|_| Problem::from(identity::Error::Base64("the lease")))?;
    match app.ask(&caller.quota, Request::Lease { signed }).await? {
        Answer::Leased(not_after) => Ok(Json(LeaseResponse { not_after })),
        _ => Err(RequestError::Nonsense.into()),
    }
}

/// Seal what is kept under the enclave's key of now
///
/// Each credential by itself: what is done is kept, whatever comes of the others; and again does the rest.
#[utoipa::path(post, path = "/credentials/rewrap", responses(
    (status = 200, body = RewrapResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn rewrap(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<Json<RewrapResponse>, Problem> {
    let relay = relay(&app, &caller)?;
    let now = epochs(&app.ask(&caller.quota, Request::Epochs).await?)?;
    let mut rewrapped = Vec::new();
    let (kept, mut left) = kept(&app, relay).await;
    for (facts, envelope) in kept {
        if facts.epoch == now.current {
            continue;
        }
        match rewrap_one(&app, relay, &caller, &facts, envelope).await {
            Ok(epoch) => rewrapped.push(CredentialFacts { epoch, ..facts }),
            Err(problem) => left.push(LeftCredential::new(
                &facts.identity,
                &facts.service,
                &problem,
            )),
        }
    }
    tracing::info!(
        rewrapped = rewrapped.len(),
        left = left.len(),
        "credentials are sealed anew"
    );
    Ok(Json(RewrapResponse { rewrapped, left }))
}

/// Gives the key's number under which it is sealed now.
async fn rewrap_one(
    app: &Arc<App>,
    relay: &Relay,
    caller: &Caller,
    facts: &CredentialFacts,
    envelope: Vec<u8>,
) -> Result<u32, Problem> {
    let asked = Request::RewrapCredential(KeptCredential {
        identity: facts.identity.clone(),
        service: facts.service.clone(),
        envelope,
    });
    let Answer::Credential(sealed) = app.ask(&caller.quota, asked).await? else {
        return Err(RequestError::Nonsense.into());
    };
    let actor = actor(app, &facts.identity);
    relay
        .store
        .put(actor, &facts.service, sealed.envelope)
        .await?;
    let kept = relay.store.get(actor, &facts.service).await?;
    Ok(kept.ok_or(RequestError::Nonsense)?.epoch)
}

impl LeftCredential {
    fn new(identity: &str, service: &str, problem: &Problem) -> Self {
        Self {
            identity: identity.to_owned(),
            service: service.to_owned(),
            code: problem.code().to_owned(),
            detail: problem.detail().to_owned(),
        }
    }
}

/// What is kept of the bundle's identities and services, and the envelopes; and what cannot be read.
async fn kept(app: &App, relay: &Relay) -> (Vec<(CredentialFacts, Vec<u8>)>, Vec<LeftCredential>) {
    let (policy, mut all, mut unreadable) = (app.admission.policy(), Vec::new(), Vec::new());
    for service in &policy.services {
        for identity in &policy.identities {
            let (actor, name) = (actor(app, &identity.name), &service.name);
            match relay.store.get(actor, name).await {
                Ok(None) => {}
                Ok(Some(kept)) => {
                    let facts = CredentialFacts {
                        identity: identity.name.clone(),
                        service: name.clone(),
                        actor: actor.to_string(),
                        version: kept.version,
                        epoch: kept.epoch,
                    };
                    all.push((facts, kept.bytes));
                }
                Err(error) => {
                    let problem = Problem::from(error);
                    unreadable.push(LeftCredential::new(&identity.name, name, &problem));
                }
            }
        }
    }
    (all, unreadable)
}

/// Names of the objects that belong to the bundle.
fn names(app: &App) -> BTreeSet<String> {
    let policy = app.admission.policy();
    let of_service = |service: &policy::Service| {
        let names = policy.identities.iter();
        let names = names.map(|identity| object_path(&actor(app, &identity.name), &service.name));
        names.collect::<Vec<String>>()
    };
    policy.services.iter().flat_map(of_service).collect()
}

fn epochs(answer: &Answer) -> Result<EpochsResponse, Problem> {
    match *answer {
        Answer::Epochs(CredentialEpochs { lowest, current }) => {
            Ok(EpochsResponse { lowest, current })
        }
        _ => Err(RequestError::Nonsense.into()),
    }
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
    let is_kept = Request::CredentialKept(KeptCredential {
        identity: identity.clone(),
        service: service.clone(),
        envelope: kept.bytes.clone(),
    });
    let Answer::Kept = app.ask(&caller.quota, is_kept).await? else {
        return Err(RequestError::Nonsense.into());
    };
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
